"""Randomised prior functions: a network that is never trained, added to the one that learns. Not for ensembles of
such networks: see `agents/bootstrapped.py`."""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from qdojo.networks.network import Network
from qdojo.types import Observation, Params, Words


class Prior(NamedTuple):
    """Parameters of a network with a prior."""

    learned: Params
    fixed: Params
    """Drawn as `learned` is, and never trained."""


def with_prior(network: Network, scale: float) -> Network:
    """f(s) + `scale` * p(s), where f learns and p stays as it was drawn. Osband et al. (2018), section 3, algorithm 1.

    Where nothing was learned yet, each draw has beliefs of its own. `scale` is 0 or more, in units of the network's
    outputs, so a network that puts illegal actions far below all others still does; of a quantile function both parts
    are asked at the same fractions, which the learned part proposes. Noise goes to the learned part. Statistics of
    observations go to both: p sees what f sees, and only its weights are fixed.
    """

    def init(key: Array) -> Prior:
        learned, fixed = jax.random.split(key)
        return Prior(network.init(learned), network.init(fixed))

    def apply(params: Prior, *at: Any) -> Array:
        return network.apply(params.learned, *at) + scale * jax.lax.stop_gradient(network.apply(params.fixed, *at))

    def perturb(params: Prior, noise: Words) -> Prior:
        return params._replace(learned=network.perturb(params.learned, noise))

    def observe(params: Prior, observation: Observation) -> Prior:
        return Prior(network.observe(params.learned, observation), network.observe(params.fixed, observation))

    learned = network.through(lambda params: params.learned)
    return learned._replace(init=init, apply=apply, perturb=perturb, observe=observe)
