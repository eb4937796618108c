"""Selects the agents that a run delivers: the best of all that were evaluated. The loops play the evaluations."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from qdojo.loops.state import where
from qdojo.types import AnyArray, Params

Play = Callable[[Params], Float[np.ndarray, "member"]]
"""(params) -> mean score of each member, always on the same starts."""


class Best(NamedTuple):
    """The parameters of each member with the highest greedy score so far; `score` is the mean over `episodes`."""

    score: Float[Array, "member"]
    episodes: Int[Array, "member"]
    params: PyTree[Shaped[AnyArray, "member ..."]]


def none_best(params: PyTree[Shaped[AnyArray, "member ..."]]) -> Best:
    """The initial value before any evaluation, which every first evaluation beats."""
    members = jax.tree.leaves(params)[0].shape[0]
    return Best(jnp.full(members, -jnp.inf), jnp.zeros(members, jnp.int32), params)


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
        best = _defended(best, jnp.asarray(challenged), jnp.asarray(play(best.params)), episodes)
    return _better(Best(jnp.asarray(scores, jnp.float32), jnp.full_like(best.episodes, episodes), params), best), scores


@partial(jax.jit, static_argnames="episodes")
def _defended(best: Best, challenged: Bool[Array, "member"], score: Float[Array, "member"], episodes: int) -> Best:
    """The best agents, with `episodes` more episodes of mean `score` included where they were challenged."""
    total = best.episodes + episodes
    pooled = best.score + (score - best.score) * (episodes / total)
    return best._replace(
        score=jnp.where(challenged, pooled, best.score), episodes=jnp.where(challenged, total, best.episodes)
    )


@jax.jit
def _better(challenger: Best, best: Best) -> Best:
    return where(challenger.score > best.score, challenger, best)
