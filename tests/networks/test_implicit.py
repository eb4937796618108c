"""The quantile network against NumPy, and what acts on it against sums by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from probes.weights import weights

from qdojo.networks.implicit import PROPOSAL_SCALE, ImplicitMLP, _cosine, acting, implicit
from qdojo.networks.inputs import ILLEGAL, Design
from qdojo.networks.mlp import Dueling, Hidden
from qdojo.networks.network import Network
from qdojo.types import Masked

pytestmark = pytest.mark.usefixtures("strict_promotion")

KEY = jax.random.key(3)


def through(layer: Hidden, x: np.ndarray) -> np.ndarray:
    x = np.asarray(layer.linear.weight, np.float64) @ x + np.asarray(layer.linear.bias)
    if layer.norm is not None:
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        x = x * np.asarray(layer.norm.scale) + np.asarray(layer.norm.offset)
    return np.maximum(x, 0.0)


def in_numpy(params: ImplicitMLP, observation: np.ndarray, fraction: float) -> np.ndarray:
    x = observation.astype(np.float64).ravel()
    for layer in params.features:
        x = through(layer, x)
    cosines = np.array([np.cos(np.pi * i * fraction) for i in range(64)])
    weight, bias = np.asarray(params.embedding.weight, np.float64), np.asarray(params.embedding.bias)
    x = x * np.maximum(weight @ cosines + bias, 0.0)
    if isinstance(params.head, Dueling):
        return np.asarray(params.head(jnp.asarray(x, jnp.float32)))
    assert params.last is not None
    return np.asarray(params.head.weight) @ through(params.last, x) + np.asarray(params.head.bias)


@pytest.mark.parametrize(
    ("shape", "hidden", "layer_norm", "dueling"),
    [((4,), (7, 6), False, False), ((2, 3), (9, 8, 7), True, False), ((2, 3), (9, 8, 7), True, True)],
)
def test_the_network_against_numpy(
    shape: tuple[int, ...], hidden: tuple[int, ...], layer_norm: bool, dueling: bool
) -> None:
    network = implicit(Design(shape, 3, hidden, layer_norm, dueling), None)
    params = weights(network)
    assert len(params.features) == len(hidden) - 1
    assert (params.last is None) == dueling
    observations = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    fractions = np.float32([0.0, 0.3, 0.5, 1.0])
    found = jax.jit(jax.vmap(network.apply, in_axes=(None, 0, None)))(params, jnp.asarray(observations), fractions)
    assert found.shape == (5, 4, 3)
    assert found.dtype == jnp.float32
    for b, observation in enumerate(observations):
        for i, fraction in enumerate(fractions):
            expected = in_numpy(params, observation, float(fraction))
            np.testing.assert_allclose(found[b, i], expected, rtol=1e-3, atol=1e-5)


def test_quantiles_differ_from_fraction_to_fraction() -> None:
    network = implicit(Design((4,), 2, (16, 16), False, False), None)
    found = jax.jit(network.apply)(weights(network), np.ones(4, np.float32), np.float32([0.1, 0.9]))
    assert np.abs(np.asarray(found[0]) - np.asarray(found[1])).max() > 1e-3


def test_with_one_layer_the_fraction_joins_the_observation_itself() -> None:
    network = implicit(Design((4,), 2, (8,), False, False), None)
    params = weights(network)
    assert (params.features, params.embedding.weight.shape) == ([], (4, 64))
    np.testing.assert_array_equal(params.psi(jnp.arange(4.0)), jnp.arange(4.0))


def test_branches_have_an_axis_of_their_own() -> None:
    """The same values as one long branch of six actions, and each branch's mask in its place."""
    design = Design((4,), 3, (8, 8), False, False, action_shape=(2,))
    network, flat = implicit(design, None), implicit(design._replace(num_actions=6, action_shape=()), None)
    params, fractions = weights(network), jnp.array([0.2, 0.8])
    found = network.apply(params, jnp.ones(4), fractions)
    assert found.shape == (2, 2, 3)
    np.testing.assert_array_equal(found.reshape(2, 6), flat.apply(params, jnp.ones(4), fractions))
    mask = jnp.array([[True, False, True], [True, True, False]])
    q = acting(network, 4, 1.0).apply(params, Masked(jnp.ones(4), mask))
    np.testing.assert_array_equal(q == ILLEGAL, ~mask)


def test_no_two_layers_share_their_draw_and_every_key_is_a_member() -> None:
    """All layers that can be are 64 to 64, so that equal draws would be equal bytes."""
    network = implicit(Design((64,), 64, (64, 64), False, False), 64)
    init = jax.jit(network.init)
    params = init(KEY)
    layers = [params.features[0].linear, params.embedding, params.last.linear, params.head, params.proposal]
    assert len({np.asarray(layer.weight).tobytes() for layer in layers}) == 5
    other = init(jax.random.key(4))
    assert not np.array_equal(params.embedding.weight, other.embedding.weight)


