"""Windows over the tape: transitions of one or more steps, and sequences of them. Only here are gamma and episode ends
combined into `discount_t`.

A transition starts at a row and covers up to n steps. It never crosses the end of an episode or the write head; if it
is cut short to k steps, the discount uses gamma**k.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qdojo.bellman.returns import n_step_return
from qdojo.tape.ring import Tape, newest, take
from qdojo.types import Batch, Sequence, Step

Scalar = Float[Array, ""] | float


class Window(NamedTuple):
    """Defines how one training example is read from the tape."""

    read: Callable[[Tape, Int[Array, ""], Int[Array, ""], Scalar], Any]
    """(tape, age, env, gamma) -> the example that starts `age` rows before the newest row. It has a field `weight`."""
    before: int
    """Rows that must be on the tape before the starting row. They may belong to another episode."""
    after: int
    """Rows that must be on the tape after the starting row, which is the smallest `age` allowed."""

    @property
    def rows(self) -> int:
        """Rows that must be written before the first example can be read."""
        return self.before + 1 + self.after


def transitions(n: int) -> Window:
    """Transitions of at most `n` steps, as a `Batch`."""

    def read(tape: Tape, age: Int[Array, ""], env: Int[Array, ""], gamma: Scalar) -> Batch:
        def at(age: Int[Array, ""]) -> Step:
            # No row follows the newest one yet; `_inside` cuts windows that would reach beyond it.
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

    return Window(read, before=0, after=1)


def sequences(burn_in: int, length: int, n: int) -> Window:
    """Sequences of `burn_in` rows, `length` rows that start transitions of at most `n` steps, and `n` more rows.

    Sequences continue past the end of an episode, as acting does. In Kapturowski et al. (2019), section 2.3, they stop.
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

    return Window(read, before=0, after=rows - 1)


def looking_back(tape: Tape, age: Int[Array, ""], env: Int[Array, ""], rows: int) -> Int[Array, "rows"]:
    """Ages of the `rows` rows up to this one, oldest first. Rows before the episode's start repeat its first row.

    The row and the `rows - 1` rows before it must be on the tape; a window that calls this includes them in `before`.
    """
    back = jnp.arange(rows)
    last = jnp.asarray(take(tape, newest(tape, age + back), jnp.broadcast_to(env, rows)).last)
    most = jnp.sum(_inside(last, jnp.ones(rows, bool))) - 1
    return age + jnp.minimum(back[::-1], most)


def _inside(last: Bool[Array, "n"], written: Bool[Array, "n"]) -> Bool[Array, "n"]:
    """Which rows, counted from the first one forwards or backwards, belong to its window: those before the next row
    that is `last` and before the write head."""
    alive = [jnp.ones((), bool)]
    # The loop is unrolled, as in `n_step_return`.
    for i in range(1, last.shape[0]):
        alive.append(alive[-1] & ~last[i] & written[i])
    return jnp.stack(alive)


def read(window: Window, tape: Tape, age: Int[Array, "batch"], env: Int[Array, "batch"], gamma: Scalar) -> Any:
    """The examples that start at these rows."""
    return jax.vmap(window.read, in_axes=(None, 0, 0, None))(tape, age, env, gamma)
