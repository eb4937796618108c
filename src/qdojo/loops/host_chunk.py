"""The host loop's chunk in progress, and how it is repaired after environments were lost. `host.py` steps them."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from qdojo.loops.packing import Packed
from qdojo.loops.pausing import numbered, regrouped
from qdojo.loops.state import Programs, TrainState
from qdojo.tape import ring
from qdojo.types import AnyArray, Clock, Memory, Step


class Rows(NamedTuple):
    """The data of a chunk's rows that the tally requires."""

    reward: Float[np.ndarray, "rows member env"]
    applied: Bool[np.ndarray, "rows member env"]
    ended: Bool[np.ndarray, "rows member env"]


ROW_NAMES = ("row reward", "row applied", "row ended")
SUM = "sum "
"""Names of arrays in `TrainState.partial` of this loop."""


class StopWatch:
    """Measures the seconds of work on a chunk, excluding compilation."""

    def __init__(self, programs: Programs, before: float) -> None:
        self._programs, self._before = programs, before
        self.start()

    def start(self) -> None:
        """Start or resume the measurement."""
        self._began: float | None = time.perf_counter() - self._programs.compile_seconds

    def stop(self) -> None:
        """Stop the measurement until `start`."""
        self._before, self._began = self.seconds(), None

    def seconds(self) -> float:
        """Seconds measured so far."""
        now = time.perf_counter() - self._programs.compile_seconds
        return self._before + (0.0 if self._began is None else now - self._began)


@dataclass
class Work:
    """A chunk in progress."""

    before: TrainState
    """The state when the chunk, or the rest of it, began."""
    first_row: int
    updates: Int[np.ndarray, ""]
    """Number of updates before the chunk."""
    cycle: int
    acting: Packed
    """The agents that collect rows; if learning overlaps, the ones from before it."""
    gathered: dict[str, Shaped[Array, "acting ..."]]
    """The same on one device, without repeated members."""
    latest: tuple[Packed, Any, Clock]
    """Agents, tape and clock after the last finished learning phase."""
    memory: Memory
    rows: list[Rows]
    block: list[Step]
    """The rows of the current cycle so far."""
    sums: list[dict[str, Any]]
    learned: list[Any]
    thread: ThreadPoolExecutor
    clock: StopWatch
    learning: "Future[Any] | None" = None

    def learns(self, outcome: Any) -> None:
        """Store the results of a learning phase."""
        packed, tape, clock, metrics, ready = outcome
        self.latest = packed, tape, clock
        self.sums.append(metrics)
        self.learned.append(ready)

    def settle(self) -> None:
        """Wait for a learning phase that runs in the background, if any."""
        if self.learning is not None:
            self.learns(self.learning.result())
            self.learning = None


def without_open_episodes(
    state: TrainState, member: Int[np.ndarray, "lost"], env: Int[np.ndarray, "lost"]
) -> TrainState:
    """The state in which the newest row of these envs starts no transition and their open episodes are not counted."""
    tally = state.tally._replace(
        score=state.tally.score.copy(), length=state.tally.length.copy(), env_steps=state.tally.env_steps.copy()
    )
    partial = dict(state.partial or {})
    at = list(zip(member.tolist(), env.tolist(), strict=True))
    if not partial:
        tally.score[member, env], tally.length[member, env] = 0.0, 0
        return state._replace(tape=ring.cut(state.tape, member, env), tally=tally)
    reward, applied, ended = (partial[name].copy() for name in ROW_NAMES)
    for m, e in at:
        ends = np.flatnonzero(ended[:, m, e])
        if not ends.size:
            tally.score[m, e], tally.length[m, e] = 0.0, 0
        open_from = int(ends[-1]) + 1 if ends.size else 0
        tally.env_steps[m] += int(applied[open_from:, m, e].sum())
        reward[open_from:, m, e], applied[open_from:, m, e] = 0.0, False
    partial |= dict(zip(ROW_NAMES, (reward, applied, ended), strict=True))
    if "block 0" not in partial:
        return state._replace(tape=ring.cut(state.tape, member, env), tally=tally, partial=partial)
    block = regrouped("block", partial, state.tape.like)
    last = np.array(block.last)
    last[-1, member, env] = True
    return state._replace(tally=tally, partial=partial | numbered("block", block._replace(last=last)))


def stacked(*rows: AnyArray) -> np.ndarray:
    return np.stack(rows)
