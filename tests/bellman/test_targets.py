"""Values and targets against numbers worked out by hand, plain, compiled and for many examples at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from qdojo.bellman.targets import bellman_target, double_value, greedy_value

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
