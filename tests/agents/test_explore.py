"""Schedules by hand; random actions by their frequencies."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qdojo.agents.explore import (
    Acting,
    Choosing,
    Exploration,
    acting,
    actor_of,
    any_action,
    choose,
    exponential,
    linear,
)
from qdojo.networks.inputs import legal_only
from qdojo.networks.network import Network
from qdojo.observations import plain
from qdojo.types import Clock, Masked, Observation

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
    choosing, q = Choosing(num_actions), jnp.zeros(num_actions).at[best].set(1.0)
    noise = jax.random.bits(jax.random.key(seed), (DRAWS, choosing.words), jnp.uint32)
    act = jax.jit(jax.vmap(lambda words: choose(choosing, q, None, jnp.float32(epsilon), 1.0, words)))
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
        q = jnp.arange(5.0)
        act = jax.vmap(lambda words: choose(Choosing(5), q, None, jnp.float32(0.25), 1.0, words))  # noqa: B023
        assert act(noise).tolist() == [word % 5] * 4 + [4] * 3


def test_each_env_draws_for_itself() -> None:
    """In a vector of 10 envs at epsilon 0.5, those that explore differ: never all, never none, for many rows."""
    explored = draw(best=3, num_actions=1000, epsilon=0.5).reshape(-1, 10) != 3
    together = (explored.all(axis=1) | ~explored.any(axis=1)).mean()
    assert together < 0.01


@pytest.mark.parametrize(("position", "value"), [(0, 1.0), (50, 0.1), (100, 0.01), (1000, 0.01)])
def test_the_same_way_by_equal_factors(position: int, value: float) -> None:
    assert exponential(1.0, 0.01, 100.0, jnp.float32(position)) == pytest.approx(value, rel=1e-5)


def test_equal_factors_from_nothing_to_nothing_are_nothing() -> None:
    assert exponential(0.0, 0.0, 100.0, jnp.float32(50.0)) == 0.0


class State(NamedTuple):
    """What acting asks of an agent's state."""

    params: jax.Array
    hyper: Any


class Hyper(NamedTuple):
    exploration: Exploration


TABLE = Network(
    init=lambda key: jnp.zeros(4),
    apply=lambda params, observation: legal_only(params + plain(observation)[:1], observation),
)


def state_of(exploration: Exploration, q: list[float]) -> State:
    return State(jnp.array(q), Hyper(jax.tree.map(jnp.float32, exploration)))


def clock(rows: int) -> Clock:
    return Clock(jnp.int32(rows), jnp.int32(0))


def acts(plays: Acting, state: State, observation: Observation, now: Clock, env: int = 0) -> np.ndarray:
    """What one env does, for many draws."""
    words = jax.random.bits(jax.random.key(1), (DRAWS, plays.words), jnp.uint32)
    act = jax.jit(jax.vmap(plays.act, in_axes=(None, None, None, 0, None, None)))
    return np.asarray(act(state, observation, (), words, now, jnp.int32(env))[0])


def test_the_rungs_of_the_ladder_and_their_mean() -> None:
    """Ape-X: 0.4**(1 + 7 i / 3) of four envs; half way from 1 to 0.4 it is the ladder of 0.7."""
    plays = acting(actor_of(TABLE), Choosing(4, num_envs=4))
    state = state_of(Exploration(1.0, 0.4, 100.0, 7.0), [0.0] * 4)
    for rows, base in ((0, 1.0), (12.5, 0.7), (25, 0.4)):
        rungs = [base ** (1 + 7 * i / 3) for i in range(4)]
        at = Clock(jnp.float32(rows), jnp.int32(0))
        assert plays.exploration(state, at) == pytest.approx(np.mean(rungs), rel=1e-5)


def test_each_env_stands_on_its_own_rung() -> None:
    plays = acting(actor_of(TABLE), Choosing(4, num_envs=3))
    state = state_of(Exploration(0.4, 0.4, 1.0, 2.0), [0.0, 0.0, 9.0, 0.0])
    for env, epsilon in enumerate((0.4, 0.4**2, 0.4**3)):
        tried = float(np.mean(acts(plays, state, jnp.zeros(1), clock(0), env) != 2))
        assert tried == pytest.approx(epsilon * 3 / 4, abs=0.01)


