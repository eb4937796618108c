"""The verbs that look at what there is: runs, show, eval, watch, presets, doctor, export."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdojo.cli import run
from qdojo.cli.show import now
from qdojo.config import Config, preset_tables
from qdojo.runs.metrics import Latest
from qdojo.wording import score


def _json(capsys: pytest.CaptureFixture[str], *tokens: str) -> dict[str, Any]:
    assert run([*tokens, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    found: dict[str, Any] = json.loads(out)
    return found


def test_runs_lists_them(capsys: pytest.CaptureFixture[str], trained: dict[str, Any]) -> None:
    root, name = Path(trained["run"]).parent, Path(trained["run"]).name
    rows = _json(capsys, "runs", "--runs", str(root))["runs"]
    assert rows == [
        {
            "run": trained["run"],
            "name": name,
            "env": "CartPole-v1",
            "preset": "default",
            "seeds": 2,
            "status": "finished",
            "steps": 300,
            "iqm": trained["eval"]["iqm"],
            "interval": None,
            "solved": [False, False],
        }
    ]
    assert run(["runs", "--runs", str(root)]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "env", "preset", "status", "steps", "greedy"]
    assert line.split() == [name, "CartPole-v1", "default", "finished", "300", score(trained["eval"]["iqm"])]


def test_no_runs_yet(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "qdojo train" in err
    assert _json(capsys, "runs") == {"runs": []}


def test_the_folder_of_runs_comes_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, trained: dict[str, Any]
) -> None:
    monkeypatch.setenv("QDOJO_RUNS", str(Path(trained["run"]).parent))
    assert len(_json(capsys, "runs")["runs"]) == 1


def test_show_sums_up_the_diagnostics() -> None:
    """Quantiles in one row, and of many actions those taken most often."""
    values = {"loss": [2.0, 4.0], "td_error_p10": [0.5], "td_error_median": [1.0], "td_error_p90": [1500.0]}
    shares = {f"action_share_{n}": [share] for n, share in enumerate([0.25, 0.05, 0.3, 0.1, 0.2, 0.1])}
    rows = now(Latest(10, {name: np.array(value) for name, value in (values | shares).items()}))
    assert rows == [
        ("loss", "3"),
        ("td_error", "1 (0.5 to 1,500)"),
        ("action_share", "2: 30%, 0: 25%, 4: 20%, 3: 10%, others less"),
    ]
    assert now(Latest(10, {"loss": np.array([3.0]), "action_share_0": np.array([1.0])})) == [
        ("loss", "3"),
        ("action_share", "0: 100%"),
    ]


def test_show(capsys: pytest.CaptureFixture[str], trained: dict[str, Any]) -> None:
    shown = _json(capsys, "show", trained["run"])
    assert shown["run"] == trained["run"]
    assert (shown["env"], shown["preset"], shown["status"], shown["steps"]) == (
        "CartPole-v1",
        "default",
        "finished",
        300,
    )
    assert shown["config"]["hidden"] == [8]
    assert len(shown["metrics"]["loss"]) == 2
    assert len(shown["curve"]["steps"]) == len(shown["curve"]["iqm"]) > 0
    assert shown["evaluations"] == []
    assert shown["result"]["eval"] == trained["eval"]

    assert run(["show", trained["run"]]) == 0
    out = capsys.readouterr().out
    assert "hidden" in out
    assert "128 128" in out, "the default is beside what was set"
    assert "delivered: greedy means" in out
    assert "300 steps" in out
    assert "⠀" in out
    assert "\x1b" not in out


def test_eval(capsys: pytest.CaptureFixture[str], trained: dict[str, Any]) -> None:
    found = _json(capsys, "eval", trained["run"], "--episodes", "2")
    assert set(found) == {
        "run",
        "episodes",
        "mean",
        "iqm",
        "interval",
        "returns",
        "cut",
        "bound_steps",
        "human_normalized",
    }
    assert found["human_normalized"] is None, "it is no Atari game"
    assert found["mean"] == trained["eval"]["mean"], "the starts of seed 0 are those of the end of training"
    assert [len(returns) for returns in found["returns"]] == [2, 2]
    assert run(["eval", trained["run"], "--episodes", "2"]) == 0
    assert capsys.readouterr().out.startswith("greedy means ")


def test_watch_records_a_film(capsys: pytest.CaptureFixture[str], trained: dict[str, Any]) -> None:
    assert run(["watch", trained["run"], "--episodes", "1", "--record", "놀이.gif", "--member", "1"]) == 0
    assert capsys.readouterr().out.startswith("episode 1: return ")
    assert Path("놀이.gif").read_bytes().startswith(b"GIF89a")


def test_watch_says_what_is_wrong(capsys: pytest.CaptureFixture[str], trained: dict[str, Any]) -> None:
    assert run(["watch", trained["run"]]) == 2
    assert "--record" in capsys.readouterr().err
    assert run(["watch", trained["run"], "--member", "2"]) == 2
    assert "members 0 to 1" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras, when it saves
def test_export_writes_what_keras_reads(trained: dict[str, Any]) -> None:
    assert run(["export", trained["run"], "--to", "agent.keras", "--member", "1"]) == 0
    from qdojo.networks.keras import import_keras

    assert import_keras().saving.load_model("agent.keras").output_shape == (None, 2)


def test_presets(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {entry["name"]: entry for entry in _json(capsys, "presets")["presets"]}
    assert {"default", "dqn", "tutorial"} <= set(listed)
    assert "CartPole-v1" in listed["default"]["tuned"]
    one = _json(capsys, "presets", "tutorial")
    assert one == listed["tutorial"]
    assert one["settings"]["capacity_steps"] == 2000
    assert run(["presets"]) == 0
    assert "tutorial" in capsys.readouterr().out
    assert run(["presets", "default"]) == 0
    out = capsys.readouterr().out
    assert "CartPole-v1" in out
    assert "begins with" not in out


def test_presets_say_what_they_extend(capsys: pytest.CaptureFixture[str]) -> None:
    """A preset's own settings are listed; those that it begins with are a name away."""
    listed = {entry["name"]: entry for entry in _json(capsys, "presets")["presets"]}
    assert list(listed) == list(preset_tables())
    assert {name: listed[name]["extends"] for name in ("default", "dqn", "double", "c51", "rainbow", "btr")} == {
        "default": None,
        "dqn": None,
        "double": "dqn",
        "c51": "default",
        "rainbow": "c51",
        "btr": "iqn",
    }
    for entry in listed.values():
        assert entry.keys() == {"name", "about", "extends", "settings", "tuned"}
        assert entry["extends"] is None or entry["extends"] in listed
        assert entry["settings"].keys() <= Config.model_fields.keys()
    rainbow = _json(capsys, "presets", "rainbow")
    assert rainbow == listed["rainbow"]
    assert rainbow["settings"]["n_step"] == 3
    assert "distribution" not in rainbow["settings"]
    assert run(["presets"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in listed)
    assert run(["presets", "rainbow"]) == 0
    first, second, *rest = capsys.readouterr().out.splitlines()
    assert first == f"rainbow: {rainbow['about']}"
    assert second == "It extends the settings of c51."
    assert any(line.split() == ["any", "n_step", "3"] for line in rest)


def test_a_preset_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["presets", "rainbaw"]) == 2
    assert "did you mean rainbow" in capsys.readouterr().err


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    healthy = _json(capsys, "doctor", "CartPole-v1")
    assert healthy["healthy"] is True
    assert {check["check"] for check in healthy["checks"]} >= {"resolves", "spaces", "step"}
    assert run(["doctor", "Pendulum-v1", "--json"]) == 1
    ill = json.loads(capsys.readouterr().out)
    assert ill["healthy"] is False
    assert [check["check"] for check in ill["checks"] if not check["ok"]] == ["spaces"]
    assert run(["doctor", "Pendulum-v1"]) == 1
    assert "WRONG" in capsys.readouterr().out
