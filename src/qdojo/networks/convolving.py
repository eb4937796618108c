"""Convolution of one image with a kernel, by the fastest method for the device. `torsos.py` has the layers.

On CPUs, XLA's convolution is many times slower inside a compiled loop than outside one (jax issue 12868), and qdojo's
updates run in such loops. On CPUs the convolution is therefore computed by matrix products, on other devices by XLA.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Padding = Literal["SAME", "VALID"]


def convolve(
    x: Float[Array, "height width inputs"],
    kernel: Float[Array, "outputs rows columns inputs"],
    stride: int,
    padding: Padding,
) -> Float[Array, "new_height new_width outputs"]:
    """Convolve (cross-correlate, without a bias) by the method that is fastest on the default device."""
    return (by_products if jax.default_backend() == "cpu" else by_xla)(x, kernel, stride, padding)


def by_xla(
    x: Float[Array, "height width inputs"],
    kernel: Float[Array, "outputs rows columns inputs"],
    stride: int,
    padding: Padding,
) -> Float[Array, "new_height new_width outputs"]:
    """Convolve with XLA's own operation."""
    layout = ("NHWC", "OHWI", "NHWC")
    return jax.lax.conv_general_dilated(x[None], kernel, (stride, stride), padding, dimension_numbers=layout)[0]


def by_products(
    x: Float[Array, "height width inputs"],
    kernel: Float[Array, "outputs rows columns inputs"],
    stride: int,
    padding: Padding,
) -> Float[Array, "new_height new_width outputs"]:
    """Convolve as a sum of matrix products, one per row of the kernel.

    First, strides are removed by a space-to-depth transformation: each block of `stride` x `stride` pixels becomes one
    pixel with more channels, so that every product reads contiguous memory. A single product over patches of the full
    kernel (im2col) would multiply the memory for patches by the number of kernel rows.
    """
    sides = kernel.shape[1:3]
    pads = jax.lax.padtype_to_pads(x.shape[:2], sides, (stride, stride), padding)
    places = [(size + sum(pad) - side) // stride + 1 for size, pad, side in zip(x.shape, pads, sides, strict=False)]
    # Pixels at the bottom and right edges that no output reads are cropped (negative padding).
    ends = [
        stride * (n - 1) + side - size - pad[0]
        for n, side, size, pad in zip(places, sides, x.shape, pads, strict=False)
    ]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(pads[0][0], ends[0], 0), (pads[1][0], ends[1], 0), (0, 0, 0)])
    if stride > 1:
        x, kernel = _blocks(x, stride), jax.vmap(_blocks, in_axes=(0, None))(kernel, stride)
    outputs, rows, columns, inputs = kernel.shape
    height, width = places
    patches = jnp.concatenate([x[:, j : j + width] for j in range(columns)], axis=-1)
    products = [
        patches[i : i + height].reshape(height * width, columns * inputs)
        @ kernel[:, i].reshape(outputs, columns * inputs).T
        for i in range(rows)
    ]
    return sum(products[1:], products[0]).reshape(height, width, outputs)


def _blocks(x: Float[Array, "height width channels"], side: int) -> Float[Array, "rows columns more"]:
    """Turn blocks of `side` x `side` pixels into channels, after zero-padding the bottom and right edges."""
    height, width, channels = x.shape
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    x = jnp.pad(x, ((0, rows * side - height), (0, columns * side - width), (0, 0)))
    # XLA's CPU backend copies whole rows for this; of a transpose, it would compute the place of each element.
    x = x.reshape(rows, side, columns, side * channels)
    return jnp.concatenate([x[:, i] for i in range(side)], axis=-1)
