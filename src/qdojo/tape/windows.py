"""Windows over the tape: transitions of one or more steps. The one place where gamma and the end of an episode meet.

A window starts at a row and covers up to n steps. It never crosses an episode's end nor the write head; where it is
cut short, its length k is what gamma**k says.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int, Shaped

from qdojo.bellman.returns import n_step_return
from qdojo.noise import integer
from qdojo.tape.ring import Tape, newest, take
from qdojo.types import AnyArray, Batch, Step, Words


def uniform_starts(tape: Tape, noise: Words) -> tuple[Int[Array, "batch"], Int[Array, "batch"]]:
    """Ages and envs of starting rows, uniform over all that have a successor on the tape; one word an example."""
    envs = tape.num_envs
    flat = integer(noise, jnp.maximum(tape.size - 1, 1) * envs)
    return 1 + flat // envs, flat % envs


def read(
    tape: Tape, age: Int[Array, "batch"], env: Int[Array, "batch"], n: int, gamma: Float[Array, ""] | float
) -> Batch:
    """The windows of at most `n` steps that start `age >= 1` rows before the newest, as transitions."""
    if jax.default_backend() != "cpu":
        return jax.vmap(_window, in_axes=(None, 0, 0, None, None))(tape, age, env, n, gamma)
    # XLA's CPU backend splits a gather between threads as soon as the array that it reads from is large, however few
    # entries it takes. Slices in a loop are never split (`python -m benchmarks.speed --rows e`: 1.1 times at 1,000,000
    # steps, 1.6 with gathers); so the examples are read one by one, those of all members in the same loop.
    return _one_by_one(n)(
        tape.rows,
        tape.written,
        jnp.broadcast_to(tape.member, age.shape),
        age,
        env,
        jnp.broadcast_to(jnp.asarray(gamma, jnp.float32), age.shape),
    )


def _one_by_one(n: int) -> Any:
    @custom_vmap
    def windows(
        rows: Step,
        written: Int[Array, ""],
        member: Int[Array, "batch"],
        age: Int[Array, "batch"],
        env: Int[Array, "batch"],
        gamma: Float[Array, "batch"],
    ) -> Batch:
        def one(at: tuple[Array, ...]) -> Batch:
            member, age, env, gamma = at
            return _window(Tape(rows, written, member), age, env, n, gamma)

        return jax.lax.map(one, (member, age, env, gamma))

    @windows.def_vmap
    def of_members(size: int, batched: Any, rows: Step, written: Array, *starts: Array) -> tuple[Batch, Batch]:
        whole = [
            start if is_batched else jnp.broadcast_to(start, (size, *start.shape))
            for start, is_batched in zip(starts, batched[2:], strict=True)
        ]
        flat = windows(rows, written, *(start.reshape(-1) for start in whole))
        batch = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), flat)
        return batch, jax.tree.map(lambda _: True, batch)

    return windows


def _window(tape: Tape, age: Int[Array, ""], env: Int[Array, ""], n: int, gamma: Float[Array, ""] | float) -> Batch:
    def at(field: Shaped[AnyArray, "time member env *rest"], age: Int[Array, ""]) -> Shaped[Array, "*rest"]:
        # The row that follows the newest is not written yet; a window that gets there is cut by `alive`.
        return take(field, tape, newest(tape, jnp.maximum(age, 0)), env)

    last = [at(tape.rows.last, age - i) for i in range(n)]
    alive: list[Bool[Array, ""]] = [jnp.ones((), bool)]
    for i in range(1, n):
        alive.append(alive[-1] & ~last[i] & (age > i))
    inside = jnp.stack(alive)
    return_t, discount_t = n_step_return(
        jnp.stack([at(tape.rows.reward, age - i) for i in range(n)]),
        jnp.stack([at(tape.rows.terminated, age - i) for i in range(n)]),
        inside,
        gamma,
    )
    return Batch(
        obs_tm1=at(tape.rows.observation, age),
        action_tm1=at(tape.rows.action, age),
        reward_t=return_t,
        discount_t=discount_t,
        obs_t=at(tape.rows.observation, age - jnp.sum(inside)),
        weight=(~last[0]).astype(jnp.float32),
    )
