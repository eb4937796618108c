"""Which agent is delivered, by scores that are made up: a table of what each agent gets in each round."""

import jax.numpy as jnp
import numpy as np
import pytest

from qdojo.selection import MOST_ROUNDS, Best, judged, none_best

Rounds = dict[int, list[list[float]]]


def table(rounds: Rounds, played: list[tuple[int, int]]) -> object:
    """Scores by mark and round; the parameters of an agent are its mark. Notes what was asked for."""

    def play(params: jnp.ndarray, number: int) -> np.ndarray:
        mark = int(params.reshape(-1)[0])
        played.append((mark, number))
        return np.array(rounds[mark][min(number, len(rounds[mark]) - 1)])

    return play


def marked(mark: int, members: int = 1) -> jnp.ndarray:
    return jnp.full((members, 2), float(mark))


def holder(score: float, episodes: int) -> Best:
    return Best(jnp.array([score]), jnp.array([episodes], jnp.int32), marked(1))


def test_whoever_is_judged_first_is_the_best() -> None:
    played: list[tuple[int, int]] = []
    best, scores = judged(none_best(marked(0, 2)), marked(1, 2), table({1: [[3.0, -7.0]]}, played), 10)
    np.testing.assert_array_equal(best.score, [3.0, -7.0])
    np.testing.assert_array_equal(best.episodes, [10, 10])
    np.testing.assert_array_equal(best.params, marked(1, 2))
    np.testing.assert_array_equal(scores, [3.0, -7.0])
    assert played == [(1, 0)]


def test_a_weaker_challenger_changes_nothing_and_nobody_plays_again() -> None:
    played: list[tuple[int, int]] = []
    best, scores = judged(holder(5.0, 10), marked(2), table({2: [[4.0]]}, played), 10)
    assert (best.score.tolist(), best.episodes.tolist(), best.params.tolist()) == ([5.0], [10], [[1.0, 1.0]])
    assert scores.tolist() == [4.0]
    assert played == [(2, 0)]


def test_of_equals_the_earlier_is_kept_and_its_episodes_add_up() -> None:
    """(30 * 6 + 10 * 6) / 40."""
    played: list[tuple[int, int]] = []
    best, _ = judged(holder(6.0, 30), marked(2), table({1: [[6.0]], 2: [[6.0]]}, played), 10)
    assert (best.score.tolist(), best.episodes.tolist(), best.params[0, 0]) == ([6.0], [40], 1.0)
    assert played == [(2, 0), (1, 0)]


def test_a_lucky_challenger_plays_on_until_it_is_no_longer_better() -> None:
    """The holder falls to (10 * 6 + 10 * 4) / 20 = 5; the challenger from 7 to (7 + 1) / 2 = 4."""
    played: list[tuple[int, int]] = []
    best, scores = judged(holder(6.0, 10), marked(2), table({1: [[4.0]], 2: [[7.0], [1.0]]}, played), 10)
    assert (best.score.tolist(), best.episodes.tolist(), best.params[0, 0]) == ([5.0], [20], 1.0)
    assert scores.tolist() == [7.0]
    assert played == [(2, 0), (1, 0), (2, 1)]


def test_a_better_one_wins_with_as_many_episodes() -> None:
    """The holder has 30 after the challenge, so the challenger plays two rounds more: (7 + 6 + 8) / 3."""
    played: list[tuple[int, int]] = []
    best, _ = judged(holder(6.0, 20), marked(2), table({1: [[6.0]], 2: [[7.0], [6.0], [8.0]]}, played), 10)
    assert best.score.tolist() == pytest.approx([7.0])
    assert (best.episodes.tolist(), best.params[0, 0]) == ([30], 2.0)
    assert played == [(2, 0), (1, 0), (2, 1), (2, 2)]


def test_nobody_plays_for_ever() -> None:
    played: list[tuple[int, int]] = []
    best, _ = judged(holder(6.0, 10_000), marked(2), table({1: [[6.0]], 2: [[7.0]]}, played), 10)
    assert (best.episodes.tolist(), best.params[0, 0]) == ([10 * MOST_ROUNDS], 2.0)
    assert len(played) == 1 + MOST_ROUNDS


def test_each_member_is_judged_by_itself() -> None:
    """The first is challenged in vain, the second wins at once, the third is far below."""
    played: list[tuple[int, int]] = []
    before = Best(jnp.array([5.0, 5.0, 5.0]), jnp.array([10, 10, 10], jnp.int32), marked(1, 3))
    rounds = {1: [[5.0, 1.0, 99.0]], 2: [[5.0, 6.0, 0.0], [9.0, 6.0, 9.0]]}
    best, _ = judged(before, marked(2, 3), table(rounds, played), 10)
    np.testing.assert_array_equal(best.score, [5.0, 6.0, 5.0])
    np.testing.assert_array_equal(best.episodes, [20, 20, 10])
    np.testing.assert_array_equal(best.params[:, 0], [1.0, 2.0, 1.0])


def test_a_score_that_is_not_a_number_never_wins() -> None:
    best, _ = judged(holder(1.0, 5), marked(2), table({2: [[float("nan")]]}, []), 5)
    assert (best.score.tolist(), best.episodes.tolist(), best.params[0, 0]) == ([1.0], [5], 1.0)
