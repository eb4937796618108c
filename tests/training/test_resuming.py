"""Runs that were killed where it hurts, and forks: what a resume repeats it first takes back."""

import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qdojo
from qdojo.errors import UsageError
from qdojo.loops.device import DeviceLoop
from qdojo.loops.evaluation import Played
from qdojo.runs import checkpoint, metrics
from qdojo.runs.directory import list_runs
from qdojo.training import restoring
from qdojo.training.judging import CONFIRMING_SEED, FINAL_SEED
from qdojo.training.stopping import Interrupted

OLD_RUNS = Path(__file__).parent.parent / "fixtures" / "runs"
TINY: dict[str, Any] = {
    "hidden": (8,),
    "steps": 200,
    "capacity_steps": 100,
    "batch_size": 8,
    "warmup_steps": 20,
    "report_every_steps": 20,
    "eval_every_steps": 100,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
}
pytestmark = pytest.mark.usefixtures("shared_programs")


class CopiesWhenJudged:
    """Keeps the run directory as a SIGKILL right after an evaluation would leave it."""

    def __init__(self, target: Path) -> None:
        self.target, self.run = target, Path()

    def started(self, started: Any) -> None:
        self.run = started.run.path

    def evaluated(self, evaluated: Any) -> None:
        if not self.target.exists():
            shutil.copytree(self.run, self.target / self.run.name)


def test_a_kill_after_a_repeated_evaluation_leaves_a_run_that_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C during the evaluation at 100, a resume that plays it again, and a kill before its next checkpoint."""
    evaluate = DeviceLoop.evaluate

    def interrupted(self: Any, *arguments: Any) -> Any:
        monkeypatch.setattr(DeviceLoop, "evaluate", evaluate)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the evaluation was not cut off")

    monkeypatch.setattr(DeviceLoop, "evaluate", interrupted)
    with pytest.raises(Interrupted) as stopped:
        qdojo.train("CartPole-v1", root=tmp_path / "first", **TINY)
    # Every row that is heard of is committed at once: what the kill leaves is all of it.
    monkeypatch.setattr("qdojo.training.observers.metrics.COMMIT_SECONDS", 0.0)
    insert = metrics.MetricsWriter.evaluation

    def committed(self: Any, *arguments: Any) -> None:
        insert(self, *arguments)
        self.commit()

    monkeypatch.setattr(metrics.MetricsWriter, "evaluation", committed)
    whole = qdojo.resume(stopped.value.run.path, observers=[CopiesWhenJudged(tmp_path / "killed")])
    (killed,) = list_runs(tmp_path / "killed")
    assert checkpoint.load_latest(killed.checkpoints_path).meta["unjudged"]
    assert metrics.evaluations(killed.metrics_path)[0].steps.tolist() == [100]
    again = qdojo.resume(killed.path)
    assert again.result["eval"] == whole.result["eval"]
    for run in (again, whole):
        assert metrics.evaluations(run.directory.metrics_path)[0].steps.tolist() == [100, 200]
        assert metrics.metric(run.directory.metrics_path, "evaluation_cut")[0].steps.tolist() == [100, 200]


class StopsAt140:
    """Ctrl-C between two evaluations."""

    def reported(self, report: Any) -> None:
        if report.steps == 140:
            signal.raise_signal(signal.SIGINT)


def test_a_lucky_agent_keeps_no_better_one_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its 10 become (2 * 10 + 6 * 2) / 8 = 4, and 5 is better. It is confirmed once, stopped and resumed or not."""
    scores = {100: 10.0, CONFIRMING_SEED + 100: 2.0, 200: 5.0, FINAL_SEED: 5.0}
    played = []

    def evaluate(self: Any, params: Any, seed: int, episodes: int, *_: Any) -> Played:
        played.append((seed, episodes))
        return Played(np.full((1, episodes), scores[seed]), np.zeros((1, episodes), bool))

    monkeypatch.setattr(DeviceLoop, "evaluate", evaluate)
    settings = TINY | {"until_solved": True, "solved_at": 9.0, "final_eval_episodes": 6}
    with pytest.raises(Interrupted) as stopped:
        qdojo.train("CartPole-v1", root=tmp_path, observers=[StopsAt140()], **settings)
    run = qdojo.resume(stopped.value.run.path)
    # The best agent is challenged at 200, so it plays those starts too.
    assert played == [(100, 2), (CONFIRMING_SEED + 100, 6), (200, 2), (200, 2), (FINAL_SEED, 6)]
    best = checkpoint.load(run.directory.best_path)[0]
    assert (best["score"].tolist(), best["episodes"].tolist()) == ([5.0], [2])


