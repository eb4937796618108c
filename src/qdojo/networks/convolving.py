"""The convolution of one image with a kernel, written for the device that computes it. Not for layers: see `torsos.py`.

XLA's convolution is many times slower inside a compiled loop on a CPU than outside of it (jax issue 12868), and qdojo's
updates run in such loops. There, the same sums are matrix products; elsewhere XLA's own convolution is used.
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
    """The cross-correlation of deep learning, without bias, by the method that is fast on the default device."""
    return (by_products if jax.default_backend() == "cpu" else by_xla)(x, kernel, stride, padding)


def by_xla(
    x: Float[Array, "height width inputs"],
    kernel: Float[Array, "outputs rows columns inputs"],
    stride: int,
    padding: Padding,
) -> Float[Array, "new_height new_width outputs"]:
    """XLA's convolution."""
    layout = ("NHWC", "OHWI", "NHWC")
    return jax.lax.conv_general_dilated(x[None], kernel, (stride, stride), padding, dimension_numbers=layout)[0]


def by_products(
    x: Float[Array, "height width inputs"],
    kernel: Float[Array, "outputs rows columns inputs"],
    stride: int,
    padding: Padding,
) -> Float[Array, "new_height new_width outputs"]:
    """A matrix product for each row of the kernel, of all its columns at once; their sum is the convolution.

    A stride is turned into channels first: blocks of `stride` x `stride` pixels become one pixel each, so that every
    product reads whole rows of memory. Patches of the whole kernel at once would be a single product, but take as many
    times the memory as the kernel has rows.
    """
    sides = kernel.shape[1:3]
    pads = jax.lax.padtype_to_pads(x.shape[:2], sides, (stride, stride), padding)
    places = [(size + sum(pad) - side) // stride + 1 for size, pad, side in zip(x.shape, pads, sides, strict=False)]
    # Pixels at the far edges that no output reads are cut off.
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
    """Blocks of `side` x `side` pixels as one pixel each, filled up with zeros at the far edges."""
    height, width, channels = x.shape
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    x = jnp.pad(x, ((0, rows * side - height), (0, columns * side - width), (0, 0)))
    x = x.reshape(rows, side, columns, side, channels).transpose(0, 2, 1, 3, 4)
    return x.reshape(rows, columns, side * side * channels)
