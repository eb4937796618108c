"""A trained agent plays from the data beside its weights: without its environment, its objects of Python, or the memory
that its training took."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import qdojo
from qdojo.errors import DamagedFile, UsageError
from qdojo.networks.keras import import_keras
from qdojo.runs import checkpoint
from qdojo.runs.directory import find
from qdojo.watch import watch

TINY: dict[str, Any] = {
    "steps": 60,
    "capacity_steps": 64,
    "batch_size": 8,
    "warmup_steps": 20,
    "eval_every_steps": 60,
    "eval_episodes": 1,
    "final_eval_episodes": 2,
}
SCRIPT = """
import sys
import gymnasium as gym, keras, numpy as np
import qdojo

def make(**kwargs):
    return gym.wrappers.TimeLimit(gym.make("CartPole-v1", **kwargs), 30)

if __name__ == "__main__":
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)])
    run = qdojo.train(make, network=model, root=sys.argv[1], steps=60, capacity_steps=64, batch_size=8,
                      warmup_steps=20, eval_every_steps=60, eval_episodes=1, final_eval_episodes=2)
    policy = run.policy()
    print(run.path, *policy.q_values(np.array([0.1, 0.2, 0.3, 0.4], np.float32)), *run.evaluate(5).returns[0], sep=";")
"""


@pytest.mark.slow
def test_a_run_of_python_objects_plays_in_another_process_without_them(tmp_path: Path) -> None:
    """A script's own function and Keras model, which no other process can import."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = {"KERAS_BACKEND": "jax", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    environment["XLA_FLAGS"] = os.environ["XLA_FLAGS"]
    ran = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment | {"PYTHONPATH": ":".join(sys.path)},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    path, *numbers = ran.stdout.strip().splitlines()[-1].split(";")
    q, returns = np.array(numbers[:2], float), np.array(numbers[2:], float)
    assert qdojo.Run(find(tmp_path, path)).config.network == "keras"
    policy = qdojo.load(path)
    np.testing.assert_allclose(policy.q_values(np.array([0.1, 0.2, 0.3, 0.4], np.float32)), q, rtol=1e-5)
    np.testing.assert_array_equal(qdojo.evaluate(path, 5).returns[0], returns)
    assert returns.max() <= 30, "the wrapper of the script is there"
    run = qdojo.Run(find(tmp_path, path))
    exported = run.keras_model()
    np.testing.assert_allclose(exported(np.array([[0.1, 0.2, 0.3, 0.4]], np.float32))[0], q, rtol=1e-5)
    again = qdojo.resume(path, env=lambda: gym.wrappers.TimeLimit(gym.make("CartPole-v1"), 30), steps=80)
    assert again.result["steps"] >= 80
    assert again.keras_model().count_params() == exported.count_params()


class Drawn(gym.Env[np.ndarray, int]):
    """Of this test alone; it counts how often it is built."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1.0, np.array([1.0, np.inf], np.float32), (2,), np.float32)
    action_space = gym.spaces.Discrete(3, start=1)
    built = 0

    def __init__(self, render_mode: str | None = None) -> None:
        type(self).built += 1
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.full(2, self.steps / 10, np.float32), float(action), self.steps == 5, False, {}

    def render(self) -> np.ndarray:
        return np.zeros((16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> qdojo.Run:
    root = tmp_path_factory.mktemp("drawn")
    return qdojo.train(Drawn, root=root, hidden=(8,), **TINY | {"capacity_steps": 2_000_000})


def test_nothing_is_built_to_load_and_nothing_of_training_is_asked_for(
    drawn: qdojo.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run whose replay memory took nearly all there is, on a machine with 10 MB free."""
    monkeypatch.setattr("qdojo.build.memory.free_bytes", lambda: 10_000_000)
    monkeypatch.setattr(Drawn, "built", 0)
    policy = qdojo.load(drawn.path)
    assert policy.act(np.zeros(2, np.float32)) in (1, 2, 3)
    opened = qdojo.Run(drawn.directory)
    assert opened.keras_model().count_params() > 0
    assert Drawn.built == 0
    assert qdojo.evaluate(drawn.path, episodes=3).returns.shape == (1, 3)
    film = tmp_path / "film.gif"
    shown = watch(opened.opened.spec, opened.opened.spaces, policy.reset, policy.choose, 1, 0, film)
    assert len(shown) == 1
    assert film.stat().st_size > 0
    with pytest.raises(UsageError, match="capacity_steps=2,000,000"):
        qdojo.resume(drawn.path, steps=100)


def test_objects_that_are_no_data_have_to_be_given_again(tmp_path: Path) -> None:
    """A lambda, whose environment has no spec; and a Keras model with a class of its own."""
    keras = import_keras()

    class Own(keras.layers.Layer):  # type: ignore[name-defined, misc]
        def call(self, x: Any) -> Any:
            return x * 2.0

    model = keras.Sequential([keras.Input((2,)), Own(), keras.layers.Dense(3)])
    env = lambda **kwargs: Drawn(**kwargs)  # noqa: E731
    run = qdojo.train(env, network=model, root=tmp_path, **TINY)
    with pytest.raises(UsageError, match=r"given in Python; pass it again, as network=\.$"):
        qdojo.load(run.path)
    assert qdojo.load(run.path, network=model).q_values(np.zeros(2, np.float32)).shape == (3,)
    with pytest.raises(UsageError, match=r"pass it as env=\.$"):
        qdojo.evaluate(run.path, 2, network=model)
    assert qdojo.evaluate(run.path, 2, env=env, network=model).returns.shape == (1, 2)
    with pytest.raises(UsageError, match=r"env is .*, whose action space is .*pass the environment that it"):
        qdojo.evaluate(run.path, 2, env=lambda: gym.make("Acrobot-v1"), network=model)
    with pytest.raises(UsageError, match=r"given in Python; pass it again"):
        qdojo.resume(run.path, env=env, steps=80)
    assert qdojo.resume(run.path, env=env, network=model, steps=80).result["steps"] >= 80


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 99}, "not of format 1"),
        ({"environment": None}, "not of format 1"),
        ({"environment": {"name": "CartPole-v1"}}, "description of the environment cannot be read"),
        ({"keras_model": '{"class_name": "Lambda"}'}, "Keras model cannot be read"),
    ],
    ids=["format", "no environment", "no spaces", "another model"],
)
def test_a_description_that_is_none_is_a_sentence(
    change: dict[str, Any], told: str, drawn: qdojo.Run, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(drawn.path, tmp_path / drawn.path.name))
    run = qdojo.Run(find(tmp_path, str(path)))
    arrays, meta = checkpoint.load(run.directory.best_path)
    checkpoint.save(run.directory.checkpoints_path, "best", arrays, meta | {"player": meta["player"] | change})
    with pytest.raises((DamagedFile, UsageError), match=told):
        qdojo.load(run.path)


def test_the_description_is_plain_json(drawn: qdojo.Run) -> None:
    """Whoever reads it without Python has numbers that JSON knows."""
    text = (drawn.directory.best_path / "meta.json").read_text(encoding="utf-8")
    data = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    space = data["player"]["environment"]["observation_space"]
    assert space == {"kind": "Box", "shape": [2], "dtype": "float32", "low": -1.0, "high": [1.0, "inf"]}
