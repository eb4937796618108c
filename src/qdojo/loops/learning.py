"""What the loops do with a block of fresh rows: write it, then learn from the tape. Not for collecting rows."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped, UInt32

from qdojo.tape.ring import READERS, Tape, write
from qdojo.types import Agent, Clock, Step

MemberMetrics = dict[str, Float[Array, "member"]]


class Rhythm(NamedTuple):
    """How a cycle is cut: collect `rows`, then learn `updates` times, once `warmup_rows` are on the tape."""

    rows: int
    updates: int
    warmup_rows: int


def learn(
    agent: Agent,
    rhythm: Rhythm,
    agents: PyTree[Shaped[Array, "member ..."]],
    tape: Tape,
    clock: Clock,
    block: Step,
    noise: UInt32[Array, "updates member words"],
) -> tuple[PyTree[Shaped[Array, "member ..."]], Tape, Clock, MemberMetrics, Bool[Array, ""]]:
    """A cycle's fresh rows and its updates, for all members. See `improve` for the metrics and the flag."""
    tape = write(tape, block)
    agents, clock, sums, ready = improve(agent, rhythm, agents, tape, clock, noise)
    return agents, tape, clock, sums, ready


def improve(
    agent: Agent,
    rhythm: Rhythm,
    agents: PyTree[Shaped[Array, "member ..."]],
    tape: Tape,
    clock: Clock,
    noise: UInt32[Array, "updates member words"],
) -> tuple[PyTree[Shaped[Array, "member ..."]], Clock, MemberMetrics, Bool[Array, ""]]:
    """A cycle's updates from the tape as it is. Metrics are sums over them; the flag says whether there were any."""
    clock = clock._replace(rows=clock.rows + rhythm.rows)
    # Jitted for the trace that its shapes are asked of to be the loop's too; inlined, it is the same program.
    update = jax.jit(jax.vmap(agent.update, in_axes=(0, READERS, 0, None)), inline=True)

    def one(i: Int[Array, ""], carry: tuple[Any, MemberMetrics]) -> tuple[Any, MemberMetrics]:
        agents, sums = carry
        agents, metrics = update(agents, tape, noise[i], clock._replace(updates=clock.updates + i))
        return agents, jax.tree.map(jnp.add, sums, metrics)

    metrics = jax.eval_shape(update, agents, tape, noise[0], clock)[1]
    nothing = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), metrics)
    ready = clock.rows >= rhythm.warmup_rows
    # A loop of no turns and not a `cond`, which would copy what is large in the agents: the priorities of all rows.
    turns = jnp.where(ready, rhythm.updates, 0)
    agents, sums = jax.lax.fori_loop(0, turns, one, (agents, nothing))
    return agents, clock._replace(updates=clock.updates + turns), sums, ready
