"""`qdojo.train` of an environment that was made already, and what users of other libraries write."""

import sys
from pathlib import Path
from subprocess import run as run_process

import gymnasium as gym
import numpy as np
import pytest

import qdojo
from qdojo.errors import UsageError

TINY = {"steps": 400, "warmup_steps": 64, "hidden": [8], "eval_every_steps": None, "final_eval_episodes": 2}


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> qdojo.Run:
    """A run on a vector of two environments whose episodes last five steps."""
    root = tmp_path_factory.mktemp("runs")
    envs = gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync", max_episode_steps=5)
    return qdojo.train(envs, root=root, **TINY)  # type: ignore[arg-type]


def test_a_vector_is_trained_with_its_copies_and_its_limit(short: qdojo.Run) -> None:
    assert short.config.num_envs == 2
    assert short.evaluate(3).returns.max() == 5


def test_another_process_plays_and_resumes_it(short: qdojo.Run) -> None:
    program = (
        "import sys, qdojo; run = sys.argv[1]; print(qdojo.evaluate(run, 2).returns.max(),"
        "qdojo.resume(run, steps=600).result['steps'])"
    )
    done = run_process([sys.executable, "-c", program, str(short.path)], capture_output=True, text=True, check=True)
    best, steps = done.stdout.split()
    assert float(best) == 5.0
    assert int(steps) >= 600


def test_a_registered_environment_trains_where_its_id_does(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = qdojo.train(gym.make("CartPole-v1"), root=tmp_path, progress=False, **TINY)  # type: ignore[arg-type]
    assert capfd.readouterr() == ("", "")
    assert run.config.env == "CartPole-v1"
    assert run.result["loop"] == "device"
    assert np.asarray(qdojo.load(run.path).act(np.zeros(4, np.float32))) in (0, 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("MlpPolicy", "CartPole-v1"), r"'MlpPolicy' is a policy; leave it out, as in qdojo.train\('CartPole-v1'\)"),
        (("CartPole-v1", 50_000), "pass 50000 by name"),
    ],
)
def test_habits_of_other_libraries_are_one_sentence(arguments: tuple, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        qdojo.train(*arguments)
