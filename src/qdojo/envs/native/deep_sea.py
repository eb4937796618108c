"""Deep sea: a diver descends a square and must go right in every row to reach the treasure, against a small cost.

Source: Osband et al. (2020), "Behaviour Suite for Reinforcement Learning", appendix A, experiment `deep_sea`; first in
Osband, Aslanides, Cassirer (2018), section 4.1. Which action goes right is drawn at random for each cell. Of 2**size
sequences of actions one finds the treasure, so random actions do not, and all the others learn that right costs.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from qdojo.envs.contract import NativeEnvironment, Transition

MOVE_COST = 0.01
"""Cost of going right in every row."""
MAPPING_SEED = 42


class DeepSea(NamedTuple):
    """Position of the diver."""

    row: Int[Array, ""]
    column: Int[Array, ""]


def going_right(size: int, mapping_seed: int = MAPPING_SEED) -> Int[np.ndarray, "size size"]:
    """The action, 0 or 1, that goes right in each cell."""
    return np.random.RandomState(mapping_seed).binomial(1, 0.5, (size, size))


def deep_sea(size: int, mapping_seed: int = MAPPING_SEED) -> NativeEnvironment:
    """The deep sea of `size` rows and columns; an episode has `size` steps.

    The observation is float32 [size, size] with a 1 at the diver, and zeros after the last step. The best return is
    0.99: a treasure of 1, less a cost of 0.01 / size for each step to the right. `mapping_seed` decides which action
    goes right in which cell; the id of the suite belongs to the default alone.
    """
    right = jnp.asarray(going_right(size, mapping_seed), jnp.int32)
    places = jnp.arange(size)

    def show(state: DeepSea) -> Float[Array, "size size"]:
        return ((places == state.row)[:, None] & (places == state.column)).astype(jnp.float32)

    def reset(noise: UInt32[Array, "0"]) -> tuple[DeepSea, Float[Array, "size size"]]:
        state = DeepSea(jnp.int32(0), jnp.int32(0))
        return state, show(state)

    def step(state: DeepSea, action: Int[Array, ""], noise: UInt32[Array, "0"]) -> tuple[DeepSea, Transition]:
        goes_right = action == right[state.row, state.column]
        found = goes_right & (state.column == size - 1)
        reward = found.astype(jnp.float32) - jnp.where(goes_right, MOVE_COST / size, 0.0)
        after = DeepSea(state.row + 1, jnp.clip(state.column + jnp.where(goes_right, 1, -1), 0, size - 1))
        return after, Transition(show(after), reward, after.row == size, jnp.asarray(False))

    return NativeEnvironment(
        name=f"qdojo/DeepSea{size}-v0" if mapping_seed == MAPPING_SEED else f"deep_sea({size}, {mapping_seed})",
        observation_shape=(size, size),
        num_actions=2,
        noise_words=0,
        max_episode_steps=size,
        reset=reset,
        step=step,
        one_hot=True,
        reward_threshold=0.99 - 1e-4,
    )
