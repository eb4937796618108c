"""Windows over the tape: transitions of one or more steps, and sequences of them. The one place where gamma and the end
of an episode meet.

A transition starts at a row and covers up to n steps. It never crosses an episode's end nor the write head; where it is
cut short, its length k is what gamma**k says.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qdojo.bellman.returns import n_step_return
from qdojo.noise import integer
from qdojo.tape.ring import Tape, newest, take
from qdojo.types import Batch, Sequence, Step, Words

Scalar = Float[Array, ""] | float


class Window(NamedTuple):
    """How one example of an update is read from the tape."""

    read: Callable[[Tape, Int[Array, ""], Int[Array, ""], Scalar], Any]
    """(tape, age, env, gamma) -> the example whose first row is `age` rows before the newest. It has a `weight`."""
    following: int
    """Rows that have to be on the tape after the first one: the least `age`."""


def transitions(n: int) -> Window:
    """Transitions of at most `n` steps, as a `Batch`."""

    def read(tape: Tape, age: Int[Array, ""], env: Int[Array, ""], gamma: Scalar) -> Batch:
        def at(age: Int[Array, ""]) -> Step:
            # The row that follows the newest is not written yet; a window that gets there is cut by `alive`.
            return take(tape, newest(tape, jnp.maximum(age, 0)), env)

        steps = [at(age - i) for i in range(n)]
        last, reward, terminated = (
            jnp.stack([getattr(step, name) for step in steps]) for name in ("last", "reward", "terminated")
        )
        inside = _inside(last, age > jnp.arange(n))
        return_t, discount_t = n_step_return(reward, terminated, inside, gamma)
        return Batch(
            obs_tm1=steps[0].observation,
            action_tm1=jnp.asarray(steps[0].action),
            reward_t=return_t,
            discount_t=discount_t,
            obs_t=at(age - jnp.sum(inside)).observation,
            weight=(~last[0]).astype(jnp.float32),
        )

    return Window(read, 1)


def sequences(burn_in: int, length: int, n: int) -> Window:
    """`burn_in` rows, then `length` that start transitions of at most `n` steps, then those that these lead to.

    They go on through the end of an episode, as acting does. Kapturowski et al. (2019), section 2.3, stop there.
    """
    rows = burn_in + length + n

    def read(tape: Tape, age: Int[Array, ""], env: Int[Array, ""], gamma: Scalar) -> Sequence:
        steps = take(tape, newest(tape, age - jnp.arange(rows)), jnp.broadcast_to(env, rows))
        first, last = burn_in + jnp.arange(length), jnp.asarray(steps.last)

        def transition(row: Int[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""], Int[Array, ""]]:
            covered = row + jnp.arange(n)
            inside = _inside(last[covered], jnp.ones(n, bool))
            return_t, discount_t = n_step_return(steps.reward[covered], steps.terminated[covered], inside, gamma)
            return return_t, discount_t, row + jnp.sum(inside)

        reward_t, discount_t, after_t = jax.vmap(transition)(first)
        starts = ~last[first]
        return Sequence(
            obs_tm1=steps.observation,
            last=last,
            memory=jax.tree.map(lambda leaf: leaf[0], steps.memory),
            action_tm1=jnp.asarray(steps.action)[first],
            reward_t=reward_t,
            discount_t=discount_t,
            after_t=after_t,
            starts=starts,
            weight=jnp.any(starts).astype(jnp.float32),
        )

    return Window(read, rows - 1)


def _inside(last: Bool[Array, "n"], written: Bool[Array, "n"]) -> Bool[Array, "n"]:
    """Which steps from a first one on are of its window: those before the episode's end and the write head."""
    alive = [jnp.ones((), bool)]
    # Unrolled, as in `n_step_return`.
    for i in range(1, last.shape[0]):
        alive.append(alive[-1] & ~last[i] & written[i])
    return jnp.stack(alive)


def uniform_starts(tape: Tape, noise: Words, following: int = 1) -> tuple[Int[Array, "batch"], Int[Array, "batch"]]:
    """Ages and envs of first rows, uniform over all that have `following` rows after them; one word an example."""
    envs = tape.num_envs
    flat = integer(noise, jnp.maximum(tape.size - following, 1) * envs)
    return following + flat // envs, flat % envs


def read(window: Window, tape: Tape, age: Int[Array, "batch"], env: Int[Array, "batch"], gamma: Scalar) -> Any:
    """The examples whose first rows these are."""
    return jax.vmap(window.read, in_axes=(None, 0, 0, None))(tape, age, env, gamma)
