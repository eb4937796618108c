"""Resizing of images and conversion to greyscale. `networks/torsos.py` has the networks that read images."""

import math
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

_MOST_TAPPED = 4
"""Up to this many output rows per group, explicit sums are faster than a matrix product."""


class AreaResize:
    """Resizes uint8 images `[height, width]` or `[height, width, channels]`: each output pixel is the mean of the area
    that it covers.

    All sums are of integers that floats represent exactly, so the result is the same on every machine. Halves are
    rounded up. OpenCV's INTER_AREA rounds differently, by at most one of 255 levels.
    """

    def __init__(self, height: int, width: int, to_height: int, to_width: int) -> None:
        self._rows, self._row_total = _weights(height, to_height)
        columns, column_total = _weights(width, to_width)
        self._total = self._row_total * column_total
        # float32 represents every integer up to 2**24 exactly.
        self._dtype: type[Any] = np.float32 if 255 * self._total < 2**24 else np.float64
        self._columns = np.ascontiguousarray(columns.T, self._dtype)
        self._groups = height // self._rows.shape[1]
        self._shape = to_height, to_width
        self._tall = self._rows.astype(self._dtype)
        self._taps = [
            [(weight, np.flatnonzero(row == weight).tolist()) for weight in sorted({*row.tolist()} - {0}, reverse=True)]
            for row in self._rows
        ]

    def __call__(self, picture: UInt8[np.ndarray, "height width *channels"]) -> UInt8[np.ndarray, "..."]:
        """Return the resized image."""
        if picture.ndim == 3:
            return np.stack([self(np.ascontiguousarray(channel)) for channel in np.moveaxis(picture, -1, 0)], axis=-1)
        height, width = self._shape
        rows = self._summed_rows(picture)
        # The weights repeat after a few pixels, so a small product replaces a large one that is mostly zeros.
        summed = (rows.reshape(-1, len(self._columns)) @ self._columns).reshape(height, width)
        summed += self._total / 2
        summed /= self._total
        return summed.astype(np.uint8)

    def _summed_rows(self, picture: UInt8[np.ndarray, "height width"]) -> Shaped[np.ndarray, "..."]:
        made, taken = self._rows.shape
        groups = picture.reshape(self._groups, taken, -1)
        if made > _MOST_TAPPED:
            return np.matmul(self._tall, groups.astype(self._dtype))
        summed = np.empty((self._groups, made, groups.shape[2]), self._dtype)
        wide = groups.astype(np.uint16 if 255 * self._row_total < 2**16 else np.int64)
        for row, taps in enumerate(self._taps):
            total: Any = None
            for weight, pixels in taps:
                part: Any = wide[:, pixels[0]]
                for pixel in pixels[1:]:
                    part = part + wide[:, pixel]
                part = part if weight == 1 else part * weight
                total = part if total is None else total + part
            summed[:, row] = total
        return summed


def _weights(size: int, to_size: int) -> tuple[Shaped[np.ndarray, "made taken"], int]:
    """Weights of each group of `taken` input pixels in its `made` output pixels, and the sum of the weights of one
    output pixel. The groups are the smallest that repeat along the axis."""
    common = math.gcd(size, to_size)
    taken, made = size // common, to_size // common
    # Split the group into `taken * made` equal parts: an input pixel covers `made` of them, an output pixel `taken`.
    shares = np.arange(taken * made)
    weights = np.zeros((made, taken), np.int64)
    np.add.at(weights, (shares // taken, shares // made), 1)
    return weights, taken


def grey(picture: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width"]:
    """Return the luminance of an image (ITU-R BT.709: 0.2126 red, 0.7152 green, 0.0722 blue, in units of 1/256)."""
    red, green, blue = np.moveaxis(picture.astype(np.uint16), -1, 0)
    return ((54 * red + 183 * green + 19 * blue + 128) >> 8).astype(np.uint8)
