"""Distributions of returns against numbers worked out by hand, plain loops over the papers' algorithms, and rlax."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdojo.bellman.distributions import (
    categorical_projection,
    chosen,
    cross_entropy,
    fraction_loss,
    midpoints,
    quantile_huber,
)

pytestmark = pytest.mark.usefixtures("strict_promotion")

BOTH = pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["plain", "jit"])
SUPPORT = jnp.array([0.0, 1.0, 2.0])


PROJECTIONS = {
    "on the atoms": ([0.0, 1.0, 2.0], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
    # 0.25 lies a quarter of the way to atom 1; 1.5 half-way between 1 and 2.
    "between": ([0.25, 1.5, 2.0], [0.4, 0.4, 0.2], [0.3, 0.1 + 0.2, 0.2 + 0.2]),
    "outside": ([-7.0, 1.0, 99.0], [0.25, 0.5, 0.25], [0.25, 0.5, 0.25]),
    "all in one, as at a termination": ([1.75, 1.75, 1.75], [0.25, 0.25, 0.5], [0.0, 0.25, 0.75]),
    "infinite": ([-np.inf, 0.0, np.inf], [0.5, 0.25, 0.25], [0.75, 0.0, 0.25]),
}


@pytest.mark.parametrize("name", PROJECTIONS)
@BOTH
def test_the_projection_by_hand(name: str, transform: Any) -> None:
    atoms, probabilities, expected = PROJECTIONS[name]
    found = transform(categorical_projection)(jnp.array(atoms), jnp.array(probabilities), SUPPORT)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def algorithm_1(atoms: np.ndarray, probabilities: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Bellemare et al. (2017), with floor and ceiling; where both are one atom, it takes all."""
    projected = np.zeros(len(support))
    for z, p in zip(np.clip(atoms, support[0], support[-1]), probabilities, strict=True):
        b = (z - support[0]) / (support[1] - support[0])
        low, high = int(np.floor(b)), int(np.ceil(b))
        projected[low] += p * (high - b) + p * (low == high)
        projected[high] += p * (b - low)
    return projected


masses = st.lists(st.floats(2**-10, 1.0, width=32), min_size=5, max_size=5)


@given(
    mass=masses,
    shift=st.floats(-30, 30, width=32),
    scale=st.floats(0, 1, width=32),
    vmin=st.integers(-20, 0),
    width=st.integers(1, 40),
)
def test_any_projection_keeps_the_mass_and_is_algorithm_1(
    mass: list[float], shift: float, scale: float, vmin: int, width: int
) -> None:
    probabilities = np.array(mass) / sum(mass)
    support = np.linspace(vmin, vmin + width, 5)
    atoms = shift + scale * support
    arrays = [jnp.asarray(x, jnp.float32) for x in (atoms, probabilities, support)]
    found = np.asarray(categorical_projection(*arrays))
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(found, algorithm_1(atoms, probabilities, support), atol=1e-4)
    if vmin <= atoms.min() and atoms.max() <= vmin + width:
        assert found @ support == pytest.approx(atoms @ probabilities, abs=1e-3)


def test_the_projection_against_rlax(rlax: Any) -> None:
    generator = np.random.default_rng(0)
    support = jnp.linspace(-3.0, 7.0, 51)
    probabilities = jnp.asarray(generator.dirichlet(np.ones(51), 20), jnp.float32)
    atoms = jnp.asarray(generator.normal(0, 4, (20, 1)) + 0.9 * np.asarray(support), jnp.float32)
    found = jax.vmap(categorical_projection, in_axes=(0, 0, None))(atoms, probabilities, support)
    expected = jax.vmap(rlax.categorical_l2_project, in_axes=(0, 0, None))(atoms, probabilities, support)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@BOTH
def test_the_cross_entropy_by_hand(transform: Any) -> None:
    """softmax(0, log 3) is (1/4, 3/4): 0.5 log 4 + 0.5 log(4/3); its slope is softmax - p."""
    logits, probabilities = jnp.log(jnp.array([1.0, 3.0])), jnp.array([0.5, 0.5])
    expected = 0.5 * np.log(4) + 0.5 * np.log(4 / 3)
    assert transform(cross_entropy)(logits, probabilities) == pytest.approx(expected)
    np.testing.assert_allclose(jax.grad(cross_entropy)(logits, probabilities), [-0.25, 0.25], atol=1e-6)


def test_the_cross_entropy_of_enormous_logits_is_finite() -> None:
    assert cross_entropy(jnp.array([1e4, -1e4]), jnp.array([0.5, 0.5])) == 1e4


