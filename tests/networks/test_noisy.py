"""Noisy networks against numbers worked out by hand, and the noise by its distribution."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes.weights import weights, words
from scipy import stats

from qdojo.networks.inputs import Design
from qdojo.networks.mlp import LayerNorm, Linear, mlp
from qdojo.networks.network import Network
from qdojo.networks.noisy import Noisy, is_linear, noisy, noisy_functions, perturbed, signed_root
from qdojo.noise import normal

pytestmark = pytest.mark.usefixtures("strict_promotion")

KEY = jax.random.key(5)


def layer_of(weight: list[list[float]], bias: list[float]) -> Linear:
    like = jax.eval_shape(lambda: Linear(len(weight[0]), len(bias), KEY))
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.array(weight), jnp.array(bias)])


def linears(params: object) -> list[Linear]:
    return [leaf for leaf in jax.tree.leaves(params, is_leaf=is_linear) if is_linear(leaf)]


def test_one_layer_by_hand() -> None:
    """f(4) = 2 and f(-9) = -3 for the inputs, f(-1) = -1 for the output: noise [-2, 3] on the weights, -1 on the bias.

    10 + 0.5 * -2 = 9, 20 + 1 * 3 = 23; 5 + 2 * -1 = 3.
    """
    mean, spread = layer_of([[10.0, 20.0]], [5.0]), layer_of([[0.5, 1.0]], [2.0])
    inputs, outputs = signed_root(jnp.array([4.0, -9.0])), signed_root(jnp.array([-1.0]))
    for function in (perturbed, jax.jit(perturbed)):
        found = function(mean, spread, inputs, outputs)
        np.testing.assert_allclose(found.weight, [[9.0, 23.0]])
        np.testing.assert_allclose(found.bias, [3.0])


def test_a_root_of_nothing_is_nothing() -> None:
    np.testing.assert_array_equal(signed_root(jnp.zeros(2)), np.zeros(2))


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize(
    ("dueling", "asked"),
    # 3 -> 6 -> 2 * 4 outputs, and with streams 3 -> 6 -> 4 and 3 -> 6 -> 8.
    [(False, (3 + 6) + (6 + 8)), (True, (3 + 6) + (6 + 4) + (3 + 6) + (6 + 8))],
)
def test_the_whole_network_against_numpy(layer_norm: bool, dueling: bool, asked: int) -> None:
    """Each layer's noise is f(e_out) f(e_in)^T and f(e_out), of the words in turn; LayerNorm has none."""
    plain = mlp(Design((3,), 2, (6,), layer_norm, dueling), 4)
    network = noisy(plain)
    assert network.words == asked
    params = weights(network)
    noise = words(asked)
    found = linears(jax.jit(network.perturb)(params, noise))
    draws = np.asarray(normal(noise), np.float64)
    factors = np.sign(draws) * np.sqrt(np.abs(draws))
    for layer, mean, spread in zip(found, linears(params.mean), linears(params.spread), strict=True):
        outputs, inputs = mean.weight.shape
        into, out = factors[:inputs], factors[inputs : inputs + outputs]
        factors = factors[inputs + outputs :]
        np.testing.assert_allclose(layer.weight, mean.weight + np.outer(out, into) * spread.weight, atol=1e-6)
        np.testing.assert_allclose(layer.bias, mean.bias + out * spread.bias, atol=1e-6)
    assert len(factors) == 0


def test_a_new_networks_means_are_the_plain_networks_and_its_sigmas_are_by_the_inputs() -> None:
    """0.5 / sqrt(4) for the first layer, 0.5 / sqrt(16) for the head."""
    plain = mlp(Design((4,), 3, (16,), True))
    params = jax.jit(noisy(plain).init)(KEY)
    assert isinstance(params, Noisy)
    expected = jax.jit(plain.init)(KEY)
    jax.tree.map(np.testing.assert_array_equal, params.mean, expected)
    hidden, head = params.spread.hidden[0].linear, params.spread.head
    for layer, sigma, like in ((hidden, 0.25, expected.hidden[0].linear), (head, 0.125, expected.head)):
        np.testing.assert_array_equal(layer.weight, np.full(like.weight.shape, sigma, np.float32))
        np.testing.assert_array_equal(layer.bias, np.full(like.bias.shape, sigma, np.float32))
    norm = params.spread.hidden[0].norm
    assert isinstance(norm, LayerNorm)
    assert jax.tree.leaves(norm) == []


def test_without_noise_the_means_are_used_and_with_it_what_is_perturbed() -> None:
    plain = mlp(Design((4,), 3, (8,), True))
    network = noisy(plain)
    params, observation = weights(network), jnp.arange(4.0)
    apply = jax.jit(network.apply)
    np.testing.assert_array_equal(apply(params, observation), jax.jit(plain.apply)(params.mean, observation))
    drawn = network.perturb(params, words(network.words))
    assert jax.tree.structure(drawn) == jax.tree.structure(params.mean)
    np.testing.assert_array_equal(apply(drawn, observation), jax.jit(plain.apply)(drawn, observation))
    assert np.abs(apply(drawn, observation) - apply(params, observation)).min() > 1e-3
    silent = params._replace(spread=jax.tree.map(jnp.zeros_like, params.spread))
    jax.tree.map(np.testing.assert_array_equal, network.perturb(silent, words(network.words)), params.mean)


