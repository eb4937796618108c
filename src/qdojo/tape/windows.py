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
from qdojo.observations import in_place, plain, stacked
from qdojo.tape.ring import Tape, is_last, newest, take
from qdojo.types import Batch, Observation, Sequence, Step

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


def transitions(n: int, frames: int = 1) -> Window:
    """Transitions of at most `n` steps, as a `Batch`, of stacks of `frames` observations."""

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
            obs_tm1=steps[0].observation if frames == 1 else seen(tape, age, env, frames),
            action_tm1=jnp.asarray(steps[0].action),
            reward_t=return_t,
            discount_t=discount_t,
            obs_t=seen(tape, jnp.maximum(age - jnp.sum(inside), 0), env, frames),
            weight=(~last[0]).astype(jnp.float32),
        )

    return Window(read, before=frames - 1, after=1)


def sequences(burn_in: int, length: int, n: int, frames: int = 1) -> Window:
    """Sequences of `burn_in` rows, `length` rows that start transitions of at most `n` steps, and `n` more rows.

    Sequences continue past the end of an episode, as acting does. In Kapturowski et al. (2019), section 2.3, they stop.
    Observations are stacks of `frames` observations.
    """
    rows = burn_in + length + n

    def read(tape: Tape, age: Int[Array, ""], env: Int[Array, ""], gamma: Scalar) -> Sequence:
        ages = age - jnp.arange(rows)
        steps = take(tape, newest(tape, ages), jnp.broadcast_to(env, rows))
        first, last = burn_in + jnp.arange(length), jnp.asarray(steps.last)

        def transition(row: Int[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""], Int[Array, ""]]:
            covered = row + jnp.arange(n)
            inside = _inside(last[covered], jnp.ones(n, bool))
            return_t, discount_t = n_step_return(steps.reward[covered], steps.terminated[covered], inside, gamma)
            return return_t, discount_t, row + jnp.sum(inside)

        reward_t, discount_t, after_t = jax.vmap(transition)(first)
        starts = ~last[first]
        return Sequence(
            obs_tm1=steps.observation if frames == 1 else jax.vmap(lambda age: seen(tape, age, env, frames))(ages),
            last=last,
            memory=jax.tree.map(lambda leaf: leaf[0], steps.memory),
            action_tm1=jnp.asarray(steps.action)[first],
            reward_t=reward_t,
            discount_t=discount_t,
            after_t=after_t,
            starts=starts,
            weight=jnp.any(starts).astype(jnp.float32),
        )

    return Window(read, before=frames - 1, after=rows - 1)


def seen(tape: Tape, age: Int[Array, ""], env: Int[Array, ""], frames: int) -> Observation:
    """Return the stack of `frames` observations that the agent saw at the row of this age; see `looking_back`."""
    if frames == 1:
        return take(tape, newest(tape, age), env).observation
    rows = take(tape, newest(tape, looking_back(tape, age, env, frames)), jnp.broadcast_to(env, frames))
    current = jax.tree.map(lambda leaf: leaf[-1], rows.observation)
    return in_place(current, stacked(plain(rows.observation)))


def looking_back(tape: Tape, age: Int[Array, ""], env: Int[Array, ""], rows: int) -> Int[Array, "rows"]:
    """Return the ages of the last `rows` rows up to this one, oldest first.

    The first row of the episode replaces rows from before the episode, and the oldest written row replaces rows that
    were never written. Once the ring is full, the predecessors of its oldest rows are overwritten, so a window that
    calls this must count `rows - 1` more rows in `before`.
    """
    back = jnp.arange(rows)
    last = is_last(tape, newest(tape, age + back), jnp.broadcast_to(env, rows))
    most = jnp.sum(_inside(last, age + back < tape.size)) - 1
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
