"""Which agents a run delivers: of all that were evaluated on its way, the best. Not for playing: the loops do that."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from qdojo.loops.state import where
from qdojo.types import Params

Play = Callable[[Params], Float[np.ndarray, "member"]]
"""Mean scores of parameters, each time on the same starts."""


class Best(NamedTuple):
    """The parameters with the highest greedy score so far, a member each; `score` is a mean over `episodes`."""

    score: Float[Array, "member"]
    episodes: Int[Array, "member"]
    params: PyTree[Shaped[Array, "member ..."]]


def none_best(params: PyTree[Shaped[Array, "member ..."]]) -> Best:
    """Before any evaluation: whatever is judged first is better."""
    members = jax.tree.leaves(params)[0].shape[0]
    return Best(jnp.full(members, -jnp.inf), jnp.zeros(members, jnp.int32), params)


def delivered(best: Best, params: Params) -> Best:
    """What a run hands out: the best evaluated agents, or the last ones, of `params`, where none were evaluated."""
    return best if best.episodes.any() else none_best(params)


def judged(best: Best, params: Params, play: Play, episodes: int) -> tuple[Best, Float[np.ndarray, "member"]]:
    """The best of each member after a challenge by `params`, and the challengers' scores of `episodes` each.

    Where a challenger reaches the best so far, that one plays the same starts, and all of its episodes count: otherwise
    the luckiest of many evaluations would be delivered, not the best agent. Of equals the earlier is kept, for which
    more episodes speak.
    """
    scores = play(params)
    challenged = (scores >= np.asarray(best.score)) & (np.asarray(best.episodes) > 0)
    if challenged.any():
        best = _defended(best, jnp.asarray(challenged), jnp.asarray(play(best.params)), episodes)
    return _better(Best(jnp.asarray(scores, jnp.float32), jnp.full_like(best.episodes, episodes), params), best), scores


@partial(jax.jit, static_argnames="episodes")
def _defended(best: Best, challenged: Bool[Array, "member"], score: Float[Array, "member"], episodes: int) -> Best:
    """What is known of the best after `episodes` more, with mean `score`, where it was challenged."""
    total = best.episodes + episodes
    pooled = best.score + (score - best.score) * (episodes / total)
    return best._replace(
        score=jnp.where(challenged, pooled, best.score), episodes=jnp.where(challenged, total, best.episodes)
    )


@jax.jit
def _better(challenger: Best, best: Best) -> Best:
    return where(challenger.score > best.score, challenger, best)
