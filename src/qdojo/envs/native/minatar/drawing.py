"""Drawing of MinAtar observations: each cell in the colour of the highest channel that is on."""

import jax.numpy as jnp
from jaxtyping import Array, UInt8

PIXELS = 16
"""Side of a cell."""
PALETTE = (
    (16, 16, 24),
    (236, 236, 236),
    (240, 196, 48),
    (120, 128, 148),
    (214, 72, 64),
    (88, 172, 96),
    (72, 136, 220),
    (176, 104, 208),
    (96, 208, 216),
    (240, 136, 56),
    (232, 128, 176),
)
"""RGB of an empty cell, and of each channel."""


def drawn(observation: UInt8[Array, "10 10 channels"]) -> UInt8[Array, "height width 3"]:
    """An observation as an RGB image."""
    numbers = jnp.arange(1, observation.shape[-1] + 1, dtype=jnp.int32)
    cells = jnp.array(PALETTE, jnp.uint8)[jnp.max(observation * numbers, axis=-1)]
    return jnp.repeat(jnp.repeat(cells, PIXELS, axis=0), PIXELS, axis=1)
