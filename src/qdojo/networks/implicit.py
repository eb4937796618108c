"""Implicit quantile networks: the quantiles of the return at any given fractions, for IQN and FQF. The losses are in
`agents/quantile.py`."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qdojo.networks.inputs import INPUTS, Design, Inputs, legal_only, observed
from qdojo.networks.mlp import Dueling, Hidden, Linear, layers, outputs_of
from qdojo.networks.network import Network
from qdojo.types import Observation, Params

COSINES = 64
"""Number of cosine features per fraction: Dabney et al. (2018b), equation 4."""
PROPOSAL_SCALE = 0.01
"""Scale of the proposal's logits. They start near 0, so the fractions start evenly spaced, as with the initial gain of
0.01 in Yang et al. (2019). They also learn more slowly than the quantiles; the paper uses a separate learning rate."""

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
    """Applies the last hidden layer and a head with one value per action to psi(x) * phi(tau). With `proposed`, another
    layer maps psi(x) to that many logits, which divide [0, 1] into as many parts."""

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
        self.features = layers(design, shared, keys)
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

    `jnp.cos` takes ten times as long and would dominate the time of an update on a CPU.
    """
    square = jnp.square(x - 2.0 * jnp.round(0.5 * x))
    value = jnp.zeros_like(x)
    for coefficient in COSINE_COEFFICIENTS:
        value = value * square + coefficient
    return value


def implicit(design: Design, proposed: int | None) -> Network:
    """A quantile function over flattened observations; `proposed` is the number of fractions that FQF learns, or None.

    psi(x) consists of all hidden layers but the last. With a single hidden layer, psi(x) is x, which suits features
    that an earlier network computed. Dabney et al. (2018b), section 3; Yang et al. (2019), section 3.3.
    """

    def quantiles(params: ImplicitMLP, observation: Observation, fractions: Float[Array, "n"]) -> Float[Array, "n *q"]:
        features = params.psi(observation)
        values = jax.vmap(lambda fraction: params.values(features * params.phi(fraction)))(fractions)
        return values.reshape(-1, *design.q_shape)

    def proposal(params: ImplicitMLP, observation: Observation) -> Float[Array, "edges"]:
        """Cumulative sums of a softmax: Yang et al. (2019), section 3.3. Only the quantile loss trains the features."""
        assert params.proposal is not None
        features = jax.lax.stop_gradient(params.psi(observation))
        parts = jax.nn.softmax(PROPOSAL_SCALE * params.proposal(features))
        # The first and last fraction are exactly 0 and 1, however the sum is rounded.
        inner = jnp.minimum(jnp.cumsum(parts)[:-1], 1.0)
        return jnp.concatenate([jnp.zeros(1), inner, jnp.ones(1)])

    return Network(
        init=lambda key: ImplicitMLP(design, proposed, key),
        apply=quantiles,
        proposal=None if proposed is None else proposal,
        observe=observed,
        hidden=lambda params, observation: outputs_of(params.features, params.inputs(observation)),
    )


def acting(network: Network, count: int, cvar: float) -> Network:
    """Q-values: the mean of the quantile function over fractions in [0, cvar].

    `cvar` = 1 gives the mean return; a smaller value is risk-averse and gives the mean of the worst fraction `cvar` of
    returns. Dabney et al. (2018b), sections 2.3 and 3, draw 32 fractions at random. Here they are the midpoints of
    `count` equal intervals, so Q-values are deterministic and more accurate. FQF uses the proposed intervals instead,
    weighted by their widths (Yang et al., 2019, algorithm 1), and ignores `count`.
    """

    propose = network.proposal or (lambda params, observation: jnp.linspace(0.0, 1.0, count + 1))

    def q(params: Params, observation: Observation) -> Float[Array, "*branches actions"]:
        # Only the proposal's loss trains the fractions, also where another loss uses these Q-values.
        edges = jax.lax.stop_gradient(propose(params, observation))
        middles = 0.5 * (edges[:-1] + edges[1:])
        q = jnp.tensordot(edges[1:] - edges[:-1], network.apply(params, observation, cvar * middles), axes=1)
        return legal_only(q, observation)

    return network._replace(apply=q, proposal=None)
