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
        self._at = self._saved = 0
        """Numbers of the latest report, and of the one in the checkpoint that was begun last."""
        self._size = 0
        """Bytes of the parameters of all members."""
        self._waiting: dict[int, list[np.ndarray]] = {}
        """Leaves of the parameters by step: to name them each time would take longer than to copy them."""
        self._tree: Any = None
        self._written: set[int] = set()

    def started(self, started: Started) -> None:
        self._run, self._every = started.run, started.config.steps_per_report
        history.truncate(self._run.path, started.at_step)
        self._saved = self._at = started.at_step // self._every
        self._written = set(history.steps(self._run.path))
        if self._written:  # a run that has nothing left to learn hears of no parameters
            self._most = history.most_kept(history.size_in_bytes(self._run.path))

    def learned(self, step: int, params: Params) -> None:
        self._at = step // self._every
        leaves, self._tree = jax.tree.flatten(params)
        if not self._size:
            self._size = sum(leaf.nbytes for leaf in leaves)
            self._most = history.most_kept(self._size)
        if history.is_kept(self._at, self._most):
            self._waiting[step] = [np.array(leaf) for leaf in leaves]
        if len(self._waiting) * self._size > MOST_WAITING_BYTES:
            self._write()

    def saving(self) -> None:
        self._write()
        self._saved = self._at

    def finished(self, run: RunDirectory, result: dict[str, Any]) -> None:
        self._thin_out(history.kept(self._at, self._most))

    def _write(self) -> None:
        wanted = history.kept(self._at, self._most)
        waiting = {step: leaves for step, leaves in self._waiting.items() if step // self._every in wanted}
        if waiting:
            together = [np.stack(leaves) for leaves in zip(*waiting.values(), strict=True)]
            arrays = snapshot.to_arrays({"params": jax.tree.unflatten(self._tree, together)})
            history.write(history.path_of(self._run.path, min(waiting)), list(waiting), arrays)
        self._written |= waiting.keys()
        self._waiting = {}
        # The last checkpoint is complete by now, so what only those before it needed can go.
        self._thin_out(wanted | history.kept(self._saved, self._most))

    def _thin_out(self, wanted: set[int]) -> None:
        unwanted = {step for step in self._written if step // self._every not in wanted}
        if unwanted:
            history.delete(self._run.path, unwanted)
        self._written -= unwanted
