"""What an evaluation gives, and the bound at which its episodes are cut. Not for playing them: the loops do that."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

LEAST_BOUND_STEPS = 10_000
TIMES_THE_LONGEST = 10
"""An evaluation episode may take this many times as long as the longest episode of training."""

Watch = Callable[[int, int], None]
"""Hears (episodes done over all members, steps played so far by each copy); it may raise to stop an evaluation."""


@runtime_checkable
class Plays(Protocol):
    """What an evaluation asks of a player: an `Actor` or an `Agent`."""

    @property
    def values(self) -> Callable[..., Any]:
        """(params, observation, memory) -> Q-values, memory."""

    @property
    def memory(self) -> Callable[[], Any]:
        """As it is when an episode starts."""


class Played(NamedTuple):
    """Greedy episodes. Where one was cut at the bound, its return is that of the steps before."""

    returns: Float[np.ndarray, "member episodes"]
    cut: Bool[np.ndarray, "member episodes"]


def solved(played: Played, threshold: float) -> Bool[np.ndarray, "member"]:
    """Which members reach the threshold. One with an episode that was cut does not: nobody knows how that one ends."""
    return (played.returns.mean(axis=1) >= threshold) & ~played.cut.any(axis=1)


def unwatched(done: int, steps: int) -> None:
    """Nobody listens."""


def episode_bound(setting: int | None, longest: int, time_limit: int | None) -> int:
    """Steps at which an evaluation episode is cut.

    `setting` is the run's own bound. Where it is None, the bound is ten times `longest`, the longest episode that
    training has finished, and at least 10,000; an environment's own `time_limit` is never undercut.
    """
    if setting is not None:
        return setting
    return max(LEAST_BOUND_STEPS, TIMES_THE_LONGEST * longest, time_limit or 0)


def told_of_cuts(cut: Bool[np.ndarray, "member episodes"], bound: int) -> str | None:
    """How many episodes were cut, as a clause; None where none was."""
    count = int(np.sum(cut))
    if not count:
        return None
    return f"{count:,} of {np.size(cut):,} episodes {'was' if count == 1 else 'were'} cut at {bound:,} steps"
