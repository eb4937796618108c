"""Keeps snapshots of the agents while they learn. `runs/history.py` defines the files and the schedule."""

from typing import Any

import jax
import numpy as np

from qdojo import snapshot
from qdojo.runs import history
from qdojo.runs.directory import RunDirectory
from qdojo.training.observers import Started
from qdojo.types import Params

MOST_WAITING_BYTES = 64 * 2**20
"""Snapshots of this size in all are written at once, others with the next checkpoint."""


class SnapshotsObserver:
    """Keeps the parameters of all members at some reports with `runs.history`, and deletes those no longer wanted.

    They are written with the next checkpoint, since a run resumes from there, so that the many of a fast run that are
    soon dropped cost no time. What a checkpoint's run needs is deleted only after the next checkpoint.
    """

    name = "the snapshots"

    def __init__(self) -> None:
        self._run: RunDirectory
        self._every, self._most = 1, 0
        self._at = self._saving = self._saved = 0
        """Numbers of the latest report, of the one that is being saved, and of the one in the newest checkpoint."""
        self._waiting: dict[int, snapshot.Arrays] = {}
        self._written: set[int] = set()

    def started(self, started: Started) -> None:
        self._run, self._every = started.run, started.config.steps_per_report
        history.truncate(self._run.path, started.at_step)
        self._saved = self._saving = self._at = started.at_step // self._every
        written = history.steps(self._run.path)
        self._written = set(written)
        if written:  # a run that has nothing left to learn hears of no parameters
            self._most = history.most_kept(history.size_in_bytes(self._run.path, written[0]))

    def learned(self, step: int, params: Params) -> None:
        self._at, self._saved = step // self._every, self._saving
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        self._most = history.most_kept(size)
        wanted = history.kept(self._at, self._most)
        self._waiting = {at: arrays for at, arrays in self._waiting.items() if at // self._every in wanted}
        if self._at in wanted:
            arrays = snapshot.to_arrays({"params": params})
            self._waiting[step] = {name: np.array(array) for name, array in arrays.items()}
        if len(self._waiting) * size > MOST_WAITING_BYTES:
            self._write()
        self._thin_out(wanted | history.kept(self._saved, self._most))

    def saving(self) -> None:
        self._write()
        self._saving = self._at

    def finished(self, run: RunDirectory, result: dict[str, Any]) -> None:
        self._thin_out(history.kept(self._at, self._most))

    def _write(self) -> None:
        for step, arrays in self._waiting.items():
            history.write(self._run.path, step, arrays)
        self._written |= self._waiting.keys()
        self._waiting = {}

    def _thin_out(self, wanted: set[int]) -> None:
        unwanted = {step for step in self._written if step // self._every not in wanted}
        history.delete(self._run.path, unwanted)
        self._written -= unwanted