DRAWS = 20_000


def noise_of(network: Network) -> list[Linear]:
    """Many draws of the noise itself: mean 0, spread 1."""
    params = weights(network)
    still = Noisy(jax.tree.map(jnp.zeros_like, params.mean), jax.tree.map(jnp.ones_like, params.spread))
    return linears(jax.jit(jax.vmap(network.perturb, in_axes=(None, 0)))(still, words(DRAWS, network.words, seed=1)))


def test_the_noise_is_centred_with_the_variance_of_its_factors() -> None:
    """E f(x)^2 = E |x| = sqrt(2 / pi), and independent factors multiply: 2 / pi for a weight."""
    for layer in noise_of(noisy(mlp(Design((3,), 2, (4,), False)))):
        weight, bias = np.asarray(layer.weight), np.asarray(layer.bias)
        np.testing.assert_allclose(weight.mean(axis=0), 0.0, atol=0.03)
        np.testing.assert_allclose(weight.var(axis=0), 2.0 / np.pi, rtol=0.06)
        np.testing.assert_allclose(bias.var(axis=0), np.sqrt(2.0 / np.pi), rtol=0.06)
        # Back through f, the bias' noise is standard normal.
        assert stats.kstest(np.sign(bias[:, 0]) * np.square(bias[:, 0]), "norm").pvalue > 0.01


def test_the_noise_of_a_layer_is_an_outer_product_and_its_factors_are_independent() -> None:
    layer = noise_of(noisy(mlp(Design((3,), 2, (4,), False))))[0]
    for draw in np.asarray(layer.weight)[:20]:
        assert np.linalg.matrix_rank(draw, tol=1e-5) == 1
    into = np.asarray(layer.weight)[:, 0] / np.asarray(layer.bias)[:, :1]
    factors = np.concatenate([into, np.asarray(layer.bias)], axis=1)
    correlation = np.corrcoef(factors, rowvar=False) - np.eye(7)
    np.testing.assert_allclose(correlation, 0.0, atol=0.04)


def test_no_two_layers_share_their_noise() -> None:
    """Layers of one shape, so that shared noise would be equal; the biases' noise names the factors of the outputs."""
    first, second, head = noise_of(noisy(mlp(Design((2,), 2, (2, 2), False))))
    together = np.concatenate([layer.bias for layer in (first, second, head)], axis=1)
    np.testing.assert_allclose(np.corrcoef(together, rowvar=False), np.eye(6), atol=0.04)
    assert not np.allclose(first.weight[0], second.weight[0])


def test_gradients_reach_means_and_spreads() -> None:
    """d/d sigma = epsilon * d/d mu, for every weight and bias."""
    network = noisy(mlp(Design((3,), 2, (5,), True)))
    params, noise = weights(network), words(network.words, seed=3)

    def total(params: Noisy) -> jax.Array:
        return jnp.sum(network.apply(network.perturb(params, noise), jnp.array([1.0, -2.0, 3.0])))

    slope = jax.jit(jax.grad(total))(params)
    still = Noisy(jax.tree.map(jnp.zeros_like, params.mean), jax.tree.map(jnp.ones_like, params.spread))
    epsilon = linears(jax.jit(network.perturb)(still, noise))
    for of_mean, of_spread, own in zip(linears(slope.mean), linears(slope.spread), epsilon, strict=True):
        assert np.abs(of_mean.weight).max() > 0.0
        np.testing.assert_allclose(of_spread.weight, of_mean.weight * own.weight, atol=1e-6)
        np.testing.assert_allclose(of_spread.bias, of_mean.bias * own.bias, atol=1e-6)
    assert np.abs(slope.mean.hidden[0].norm.scale).max() > 0.0


def test_members_side_by_side_are_each_as_alone() -> None:
    network = noisy(mlp(Design((3,), 2, (4,), True, dueling=True)))
    keys, noise = jax.random.split(KEY, 2), words(2, network.words, seed=2)

    def perturbed(key: jax.Array, noise: jax.Array) -> object:
        return network.perturb(network.init(key), noise)

    together, one = jax.jit(jax.vmap(perturbed))(keys, noise), jax.jit(perturbed)
    for k in range(2):
        alone = one(keys[k], noise[k])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[k], b, atol=1e-6), together, alone)  # noqa: B023


class Pair(NamedTuple):
    """A network's parameters that are not one module."""

    torso: dict[str, Linear]
    scale: jax.Array


def test_layers_are_found_in_any_tree() -> None:
    functions = noisy_functions(lambda key: Pair({"first": Linear(2, 3, key)}, jnp.ones(4)))
    assert functions.words == 5
    params = jax.jit(functions.init)(KEY)
    drawn = functions.perturb(params, words(5))
    assert isinstance(drawn, Pair)
    np.testing.assert_array_equal(drawn.scale, np.ones(4))
    assert not np.allclose(drawn.torso["first"].weight, params.mean.torso["first"].weight)
    assert functions.means(params) is params.mean
    assert functions.means(drawn) is drawn


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="has none"):
        noisy(Network(init=lambda key: jnp.zeros(2), apply=lambda params, observation: params))
