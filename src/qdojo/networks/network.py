"""The interface of every network: a record of functions for one observation. The layers are in other modules."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float

from qdojo.networks.inputs import Statistics
from qdojo.types import Memory, Observation, Params, Words


def _unchanged(params: Params, _: Any) -> Params:
    return params


def _numbers(params: Params) -> tuple[Params, Params]:
    # The statistics of observations come as a whole, which is no array: they are fixed.
    learned, fixed = eqx.partition(params, eqx.is_inexact_array, is_leaf=lambda part: isinstance(part, Statistics))
    return learned, fixed


def _as_seen(_: Params, observation: Observation, memory: Memory) -> tuple[Observation, Memory]:
    return observation, memory


class Network(NamedTuple):
    """A network as functions for one observation. The defaults suit a network without memory or noise."""

    init: Callable[[Array], Params]
    """(key) -> new parameters."""
    apply: Callable[..., Float[Array, "*outputs"]]
    """(params, observation) -> Q-values `[*branches, actions]`, or the parameters of each action's return distribution,
    `[*branches, actions, outputs]`. A quantile function takes fractions `[n]` as a third argument and returns
    `[n, *branches, actions]`. A recurrent network takes features instead of an observation."""
    proposal: Callable[[Params, Observation], Float[Array, "edges"]] | None = None
    """(params, observation) -> increasing fractions from 0 to 1, if the quantile function proposes them (FQF)."""
    features: Callable[[Params, Observation, Memory], tuple[Any, Memory]] = _as_seen
    """(params, observation, memory) -> the input of `apply` and `proposal`, new memory."""
    memory: Callable[[], Memory] = tuple
    """() -> the memory at the start of an episode."""
    perturb: Callable[[Params, Words], Params] = _unchanged
    """(params, noise) -> parameters with the noise of a noisy network added. The other functions take both kinds."""
    words: int = 0
    """Random words that one call of `perturb` consumes."""
    observe: Callable[[Params, Observation], Params] = _unchanged
    """(params, observations) -> parameters whose running statistics, if any, include a batch `[batch, ...]`."""
    partition: Callable[[Params], tuple[Params, Params]] = _numbers
    """(params) -> the parameters that an optimizer changes, and the others: each tree has None in place of what is in
    the other. `equinox.combine` joins them, in this order. By default, all numbers but the statistics of observations
    are learned."""

    hidden: Callable[[Params, Observation], list[Float[Array, "..."]]] | None = None
    """(params, observation) -> the outputs of each dense hidden layer, after ReLU; those before the memory of a
    recurrent network. None if they are not known."""

    def through(self, view: Callable[[Params], Params]) -> "Network":
        """The same network for parameters of another form: `view` maps those to the parameters that this one takes."""
        proposal, hidden = self.proposal, self.hidden
        return self._replace(
            apply=lambda params, *at: self.apply(view(params), *at),
            proposal=None if proposal is None else lambda params, *at: proposal(view(params), *at),
            features=lambda params, *at: self.features(view(params), *at),
            hidden=None if hidden is None else lambda params, observation: hidden(view(params), observation),
        )
