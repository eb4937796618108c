"""Schedules by hand; random actions by their frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qdojo.agents.explore import EPSILON_GREEDY_WORDS, epsilon_greedy, linear

pytestmark = pytest.mark.usefixtures("strict_promotion")

DRAWS = 40_000


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize(
    ("position", "value"), [(0, 1.0), (25, 0.775), (50, 0.55), (100, 0.1), (101, 0.1), (10_000_000, 0.1)]
)
def test_the_line_from_start_to_end(transform: object, position: int, value: float) -> None:
    found = transform(linear)(jnp.float32(1.0), jnp.float32(0.1), jnp.float32(100.0), jnp.float32(position))
    assert found == pytest.approx(value)


def test_a_line_may_rise_or_stay() -> None:
    assert linear(0.0, 1.0, 10.0, jnp.float32(3.0)) == pytest.approx(0.3)
    assert linear(0.2, 0.2, 10.0, jnp.float32(3.0)) == pytest.approx(0.2)


def test_lines_of_many_members_at_once() -> None:
    starts = jnp.array([1.0, 0.5])
    found = jax.vmap(linear, in_axes=(0, None, None, None))(starts, 0.0, 10.0, jnp.float32(5.0))
    np.testing.assert_allclose(found, [0.5, 0.25])


def draw(best: int, num_actions: int, epsilon: float, seed: int = 0) -> np.ndarray:
    noise = jax.random.bits(jax.random.key(seed), (DRAWS, EPSILON_GREEDY_WORDS), jnp.uint32)
    act = jax.jit(jax.vmap(lambda words: epsilon_greedy(jnp.int32(best), num_actions, jnp.float32(epsilon), words)))
    return np.asarray(act(noise))


def test_the_best_action_has_all_that_chance_leaves_and_its_share_of_chance() -> None:
    """Epsilon 0.3 over 4 actions: 0.7 + 0.075 for the best, 0.075 for each other."""
    counts = np.bincount(draw(best=2, num_actions=4, epsilon=0.3), minlength=4)
    assert stats.chisquare(counts, np.array([0.075, 0.075, 0.775, 0.075]) * DRAWS).pvalue > 1e-3


def test_no_exploration_is_greedy_and_full_exploration_ignores_the_best() -> None:
    assert (draw(best=1, num_actions=3, epsilon=0.0) == 1).all()
    counts = np.bincount(draw(best=1, num_actions=3, epsilon=1.0), minlength=3)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_whether_to_explore_and_what_to_try_are_words_of_their_own() -> None:
    """The first says whether, with epsilon 0.25 below 2^30; the second alone says what."""
    whether = jnp.array([0, 1, 12345, 2**30 - 1, 2**30, 2**31, 2**32 - 1], jnp.uint32)
    for word in range(7):
        noise = jnp.stack([whether, jnp.full(7, word, jnp.uint32)], axis=1)
        act = jax.vmap(lambda words: epsilon_greedy(jnp.int32(4), 5, jnp.float32(0.25), words))
        assert act(noise).tolist() == [word % 5] * 4 + [4] * 3


def test_each_env_draws_for_itself() -> None:
    """In a vector of 10 envs at epsilon 0.5, those that explore differ: never all, never none, for many rows."""
    explored = draw(best=3, num_actions=1000, epsilon=0.5).reshape(-1, 10) != 3
    together = (explored.all(axis=1) | ~explored.any(axis=1)).mean()
    assert together < 0.01
