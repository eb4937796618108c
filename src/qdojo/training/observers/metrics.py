"""Writes the numbers of a run to its SQLite file. Not the file itself: see `runs/metrics.py`."""

import math
import time

from qdojo.config import Config
from qdojo.runs.metrics import MetricsWriter
from qdojo.training.observers import Evaluated, Started
from qdojo.types import Report

COMMIT_SECONDS = 1.0
"""Least time between commits that no checkpoint asks for."""


class MetricsObserver:
    """Episodes, metrics and evaluations of each member, as `runs.metrics` keeps them.

    A run that goes on first takes back the rows that it will write again, so that none is missing or doubled.
    """

    name = "the metrics file"

    def __init__(self) -> None:
        self._config: Config
        self._writer: MetricsWriter | None = None
        self._steps = 0
        self._committed_at = time.monotonic()

    def started(self, started: Started) -> None:
        self._config, self._steps = started.config, started.at_step
        self._writer = MetricsWriter(started.run.metrics_path)
        self._writer.truncate(started.at_step, unjudged=started.unjudged)

    def reported(self, report: Report) -> None:
        assert self._writer is not None
        # Members that are through with their episodes play on, beside those that are not; that is not part of the run.
        most = self._config.episodes or math.inf
        self._writer.episodes(episode for episode in report.episodes if episode.episode <= most)
        speed = (report.steps - self._steps) * self._config.members / max(report.seconds, 1e-9)
        self._steps = report.steps
        values = report.metrics | {"steps_per_second": speed, "updates": float(report.updates)}
        self._writer.metrics(report.steps, values)
        if time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            self._commit()

    def evaluated(self, evaluated: Evaluated) -> None:
        assert self._writer is not None
        cut = evaluated.cut.sum(axis=1)
        self._writer.evaluation(evaluated.step, evaluated.scores, evaluated.episodes, cut)

    def saving(self) -> None:
        self._commit()

    def closed(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _commit(self) -> None:
        assert self._writer is not None
        self._writer.commit()
        self._committed_at = time.monotonic()
