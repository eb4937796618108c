"""Interrupting a chunk between two reports and continuing it with identical bits. The loops define the chunks.

A chunk draws its random words in one call and reports means, so the results of a seed depend on where chunks begin and
end. A stop request or a due checkpoint cannot wait for the end of a chunk. So the loop yields the state without a
report, and stores the data of the unfinished chunk in `TrainState.partial`. Continuing from there, in this process or
another, gives the same bits and the same report as an uninterrupted chunk.
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
"""Arrays of an unfinished chunk by name; `<loop> plan` and `cycle` (completed cycles) are always among them."""
Pause = Callable[[], bool]
"""Called between rows, or between short stretches of compiled cycles: () -> whether to yield now."""
STRETCH_SECONDS = 0.75
"""What a stretch should take. A stop request waits for its end."""


def never() -> bool:
    """A `Pause` that never yields within a chunk."""
    return False


def plan(cycles: int, rhythm: Rhythm) -> Shaped[np.ndarray, "3"]:
    """The numbers that must be the same when an unfinished chunk continues: cycles, and rows and updates per cycle."""
    return np.array([cycles, rhythm.rows, rhythm.updates], np.int64)


def check_partial(partial: Partial, loop: str, cycles: int, rhythm: Rhythm) -> None:
    """Raises UsageError if an unfinished chunk is not from this loop with these settings."""
    if not partial:
        return
    if f"{loop} plan" not in partial or not np.array_equal(partial[f"{loop} plan"], plan(cycles, rhythm)):
        raise UsageError(
            "loop, num_envs, collect_steps, updates_per_step or report_every_steps has changed, but the run was "
            "stopped between two reports; first resume it unchanged until the next report."
        )


def numbered(name: str, tree: Any) -> dict[str, np.ndarray]:
    """Copies of the leaves of a tree as arrays `name 0`, `name 1`, ..."""
    return {f"{name} {i}": np.array(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}


def regrouped(name: str, partial: Partial, like: Any) -> Any:
    """The tree, with the structure of `like`, whose leaves `numbered` stored under `name`."""
    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, [partial[f"{name} {i}"] for i in range(len(leaves))])


class Stretches:
    """Chooses the number of cycles per compiled call: few at first and when learning begins, more if they are fast.

    The choice depends on wall-clock time but does not affect the result.
    """

    def __init__(self, cycles: int, rhythm: Rhythm) -> None:
        self._cycles, self._rhythm = cycles, rhythm
        self._length = 1

    def end(self, cycle: int, first_row: int) -> int:
        """The end of the stretch that begins at `cycle` of the chunk whose first row is `first_row`."""
        learns = math.ceil((self._rhythm.warmup_rows - first_row) / self._rhythm.rows) - 1
        if cycle == learns:
            self._length = 1
        most = learns if cycle < learns else self._cycles
        return min(cycle + self._length, most, self._cycles)

    def took(self, cycles: int, seconds: float) -> None:
        """Adapt the next stretch to the duration of the last one. It is at most four times as long as any before."""
        fitting = cycles * STRETCH_SECONDS / max(seconds, 1e-6)
        self._length = int(min(max(fitting, 1), 4 * self._length, self._cycles))
