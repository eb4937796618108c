"""Observers of a run: each hears all of it, may end it, and never takes the run or its result along when it fails."""

import contextlib
import logging
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import qdojo
from qdojo.errors import QdojoError, UsageError
from qdojo.runs import checkpoint
from qdojo.runs.directory import list_runs, read_result
from qdojo.training.observers import EVENTS, Evaluated, Observers, Started, StopTraining

TINY: dict[str, Any] = {
    "env": "CartPole-v1",
    "hidden": (8,),
    "steps": 200,
    "capacity_steps": 100,
    "batch_size": 8,
    "warmup_steps": 20,
    "report_every_steps": 20,
    "eval_every_steps": 100,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
    "checkpoint_every_seconds": 1000.0,
}
pytestmark = pytest.mark.usefixtures("shared_programs")


class Everything:
    """Notes every call."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, event: str) -> Any:
        if event not in EVENTS:
            raise AttributeError(event)
        return lambda *arguments: self.heard.append((event, arguments))

    def names(self) -> list[str]:
        return [name for name, _ in self.heard if name != "evaluation_at"]


class Fails:
    """Fails when it hears of one event."""

    name = "the failing one"

    def __init__(self, event: str) -> None:
        self._event = event

    def __getattr__(self, event: str) -> Any:
        if event != self._event:
            raise AttributeError(event)

        def heard(*_: Any) -> None:
            raise ValueError("no such colour")

        return heard


def arrays(run: qdojo.Run) -> dict[str, np.ndarray]:
    return checkpoint.load_latest(run.directory.checkpoints_path).arrays


class Told(NamedTuple):
    run: qdojo.Run
    everything: Everything
    drawn: list[int]
    """The last step in the metrics file, each time that the curve is drawn."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    everything, drawn = Everything(), []

    def draw(metrics: Path, title: str, target: Path) -> None:
        with contextlib.closing(sqlite3.connect(metrics)) as connection:
            drawn.append(connection.execute("SELECT max(steps) FROM metrics").fetchone()[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qdojo.training.observers.curve.curve_png", draw)
        root = tmp_path_factory.mktemp("whole")
        run = qdojo.train(root=root, observers=[everything], **TINY)
    return Told(run, everything, drawn)


@pytest.fixture
def whole(told: Told) -> qdojo.Run:
    return told.run


def test_all_is_heard_in_order(told: Told) -> None:
    reports = ["reported", "learned"] * 5
    assert told.everything.names() == [
        *("started", "compiling", "learned", "saving"),
        *(*reports, "evaluated", *reports, "evaluated"),
        *("saving", "evaluating", "finished", "closed"),
    ]
    calls = dict(told.everything.heard)
    started, evaluated = calls["started"][0], calls["evaluated"][0]
    assert isinstance(started, Started)
    assert (started.run, started.loop, started.at_step) == (told.run.directory, "device", 0)
    assert isinstance(evaluated, Evaluated)
    assert (evaluated.step, evaluated.scores.shape, evaluated.cut.shape) == (200, (1,), (1, 2))


def test_the_curve_is_drawn_from_all_that_was_recorded(told: Told) -> None:
    """A run shorter than the time between two commits has its learning curve too."""
    assert told.drawn == [200]


def test_one_that_fails_is_named_and_dropped_and_changes_no_bit(whole: qdojo.Run, tmp_path: Path) -> None:
    events = ["started", "reported", "learned", "evaluated", "saving", "finished", "closed"]
    everything = Everything()
    run = qdojo.train(root=tmp_path, observers=[everything, *map(Fails, events)], **TINY)
    assert run.result["eval"] == whole.result["eval"]
    for name, array in arrays(run).items():
        np.testing.assert_array_equal(array, arrays(whole)[name], err_msg=name)
    warnings = [arguments[0] for name, arguments in everything.heard if name == "warned"]
    assert sorted(warnings) == [
        f"the failing one failed in {event} (ValueError: no such colour) and receives no further events of this run."
        for event in sorted(events)
    ]


def test_a_warning_that_nobody_hears_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """As with `progress=False` and no observer of one's own."""
    with caplog.at_level(logging.WARNING, "qdojo"):
        Observers([StopsAt(60)]).tell("warned", "100 % of it")
    assert caplog.messages == ["100 % of it"]


def test_one_that_fails_is_named_where_nobody_else_hears(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "qdojo"):
        Observers([Fails("reported")]).tell("reported", None)
    assert "the failing one failed in reported" in caplog.text


@pytest.mark.parametrize("of_curve", [True, False])
def test_a_decoration_never_costs_the_result(
    of_curve: bool, whole: qdojo.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The curve and the metrics, on a full disk or by a bug in them."""
    bug, full = ValueError("no font"), OSError(28, "No space left on device")

    def failing(error: Exception) -> Any:
        def fails(*_: Any) -> None:
            raise error

        return fails

    monkeypatch.setattr("qdojo.training.observers.curve.curve_png", failing(bug if of_curve else full))
    monkeypatch.setattr("qdojo.runs.metrics.MetricsWriter.episodes", failing(full if of_curve else bug))
    everything = Everything()
    run = qdojo.train(root=tmp_path, observers=[everything], **TINY)
    assert run.result["status"] == "finished"
    assert run.result["eval"] == whole.result["eval"]
    of_metrics, of_drawing = [arguments[0] for name, arguments in everything.heard if name == "warned"]
    assert str(full if of_curve else bug) in of_metrics
    assert str(bug if of_curve else full) in of_drawing


def test_an_ending_that_cannot_be_noted_does_not_hide_the_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qdojo.training import trainer

    write = trainer.write_atomically

    def full(path: Path, content: bytes) -> None:
        if b"failed" in content:
            raise OSError(28, "No space left on device")
        write(path, content)

    def diverges(self: Any, report: Any, state: Any) -> None:
        raise QdojoError("the loss is no longer finite")

    monkeypatch.setattr(trainer, "write_atomically", full)
    monkeypatch.setattr(trainer.Trainer, "_checked", diverges)
    everything = Everything()
    with pytest.raises(QdojoError, match="the loss is no longer finite"):
        qdojo.train(root=tmp_path, observers=[everything], **TINY)
    assert "No space left" in dict(everything.heard)["warned"][0]


def test_a_result_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qdojo.training import trainer

    write = trainer.write_atomically

    def full(path: Path, content: bytes) -> None:
        if b"finished" in content:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(trainer, "write_atomically", full)
    with pytest.raises(QdojoError, match=r"result\.json cannot be written: No space left on device"):
        qdojo.train(root=tmp_path, **TINY)
    (directory,) = list_runs(tmp_path)
    monkeypatch.undo()
    assert qdojo.resume(directory.path).result["status"] == "finished"


class StopsAt:
    """A callback of a user's own, which has had enough."""

    def __init__(self, step: int) -> None:
        self.step = step

    def reported(self, report: Any) -> None:
        if report.steps >= self.step:
            raise StopTraining("enough")


def test_one_may_end_the_run_which_finishes_and_can_go_on(whole: qdojo.Run, tmp_path: Path) -> None:
    run = qdojo.train(root=tmp_path, observers=[StopsAt(60)], **TINY)
    result = read_result(run.directory)
    assert result is not None
    assert (result["status"], result["steps"], result["stopped_by"]) == ("finished", 60, "StopsAt: enough")
    with sqlite3.connect(run.directory.metrics_path) as connection:
        judged = connection.execute("SELECT steps FROM evaluations").fetchall()
    connection.close()
    assert judged == [(60,)], "the last agent is judged as well"
    everything = Everything()
    resumed = qdojo.resume(run.path, observers=[everything])
    assert dict(everything.heard)["started"][0].at_step == 60
    assert resumed.result["steps"] == 200
    assert "stopped_by" not in resumed.result
    ours, theirs = arrays(resumed), arrays(whole)
    for name in ours:
        if name.startswith("state/"):
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize("what", [StopsAt, lambda report: None, "tensorboard"], ids=["class", "function", "text"])
def test_what_hears_nothing_is_refused_before_anything_starts(what: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^observers\[0\] is .*method such as reported\(report\)"):
        qdojo.train(root=tmp_path, observers=[what], **TINY)
    assert not list_runs(tmp_path)
