"""Memory chain: a bit is shown at the start, and asked for in the last step. It tests memory.

Source: Osband et al. (2020), "Behaviour Suite for Reinforcement Learning", appendix A, experiment `memory_len`.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from qdojo.envs.contract import NativeEnvironment, Transition
from qdojo.noise import integer


class MemoryChain(NamedTuple):
    """Steps taken, and the bit to remember."""

    at: Int[Array, ""]
    bit: Int[Array, ""]


def memory_chain(length: int) -> NativeEnvironment:
    """A chain of `length + 1` steps. The last action pays 1 if it equals the bit, and -1 otherwise; all others pay 0.

    The observation is float32 [3]: the share of the time that is left, a query, which is always 0 as there is only one
    bit to ask for, and the bit as -1 or 1, or 0 if it is hidden. As in the suite's package, the first observation comes
    twice: the first action leaves everything as it was. So `length - 1` steps hide the bit until it is asked for.
    """
    time_left = jnp.asarray(1 - np.arange(length + 1) / length, jnp.float32)

    def show(state: MemoryChain) -> Float[Array, "3"]:
        passed = jnp.maximum(state.at - 1, 0)
        cue = jnp.where(passed == 0, 2.0 * state.bit - 1.0, 0.0)
        return jnp.stack([time_left[passed], jnp.zeros(()), cue])

    def reset(noise: UInt32[Array, "1"]) -> tuple[MemoryChain, Float[Array, "3"]]:
        state = MemoryChain(jnp.int32(0), integer(noise[0], 2))
        return state, show(state)

    def step(state: MemoryChain, action: Int[Array, ""], noise: UInt32[Array, "1"]) -> tuple[MemoryChain, Transition]:
        after = state._replace(at=state.at + 1)
        over = after.at == length + 1
        reward = jnp.where(over, jnp.where(action == state.bit, 1.0, -1.0), 0.0)
        return after, Transition(show(after), reward, over, jnp.asarray(False))

    return NativeEnvironment(
        name=f"qdojo/MemoryChain{length}-v0",
        observation_shape=(3,),
        num_actions=2,
        noise_words=1,
        max_episode_steps=length + 1,
        reset=reset,
        step=step,
        reward_threshold=1.0,
    )
