"""Random words turned into numbers. Not a generator: the loops draw the words of a whole chunk in one call.

A threefry call in every step of a `scan` is the largest single cost of a small agent; slices of words drawn
once are nearly free. So everything in qdojo that needs randomness takes `noise`, an array of uint32 words, each
word used once.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32


def uniform(words: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Floats in [0, 1), from the 24 high bits of each word: every float32 of that grid is exact."""
    return (words >> 8).astype(jnp.float32) * jnp.float32(2**-24)


def integer(words: UInt32[Array, "*shape"], bound: Int[Array, "*bounds"] | int) -> Int[Array, "*shape"]:
    """Integers in [0, bound). The bias of the remainder is below bound / 2**32 (2e-4 at a million)."""
    return (words % jnp.asarray(bound, jnp.uint32)).astype(jnp.int32)


def bernoulli(words: UInt32[Array, "*shape"], probability: Float[Array, ""] | float) -> Bool[Array, "*shape"]:
    """True with the given probability."""
    return uniform(words) < probability


def gumbel(words: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Draws from the standard Gumbel distribution, -log(-log(u)), one a word, each of them finite.

    u is the middle of one of 2**23 intervals, as in `normal`: of the float32 next to 1 the draw would be infinite.
    """
    return -jnp.log(-jnp.log(((words >> 9).astype(jnp.float32) + 0.5) * jnp.float32(2**-23)))


def normal(words: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Draws from the standard normal distribution, one a word, by its inverse distribution function.

    The 23 high bits choose the middle of one of 2**23 intervals of equal probability, exact in float32. So every draw
    is finite, the distribution is symmetric, and none is larger than about 5.3.
    """
    middle = ((words >> 9).astype(jnp.float32) + 0.5) * jnp.float32(2**-22) - 1.0
    return jnp.float32(math.sqrt(2.0)) * jax.lax.erf_inv(middle)
