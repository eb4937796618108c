"""Rows of the speed table, and helpers that run measurements in other processes. `speed.py` has the measurements."""

import json
import os
import statistics
import subprocess
import sys
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One row of the table: the median of `figures` must be at most `limit`, or at least `limit` if `less` is false."""

    key: str
    what: str
    figures: list[float]
    unit: str
    against: str
    limit: float
    less: bool = True

    @property
    def median(self) -> float:
        return statistics.median(self.figures)

    @property
    def holds(self) -> bool:
        return self.median <= self.limit if self.less else self.median >= self.limit

    def line(self) -> str:
        """Format the row for printing."""
        spread = f"[{min(self.figures):.4g}, {max(self.figures):.4g}]"
        sign = "<=" if self.less else ">="
        verdict = "holds" if self.holds else "FALLS SHORT"
        return (
            f"{self.key}  {self.what:52} {self.median:9.4g} {self.unit:8} {spread:22} "
            f"{self.against} {sign} {self.limit:.4g}  {verdict}"
        )


def python(*arguments: str, **environment: str) -> str:
    """Run Python with these arguments and environment variables; return its output."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def json_of(*arguments: str, **environment: str) -> Any:
    """Run Python as `python` does; return the JSON value that it prints."""
    return json.loads(python(*arguments, **environment))