@BOTH
def test_the_quantile_loss_by_hand(transform: Any) -> None:
    """Quantile 0 at 1/4: errors 2 and -0.5, so 0.25 * 1.5 and 0.75 * 0.125, of mean 0.234375.
    Quantile 1 at 3/4: errors 1 and -1.5, so 0.75 * 0.5 and 0.25 * 1, of mean 0.3125."""
    found = transform(quantile_huber)(jnp.array([0.0, 1.0]), jnp.array([0.25, 0.75]), jnp.array([2.0, -0.5]))
    assert found == pytest.approx(0.234375 + 0.3125)


def test_kappa_divides() -> None:
    """Error 4 with kappa 2: 0.25 * 2 * (4 - 1) / 2."""
    assert quantile_huber(jnp.zeros(1), jnp.array([0.25]), jnp.array([4.0]), 2.0) == pytest.approx(0.75)


@pytest.mark.parametrize("kappa", [1.0, 0.5])
def test_the_quantile_loss_against_rlax(rlax: Any, kappa: float) -> None:
    """rlax does not divide by kappa."""
    generator = np.random.default_rng(0)
    quantiles, targets = (jnp.asarray(generator.normal(0, 2, (20, n)), jnp.float32) for n in (7, 5))
    fractions = jnp.asarray(generator.uniform(size=(20, 7)), jnp.float32)
    found = jax.vmap(quantile_huber, in_axes=(0, 0, 0, None))(quantiles, fractions, targets, kappa)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = jax.vmap(rlax.quantile_regression_loss, in_axes=(0, 0, 0, None))(quantiles, fractions, targets, kappa)
    np.testing.assert_allclose(found, theirs / kappa, rtol=1e-5)


def test_descent_finds_the_quantiles_of_a_known_distribution() -> None:
    """Of 0, 10, .. 90 the fractions 0.15, 0.55 and 0.95 are in the middle of steps: 10, 50 and 90. A small kappa keeps
    the Huber part from mattering."""
    fractions, targets = jnp.array([0.15, 0.55, 0.95]), 10.0 * jnp.arange(10, dtype=jnp.float32)
    slope = jax.grad(quantile_huber)

    def step(i: jax.Array, quantiles: jax.Array) -> jax.Array:
        rate = 20.0 * 0.995 ** i.astype(jnp.float32)
        return quantiles - rate * slope(quantiles, fractions, targets, 0.01)

    found = jax.jit(lambda q: jax.lax.fori_loop(0, 3000, step, q))(jnp.full(3, 45.0))
    np.testing.assert_allclose(found, [10.0, 50.0, 90.0], atol=0.05)


def test_midpoints() -> None:
    np.testing.assert_allclose(midpoints(4), [0.125, 0.375, 0.625, 0.875])
    np.testing.assert_allclose(midpoints(1), [0.5])


@BOTH
def test_the_slope_of_the_fraction_loss_by_hand(transform: Any) -> None:
    """2 * 3 - 4 - 1 = 1, and 2 * 5 - 9 - 4 = -3. Nothing else has a slope."""
    given_ = (jnp.array([0.25, 0.5]), jnp.array([3.0, 5.0]), jnp.array([1.0, 4.0]), jnp.array([4.0, 9.0]))
    value, slopes = transform(jax.value_and_grad(fraction_loss, argnums=(0, 1, 2, 3)))(*given_)
    assert value == 0.0
    np.testing.assert_allclose(slopes[0], [1.0, -3.0])
    for slope in slopes[1:]:
        np.testing.assert_array_equal(slope, [0.0, 0.0])


def test_descent_on_the_fraction_loss_lessens_the_wasserstein_distance() -> None:
    """For F^-1(t) = t^2 with two parts the slope 2 t^2 - (t/2)^2 - ((1+t)/2)^2 = 1.5 t^2 - 0.5 t - 0.25 is 0 at
    t = (0.5 + sqrt(1.75)) / 3 = 0.6076, where the staircase is nearest."""

    def slope(t: jax.Array) -> jax.Array:
        return jax.grad(fraction_loss)(t, t**2, (t / 2) ** 2, ((1 + t) / 2) ** 2)

    t = jax.lax.fori_loop(0, 200, lambda _, t: t - 0.1 * slope(t), jnp.array([0.2]))
    assert float(t[0]) == pytest.approx((0.5 + np.sqrt(1.75)) / 3, abs=1e-4)
    w = np.linspace(0, 1, 10001)

    def distance(t: float) -> float:
        return float(np.mean(np.abs(w**2 - np.where(w < t, t / 2, (1 + t) / 2) ** 2)))

    assert distance(float(t[0])) < min(distance(0.5), distance(0.7))


def test_the_row_of_one_action() -> None:
    values = jnp.array([[1.0, jnp.inf], [3.0, 4.0]])
    np.testing.assert_array_equal(chosen(values, jnp.int32(1)), [3.0, 4.0])
    np.testing.assert_array_equal(jax.jacrev(chosen)(values, jnp.int32(1))[0], [[0.0, 0.0], [1.0, 0.0]])
