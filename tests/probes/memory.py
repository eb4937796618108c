"""A T-maze: what to do at its end was shown at its start. Not for agents without a memory, which get 0 on average.

Bakker (2002), "Reinforcement Learning with Long Short-Term Memory", section 4.1; here the corridor is walked by itself,
so that nothing but the memory is tested.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from qdojo.envs.contract import NativeEnvironment, Transition
from qdojo.noise import bernoulli


class Walk(NamedTuple):
    """The cue, -1 for left (action 0) or 1 for right (action 1), and the steps since it was seen."""

    cue: Array
    elapsed: Array


def t_maze(corridor: int) -> NativeEnvironment:
    """The observation is (cue, in the corridor, at the junction), and the cue is 0 but at the first step.

    `corridor` steps later comes the junction, where the cue's action pays 1 and the other -1, and both end the episode.
    """
    junction = corridor + 1

    def observe(walk: Walk) -> Array:
        inside = (walk.elapsed > 0) & (walk.elapsed < junction)
        return jnp.stack(
            [jnp.where(walk.elapsed == 0, walk.cue, 0.0), inside, walk.elapsed == junction], dtype="float32"
        )

    def reset(noise: Array) -> tuple[Walk, Array]:
        walk = Walk(jnp.where(bernoulli(noise[0], 0.5), 1.0, -1.0), jnp.int32(0))
        return walk, observe(walk)

    def step(walk: Walk, action: Array, noise: Array) -> tuple[Walk, Transition]:
        ends = walk.elapsed == junction
        after = Walk(walk.cue, walk.elapsed + 1)
        paid = jnp.where(ends, walk.cue * jnp.where(action == 1, 1.0, -1.0), 0.0)
        return after, Transition(observe(after), paid, ends, jnp.asarray(False))

    return NativeEnvironment("t-maze", (3,), 2, 1, junction + 1, reset, step)
