"""Turns random words (random uint32 numbers) into random variables. The loops draw the words of a chunk in one call.

A threefry call in every step of a `scan` would be the largest single cost of a small agent; slices of words drawn
once are nearly free. So all code in qdojo that needs randomness takes `noise`, an array of random words, and uses
each word once.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32


def uniform(words: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Floats in [0, 1) from the 24 high bits of each word: multiples of 2**-24, which float32 represents exactly."""
    return (words >> 8).astype(jnp.float32) * jnp.float32(2**-24)


def integer(words: UInt32[Array, "*shape"], bound: Int[Array, "*bounds"] | int) -> Int[Array, "*shape"]:
    """Integers in [0, bound). The modulo bias is below bound / 2**32 (2e-4 for a bound of a million)."""
    return (words % jnp.asarray(bound, jnp.uint32)).astype(jnp.int32)


def bernoulli(words: UInt32[Array, "*shape"], probability: Float[Array, ""] | float) -> Bool[Array, "*shape"]:
    """True with the given probability."""
    return uniform(words) < probability


def gumbel(words: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Samples of the standard Gumbel distribution, -log(-log(u)), one per word and always finite.

    u is the midpoint of one of 2**23 intervals, as in `normal`; a u that rounds to 0 or 1 would give infinity.
    """
    return -jnp.log(-jnp.log(((words >> 9).astype(jnp.float32) + 0.5) * jnp.float32(2**-23)))


def normal(words: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Samples of the standard normal distribution, one per word, by the inverse distribution function.

    The 23 high bits select the midpoint of one of 2**23 intervals of equal probability, exact in float32. So samples
    are finite and symmetric about 0, and their absolute value is at most about 5.3.
    """
    middle = ((words >> 9).astype(jnp.float32) + 0.5) * jnp.float32(2**-22) - 1.0
    return jnp.float32(math.sqrt(2.0)) * jax.lax.erf_inv(middle)
