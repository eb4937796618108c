"""What progress says: the numbers, on a terminal and in a log."""

import io
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from qdojo.config import make_config
from qdojo.progress import Numbers, Progress
from qdojo.runs.directory import RunDirectory
from qdojo.training.observers import Evaluated, Started
from qdojo.types import Episode, Report

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _report(steps: int, *scores: tuple[int, float], loss: float = 0.5) -> Report:
    episodes = [Episode(member, 1, steps, score, int(score)) for member, score in scores]
    metrics = {"loss": np.array([loss, loss]), "epsilon": np.array([0.25, 0.25])}
    return Report(steps, steps // 2, np.array([steps, steps]), episodes, metrics, seconds=0.5)


def test_numbers_are_means_over_members() -> None:
    numbers = Numbers(make_config("CartPole-v1", seeds=2, steps=1000))
    assert numbers.how_far() == []
    assert numbers.how_good() == []
    numbers.add(_report(100, (0, 10.0), (0, 20.0), (1, 31.0)))
    assert numbers.how_far() == ["100 of 1,000 steps"]
    assert numbers.how_good() == ["return 23.0", "exploration 25.0%", "loss 0.5"]
    numbers.add(_report(350))
    numbers.greedy = 45.0
    assert numbers.how_far() == ["350 of 1,000 steps", "1,000 steps/s"]
    assert numbers.how_good()[-1] == "greedy 45.0"
    assert numbers.fraction == 0.35


def test_the_budget_in_episodes_counts_the_slowest_member() -> None:
    numbers = Numbers(make_config("CartPole-v1", "tutorial", seeds=2, episodes=4))
    report = _report(100)._replace(
        episodes=[Episode(0, number, 10, 10.0, 10) for number in range(1, 7)] + [Episode(1, 1, 10, 10.0, 10)]
    )
    numbers.add(report)
    assert numbers.fraction == 0.25
    assert "1 of 4 episodes" in numbers.how_far()


def test_the_time_left_follows_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    numbers = Numbers(make_config("CartPole-v1", seeds=2, steps=1000))
    numbers.add(_report(100))
    assert numbers.left() == ""
    now[0] += 36.0
    numbers.add(_report(200))
    assert numbers.left() == "4:48 left"
    now[0] += 7200.0
    assert numbers.left() == "16:04:48 left"


def _progress() -> None:
    with Progress(print_episodes=False) as progress:
        config = make_config("CartPole-v1", seeds=2, steps=1000)
        progress.started(Started(RunDirectory(Path("runs/[red]run")), config, "device", at_step=0))
        progress.compiling()
        progress.reported(_report(100, (0, 10.0)))
        progress.reported(_report(500))
        progress.evaluated(Evaluated(500, np.array([40.0, 50.0]), 10, np.zeros((2, 10), bool)))
        progress.warned("[bold]something odd")
        progress.evaluating(100)


def test_a_log_has_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    _progress()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "CartPole-v1, preset default, 2 members, device loop: runs/[red]run",
        "compiling (cached on disk for next time) ...",
        "training ...",
        "500 of 1,000 steps, 1,600 steps/s, return 10.0, exploration 25.0%, loss 0.5, greedy 45.0, 0:00 left",
        "warning: [bold]something odd",
        "evaluating on 100 unseen episodes ...",
    ]


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_has_a_live_display_and_colour_if_wanted(no_color: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    _progress()
    shown = terminal.getvalue()
    assert "runs/[red]run" in shown
    assert "[bold]something odd" in shown
    assert "1,600 steps/s" in shown
    assert "greedy 45.0" in shown
    assert bool(COLOUR.search(shown)) is not no_color


def test_a_dumb_terminal_is_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "dumb")
    _progress()
    assert "\x1b" not in terminal.getvalue()


def test_a_notebook_has_one_line_that_is_renewed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    config = make_config("CartPole-v1", seeds=2, steps=1000)
    with Progress(print_episodes=False) as progress:
        progress.started(Started(RunDirectory(Path("run")), config, "device", at_step=0))
        progress.compiling()
        progress.reported(_report(100, (0, 10.0)))
        progress.evaluated(Evaluated(100, np.array([1.0, 2.0]), 3, np.zeros((2, 3), bool)))
        progress.reported(_report(400))
        progress.evaluated(Evaluated(400, np.array([9.0, 9.0]), 3, np.zeros((2, 3), bool)))
        progress.warned("look here")
    out, err = capsys.readouterr()
    assert err == "", "notebooks show stderr on red"
    first, last, rest = out.split("\n")
    assert first.split("\r")[-1] == "CartPole-v1, preset default, 2 members, device loop: run"
    lines = [line.rstrip() for line in last.split("\r")]
    assert lines[1].startswith("compiling")
    told = "training 40%, 400 of 1,000 steps, 1,200 steps/s, return 10.0, exploration 25.0%, loss 0.5, greedy 9.00"
    assert any(line.startswith(told) for line in lines)
    assert lines[-1] == "warning: look here"
    assert rest.strip() == "", "nothing is left of the line"
