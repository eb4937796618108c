"""A corridor that nobody crosses by chance, for agents that explore. Not for known values: see `environments.py`."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qdojo.envs.contract import NativeEnvironment, Transition

SMALL_REWARD = 1e-3


def corridor(length: int) -> NativeEnvironment:
    """`length` steps in the one right direction pay 1 at the end; the first step in the other ends all hope of it.

    After Osband et al. (2016), section 5.1: one starts at the left of a chain; each step against its left end pays
    1/1000, the right end pays 1. An episode has `length` steps, so that each of them has to lead to the right: at
    random that happens once in 2**length episodes. Which action leads there differs from place to place, and is the
    same in all episodes, so that no network is born with a habit that helps. The observation is the place, one-hot.
    """
    right = jnp.array(np.random.default_rng(0).integers(2, size=length), jnp.int32)

    def show(place: Array) -> Array:
        return (jnp.arange(length) == place).astype(jnp.float32)

    def reset(noise: Array) -> tuple[tuple[Array, Array], Array]:
        start = jnp.int32(0)
        return (start, start), show(start)

    def step(state: tuple[Array, Array], action: Array, noise: Array) -> tuple[tuple[Array, Array], Transition]:
        place, elapsed = state
        goes_right = action == right[place]
        pays = (place == 0) & ~goes_right
        place, elapsed = jnp.where(goes_right, place + 1, jnp.maximum(place - 1, 0)), elapsed + 1
        there = place == length
        reward = jnp.where(there, 1.0, jnp.where(pays, SMALL_REWARD, 0.0))
        return (place, elapsed), Transition(show(place), reward, there, (elapsed >= length) & ~there)

    return NativeEnvironment(f"corridor of {length}", (length,), 2, 1, length, reset, step)
