"""A small finished run for the tests of the command line, in a folder whose name is Korean and holds a space."""

import json
from pathlib import Path
from typing import Any

import pytest

from qdojo.cli import run

TINY = (
    *("--steps", "300", "--hidden", "8", "--final-eval-episodes", "2", "--eval-every-steps", "none"),
    *("--capacity-steps", "500", "--warmup-steps", "50", "--report-every-steps", "100"),
)
"""Flags of a run that takes no time beside its compilation, which tests with the same flags share."""


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """`TINY`, for tests."""
    return TINY


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test works in a folder of its own, and no setting comes from outside."""
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "NO_COLOR", "FORCE_COLOR", "QDOJO_RUNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `qdojo train --json` printed of two members, with the files of all that it said beside the run; no test may
    write to that run."""
    root = tmp_path_factory.mktemp("훈련 결과")
    printed, said = root / "printed.json", root / "said.txt"
    with pytest.MonkeyPatch.context() as patch, printed.open("w") as stdout, said.open("w") as stderr:
        patch.setattr("sys.stdout", stdout)
        patch.setattr("sys.stderr", stderr)
        assert run(["train", "CartPole-v1", *TINY, "--seeds", "2", "--json", "--runs", str(root)]) == 0
    result: dict[str, Any] = json.loads(printed.read_text())
    return result
