"""Windows over the tape: transitions of one or more steps. The one place where gamma and the end of an episode meet.

A window starts at a row and covers up to n steps. It never crosses an episode's end nor the write head; where it is
cut short, its length k is what gamma**k says.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qdojo.bellman.returns import n_step_return
from qdojo.noise import integer
from qdojo.tape.ring import Tape, newest, take
from qdojo.types import Batch, Words


def uniform_starts(tape: Tape, noise: Words) -> tuple[Int[Array, "batch"], Int[Array, "batch"]]:
    """Ages and envs of starting rows, uniform over all that have a successor on the tape; one word an example."""
    envs = tape.num_envs
    flat = integer(noise, jnp.maximum(tape.size - 1, 1) * envs)
    return 1 + flat // envs, flat % envs


def read(
    tape: Tape, age: Int[Array, "batch"], env: Int[Array, "batch"], n: int, gamma: Float[Array, ""] | float
) -> Batch:
    """The windows of at most `n` steps that start `age >= 1` rows before the newest, as transitions."""
    return jax.vmap(_window, in_axes=(None, 0, 0, None, None))(tape, age, env, n, gamma)


def _window(tape: Tape, age: Int[Array, ""], env: Int[Array, ""], n: int, gamma: Float[Array, ""] | float) -> Batch:
    def at(age: Int[Array, ""]) -> Any:
        # The row that follows the newest is not written yet; a window that gets there is cut by `alive`.
        return take(tape, newest(tape, jnp.maximum(age, 0)), env)

    steps = [at(age - i) for i in range(n)]
    alive: list[Bool[Array, ""]] = [jnp.ones((), bool)]
    for i in range(1, n):
        alive.append(alive[-1] & ~steps[i].last & (age > i))
    inside = jnp.stack(alive)
    return_t, discount_t = n_step_return(
        jnp.stack([step.reward for step in steps]), jnp.stack([step.terminated for step in steps]), inside, gamma
    )
    return Batch(
        obs_tm1=steps[0].observation,
        action_tm1=steps[0].action,
        reward_t=return_t,
        discount_t=discount_t,
        obs_t=at(age - jnp.sum(inside)).observation,
        weight=(~steps[0].last).astype(jnp.float32),
    )
