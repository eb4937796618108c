"""Rows of the speed table for what training records of the agents: diagnostics and snapshots."""

import itertools
import math
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.table import Row
from qdojo.build.training import build
from qdojo.config import make_config
from qdojo.runs.directory import RunDirectory
from qdojo.training.diagnosing import Diagnosing
from qdojo.training.observers import Started
from qdojo.training.observers.snapshots import SnapshotsObserver

REPORTS = 64
"""Least number of reports per measurement: the first 64 of a run, all of which are kept as snapshots."""
AGENTS: dict[str, dict[str, Any]] = {
    "dqn 24-24, an update in 10 steps": {
        "preset": "dqn",
        "hidden": (24, 24),
        "batch_size": 32,
        "num_envs": 10,
        "collect_steps": 10,
        "updates_per_step": 0.1,
        "capacity_steps": 10_000,
        "warmup_steps": 1_000,
    },
    "default": {},
    "default on the host loop": {"loop": "host"},
    "rainbow": {"preset": "rainbow"},
    "pqn": {"preset": "pqn"},
    "tutorial": {"preset": "tutorial"},
}


def row_k(repeats: int) -> Iterable[Row]:
    """Measure the time of diagnostics and of snapshots relative to that of training between them, on CartPole-v1."""
    for name, settings in AGENTS.items():
        diagnoses, snapshots, compiling = measured(repeats, **settings)
        yield Row("k", f"{name}: diagnostics", diagnoses, "%", "limit", 2.0)
        yield Row("k", f"{name}: snapshots", snapshots, "%", "limit", 2.0)
        yield Row("k", f"{name}: compiling the diagnostics", [compiling], "s", "to see", math.inf)


def measured(repeats: int, **settings: Any) -> tuple[list[float], list[float], float]:
    """Return percentages of the time of training for diagnostics and snapshots, and the seconds of compilation."""
    config = make_config("CartPole-v1", **({"eval_every_steps": None} | settings))
    parts = build(config)
    diagnosing = Diagnosing(config, parts)
    diagnoses, snapshots, seconds = [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        reports = parts.loop.run(parts.loop.init())
        for _ in range(repeats + 1):
            observer = SnapshotsObserver()
            target = Path(tempfile.mkdtemp(dir=folder))
            observer.started(Started(RunDirectory(target), config, "", 0))
            training, diagnosed, kept = 0.0, 0.0, 0.0
            period = max(REPORTS, 2 * diagnosing.every)
            for number, (state, report) in enumerate(itertools.islice(reports, period)):
                assert report is not None
                compiled = parts.loop.programs.compile_seconds
                after = diagnosing.added(report, state)
                seconds += parts.loop.programs.compile_seconds - compiled
                training, diagnosed = training + report.seconds, diagnosed + after.seconds - report.seconds
                began = time.perf_counter()
                observer.learned(number * config.steps_per_report, state.agents.params)
                kept += time.perf_counter() - began
            began = time.perf_counter()
            observer.saving()
            kept += time.perf_counter() - began
            diagnoses.append(100.0 * diagnosed / training)
            snapshots.append(100.0 * kept / training)
        reports.close()
        parts.loop.close()
    # Programs were compiled, and the replay memory was filled, during the first measurement.
    return diagnoses[1:], snapshots[1:], seconds
