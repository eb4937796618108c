"""Which agents a run delivers: of all that were evaluated on its way, the best. Not for playing: the loops do that."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from qdojo.loops.state import where
from qdojo.types import Params

MOST_ROUNDS = 10
"""Evaluations of one challenger, at most."""

Play = Callable[[Params, int], Float[np.ndarray, "member"]]
"""(params, round) -> mean scores; of the same round, on the same starts."""


class Best(NamedTuple):
    """The parameters with the highest greedy score so far, a member each; `score` is a mean over `episodes`."""

    score: Float[Array, "member"]
    episodes: Int[Array, "member"]
    params: PyTree[Shaped[Array, "member ..."]]


def none_best(params: PyTree[Shaped[Array, "member ..."]]) -> Best:
    """Before any evaluation: whatever is judged first is better."""
    members = jax.tree.leaves(params)[0].shape[0]
    return Best(jnp.full(members, -jnp.inf), jnp.zeros(members, jnp.int32), params)


def judged(best: Best, params: Params, play: Play, episodes: int) -> tuple[Best, Float[np.ndarray, "member"]]:
    """The best of each member after a challenge by `params`, and the challengers' scores of `episodes` each.

    Where a challenger reaches the best so far, that one plays the same starts, and all of its episodes count. A
    challenger that is better still has fewer episodes behind it, and plays on until there are as many, or it is no
    longer better. Otherwise the luckiest of many evaluations would be delivered, not the best agent.
    """
    scores = play(params, 0)
    challenged = (scores >= np.asarray(best.score)) & (np.asarray(best.episodes) > 0)
    if challenged.any():
        best = _with_more(best, challenged, play(best.params, 0), episodes)
    challenger = Best(jnp.asarray(scores, jnp.float32), jnp.full_like(best.episodes, episodes), params)
    for number in range(1, MOST_ROUNDS):
        unsure = np.asarray((challenger.score > best.score) & (challenger.episodes < best.episodes))
        if not unsure.any():
            break
        challenger = _with_more(challenger, unsure, play(params, number), episodes)
    return _better(challenger, best), scores


def _with_more(
    found: Best, which: Bool[np.ndarray, "member"], mean: Float[np.ndarray, "member"], episodes: int
) -> Best:
    """What is known after `episodes` more of some members, with mean scores `mean`."""
    total = found.episodes + episodes
    pooled = found.score + (jnp.asarray(mean, jnp.float32) - found.score) * (episodes / total)
    return found._replace(score=jnp.where(which, pooled, found.score), episodes=jnp.where(which, total, found.episodes))


@jax.jit
def _better(challenger: Best, best: Best) -> Best:
    """Of equals the earlier, for which more episodes speak."""
    return where(challenger.score > best.score, challenger, best)
