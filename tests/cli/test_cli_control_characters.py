"""What a run's files hold reaches a terminal as text, never as commands to it."""

import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qdojo.cli import run
from qdojo.cli.output import printable
from qdojo.progress import Progress
from qdojo.training.observers import Started

TITLE = "\x1b]0;owned\x07"
UP = "\x9b2A"
FLIPPED = "\u202e"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_controls_are_spelled_out_and_all_else_stays() -> None:
    assert printable(f"a{TITLE}b{UP}c{FLIPPED}d\rgh\x7f") == r"a\x1b]0;owned\x07b\x9b2Ac\u202ed\rgh\x7f"
    plain = "훈련 결과, 8 · ü\tα\nnext 🙂"
    assert printable(plain) == plain


@pytest.fixture
def hostile(trained: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of a run in whose files and name control characters were put."""
    path = tmp_path / "runs" / f"name{TITLE}"
    shutil.copytree(trained["run"], path)
    toml = path / "config.toml"
    text = toml.read_text().replace('env = "CartPole-v1"', r'env = "Cart\u001b]0;owned\u0007Pole\u009b2A"')
    toml.write_text(text.replace('preset = "default"', r'preset = "de\u001b[8mfault\nx"'))
    result = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps(result | {"error": f"it raised{TITLE}{UP}"}))
    return path


def test_runs_and_show_print_none(hostile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for tokens in (["runs", "--runs", str(hostile.parent)], ["show", str(hostile)], ["resume", str(hostile)]):
        run(tokens)
        out, err = capsys.readouterr()
        assert "owned" in out + err
        assert not {"\x1b", "\x9b", "\x07"} & set(out + err)
    assert run(["runs", "--runs", str(hostile.parent)]) == 0
    _, line = capsys.readouterr().out.splitlines()
    assert r"de\x1b[8mfault\nx" in line
    assert run(["show", str(hostile)]) == 0
    assert r"failed: it raised\x1b]0;owned\x07\x9b2A" in capsys.readouterr().out


def test_progress_prints_none(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    config: Any = SimpleNamespace(env=f"Cart{TITLE}", preset="default", seeds=1, members=1, episodes=None)
    where: Any = SimpleNamespace(path=Path("runs/1"))
    started = Started(where, config, "host", at_step=0)
    with Progress(print_episodes=False) as progress:
        progress.started(started)
        progress.warned(f"it returned {TITLE}")
    shown = screen.getvalue()
    assert TITLE not in shown
    assert r"Cart\x1b]0;owned\x07" in shown
    assert r"it returned \x1b]0;owned\x07" in shown
