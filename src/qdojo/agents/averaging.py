"""An agent that learns as before, and plays in evaluations with the average of its weights over many updates.

Each update moves the weights by the noise of its batch, and close Q-values change places. The average keeps what the
updates have in common: Polyak and Juditsky (1992); Izmailov et al. (2018); in reinforcement learning, Nikishin et al.
(2018).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from qdojo.types import Agent, Clock, Memory, Metrics, Observation, Params, Words


class Averaged(NamedTuple):
    """The state of one member."""

    params: Params
    """The averaged parameters, which play in evaluations and are delivered."""
    learner: Any
    """The state of the agent that learns and explores."""


def averaging(agent: Agent, partition: Callable[[Params], tuple[Params, Params]], tau: float) -> Agent:
    """`agent`, whose `params` are an exponential moving average of what it learns: `tau` of it enters at each update.

    `partition` splits parameters into trainable and fixed ones, as that of `Network`; the fixed ones are not averaged.
    """

    def init(key: Array, numbers: Any = None) -> Averaged:
        learner = agent.init(key, numbers)
        return Averaged(learner.params, learner)

    def act(
        state: Averaged, observation: Observation, memory: Memory, noise: Words, clock: Clock, env: Int[Array, ""]
    ) -> tuple[Int[Array, "*branches"], Memory]:
        return agent.act(state.learner, observation, memory, noise, clock, env)

    def update(state: Averaged, tape: Any, noise: Words, clock: Clock) -> tuple[Averaged, Metrics]:
        learner, metrics = agent.update(state.learner, tape, noise, clock)
        # The first updates enter with more, or the random weights would stay in the average for long.
        share = jnp.maximum(tau, 9.0 / (10.0 + clock.updates))
        (average, _), (online, fixed) = map(partition, (state.params, learner.params))
        moved = jax.tree.map(lambda old, new: old + share * (new - old), average, online)
        return Averaged(eqx.combine(moved, fixed), learner), metrics

    diagnosis = agent.diagnosis
    if diagnosis is not None:
        examine = diagnosis.examine
        diagnosis = diagnosis._replace(examine=lambda state, *rest: examine(state.learner, *rest))
    return agent._replace(
        init=init,
        act=act,
        update=update,
        exploration=lambda state, clock: agent.exploration(state.learner, clock),
        diagnosis=diagnosis,
    )
