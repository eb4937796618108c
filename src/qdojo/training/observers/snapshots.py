"""Keeps snapshots of the agents while they learn. `runs/history.py` defines the files and the schedule."""

from typing import Any

import jax

from qdojo import snapshot
from qdojo.runs import history
from qdojo.runs.directory import RunDirectory
from qdojo.training.observers import Started
from qdojo.types import Params


class SnapshotsObserver:
    """Writes the parameters of all members at some reports with `runs.history`, and deletes those no longer wanted.

    What a checkpoint's snapshots need is deleted only after the next checkpoint, so that a killed run that resumes from
    it has all of them.
    """

    name = "the snapshots"

    def __init__(self) -> None:
        self._run: RunDirectory
        self._every, self._most = 1, 0
        self._at = self._saving = self._saved = 0
        """Numbers of the latest report, of the one that is being saved, and of the one in the newest checkpoint."""
        self._steps: set[int] = set()
        self._unsynced: set[int] = set()

    def started(self, started: Started) -> None:
        self._run, self._every = started.run, started.config.steps_per_report
        history.truncate(self._run.path, started.at_step)
        self._saved = self._saving = self._at = started.at_step // self._every
        self._steps = set(history.steps(self._run.path))

    def learned(self, step: int, params: Params) -> None:
        self._at, self._saved = step // self._every, self._saving
        self._most = history.most_kept(sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
        wanted = history.kept(self._at, self._most)
        if self._at in wanted:
            history.write(self._run.path, step, snapshot.to_arrays({"params": params}))
            self._steps.add(step)
            self._unsynced.add(step)
        self._thin_out(wanted | history.kept(self._saved, self._most))

    def saving(self) -> None:
        history.sync(self._run.path, sorted(self._unsynced))
        self._unsynced.clear()
        self._saving = self._at

    def finished(self, run: RunDirectory, result: dict[str, Any]) -> None:
        self._thin_out(history.kept(self._at, self._most))

    def _thin_out(self, wanted: set[int]) -> None:
        unwanted = {step for step in self._steps if step // self._every not in wanted}
        history.delete(self._run.path, unwanted)
        self._steps -= unwanted
        self._unsynced -= unwanted
