"""Which agent is delivered, by scores that are made up: a table of what each agent gets."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from qdojo.training.selection import Best, Play, judged, none_best


def table(scores: dict[int, list[float]], played: list[int]) -> Play:
    """Scores by mark; the parameters of an agent are its mark. Notes who played."""

    def play(params: Array) -> np.ndarray:
        mark = int(params.ravel()[0])
        played.append(mark)
        return np.array(scores[mark])

    return play


def marked(mark: int, members: int = 1) -> Array:
    return jnp.full((members, 2), float(mark))


def holder(score: float, episodes: int) -> Best:
    return Best(jnp.array([score]), jnp.array([episodes], jnp.int32), marked(1))


def test_whoever_is_judged_first_is_the_best() -> None:
    played: list[int] = []
    best, scores = judged(none_best(marked(0, 2)), marked(1, 2), table({1: [3.0, -7.0]}, played), 10)
    np.testing.assert_array_equal(best.score, [3.0, -7.0])
    np.testing.assert_array_equal(best.episodes, [10, 10])
    np.testing.assert_array_equal(best.params, marked(1, 2))
    np.testing.assert_array_equal(scores, [3.0, -7.0])
    assert played == [1]


def test_a_weaker_challenger_changes_nothing_and_nobody_plays_again() -> None:
    played: list[int] = []
    best, scores = judged(holder(5.0, 10), marked(2), table({2: [4.0]}, played), 10)
    assert (best.score.tolist(), best.episodes.tolist(), best.params.tolist()) == ([5.0], [10], [[1.0, 1.0]])
    assert (scores.tolist(), played) == ([4.0], [2])


def test_of_equals_the_earlier_is_kept_and_its_episodes_add_up() -> None:
    """(30 * 6 + 10 * 6) / 40."""
    played: list[int] = []
    best, _ = judged(holder(6.0, 30), marked(2), table({1: [6.0], 2: [6.0]}, played), 10)
    assert (best.score.tolist(), best.episodes.tolist(), best.params[0, 0]) == ([6.0], [40], 1.0)
    assert played == [2, 1]


def test_a_defended_score_is_the_mean_of_all_episodes() -> None:
    """(10 * 6 + 30 * 2) / 40 = 3, which 6 beats; and (30 * 9 + 10 * 1) / 40 = 7 is still better than 6.5."""
    best, _ = judged(holder(6.0, 10), marked(2), table({1: [2.0], 2: [6.0]}, []), 30)
    assert (best.score.tolist(), best.episodes.tolist(), best.params[0, 0]) == ([6.0], [30], 2.0)
    best, _ = judged(holder(9.0, 30), marked(2), table({1: [1.0], 2: [9.5]}, []), 10)
    assert (best.score.tolist(), best.episodes.tolist(), best.params[0, 0]) == ([9.5], [10], 2.0)
    best, _ = judged(holder(6.0, 30), marked(2), table({1: [10.0], 2: [6.5]}, []), 10)
    assert (best.score.tolist(), best.episodes.tolist(), best.params[0, 0]) == ([7.0], [40], 1.0)


def test_each_member_is_judged_by_itself() -> None:
    """The first is challenged in vain, the second loses, the third is not challenged, whatever it plays beside them."""
    before = Best(jnp.array([5.0, 5.0, 5.0]), jnp.array([10, 10, 10], jnp.int32), marked(1, 3))
    best, _ = judged(before, marked(2, 3), table({1: [5.0, 1.0, 99.0], 2: [5.0, 6.0, 0.0]}, []), 10)
    np.testing.assert_array_equal(best.score, [5.0, 6.0, 5.0])
    np.testing.assert_array_equal(best.episodes, [20, 10, 10])
    np.testing.assert_array_equal(best.params[:, 0], [1.0, 2.0, 1.0])


def test_a_score_that_is_not_a_number_never_wins() -> None:
    best, _ = judged(holder(1.0, 5), marked(2), table({2: [float("nan")]}, []), 5)
    assert (best.score.tolist(), best.episodes.tolist(), best.params[0, 0]) == ([1.0], [5], 1.0)
