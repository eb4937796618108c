"""The result of an evaluation, and the bound at which its episodes are cut. The evaluators play the episodes."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

LEAST_BOUND_STEPS = 10_000
TIMES_THE_LONGEST = 10
"""An evaluation episode may be this many times as long as the longest training episode."""

Watch = Callable[[int, int], None]
"""(finished episodes of all members, steps taken by each copy) -> None; it may raise to stop an evaluation."""


@runtime_checkable
class Plays(Protocol):
    """The interface of a player that an evaluation requires. `Actor` and `Agent` have it."""

    @property
    def values(self) -> Callable[..., Any]:
        """(params, observation, memory) -> Q-values, memory."""

    @property
    def memory(self) -> Callable[[], Any]:
        """() -> the memory at the start of an episode."""


class Played(NamedTuple):
    """Results of greedy episodes. If an episode was cut at the bound, its return covers the steps up to there."""

    returns: Float[np.ndarray, "member episodes"]
    cut: Bool[np.ndarray, "member episodes"]


def solved(played: Played, threshold: float | Float[np.ndarray, "member"]) -> Bool[np.ndarray, "member"]:
    """Which members reach the threshold. A member with a cut episode does not, because its outcome is unknown."""
    return (played.returns.mean(axis=1) >= threshold) & ~played.cut.any(axis=1)


def unwatched(done: int, steps: int) -> None:
    """A `Watch` that does nothing."""


def episode_bound(setting: int | None, longest: int, time_limit: int | None) -> int:
    """Number of steps after which an evaluation episode is cut.

    `setting` is the bound in the settings. If it is None, the bound is ten times `longest`, the longest episode that
    training has finished, but at least 10,000 and at least the environment's `time_limit`.
    """
    if setting is not None:
        return setting
    return max(LEAST_BOUND_STEPS, TIMES_THE_LONGEST * longest, time_limit or 0)


def told_of_cuts(cut: Bool[np.ndarray, "member episodes"], bound: int) -> str | None:
    """A clause that says how many episodes were cut; None if none were."""
    count = int(np.sum(cut))
    if not count:
        return None
    return f"{count:,} of {np.size(cut):,} episodes {'was' if count == 1 else 'were'} cut at {bound:,} steps"
