"""A network that is asked for quantiles of the return at any fractions, for IQN and FQF. Not for losses: see
`agents/quantile.py`."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qdojo.networks.inputs import INPUTS, Design, Inputs, legal_only, observed
from qdojo.networks.mlp import Dueling, Hidden, Linear, layers
from qdojo.networks.network import Network
from qdojo.types import Observation, Params

COSINES = 64
"""Dabney et al. (2018b), equation 4."""
PROPOSAL_SCALE = 0.01
"""Of the proposal's logits. They start near 0, so the fractions near even, as the gain of 0.01 does in Yang et al.
(2019); and they move so much more slowly than the quantiles, for which the paper has a learning rate of their own."""

COSINE_COEFFICIENTS = (
    -8.9169189e-05,
    1.9059103e-03,
    -2.5787853e-02,
    2.3532213e-01,
    -1.3352607,
    4.0587120,
    -4.9348021,
    1.0,
)


class ImplicitMLP(eqx.Module):
    """psi(x) * phi(tau), through the last hidden layer and a head of one value an action. With `proposed`, a layer that
    proposes so many parts of [0, 1] from psi(x)."""

    inputs: Inputs
    features: list[Hidden]
    embedding: Linear
    last: Hidden | None
    head: Linear | Dueling
    proposal: Linear | None

    def __init__(self, design: Design, proposed: int | None, key: Array) -> None:
        *shared, last = design.hidden
        keys = jax.random.split(key, len(shared) + 4)
        width, actions = shared[-1] if shared else design.features, math.prod(design.q_shape)
        self.inputs = Inputs(design, jax.random.fold_in(key, INPUTS))
        self.features = layers((design.features, *shared), design.layer_norm, keys)
        self.embedding = Linear(COSINES, width, keys[-4])
        if design.dueling:
            self.last = None
            self.head = Dueling(width, last, design, 1, keys[-2])
        else:
            self.last = Hidden(width, last, design.layer_norm, keys[-3])
            self.head = Linear(last, actions, keys[-2])
        self.proposal = None if proposed is None else Linear(width, proposed, keys[-1])

    def psi(self, observation: Observation) -> Float[Array, "features"]:
        x = self.inputs(observation)
        for layer in self.features:
            x = layer(x)
        return x

    def phi(self, fraction: Float[Array, ""]) -> Float[Array, "features"]:
        """relu(W cos(pi i tau) + b), i = 0 .. 63. Dabney et al. (2018b), equation 4."""
        return jax.nn.relu(self.embedding(_cosine(jnp.arange(COSINES, dtype=jnp.float32) * fraction)))

    def values(self, x: Float[Array, "features"]) -> Float[Array, "values"]:
        return self.head(x if self.last is None else self.last(x))


def _cosine(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """cos(pi x) within 1e-5, as a polynomial in x**2 on [-1, 1] (a Chebyshev fit).

    `jnp.cos` is what an update would spend most of its time in on a CPU: it takes ten times as long.
    """
    square = jnp.square(x - 2.0 * jnp.round(0.5 * x))
    value = jnp.zeros_like(x)
    for coefficient in COSINE_COEFFICIENTS:
        value = value * square + coefficient
    return value


def implicit(design: Design, proposed: int | None) -> Network:
    """A quantile function over flattened observations; `proposed` is the number of parts that FQF proposes, or None.

    psi(x) is all hidden layers but the last; with one layer it is x itself, which suits features that were learned
    before. Dabney et al. (2018b), section 3; Yang et al. (2019), section 3.3.
    """

    def quantiles(params: ImplicitMLP, observation: Observation, fractions: Float[Array, "n"]) -> Float[Array, "n *q"]:
        features = params.psi(observation)
        values = jax.vmap(lambda fraction: params.values(features * params.phi(fraction)))(fractions)
        return values.reshape(-1, *design.q_shape)

    def proposal(params: ImplicitMLP, observation: Observation) -> Float[Array, "edges"]:
        """Yang et al. (2019), section 3.3: sums of a softmax. The features learn from the quantiles alone."""
        assert params.proposal is not None
        features = jax.lax.stop_gradient(params.psi(observation))
        parts = jax.nn.softmax(PROPOSAL_SCALE * params.proposal(features))
        # The ends are exact, whatever the sum's rounding.
        inner = jnp.minimum(jnp.cumsum(parts)[:-1], 1.0)
        return jnp.concatenate([jnp.zeros(1), inner, jnp.ones(1)])

    return Network(
        init=lambda key: ImplicitMLP(design, proposed, key),
        apply=quantiles,
        proposal=None if proposed is None else proposal,
        observe=observed,
    )


def acting(network: Network, count: int, cvar: float) -> Network:
    """Q-values: the mean of the quantile function over fractions in [0, cvar].

    `cvar` of 1 is the mean return; less is averse to risk: the mean of the worst share `cvar` of returns. Dabney et al.
    (2018b), sections 2.3 and 3, draw 32 fractions at random; here they are the middles of `count` equal parts, so the
    same observation has the same Q-values, with less error. FQF's parts are the proposed ones, weighted by their widths
    (Yang et al., 2019, algorithm 1), and `count` is not used.
    """

    propose = network.proposal or (lambda params, observation: jnp.linspace(0.0, 1.0, count + 1))

    def q(params: Params, observation: Observation) -> Float[Array, "*branches actions"]:
        # Fractions are learned by the loss of the proposal alone, also where something else is learned of the mean.
        edges = jax.lax.stop_gradient(propose(params, observation))
        middles = 0.5 * (edges[:-1] + edges[1:])
        q = jnp.tensordot(edges[1:] - edges[:-1], network.apply(params, observation, cvar * middles), axes=1)
        return legal_only(q, observation)

    return network._replace(apply=q, proposal=None)