def test_the_proposal_by_hand() -> None:
    """Logits log 1, log 2, log 5 from the bias alone: parts of 1/8, 2/8 and 5/8."""
    network = implicit(Design((4,), 2, (8, 8), False, False), 3)
    assert network.proposal is not None
    params = weights(network)
    logits = jnp.log(jnp.array([1.0, 2.0, 5.0])) / PROPOSAL_SCALE
    layer = eqx.tree_at(lambda p: (p.weight, p.bias), params.proposal, (jnp.zeros((3, 8)), logits))
    params = eqx.tree_at(lambda p: p.proposal, params, layer)
    np.testing.assert_allclose(network.proposal(params, jnp.ones(4)), [0.0, 0.125, 0.375, 1.0], rtol=1e-5)


def test_the_proposal_rises_from_0_to_1_starts_near_even_and_depends_on_the_observation() -> None:
    network = implicit(Design((4,), 2, (32, 8), False, False), 8)
    assert network.proposal is not None
    params = jax.jit(network.init)(KEY)
    propose = jax.jit(network.proposal)
    first, second = (np.asarray(propose(params, np.full(4, x, np.float32))) for x in (0.1, 3.0))
    assert (float(first[0]), float(first[-1])) == (0.0, 1.0)
    assert (np.diff(first) > 0).all()
    np.testing.assert_allclose(first, np.linspace(0, 1, 9), atol=0.01)
    assert not np.array_equal(first, second)


def test_the_proposal_moves_no_feature() -> None:
    network = implicit(Design((4,), 2, (8, 8), True, True), 5)
    slope = jax.jit(jax.grad(lambda params: network.proposal(params, jnp.ones(4))[1]))(weights(network))  # type: ignore[misc]
    assert bool(jnp.any(slope.proposal.bias != 0))
    rest = eqx.tree_at(lambda p: p.proposal, slope, None)
    assert all(bool(jnp.all(leaf == 0)) for leaf in jax.tree.leaves(rest))


def squares(params: Array, observation: Array, fractions: Array) -> Array:
    """F^-1(t) = scale * t^2 for action 0, and 1/4 for action 1."""
    return jnp.stack([params * fractions**2, jnp.full_like(fractions, 0.25)], axis=1)


SQUARES = Network(init=lambda key: jnp.float32(1.0), apply=squares)


def test_what_acts_is_the_mean_over_even_midpoints() -> None:
    """((1/4)^2 + (3/4)^2) / 2 = 0.3125; of the worst half ((1/8)^2 + (3/8)^2) / 2 = 0.078125: then action 1 is best."""
    found = acting(SQUARES, 2, 1.0).apply(jnp.float32(1.0), jnp.zeros(4))
    np.testing.assert_allclose(found, [0.3125, 0.25])
    averse = acting(SQUARES, 2, 0.5).apply(jnp.float32(1.0), jnp.zeros(4))
    np.testing.assert_allclose(averse, [0.078125, 0.25])


def test_what_acts_approaches_the_integral() -> None:
    """The integral of t^2 is 1/3, and over [0, c] divided by c it is c^2 / 3."""
    q = acting(SQUARES, 64, 1.0).apply(jnp.float32(1.0), jnp.zeros(4))
    assert float(q[0]) == pytest.approx(1 / 3, abs=1e-4)
    q = acting(SQUARES, 64, 0.25).apply(jnp.float32(1.0), jnp.zeros(4))
    assert float(q[0]) == pytest.approx(0.0625 / 3, abs=1e-5)


def test_proposed_parts_are_weighted_by_their_widths() -> None:
    """Parts [0, 0.8] and [0.8, 1]: 0.8 * 0.4^2 + 0.2 * 0.9^2 = 0.29; with cvar 0.5 a quarter of it."""
    network = SQUARES._replace(proposal=lambda params, observation: jnp.array([0.0, 0.8, 1.0]))
    np.testing.assert_allclose(acting(network, 99, 1.0).apply(jnp.float32(1.0), jnp.zeros(4)), [0.29, 0.25])
    np.testing.assert_allclose(acting(network, 99, 0.5).apply(jnp.float32(1.0), jnp.zeros(4)), [0.0725, 0.25])


def test_noise_is_passed_on() -> None:
    network = SQUARES._replace(perturb=lambda params, noise: params + 1.0, words=5)
    found = acting(network, 2, 1.0)
    assert found.words == 5
    assert found.perturb(jnp.float32(1.0), jnp.zeros(5, jnp.uint32)) == 2.0
    assert SQUARES.perturb(jnp.float32(1.0), jnp.zeros(0, jnp.uint32)) == 1.0


def test_the_polynomial_is_the_cosine() -> None:
    x = np.linspace(0.0, 63.0, 5001).astype(np.float32)
    np.testing.assert_allclose(_cosine(jnp.asarray(x)), np.cos(np.pi * x.astype(np.float64)), atol=1e-5)


def test_the_mean_moves_no_fraction() -> None:
    network = implicit(Design((4,), 2, (8, 8), False, False), 5)
    q = acting(network, 99, 1.0)
    slope = jax.jit(jax.grad(lambda params: jnp.sum(q.apply(params, jnp.ones(4)))))(weights(network))
    assert not jnp.any(slope.proposal.weight)
    assert jnp.any(slope.head.weight)
