"""Losses and their gradients against numbers worked out by hand."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdojo.bellman.losses import huber, squared_error

pytestmark = pytest.mark.usefixtures("strict_promotion")

ERRORS = jnp.array([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
SQUARED = [9.0, 1.0, 0.25, 0.0, 0.25, 1.0, 9.0]
SQUARED_SLOPE = [-6.0, -2.0, -1.0, 0.0, 1.0, 2.0, 6.0]
# 0.5 e^2 within 1, |e| - 0.5 outside: the slope is the error, clipped to [-1, 1].
HUBER = [2.5, 0.5, 0.125, 0.0, 0.125, 0.5, 2.5]
HUBER_SLOPE = [-1.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("loss", "values", "slopes"),
    [(squared_error, SQUARED, SQUARED_SLOPE), (huber, HUBER, HUBER_SLOPE)],
    ids=["mse", "huber"],
)
def test_values_and_slopes(loss: Callable[[jax.Array], jax.Array], values: list[float], slopes: list[float]) -> None:
    np.testing.assert_allclose([loss(error) for error in ERRORS], values)
    np.testing.assert_allclose(jax.jit(jax.vmap(loss))(ERRORS), values)
    np.testing.assert_allclose([jax.grad(loss)(error) for error in ERRORS], slopes)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(loss)))(ERRORS), slopes)


def test_hubers_delta_is_where_the_slope_stops_growing() -> None:
    """With delta 2: 0.5 * 1.5^2 = 1.125 inside, 2 * (5 - 1) = 8 outside."""
    assert huber(jnp.float32(1.5), 2.0) == 1.125
    assert huber(jnp.float32(-5.0), 2.0) == 8.0
    assert jax.grad(huber)(jnp.float32(-5.0), 2.0) == -2.0


def test_the_slope_of_a_huge_error_is_finite() -> None:
    """0.5 e^2 overflows there; the branch that is not taken must not poison the gradient."""
    assert jax.grad(huber)(jnp.float32(1e30)) == 1.0
