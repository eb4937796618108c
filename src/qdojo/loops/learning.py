"""What both loops do with a block of fresh rows: write it, then learn from the tape. Not for collecting rows."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree, Shaped, UInt32

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
    """One cycle's learning for all members. Metrics are sums over its updates; the flag says whether it learned."""
    tape = write(tape, block)
    clock = clock._replace(rows=clock.rows + rhythm.rows)
    update = jax.vmap(agent.update, in_axes=(0, READERS, 0, None))

    def one(carry: tuple[Any, Clock], words: UInt32[Array, "member words"]) -> tuple[tuple[Any, Clock], MemberMetrics]:
        agents, clock = carry
        agents, metrics = update(agents, tape, words, clock)
        return (agents, clock._replace(updates=clock.updates + 1)), metrics

    def phase(agents: Any, clock: Clock) -> tuple[Any, Clock, MemberMetrics]:
        (agents, clock), metrics = jax.lax.scan(one, (agents, clock), noise)
        return agents, clock, jax.tree.map(lambda m: jnp.sum(m, axis=0), metrics)

    def wait(agents: Any, clock: Clock) -> tuple[Any, Clock, MemberMetrics]:
        metrics = jax.eval_shape(phase, agents, clock)[2]
        return agents, clock, jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), metrics)

    ready = clock.rows >= rhythm.warmup_rows
    agents, clock, metrics = jax.lax.cond(ready, phase, wait, agents, clock)
    return agents, tape, clock, metrics, ready
