"""Windows over the tape: transitions of one or more steps. The one place where gamma and the end of an episode meet.

A window starts at a row and covers up to n steps. It never crosses an episode's end nor the write head; where it is
cut short, its length k is what gamma**k says.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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
    ahead = jnp.arange(n + 1)
    # The row that follows the newest is not written yet, so a window that gets there is cut by the clip and `alive`.
    ages = jnp.maximum(age[:, None] - ahead[None, :], 0)
    at, copy = newest(tape, ages), env[:, None]
    last = take(tape.rows.last, tape, at, copy)
    reward_t = take(tape.rows.reward, tape, at[:, :-1], copy)
    terminated_t = take(tape.rows.terminated, tape, at[:, :-1], copy)

    alive = [jnp.ones(age.shape, bool)]
    for i in range(1, n):
        alive.append(alive[-1] & ~last[:, i] & (age > i))
    inside = jnp.stack(alive, axis=1)
    length = jnp.sum(inside, axis=1)

    return_t, discount_t = jax.vmap(n_step_return, in_axes=(0, 0, 0, None))(reward_t, terminated_t, inside, gamma)
    return Batch(
        obs_tm1=take(tape.rows.observation, tape, at[:, 0], env),
        action_tm1=take(tape.rows.action, tape, at[:, 0], env),
        reward_t=return_t,
        discount_t=discount_t,
        obs_t=take(tape.rows.observation, tape, newest(tape, age - length), env),
        weight=(~last[:, 0]).astype(jnp.float32),
    )
