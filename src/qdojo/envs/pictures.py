"""Pictures made smaller and grey. Not for networks that read them: see `networks/torsos.py`."""

import math
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

_MOST_TAPPED = 4
"""Rows of a group up to which each is summed by hand, which is faster than a matrix product."""


class AreaResize:
    """Pictures `[height, width]` or `[height, width, channels]` of uint8 in another size, in which each pixel is the
    mean of the area that it covers.

    All sums are of integers that floats hold exactly, so the result is the same on every machine; halves are rounded
    up. OpenCV's INTER_AREA is the same but for its rounding: at most one level of 255 apart.
    """

    def __init__(self, height: int, width: int, to_height: int, to_width: int) -> None:
        self._rows, self._row_total = _weights(height, to_height)
        columns, column_total = _weights(width, to_width)
        self._total = self._row_total * column_total
        # The largest integer up to which float32 holds each.
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
        """The picture in the new size."""
        if picture.ndim == 3:
            return np.stack([self(np.ascontiguousarray(channel)) for channel in np.moveaxis(picture, -1, 0)], axis=-1)
        height, width = self._shape
        rows = self._summed_rows(picture)
        # One small product instead of a large one that is mostly zeros: both sizes repeat after a few pixels.
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
    """How many shares of each of `taken` pixels go into each of `made`, after which both repeat, and all shares of
    one."""
    common = math.gcd(size, to_size)
    taken, made = size // common, to_size // common
    # A pixel that is taken has `made` shares, one that is made has `taken`.
    shares = np.arange(taken * made)
    weights = np.zeros((made, taken), np.int64)
    np.add.at(weights, (shares // taken, shares // made), 1)
    return weights, taken


def grey(picture: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width"]:
    """The luminance of a picture (ITU-R BT.709: 0.2126 red, 0.7152 green, 0.0722 blue, in shares of 256)."""
    red, green, blue = np.moveaxis(picture.astype(np.uint16), -1, 0)
    return ((54 * red + 183 * green + 19 * blue + 128) >> 8).astype(np.uint8)
