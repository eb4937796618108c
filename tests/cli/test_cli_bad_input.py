"""Bad input: one clear sentence on stderr, the right exit code, and nothing left behind."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdojo.cli import run
from qdojo.runs import checkpoint
from qdojo.runs.directory import list_runs, status

BAD_TRAINING = {
    "no environment": ([], "environment"),
    "unknown environment": (["CartPol-v1"], "did you mean CartPole-v1"),
    "deprecated environment": (["LunarLander-v2"], "LunarLander-v3"),
    "nothing before the colon": ([":x"], "env is ':x', but a colon needs a name on each side"),
    "nothing after the colon": (["math:"], "env is 'math:', but a colon needs a name on each side"),
    "module that is not there": (["nowhere:Env"], "nowhere"),
    "continuous actions": (["Pendulum-v1"], "actor-critic"),
    "observations": (["written:Words"], "observation space Text"),
    "preset": (["CartPole-v1", "--preset", "defalt"], "did you mean default?"),
    "flag": (["CartPole-v1", "--stepz", "3"], "Did you mean --steps?"),
    "field in a file": (["CartPole-v1", "--config", "field.toml"], "did you mean steps"),
    "file that is no TOML": (["CartPole-v1", "--config", "broken.toml"], "broken.toml"),
    "file that is not there": (["CartPole-v1", "--config", "none.toml"], "none.toml"),
    "range": (["CartPole-v1", "--discount", "1.5"], "less than or equal to 1"),
    "not a number": (["CartPole-v1", "--learning-rate", "nan"], "learning_rate"),
    "number in letters": (["CartPole-v1", "--steps", "many"], "--steps"),
    "fraction of a step": (["CartPole-v1", "--steps", "2.5"], '"2.5"'),
    "fraction of a member": (["CartPole-v1", "--seeds", "2.7"], "--seeds"),
    "fraction in a list": (["CartPole-v1", "--hidden", "8", "8.5"], "--hidden"),
    "fraction where none is possible": (["CartPole-v1", "--eval-every-steps", "0.5"], "--eval-every-steps"),
    "list of nothing": (["CartPole-v1", "--hidden"], "--hidden requires at least 1"),
    "choice": (["CartPole-v1", "--loop", "gpu"], '"device"'),
    "settings that do not fit together": (["CartPole-v1", "--batch-size", "64", "--capacity-steps", "9"], "batch_size"),
    "tutorial's agent without its rhythm": (["CartPole-v1", "--agent", "tutorial"], "preset='tutorial'"),
    "one argument too many": (["CartPole-v1", "Acrobot-v1"], "Acrobot-v1"),
    "capacity": (["CartPole-v1", "--capacity-steps", "100000000000"], "GB"),
    "no JAX version": (["FrozenLake-v1", "--loop", "device"], "loop='host'"),
    "network's output": (["CartPole-v1", "--network", "nets:three"], "2 actions"),
    "network that is not there": (["CartPole-v1", "--network", "nets:nothing"], "nothing"),
    "weights that are none": (["CartPole-v1", "--weights", "broken.toml"], "broken.toml"),
    "weights of another shape": (["CartPole-v1", "--preset", "tutorial", "--weights", "other.weights.h5"], "shape"),
    "runs is a file": (["CartPole-v1", "--runs", "broken.toml"], "broken.toml"),
}


@pytest.fixture
def material(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("field.toml").write_text("stepz = 3\n")
    Path("broken.toml").write_text("= = =\n")
    Path("written.py").write_text(
        "import gymnasium as gym\nclass Words(gym.Env):\n"
        "    action_space, observation_space = gym.spaces.Discrete(2), gym.spaces.Text(5)\n"
        "    def __init__(self, render_mode=None): pass\n"
    )
    Path("nets.py").write_text(
        "def three():\n"
        "    import keras\n"
        "    return keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nets", raising=False)


@pytest.mark.parametrize("name", BAD_TRAINING)
@pytest.mark.usefixtures("material")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras, when it saves
def test_training_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    tokens, words = BAD_TRAINING[name]
    if "other.weights.h5" in tokens:
        _write_other_weights()
    before = sorted(Path().iterdir())
    assert run(["train", *tokens, "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1, "one sentence"
    assert "Traceback" not in err
    assert [path for path in sorted(Path().iterdir()) if path.name != "__pycache__"] == before


def test_logged_steps_that_are_not_there_are_missed_before_anything_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("minari", reason="Minari is not installed: pip install 'qdojo[offline]'")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(Path.cwd() / "data"))
    assert run(["train", "CartPole-v1", "--preset", "cql", "--dataset", "minari:nosuch"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    expected = f"There is no minari:nosuch in {Path.cwd() / 'data'}; get it with `minari download nosuch`."
    assert err.splitlines() == [expected]
    assert not Path("runs").exists()


def _write_other_weights() -> None:
    from qdojo.networks.keras import import_keras

    keras = import_keras()
    keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)]).save_weights("other.weights.h5")


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["resume", "nothing"], "holds no runs yet"),
        (["eval", "nothing"], "nothing"),
        (["watch", "nothing"], "nothing"),
        (["show", "nothing"], "nothing"),
        (["export", "nothing", "--to", "a.keras"], "nothing"),
        (["eval"], "RUN"),
        (["frobnicate"], "frobnicate"),
        (["trian"], 'Did you mean "train"?'),
        (["runs", "extra"], "extra"),
        (["eval", "last", "--episodes", "0"], "--episodes"),
        (["eval", "last", "--seed", "-1"], "--seed"),
        (["eval", "last", "--episodes", "2.5"], "--episodes"),
        (["watch", "last", "--member", "0.5"], "--member"),
        (["resume", "last", "--steps", "0"], "--steps"),
        (["presets", "ddqn"], "did you mean dqn"),
        (["doctor", "Nope-v1"], "Nope-v1"),
    ],
)
def test_other_verbs_refuse(tokens: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tokens) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert not list(Path().iterdir())


@pytest.mark.parametrize("verb", [["runs"], ["show", "last"]])
def test_a_folder_of_runs_that_is_a_file(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes.txt").write_text("")
    assert run([*verb, "--runs", "notes.txt"]) == 2
    assert capsys.readouterr().err == "notes.txt is a file, not a folder of runs; name a folder.\n"


def test_a_damaged_run_names_the_file(capsys: pytest.CaptureFixture[str], trained: dict[str, Any]) -> None:
    copy = Path("runs") / "copy"
    shutil.copytree(trained["run"], copy)
    arrays = copy / "checkpoints" / "best" / "arrays.safetensors"
    content = bytearray(arrays.read_bytes())
    content[-1] ^= 1
    arrays.write_bytes(content)
    assert run(["eval", "copy"]) == 2
    err = capsys.readouterr().err
    assert str(arrays) in err
    assert f"`qdojo resume {copy}` writes it again" in err
    assert run(["resume", "copy", "--json"]) == 0
    assert run(["eval", "copy", "--episodes", "1", "--json"]) == 0
    capsys.readouterr()

    (copy / "result.json").write_text('{"status": "finis')
    assert run(["show", "copy"]) == 0
    out, err = capsys.readouterr()
    assert "300 steps" in out
    assert "hidden" in out
    assert str(copy / "result.json") in err
    assert run(["show", "copy", "--json"]) == 0
    assert '"result": null' in capsys.readouterr().out

    (copy / "metrics.sqlite").write_bytes(b"not a database, but long enough to be read as one")
    assert run(["show", "copy"]) == 2
    assert "metrics.sqlite" in capsys.readouterr().err

    (copy / "config.toml").write_text("steps = 'many'\n")
    assert run(["show", "copy"]) == 2
    assert "config.toml" in capsys.readouterr().err
    assert run(["runs"]) == 0
    assert "damaged" in capsys.readouterr().out


def test_an_environment_that_breaks_ends_with_1_and_a_whole_checkpoint(
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("fragile.py").write_text(
        "from gymnasium.envs.classic_control.cartpole import CartPoleEnv\n"
        "class Fragile(CartPoleEnv):\n"
        "    count = 0\n"
        "    def step(self, action):\n"
        "        Fragile.count += 1\n"
        "        if Fragile.count == 150:\n"
        "            raise RuntimeError('the pole broke')\n"
        "        return super().step(action)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert run(["train", "fragile:Fragile", *tiny, "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert "the pole broke" in last
    assert "episode seed" in last
    assert "step" in last
    assert "Traceback" not in err
    broken = list_runs(Path("runs"))[0]
    assert status(broken) == "failed"
    arrays = checkpoint.load_latest(broken.checkpoints_path).arrays
    assert all(np.isfinite(array).all() for name, array in arrays.items() if "params" in name)
