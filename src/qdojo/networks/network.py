"""What every network is to the rest of qdojo: one record of functions for one observation. Not for layers."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float

from qdojo.types import Memory, Observation, Params, Words


def _unchanged(params: Params, _: Any) -> Params:
    return params


def _as_seen(_: Params, observation: Observation, memory: Memory) -> tuple[Observation, Memory]:
    return observation, memory


class Network(NamedTuple):
    """A network as functions for one observation. The defaults are those of a network without memory and noise."""

    init: Callable[[Array], Params]
    """Parameters from a key."""
    apply: Callable[..., Float[Array, "*outputs"]]
    """(params, observation) -> Q-values `[*branches, actions]`; or what describes the distribution of each action's
    return, `[*branches, actions, outputs]`. A quantile function takes fractions `[n]` as a third argument and gives
    `[n, *branches, actions]`. A network with a memory has features in the observation's place."""
    proposal: Callable[[Params, Observation], Float[Array, "edges"]] | None = None
    """(params, observation) -> rising fractions from 0 to 1, of a quantile function that proposes them (FQF)."""
    features: Callable[[Params, Observation, Memory], tuple[Any, Memory]] = _as_seen
    """(params, observation, memory) -> what `apply` and `proposal` take in the observation's place, memory."""
    memory: Callable[[], Memory] = tuple
    """The memory when an episode starts."""
    perturb: Callable[[Params, Words], Params] = _unchanged
    """Parameters with the noise of a noisy network in them; the other functions take those with and those without."""
    words: int = 0
    """uint32 words that one `perturb` consumes."""
    observe: Callable[[Params, Observation], Params] = _unchanged
    """Parameters after a batch of observations `[batch, ...]`: where statistics of them are kept, and not learned."""

    def through(self, view: Callable[[Params], Params]) -> "Network":
        """The network whose parameters are those that `view` makes this one's parameters of."""
        proposal = self.proposal
        return self._replace(
            apply=lambda params, *at: self.apply(view(params), *at),
            proposal=None if proposal is None else lambda params, *at: proposal(view(params), *at),
            features=lambda params, *at: self.features(view(params), *at),
        )
