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
from probes.killed import Copies

import qdojo
from qdojo.runs import checkpoint, metrics

RUNS = Path(__file__).parent / "fixtures" / "runs"
KINDS = sorted(path.name for path in RUNS.iterdir())
TRAINED = {"device": 400, "host": 400, "offline": 400, "pqn": 1280}
"""One of each loop and of each update, and a budget past what was done."""


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


class Quits:
    """Stops at once, as a second Ctrl-C does, before the first report."""

    def compiling(self) -> None:
        raise KeyboardInterrupt


def resumed(run: Path, steps: int, **options: Any) -> qdojo.Run:
    """Under the versions that it was made with as if it had never stopped; under others in a fork."""
    before = checkpoint.load_latest(run / "checkpoints").meta["versions"]
    now = {name: number for name, number in versions_now().items() if name in before}
    return qdojo.resume(run, steps=steps, root=run.parent / "forks", fork=now != before, **options)


@pytest.mark.parametrize("kind", sorted({*KINDS} - {*TRAINED}))
def test_its_state_is_that_of_the_same_agent_now(kind: str, run: Path) -> None:
    """It is read whole, and training would go on: `test_resume.py` shows how."""
    with pytest.raises(KeyboardInterrupt):
        resumed(run, 2000, observers=[Quits()])


@pytest.mark.parametrize("kind", TRAINED)
def test_it_resumes(kind: str, run: Path) -> None:
    before = checkpoint.load_latest(run / "checkpoints").arrays
    steps = TRAINED[kind]
    after = resumed(run, steps)
    assert after.result["status"] == "finished"
    assert after.result["steps"] >= steps
    assert metrics.evaluations(after.directory.metrics_path)[0].steps[-1] == after.result["steps"]
    # It has what a new run has from here on.
    assert checkpoint.load(after.directory.best_path)[1]["player"]["environment"]["name"] == "CartPole-v1"
    arrays = checkpoint.load_latest(after.directory.checkpoints_path).arrays
    weights = [name for name in arrays if name.startswith("state/agents/params")]
    assert all(np.isfinite(arrays[name]).all() for name in weights)
    assert any(not np.array_equal(arrays[name], before[name]) for name in weights), "nothing was learned"


def versions_now() -> dict[str, str]:
    from qdojo.training.restoring import versions

    return versions()


def test_moments_of_the_statistics_of_observations_are_left_out(tmp_path: Path) -> None:
    """Once, those were parameters of the optimizer, whose gradient was always zero."""
    settings: dict[str, Any] = {"normalize_observations": True, "hidden": [8], "steps": 400, "warmup_steps": 100}
    settings |= {"report_every_steps": 100, "checkpoint_every_seconds": 0.0, "final_eval_episodes": 1}
    killed = Copies(tmp_path / "killed", after_reports=3)
    whole = qdojo.train("CartPole-v1", root=tmp_path / "whole", observers=[killed], progress=False, **settings)
    path, arrays, meta, *_ = checkpoint.load_latest(killed.path / "checkpoints")
    params, moments = "state/agents/params/", "state/agents/optimizer/mu/"
    assert any(name.startswith(moments) for name in arrays)
    former = {
        name.replace(params, moments): np.zeros_like(array)
        for name, array in arrays.items()
        if name.startswith(f"{params}inputs/statistics/")
    }
    assert len(former) == 3
    assert not former.keys() & arrays.keys()
    checkpoint.save(path.parent, path.name, {**arrays, **former}, meta)
    resumed = qdojo.resume(killed.path, progress=False)
    ours, theirs = (checkpoint.load_latest(run.directory.checkpoints_path).arrays for run in (resumed, whole))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
