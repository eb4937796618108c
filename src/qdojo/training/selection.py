"""Selects the agents that a run delivers: the best of all that were evaluated. The loops play the evaluations.

All of it is NumPy: what is done once an evaluation is not worth compiling.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree, Shaped

from qdojo.types import AnyArray, Params

Play = Callable[[Params], Float[np.ndarray, "member"]]
"""(params) -> mean score of each member, always on the same starts."""


class Best(NamedTuple):
    """The parameters of each member with the highest greedy score so far; `score` is the mean over `episodes`."""

    score: Float[AnyArray, "member"]
    episodes: Int[AnyArray, "member"]
    params: PyTree[Shaped[AnyArray, "member ..."]]


def none_best(params: PyTree[Shaped[AnyArray, "member ..."]]) -> Best:
    """The initial value before any evaluation, which every first evaluation beats."""
    members = jax.tree.leaves(params)[0].shape[0]
    return Best(np.full(members, -np.inf, np.float32), np.zeros(members, np.int32), params)


def delivered(best: Best, params: Params) -> Best:
    """The agents that a run delivers: the best evaluated ones, or the last ones, `params`, if none were evaluated."""
    return best if best.episodes.any() else none_best(params)


def judged(best: Best, params: Params, play: Play, episodes: int) -> tuple[Best, Float[np.ndarray, "member"]]:
    """The best agent of each member after a challenge by `params`, and the challengers' mean scores over `episodes`.

    If a challenger reaches the best score so far, the best agent plays the same starts, and its score becomes the mean
    over all its episodes. Otherwise the run would deliver the luckiest of many evaluations, not the best agent. A tie
    keeps the earlier agent, whose score is based on more episodes.
    """
    scores = play(params)
    challenged = (scores >= np.asarray(best.score)) & (np.asarray(best.episodes) > 0)
    if challenged.any():
        best = pooled(best, challenged, play(best.params), episodes)
    challenger = Best(scores.astype(np.float32), np.full_like(best.episodes, episodes), params)
    return _better(challenger, best), scores


def pooled(best: Best, replayed: Bool[np.ndarray, "member"], score: Float[np.ndarray, "member"], episodes: int) -> Best:
    """The best agents, with `episodes` more episodes of mean `score` included where they were `replayed`."""
    total = np.asarray(best.episodes) + np.int32(episodes)
    mean = best.score + (score - best.score) * (episodes / total)
    return best._replace(
        score=np.where(replayed, mean, best.score).astype(np.float32),
        episodes=np.where(replayed, total, best.episodes),
    )


def _better(challenger: Best, best: Best) -> Best:
    """The better of the two for each member, in new arrays."""
    wins = challenger.score > np.asarray(best.score)
    return jax.tree.map(lambda a, b: np.where(wins.reshape(-1, *(1,) * (b.ndim - 1)), a, b), challenger, best)
