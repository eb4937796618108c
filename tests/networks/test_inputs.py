"""Running statistics against NumPy, embeddings and masks by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes.weights import weights
from scipy import stats

from qdojo.agents.categorical import c51_network
from qdojo.agents.quantile import qrdqn_network
from qdojo.networks.implicit import acting, implicit
from qdojo.networks.inputs import ILLEGAL, MOST_DEVIATIONS, Design, Inputs, Statistics, observed
from qdojo.networks.mlp import mlp
from qdojo.networks.noisy import noisy
from qdojo.types import Masked

KEY = jax.random.key(0)
PLAIN = Design((3,), 4, (8, 8), layer_norm=True)
NORMALIZED = PLAIN._replace(normalized=True)
including_jit = jax.jit(Statistics.including)


@given(sizes=st.lists(st.sampled_from([1, 2, 40]), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_statistics_of_batches_are_those_of_all(sizes: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    batches = [generator.normal([5.0, -300.0], [0.1, 40.0], (size, 2)).astype(np.float32) for size in sizes]
    statistics = Statistics(2)
    for batch in batches:
        statistics = including_jit(statistics, batch)
    everything = np.concatenate(batches).astype(np.float64)
    assert statistics.count == sum(sizes)
    np.testing.assert_allclose(statistics.mean, everything.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(statistics.variance, everything.var(axis=0), rtol=1e-2, atol=1e-4)


def test_before_anything_was_seen_numbers_stay_as_they_are() -> None:
    np.testing.assert_allclose(Statistics(2)(jnp.array([0.5, -2.0])), [0.5, -2.0], rtol=1e-5)


def test_numbers_are_brought_to_deviations_from_the_mean_and_cut() -> None:
    statistics = Statistics(2).including(jnp.array([[1.0, 7.0], [5.0, 7.0]]))
    # Mean 3 and deviation 2; the second number never moved.
    np.testing.assert_allclose(statistics(jnp.array([7.0, 7.0])), [2.0, 0.0], rtol=1e-5)
    np.testing.assert_allclose(statistics(jnp.array([1e6, 8.0])), [MOST_DEVIATIONS, MOST_DEVIATIONS])


@pytest.mark.parametrize("is_noisy", [False, True])
def test_statistics_are_part_of_the_parameters_but_are_not_learned(is_noisy: bool) -> None:
    network = noisy(mlp(NORMALIZED)) if is_noisy else mlp(NORMALIZED)
    params = jax.jit(network.init)(KEY)
    batch = jnp.asarray(np.arange(12, dtype=np.float32).reshape(4, 3))
    after = network.observe(params, batch)
    learned = after.mean if is_noisy else after
    np.testing.assert_allclose(learned.inputs.statistics.mean, [4.5, 5.5, 6.5])
    assert not np.allclose(network.apply(params, batch[0]), network.apply(after, batch[0]))
    slope = jax.jit(jax.grad(lambda params: jnp.sum(network.apply(params, batch[0]))))(after)
    slope = slope.mean if is_noisy else slope
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slope.inputs))
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(slope.hidden))
    learned, fixed = network.partition(after)
    both = (learned.mean, fixed.mean) if is_noisy else (learned, fixed)
    assert [part.inputs.statistics is None for part in both] == [True, False]
    jax.tree.map(np.testing.assert_array_equal, eqx.combine(learned, fixed), after)


IMAGES = Design((6, 6, 2), 4, (8,), layer_norm=True, normalized=True, scale=255, torso="der")


def test_each_pixel_has_its_own_mean_and_what_never_moves_is_not_seen() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 6, 6, 2)).astype(np.uint8)
    images[:, 0] = 90
    params = observed(jax.jit(mlp(IMAGES).init)(KEY), jnp.asarray(images))
    np.testing.assert_allclose(params.inputs.statistics.mean, (images / 255.0).reshape(50, -1).mean(axis=0), atol=1e-5)
    brighter = images.copy()
    brighter[:, 0] = 200
    moved = observed(jax.jit(mlp(IMAGES).init)(KEY), jnp.asarray(brighter))
    apply = jax.jit(jax.vmap(mlp(IMAGES).apply, in_axes=(None, 0)))
    np.testing.assert_allclose(apply(params, images), apply(moved, brighter), atol=1e-5)
    assert not np.allclose(apply(params, images), apply(params, brighter), atol=1e-2)


def test_a_pixel_that_hardly_ever_changes_does_not_drown_the_others() -> None:
    images = np.full((1_000, 6, 6, 2), 100, np.uint8)
    images[0, 3, 3, 0] = 255
    statistics = observed(jax.jit(mlp(IMAGES).init)(KEY), jnp.asarray(images)).inputs.statistics
    pixel = np.zeros(72, np.float32) + 100 / 255
    # One level of 255, a fifth of the least deviation.
    np.testing.assert_allclose(statistics(jnp.asarray(pixel + 1 / 255))[0], 0.2, rtol=0.05)
    np.testing.assert_allclose(statistics(jnp.asarray(pixel + 155 / 255))[0], MOST_DEVIATIONS)


def test_sequences_of_masked_observations_are_seen_too() -> None:
    seen = Masked(jnp.ones((2, 5, 3)), jnp.ones((2, 5, 4), bool))
    assert observed(jax.jit(mlp(NORMALIZED).init)(KEY), seen).inputs.statistics.count == 10


def test_without_statistics_nothing_changes() -> None:
    params = weights(mlp(PLAIN))
    assert observed(params, jnp.ones((4, 3))) is params


def test_each_category_has_learned_numbers_of_its_own() -> None:
    design = Design((2,), 3, (4,), layer_norm=False, categories=(3, 2), embedding=5)
    inputs = Inputs(design, KEY)
    assert [table.shape for table in inputs.tables] == [(3, 5), (2, 5)]
    found = inputs(jnp.array([2, 0], jnp.int32))
    np.testing.assert_array_equal(found, np.concatenate([inputs.tables[0][2], inputs.tables[1][0]]))
    network = mlp(design)
    slope = jax.jit(jax.grad(lambda params: jnp.sum(network.apply(params, jnp.array([2, 0])))))(weights(network))
    moved = [np.flatnonzero(np.any(np.asarray(table) != 0, axis=1)).tolist() for table in slope.inputs.tables]
    assert moved == [[2], [0]]


MASK = jnp.array([True, False, True, False])


@pytest.mark.parametrize("kind", ["plain", "noisy", "c51", "qrdqn", "iqn", "fqf"])
def test_illegal_actions_are_far_below_and_the_others_as_without_a_mask(kind: str) -> None:
    network = {
        "plain": lambda: mlp(PLAIN),
        "noisy": lambda: noisy(mlp(PLAIN)),
        "c51": lambda: c51_network(mlp(PLAIN, 11), jnp.linspace(0.0, 1.0, 11)),
        "qrdqn": lambda: qrdqn_network(mlp(PLAIN, 5)),
        "iqn": lambda: acting(implicit(PLAIN, None), 8, 1.0),
        "fqf": lambda: acting(implicit(PLAIN, 4), 8, 1.0),
    }[kind]()
    params, seen = weights(network), jnp.array([0.5, -1.0, 2.0])
    q, masked = network.apply(params, seen), network.apply(params, Masked(seen, MASK))
    np.testing.assert_array_equal(masked, np.where(MASK, q, np.float32(ILLEGAL)))


def test_branches_have_a_value_for_each_action_and_share_the_states() -> None:
    """V + A - mean A, with a mean of its own for each branch."""
    design = PLAIN._replace(action_shape=(2,), dueling=True)
    network = mlp(design)
    params = weights(network)
    q = np.asarray(network.apply(params, jnp.ones(3)))
    assert q.shape == (2, 4)
    np.testing.assert_allclose(q.mean(axis=1), np.full(2, q.mean()), rtol=1e-5)
    assert not np.allclose(q[0], q[1])


def test_the_mean_over_a_branch_is_of_the_actions_that_it_has() -> None:
    """Branches of 4 and 2 actions: what lies behind the second's two does not move its values."""
    design = PLAIN._replace(action_shape=(2,), branch_sizes=(4, 2), dueling=True)
    network = mlp(design)
    params = weights(network)
    q = np.asarray(network.apply(params, jnp.ones(3)))
    assert q[0].mean() == pytest.approx(q[1, :2].mean(), abs=1e-6)
    bias = params.head.advantage.bias.at[6:].add(100.0)
    moved = network.apply(eqx.tree_at(lambda p: p.head.advantage.bias, params, bias), jnp.ones(3))
    np.testing.assert_array_equal(moved[1, :2], q[1, :2])


def test_the_tables_of_an_embedding_are_no_layers_draw() -> None:
    """Both are monotone in their random bits, so that a shared key would order them alike."""
    design = Design((1,), 3, (8,), layer_norm=False, categories=(6,), embedding=5)
    for params in (jax.jit(mlp(design).init)(KEY), jax.jit(implicit(design._replace(hidden=(8, 8)), None).init)(KEY)):
        layer = params.hidden[0] if hasattr(params, "hidden") else params.features[0]
        table, weight = params.inputs.tables[0].ravel(), layer.linear.weight.ravel()[:30]
        assert abs(stats.spearmanr(table, weight).statistic) < 0.7
