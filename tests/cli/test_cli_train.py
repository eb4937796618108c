"""`qdojo train` and `resume`: what they print, how they end, where settings come from."""

import json
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdojo import api
from qdojo.cli import run
from qdojo.config import Config, make_config
from qdojo.errors import UsageError
from qdojo.progress import Progress
from qdojo.runs.directory import RunDirectory, read_result, status


def test_json_has_what_was_promised(trained: dict[str, Any]) -> None:
    assert trained["env"] == "CartPole-v1"
    assert trained["preset"] == "default"
    assert trained["loop"] == "device"
    assert trained["seeds"] == 2
    assert trained["steps"] == 300
    assert trained["updates"] > 0
    seconds = trained["seconds"]
    assert set(seconds) == {"compile", "train", "eval", "total"}
    assert seconds["total"] > seconds["train"] > 0
    evaluation = trained["eval"]
    assert evaluation["episodes"] == 2
    assert len(evaluation["mean"]) == 2
    assert min(evaluation["mean"]) <= evaluation["iqm"] <= max(evaluation["mean"])
    assert trained["solved"] == [False, False]
    assert status(RunDirectory(Path(trained["run"]))) == "finished"


def test_json_and_messages_do_not_mix(trained: dict[str, Any]) -> None:
    out, err = ((Path(trained["run"]).parent / name).read_text() for name in ("printed.json", "said.txt"))
    assert out.count("\n") == 1
    assert "compiling" in err
    assert "\x1b" not in out + err


