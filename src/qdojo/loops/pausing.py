"""How a chunk is left between two reports and gone on with, bit by bit. Not for what a chunk does: the loops know.

A chunk draws its words in one call and reports its means, so where it begins and ends is part of what a seed means. A
stop, or a checkpoint that is due, cannot wait for its end: the loop then yields the state with what it knows of the
unfinished chunk in `TrainState.partial`, and no report. Going on from there, in this process or another, makes the same
bits and the same report as going straight on.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from qdojo.errors import UsageError
from qdojo.loops.learning import Rhythm

Partial = Mapping[str, Shaped[np.ndarray, "..."]]
"""Of an unfinished chunk, arrays by name; `plan` and `cycle` (cycles that are done) are in each."""
Pause = Callable[[], bool]
"""Asked between rows, or between short stretches of compiled cycles: whether to yield now."""
LONG_SECONDS, SHORT_SECONDS = 0.5, 0.125
"""A stretch that took longer is followed by a shorter one, and one that took less by a longer one."""


def never() -> bool:
    """Yield at reports alone."""
    return False


def plan(cycles: int, rhythm: Rhythm) -> Shaped[np.ndarray, "3"]:
    """What a chunk must have in common with the one that goes on with it."""
    return np.array([cycles, rhythm.rows, rhythm.updates], np.int64)


def check_partial(partial: Partial, loop: str, cycles: int, rhythm: Rhythm) -> None:
    """Raises UsageError where an unfinished chunk is not one of this loop's."""
    if not partial:
        return
    if f"{loop} plan" not in partial or not np.array_equal(partial[f"{loop} plan"], plan(cycles, rhythm)):
        raise UsageError(
            "loop, num_envs, collect_steps, updates_per_step or report_every_steps has changed, but the run was "
            "stopped between two reports; resume it unchanged until the next one first."
        )


def numbered(name: str, tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree as arrays `name 0`, `name 1`, ... that share nothing with it."""
    return {f"{name} {i}": np.array(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}


def regrouped(name: str, partial: Partial, like: Any) -> Any:
    """The tree of `like`'s structure again."""
    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, [partial[f"{name} {i}"] for i in range(len(leaves))])


class Stretches:
    """How many cycles a compiled call makes: few at first and where learning begins, more while they take no time.

    It follows the clock of the wall, and changes no bit.
    """

    def __init__(self, cycles: int, rhythm: Rhythm) -> None:
        self._cycles, self._rhythm = cycles, rhythm
        self._length = 1

    def end(self, cycle: int, first_row: int) -> int:
        """Where the stretch ends that begins at `cycle` of the chunk whose first row is `first_row`."""
        learns = math.ceil((self._rhythm.warmup_rows - first_row) / self._rhythm.rows) - 1
        if cycle == learns:
            self._length = 1
        most = learns if cycle < learns else self._cycles
        return min(cycle + self._length, most, self._cycles)

    def took(self, seconds: float) -> None:
        """Note how long the last one took."""
        if seconds > LONG_SECONDS:
            self._length = max(1, self._length // 2)
        elif seconds < SHORT_SECONDS:
            self._length = min(self._length * 4, self._cycles)
