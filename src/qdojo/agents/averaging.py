"""Weight averaging: an agent is evaluated and delivered with an average of the weights that it had while it learned.

Single weights of a network that learns from small batches are noisy. Their average is closer to what they move around,
as if the learning rate had already fallen (Polyak and Juditsky, 1992; of deep networks, Izmailov et al., 2018).
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from qdojo.tape.ring import Tape
from qdojo.types import Agent, Clock, Memory, Metrics, Params, Words

LEAST_RATE = 1e-5
"""An average moves by at least this: what is added to a float32 by smaller steps would mostly be rounded away."""


class Averaged(NamedTuple):
    """The state of one member of an agent with averaged weights."""

    params: Params
    """The averages."""
    learner: Any
    """The state of the agent itself, which acts and learns with its latest weights."""


def averaged(agent: Agent, share: float) -> Agent:
    """`agent` with averages over about the latest `share` of its updates, in (0, 1], as its parameters.

    After update t, counted from 0, each average moves by 1 / (1 + share * t) of the way to the weight, and by at least
    `LEAST_RATE`: the polynomial-decay averaging of Shamir and Zhang (2013). So the window grows with training, up to
    100,000 updates, and the first weights are soon forgotten. Learning and acting do not change.
    """

    def init(key: Array, numbers: Any = None) -> Averaged:
        learner = agent.init(key, numbers)
        return Averaged(learner.params, learner)

    def act(state: Averaged, *at: Any) -> tuple[Array, Memory]:
        return agent.act(state.learner, *at)

    def update(state: Averaged, tape: Tape, noise: Words, clock: Clock) -> tuple[Averaged, Metrics]:
        learner, metrics = agent.update(state.learner, tape, noise, clock)
        rate = jnp.maximum(1.0 / (1.0 + share * clock.updates), LEAST_RATE)

        def moved(average: Array, weight: Array) -> Array:
            return average + rate * (weight - average) if eqx.is_inexact_array(weight) else weight

        return Averaged(jax.tree.map(moved, state.params, learner.params), learner), metrics

    def exploration(state: Averaged, clock: Clock) -> Array:
        return agent.exploration(state.learner, clock)

    diagnosis = agent.diagnosis
    if diagnosis is not None:
        examine = diagnosis.examine
        diagnosis = diagnosis._replace(examine=lambda state, *at: examine(state.learner, *at))
    return agent._replace(init=init, act=act, update=update, exploration=exploration, diagnosis=diagnosis)
