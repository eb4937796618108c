"""Run directories of an earlier version load, evaluate, play and resume.

Those in `fixtures/runs` were made by version 0.1.0 before a run described its player, with tiny networks: one of each
loop and of each kind of agent state. Their weights are untrained on purpose; what counts is that they are read.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qdojo
from qdojo.runs import checkpoint, metrics

RUNS = Path(__file__).parent / "fixtures" / "runs"
KINDS = sorted(path.name for path in RUNS.iterdir())
MORE_STEPS = {"pqn": 1280}
"""A budget past what was done; 400 for all others."""


@pytest.fixture
def run(kind: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUNS / kind, tmp_path / kind))


@pytest.mark.parametrize("kind", KINDS)
def test_it_evaluates_as_it_did_and_plays(kind: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no memory for a tape: playing needs none."""
    monkeypatch.setattr("qdojo.build.memory.free_bytes", lambda: 0)
    then: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))
    found = qdojo.evaluate(run, episodes=then["eval"]["episodes"])
    assert found.mean.tolist() == pytest.approx(then["eval"]["mean"], rel=0.2)
    policy = qdojo.load(run)
    assert policy.act(np.zeros(4, np.float32)) in (0, 1)
    assert policy.q_values(np.zeros(4, np.float32)).shape == (2,)


@pytest.mark.parametrize("kind", KINDS)
def test_it_resumes(kind: str, run: Path) -> None:
    """Under the versions that it was made with as if it had never stopped; under others in a fork."""
    before = checkpoint.load_latest(run / "checkpoints").meta
    steps = MORE_STEPS.get(kind, 400)
    now = {name: number for name, number in versions_now().items() if name in before["versions"]}
    resumed = qdojo.resume(run, steps=steps, root=run.parent / "forks", fork=now != before["versions"])
    assert resumed.result["status"] == "finished"
    # The tutorial's budget is in episodes, and spent.
    assert resumed.result["steps"] >= (before["steps"] if kind == "tutorial" else steps)
    assert metrics.evaluations(resumed.directory.metrics_path)[0].steps[-1] == resumed.result["steps"]
    # It has what a new run has from here on.
    assert checkpoint.load(resumed.directory.best_path)[1]["player"]["environment"]["name"] == "CartPole-v1"


def versions_now() -> dict[str, str]:
    from qdojo.training.restoring import versions

    return versions()
