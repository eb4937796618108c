"""Randomised prior functions: a fixed random network added to the learned one. Ensembles of such networks are in
`agents/bootstrapped.py`."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array

from qdojo.networks.mlp import Hidden
from qdojo.networks.network import Network
from qdojo.types import Observation, Params, Words


class Prior(NamedTuple):
    """Parameters of a network with a prior."""

    learned: Params
    fixed: Params
    """Parameters of the prior: initialised like `learned`, or wider (see `with_prior`), and never trained."""


def with_prior(network: Network, scale: float) -> Network:
    """f(s) + `scale` * p(s), where f is learned and p is fixed. Osband et al. (2018), section 3, algorithm 1.

    In states without data, differently initialised networks disagree. `scale` is 0 or more and multiplies the
    prior's outputs, so illegal actions stay far below all others. A quantile function evaluates both parts at the same
    fractions, which the learned part proposes. Noise is added to the learned part only. Observation statistics are
    updated in both parts, so that both see the same inputs; only the weights of p are fixed.

    A one-hot observation passes one weight to each unit of the first layer. In p these weights are drawn from +-1, as
    for a single input: from +-1/sqrt(inputs), the more states there are, the less p differs between them.
    """

    def init(key: Array) -> Prior:
        learned, fixed = jax.random.split(key)
        return Prior(network.init(learned), jax.tree.map(_widened, network.init(fixed), is_leaf=_looks_up))

    def apply(params: Prior, *at: Any) -> Array:
        return network.apply(params.learned, *at) + scale * jax.lax.stop_gradient(network.apply(params.fixed, *at))

    def perturb(params: Prior, noise: Words) -> Prior:
        return params._replace(learned=network.perturb(params.learned, noise))

    def observe(params: Prior, observation: Observation) -> Prior:
        return Prior(network.observe(params.learned, observation), network.observe(params.fixed, observation))

    def partition(params: Prior) -> tuple[Prior, Prior]:
        learned, fixed = network.partition(params.learned)
        return Prior(learned, jax.tree.map(lambda _: None, params.fixed)), Prior(fixed, params.fixed)

    learned = network.through(lambda params: params.learned)
    return learned._replace(init=init, apply=apply, perturb=perturb, observe=observe, partition=partition)


def _looks_up(node: Any) -> bool:
    return isinstance(node, Hidden) and node.one_hot


def _widened(node: Any) -> Any:
    """A first layer of one-hot observations with weights as for a single input; anything else unchanged."""
    if not _looks_up(node):
        return node
    inputs, _ = node.linear.kernel.shape
    return eqx.tree_at(lambda layer: layer.linear.weight, node, math.sqrt(inputs) * node.linear.weight)
