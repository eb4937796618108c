"""Saves the learning curve of a run when it ends, however it ends. `plots.py` draws it."""

from qdojo.plots import curve_png
from qdojo.training.observers import Started


class CurveObserver:
    """Writes `curve.png` into the run directory, from the recorded metrics."""

    name = "the learning curve"

    def __init__(self) -> None:
        self._started: Started | None = None

    def started(self, started: Started) -> None:
        self._started = started

    def closed(self) -> None:
        # A run that failed before its first checkpoint is deleted.
        if self._started is not None and self._started.run.metrics_path.is_file():
            run, config = self._started.run, self._started.config
            curve_png(run.metrics_path, f"{config.env}, {config.preset}", run.curve_path)