def test_the_tutorial_prints_a_line_an_episode(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--preset", "tutorial", "--network", "mlp", "--hidden", "8", "--episodes", "7", "--steps", "400"]
    flags += ["--final-eval-episodes", "2", "--eval-every-steps", "none", "--report-every-steps", "400"]
    assert run(["train", "CartPole-v1", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("#")[0] for line in lines[:-1]] == [f"Episode {n}" for n in range(1, 8)]
    assert all(int(line.partition("# Score: ")[2]) >= 8 for line in lines[:-1])
    assert lines[-1].startswith("CartPole-v1 not solved")


def test_ctrl_c_saves_and_says_how_to_go_on_and_the_result_is_told(
    tiny: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reported = Progress.reported

    def interrupt_once(self: Progress, report: Any) -> None:
        reported(self, report)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "reported", interrupt_once)
        assert run(["train", "CartPole-v1", *tiny, "--seeds", "2", "--runs", "런 폴더", "--json"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    words = shlex.split(err.splitlines()[-1])
    assert words[:2] == ["qdojo", "resume"]
    interrupted = RunDirectory(Path(words[2]))
    assert status(interrupted) == "interrupted"

    assert run(words[1:]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("CartPole-v1 solved by 0 of 2 members: greedy means ")
    assert "interquartile mean" in out
    assert f"qdojo watch {shlex.quote(words[2])}" in err
    assert f"qdojo show {shlex.quote(words[2])}" in err
    assert "\x1b" not in out + err
    result = read_result(interrupted)
    assert result is not None
    assert result["steps"] == 300
    assert status(interrupted) == "finished"


def test_ctrl_c_before_there_is_a_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "train", interrupted)
    assert run(["train", "CartPole-v1"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_a_reader_that_leaves_ends_the_episode_lines_and_not_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return False

    from qdojo.training.observers import Started
    from qdojo.types import Episode, Report

    progress = Progress(print_episodes=True)
    progress.started(Started(RunDirectory(Path("run")), make_config("CartPole-v1", "tutorial"), "device", at_step=0))
    monkeypatch.setattr(sys, "stdout", Closed())
    for number in (1, 2):
        episode = Episode(member=0, episode=number, steps=20, score=20.0, length=20)
        progress.reported(Report(20, 0, np.array([20]), [episode], {}, 0.1))


def _settings(monkeypatch: pytest.MonkeyPatch, *tokens: str) -> Config:
    """The config that a command line leads to."""
    seen: list[Config] = []

    def train(env: str, *, preset: str, root: Path, observers: Any, progress: bool, **fields: Any) -> None:
        assert not progress, "the command shows its own"
        seen.append(make_config(env, preset, **fields))
        raise UsageError("seen enough")

    monkeypatch.setattr(api, "train", train)
    assert run(["train", *tokens]) == 2
    return seen[0]


def test_settings_that_were_not_given_are_the_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _settings(monkeypatch, "CartPole-v1") == make_config("CartPole-v1")
    assert _settings(monkeypatch, "CartPole-v1", "--preset", "dqn") == make_config("CartPole-v1", "dqn")


def test_flag_before_variable_before_file_before_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("settings.toml").write_text('env = "Acrobot-v1"\nseed = 3\nbatch_size = 16\nhidden = [5, 6]\n')
    monkeypatch.setenv("QDOJO_SEED", "4")
    monkeypatch.setenv("QDOJO_BATCH_SIZE", "17")
    config = _settings(monkeypatch, "--config", "settings.toml", "--seed", "5", "--no-double")
    assert config == make_config("Acrobot-v1", seed=5, batch_size=17, hidden=(5, 6), double=False)
    monkeypatch.setenv("QDOJO_ENV", "MountainCar-v0")
    assert _settings(monkeypatch, "--config", "settings.toml").env == "MountainCar-v0"
    assert _settings(monkeypatch, "CartPole-v1", "--config", "settings.toml").env == "CartPole-v1"


def test_a_flag_goes_over_the_tables_of_a_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("settings.toml").write_text('env = "Acrobot-v1"\n[replay]\nbatch_size = 16\n[networks]\nhidden = [5, 6]\n')
    config = _settings(monkeypatch, "--config", "settings.toml", "--batch-size", "17")
    assert config == make_config("Acrobot-v1", batch_size=17, hidden=(5, 6))


def test_numbers_that_are_whole_and_none_at_all_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--steps", "2000.0", "--hidden", "8", "9", "--eval-every-steps", "none"]
    expected = make_config("CartPole-v1", steps=2000, hidden=(8, 9), eval_every_steps=None)
    assert _settings(monkeypatch, "CartPole-v1", *flags) == expected
    Path("parts.toml").write_text('observe = ["image"]\n')
    parts = ("CartPole-v1", "--config", "parts.toml")
    assert _settings(monkeypatch, *parts).observe == ("image",)
    assert _settings(monkeypatch, *parts, "--observe", "image", "direction").observe == ("image", "direction")
    assert _settings(monkeypatch, *parts, "--observe", "none").observe is None
    Path("linear.toml").write_text("hidden = []\n")
    assert _settings(monkeypatch, "CartPole-v1", "--config", "linear.toml").hidden == ()


def test_the_config_of_a_run_is_a_config_file(monkeypatch: pytest.MonkeyPatch, trained: dict[str, Any]) -> None:
    path = Path(trained["run"]) / "config.toml"
    assert _settings(monkeypatch, "--config", str(path)) == api.Run(RunDirectory(path.parent)).config


def test_a_window_shows_training_and_not_evaluation(
    tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gymnasium.envs.classic_control.cartpole import CartPoleEnv

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setitem(CartPoleEnv.metadata, "render_fps", 10_000)
    shown: list[Any] = []
    draw = CartPoleEnv.render

    def render(self: CartPoleEnv) -> Any:
        shown.append(self)
        return draw(self)

    monkeypatch.setattr(CartPoleEnv, "render", render)
    assert run(["train", "CartPole-v1", *tiny, "--render", "human", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loop"] == "host"
    assert len(set(map(id, shown))) == 1
    assert len(shown) >= 300


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ((), "screen"),
        (("--loop", "device"), "loop"),
        (("--seeds", "2"), "seeds"),
        (("--vectorization", "async"), "vectorization"),
    ],
)
def test_a_window_that_cannot_be(flags: tuple[str, ...], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "CartPole-v1", "--render", "human", *flags]) == 2
    assert word in capsys.readouterr().err
    assert not Path("runs").exists()
