"""Values and targets against numbers worked out by hand, plain, compiled and for many examples at once."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from qdojo.bellman.targets import (
    bellman_target,
    double_soft_value,
    double_value,
    greedy_value,
    log_policy,
    munchausen_bonus,
    rescaled,
    unrescaled,
)

pytestmark = pytest.mark.usefixtures("strict_promotion")

BOTH = pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["plain", "jit"])
Q = jnp.array([[1.0, 5.0, -2.0], [0.0, -1.0, -3.0], [4.0, 4.0, 4.0]])
SELECTOR = jnp.array([[9.0, 0.0, 1.0], [-5.0, -4.0, -3.0], [1.0, 2.0, 2.0]])


@BOTH
def test_the_greedy_value_is_the_maximum(transform: object) -> None:
    assert [float(transform(greedy_value)(q)) for q in Q] == [5.0, 0.0, 4.0]


@BOTH
def test_the_double_value_is_that_of_the_selectors_choice(transform: object) -> None:
    """The selector takes actions 0, 2 and (of equals the first) 1; their values are 1, -3 and 4."""
    assert [float(transform(double_value)(q, s)) for q, s in zip(Q, SELECTOR, strict=True)] == [1.0, -3.0, 4.0]


def test_double_equals_greedy_where_both_networks_are_one() -> None:
    np.testing.assert_array_equal(jax.vmap(double_value)(Q, Q), jax.vmap(greedy_value)(Q))


def test_the_double_value_is_exact_beside_enormous_values() -> None:
    """The choice is a mask, not a product: an infinite value elsewhere does not make it NaN."""
    assert double_value(jnp.array([jnp.inf, 2.0]), jnp.array([0.0, 1.0])) == 2.0


@BOTH
def test_the_target(transform: object) -> None:
    """1 + 0.9 * 10 = 10; at a termination only the reward is left."""
    target = transform(bellman_target)
    assert target(jnp.float32(1.0), jnp.float32(0.9), jnp.float32(10.0)) == pytest.approx(10.0)
    assert target(jnp.float32(-1.5), jnp.float32(0.0), jnp.float32(10.0)) == -1.5


def test_many_examples_at_once() -> None:
    @jax.jit
    @jax.vmap
    def targets(reward: jax.Array, discount: jax.Array, q: jax.Array, selector: jax.Array) -> jax.Array:
        return bellman_target(reward, discount, double_value(q, selector))

    found = targets(jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 0.0, 0.25]), Q, SELECTOR)
    np.testing.assert_allclose(found, [1.5, 2.0, 4.0])
    np.testing.assert_array_equal(jax.jit(jax.vmap(greedy_value))(Q), [5.0, 0.0, 4.0])


def test_shapes_are_checked_while_tests_run() -> None:
    """Each function is for one example: a batch that was not mapped over is refused, not broadcast."""
    with pytest.raises(TypeCheckError, match="reward_t"):
        bellman_target(jnp.zeros(3), jnp.float32(0.5), jnp.float32(1.0))


SOFT_Q = jnp.array([0.0, 2.0 * np.log(3.0)], jnp.float32)
"""At temperature 2 its softmax is (1/4, 3/4)."""


@BOTH
def test_the_scaled_log_policy(transform: object) -> None:
    np.testing.assert_allclose(transform(log_policy)(SOFT_Q, 2.0), [-2 * np.log(4), 2 * np.log(0.75)], rtol=1e-5)


def test_the_scaled_log_policy_is_finite_for_enormous_values_and_small_temperatures() -> None:
    """The best action's is 0; another's is how much less it is worth. exp(1e6 / 0.03) would overflow."""
    np.testing.assert_allclose(log_policy(jnp.array([1e6, 1e6 - 4.0, -1e6]), 0.03), [0.0, -4.0, -2e6], atol=1e-6)
    slope = jax.jacrev(log_policy)(jnp.array([1e6, -1e6]), 0.03)
    assert bool(jnp.isfinite(slope).all())


@BOTH
def test_the_munchausen_bonus(transform: object) -> None:
    """0.9 times 2 log 1/4 = -2.77 and 2 log 3/4 = -0.575; the first is cut at -1."""
    bonus = transform(munchausen_bonus)
    assert bonus(SOFT_Q, jnp.int32(0), 0.9, 2.0, -1.0) == pytest.approx(-0.9)
    assert bonus(SOFT_Q, jnp.int32(0), 0.9, 2.0, -9.0) == pytest.approx(0.9 * 2 * np.log(0.25))
    assert bonus(SOFT_Q, jnp.int32(1), 0.9, 2.0, -1.0) == pytest.approx(0.9 * 2 * np.log(0.75))
    assert bonus(jnp.array([5.0, -1e9]), jnp.int32(0), 0.9, 0.03, -1.0) == 0.0


@BOTH
def test_the_soft_value(transform: object) -> None:
    """sum pi (q - tau log pi) is tau log sum exp(q / tau): 2 log(1 + 3)."""
    assert transform(double_soft_value)(SOFT_Q, SOFT_Q, 2.0) == pytest.approx(2 * np.log(4))


def test_the_soft_value_is_the_maximum_as_the_temperature_goes_to_0() -> None:
    np.testing.assert_allclose([double_soft_value(q, q, 1e-6) for q in Q], [5.0, 0.0, 4.0], atol=1e-4)
    # Of the third selector's two equals each has half, and both are worth 4.
    found = [float(double_soft_value(q, s, 1e-6)) for q, s in zip(Q, SELECTOR, strict=True)]
    np.testing.assert_allclose(found, [1.0, -3.0, 4.0], atol=1e-4)


def test_the_double_soft_value_has_the_policy_and_the_entropy_of_the_selector() -> None:
    """(1/4, 3/4) of 8 and 4 is 5; the entropy is 1/4 log 4 + 3/4 log 4/3, at temperature 2 twice that."""
    entropy = 0.25 * np.log(4) + 0.75 * np.log(4 / 3)
    found = double_soft_value(jnp.array([8.0, 4.0]), SOFT_Q, 2.0)
    assert found == pytest.approx(5 + 2 * entropy)


@pytest.mark.parametrize("x", [-1e6, -3.0, -1e-3, 0.0, 0.5, 8.0, 99.0, 1e5])
def test_rescaling_and_its_inverse(x: float) -> None:
    small = rescaled(jnp.float32(x))
    assert small == pytest.approx(math.copysign(math.sqrt(abs(x) + 1) - 1, x) + 1e-3 * x, rel=1e-5, abs=1e-6)
    assert unrescaled(small) == pytest.approx(x, rel=1e-5, abs=1e-6)


def test_rescaling_against_rlax(rlax: Any) -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(0.0, 100.0, 1000), jnp.float32)
    np.testing.assert_allclose(rescaled(x), rlax.signed_hyperbolic(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(unrescaled(x), rlax.signed_parabolic(x), rtol=1e-3, atol=1e-2)
