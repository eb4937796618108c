"""The learning half of a cycle. The loops collect the rows and write them to the tape."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped, UInt32

from qdojo.tape.ring import READERS, Tape
from qdojo.types import Agent, Clock

MemberMetrics = dict[str, Float[Array, "member"]]


class Rhythm(NamedTuple):
    """The schedule of a cycle: collect `rows` rows, then make `updates` updates once `warmup_rows` rows are written."""

    rows: int
    updates: int
    warmup_rows: int


def improve(
    agent: Agent,
    rhythm: Rhythm,
    agents: PyTree[Shaped[Array, "member ..."]],
    tape: Tape,
    clock: Clock,
    noise: UInt32[Array, "updates member words"],
) -> tuple[PyTree[Shaped[Array, "member ..."]], Clock, MemberMetrics, Bool[Array, ""]]:
    """A cycle's updates, for all members. Metrics are summed over updates; the flag says if there were any."""
    clock = clock._replace(rows=clock.rows + rhythm.rows)
    # `jit` lets `eval_shape` and the loop share one trace; with `inline=True` the program stays the same.
    update = jax.jit(jax.vmap(agent.update, in_axes=(0, READERS, 0, None)), inline=True)

    def one(i: Int[Array, ""], carry: tuple[Any, MemberMetrics]) -> tuple[Any, MemberMetrics]:
        agents, sums = carry
        agents, metrics = update(agents, tape, noise[i], clock._replace(updates=clock.updates + i))
        return agents, jax.tree.map(jnp.add, sums, metrics)

    metrics = jax.eval_shape(update, agents, tape, noise[0], clock)[1]
    nothing = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), metrics)
    ready = clock.rows >= rhythm.warmup_rows
    # A loop with zero iterations instead of a `cond`, which would copy large arrays such as the priorities of all rows.
    turns = jnp.where(ready, rhythm.updates, 0)
    agents, sums = jax.lax.fori_loop(0, turns, one, (agents, nothing))
    return agents, clock._replace(updates=clock.updates + turns), sums, ready
