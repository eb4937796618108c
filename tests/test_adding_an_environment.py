"""The environment that `docs/adding.md` shows is written, trained and played as it says."""

import re
from pathlib import Path

import pytest

from qdojo.cli import run

PAGE = Path(__file__).parents[1] / "docs" / "adding.md"


def test_the_environment_in_jax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "corridor =" in block]
    assert len(code.splitlines()) <= 25
    monkeypatch.chdir(tmp_path)
    Path("corridor.py").write_text(code)
    flags = ["--steps", "3000", "--hidden", "16", "--warmup-steps", "200", "--epsilon-decay-steps", "1000"]
    assert run(["train", "corridor:corridor", *flags, "--final-eval-episodes", "20"]) == 0
    out, err = capsys.readouterr()
    assert "device loop" in err
    assert out.startswith("corridor:corridor solved: ")
    assert run(["doctor", "corridor:corridor"]) == 0
    assert "2 actions, masked by info" in capsys.readouterr().out
