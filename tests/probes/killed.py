"""What a killed run leaves on the disk, without a process to kill. `test_resume.py` kills some for real."""

import shutil
from pathlib import Path
from typing import Any

from qdojo.runs import checkpoint
from qdojo.runs.directory import list_runs


class Copies:
    """An observer that keeps the run directory under `root` as a SIGKILL after some report would leave it.

    The last checkpoint there is the one before that report, if the run saves after each.
    """

    def __init__(self, root: Path, after_reports: int) -> None:
        self._root, self._after, self._seen = root, after_reports, 0

    def started(self, started: Any) -> None:
        self._run = started.run.path

    def reported(self, report: Any) -> None:
        self._seen += 1
        if self._seen == self._after:
            shutil.copytree(self._run, self._root / self._run.name)
            saved = checkpoint.load_latest(self.path / "checkpoints").meta["steps"]
            assert 0 < saved < report.steps, "a resume would have nothing to go on from, or nothing to do"

    @property
    def path(self) -> Path:
        """The copy of the run directory."""
        (directory,) = list_runs(self._root)
        return directory.path