def test_a_solved_run_goes_on_if_its_settings_ask_for_more(tmp_path: Path) -> None:
    """Resumed or forked; with a threshold that it has reached, it stays at the step where it was solved."""
    solved = qdojo.train("CartPole-v1", root=tmp_path / "solved", **TINY | {"until_solved": True, "solved_at": 1.0})
    assert solved.result["steps"] == 100
    path = changed(solved.path, tmp_path, "solved_at = 1.0", "solved_at = 501.0")
    assert qdojo.resume(path, root=tmp_path / "forks", fork=True).result["steps"] == 200
    assert qdojo.resume(path).result["steps"] == 200
    path = changed(solved.path, tmp_path / "lower", "solved_at = 1.0", "solved_at = 0.5")
    assert qdojo.resume(path).result["steps"] == 100
    path = changed(solved.path, tmp_path / "all", "until_solved = true", "until_solved = false")
    assert qdojo.resume(path).result["steps"] == 200


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> qdojo.Run:
    return qdojo.train("CartPole-v1", root=tmp_path_factory.mktemp("whole"), **TINY)


def changed(run: Path, target: Path, old: str, new: str) -> Path:
    """A copy of a run whose config says something else."""
    path = Path(shutil.copytree(run, target / run.name))
    config = path / "config.toml"
    text = config.read_text(encoding="utf-8")
    assert old in text
    config.write_text(text.replace(old, new), encoding="utf-8")
    return path


def test_a_fork_that_is_killed_before_its_first_save_is_whole(whole: qdojo.Run, tmp_path: Path) -> None:
    """It plays, and goes on under its own settings."""
    path = changed(whole.path, tmp_path, "discount = 0.99", "discount = 0.5")

    class Kills:
        def started(self, started: Any) -> None:
            shutil.copytree(started.run.path, tmp_path / "killed" / started.run.name)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qdojo.resume(path, root=tmp_path / "forks", fork=True, steps=240, observers=[Kills()])
    (killed,) = list_runs(tmp_path / "killed")
    assert qdojo.evaluate(killed.path, episodes=2).returns.shape == (1, 2)
    resumed = qdojo.resume(killed.path)
    assert resumed.result["steps"] == 240
    discount = checkpoint.load_latest(killed.checkpoints_path).arrays["state/agents/hyper/discount"]
    np.testing.assert_array_equal(discount, np.float32([0.5]))


@pytest.mark.parametrize("loop", ["device", "host"])
def test_a_fork_to_the_other_loop_is_refused(loop: str, whole: qdojo.Run, tmp_path: Path) -> None:
    """The run on the host is an earlier version's, which a fork may go on from."""
    run, loop_now = (whole.path, "auto") if loop == "device" else (OLD_RUNS / "host", "host")
    other = {"device": "host", "host": "device"}[loop]
    path = changed(run, tmp_path, f'loop = "{loop_now}"', f'loop = "{other}"')
    with pytest.raises(UsageError, match=rf"^loop is now '{other}', but the checkpoint holds"):
        qdojo.resume(path, root=tmp_path / "forks", fork=True)
    assert not (tmp_path / "forks").exists()


@pytest.mark.parametrize("name", ["qdojo", "optax", "equinox", "gymnasium", "platform"])
def test_a_change_of_what_the_bits_depend_on_is_told(
    name: str, whole: qdojo.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = restoring.versions()
    monkeypatch.setattr(restoring, "versions", lambda: now | {name: "another"})
    with pytest.raises(UsageError, match=rf"{name} was .*, is another.*--fork"):
        qdojo.resume(whole.path)


class Quits:
    """Stops at once, when all is accepted and nothing compiled."""

    def compiling(self) -> None:
        raise KeyboardInterrupt


def test_versions_that_an_older_checkpoint_did_not_note_are_no_change(
    whole: qdojo.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole.path, tmp_path / whole.path.name)
    run = qdojo.Run(type(whole.directory)(tmp_path / whole.path.name))
    loaded = checkpoint.load_latest(run.directory.checkpoints_path)
    loaded.meta["versions"] = {name: loaded.meta["versions"][name] for name in ("jax", "jaxlib", "numpy")}
    checkpoint.save(run.directory.checkpoints_path, loaded.path.name, loaded.arrays, loaded.meta)
    with pytest.raises(KeyboardInterrupt):
        qdojo.resume(run.path, steps=220, observers=[Quits()])


def test_as_many_evaluations_as_were_asked_for(tmp_path: Path) -> None:
    """However seldom it reports."""
    run = qdojo.train("CartPole-v1", root=tmp_path, **TINY | {"report_every_steps": 200, "eval_every_steps": 20})
    assert metrics.evaluations(run.directory.metrics_path)[0].steps.tolist() == list(range(20, 201, 20))
