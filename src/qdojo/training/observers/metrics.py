"""Records the metrics of a run in its SQLite file. `runs/metrics.py` defines the file."""

import math
import time

from qdojo.config import Config
from qdojo.runs.metrics import MetricsWriter
from qdojo.training.observers import Evaluated, Started
from qdojo.types import Report

COMMIT_SECONDS = 1.0
"""Minimum time between commits, except those before a checkpoint."""


class MetricsObserver:
    """Writes the episodes, metrics and evaluations of each member with `runs.metrics`.

    A resumed run first deletes the rows that it will write again, so that none is missing or duplicated.
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
        # Members that have finished their episodes play on until all have; those extra episodes are not recorded.
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