def test_boltzmann_draws_in_proportion_to_exp_q_over_the_temperature() -> None:
    """The temperature falls from 2 to 0.5; half way it is 1.25 by differences, and 1 by factors."""
    q = [0.0, 1.0, 2.0, -3.0]
    numbers = Exploration(0.0, 0.0, 100.0, 0.0, 2.0, 0.5)
    for exponential_fall, heat in ((False, 1.25), (True, 1.0)):
        numbers = numbers._replace(epsilon_start=0.1, epsilon_end=0.1) if exponential_fall else numbers
        plays = acting(actor_of(TABLE), Choosing(4, exponential=exponential_fall, boltzmann=True))
        counts = np.bincount(acts(plays, state_of(numbers, q), jnp.zeros(1), clock(50)), minlength=4)
        share = np.exp(np.array(q) / heat)
        share = share / share.sum()
        expected = 0.1 / 4 + 0.9 * share if exponential_fall else share
        assert stats.chisquare(counts, expected * DRAWS).pvalue > 1e-3


@settings(max_examples=10)
@given(
    legal=st.lists(st.booleans(), min_size=4, max_size=4).filter(any),
    epsilon=st.sampled_from([0.0, 0.5, 1.0]),
    boltzmann=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_illegal_action_is_ever_taken(legal: list[bool], epsilon: float, boltzmann: bool, seed: int) -> None:
    plays = acting(actor_of(TABLE), Choosing(4, boltzmann=boltzmann))
    state = state_of(Exploration(epsilon, epsilon, 1.0), [3.0, -1.0, 5.0, 0.0])
    seen = Masked(jnp.zeros(1), jnp.array(legal))
    words = jax.random.bits(jax.random.key(seed), (200, plays.words), jnp.uint32)
    act = jax.vmap(plays.act, in_axes=(None, None, None, 0, None, None))
    taken = set(np.asarray(act(state, seen, (), words, clock(0), jnp.int32(0))[0]).tolist())
    allowed = {i for i in range(4) if legal[i]}
    assert taken <= allowed
    if epsilon == 0.0 and not boltzmann:
        assert taken == {max(allowed, key=lambda i: [3.0, -1.0, 5.0, 0.0][i])}


def test_legal_actions_are_tried_equally_often() -> None:
    noise = jax.random.bits(jax.random.key(3), (DRAWS,), jnp.uint32)
    mask = jnp.array([True, False, True, False, True])
    tried = np.asarray(jax.vmap(lambda word: any_action(word, 5, mask))(noise))
    counts = np.bincount(tried, minlength=5)
    assert counts[1] == counts[3] == 0
    assert stats.chisquare(counts[[0, 2, 4]]).pvalue > 1e-3


def test_branches_take_their_own_best_explore_together_and_draw_apart() -> None:
    q = jnp.array([[0.0, 5.0, 1.0], [7.0, 0.0, 1.0]])
    choosing = Choosing(3, action_shape=(2,))
    assert choosing.words == 3
    words = jax.random.bits(jax.random.key(4), (DRAWS, 3), jnp.uint32)
    act = jax.jit(jax.vmap(lambda noise, epsilon: choose(choosing, q, None, epsilon, 1.0, noise), (0, None)))
    assert (np.asarray(act(words, 0.0)) == [1, 0]).all()
    pairs = np.asarray(act(words, 1.0)) @ [3, 1]
    assert stats.chisquare(np.bincount(pairs, minlength=9)).pvalue > 1e-3
    half = np.asarray(act(words, 0.5)) @ [3, 1]
    # Both explore or none does: 1/2 + 1/2 * 1/9 for the pair of the best, 1/18 for each other.
    assert (
        stats.chisquare(np.bincount(half, minlength=9), np.where(np.arange(9) == 3, 10, 1) / 18 * DRAWS).pvalue > 1e-3
    )
    ragged = jnp.array([[True, True, True], [True, False, False]])
    tried = np.asarray(jax.vmap(lambda noise: choose(choosing, q, ragged, jnp.float32(1.0), 1.0, noise))(words))
    assert set(tried[:, 0]) == {0, 1, 2}
    assert set(tried[:, 1]) == {0}


def test_no_word_and_no_temperature_lifts_an_illegal_action() -> None:
    """The largest of all words for the one action that is illegal, and Q-values that heat makes equal."""
    legal = jnp.array([True, True, False])
    q = legal_only(jnp.array([1.0, 2.0, 3.0]), Masked(jnp.zeros(1), legal))
    choosing = Choosing(3, boltzmann=True)
    noise = jnp.array([0, 0, 0, 0, 2**32 - 1], jnp.uint32)
    for temperature in (1.0, 1e30):
        assert choose(choosing, q, legal, 0.0, temperature, noise) != 2
