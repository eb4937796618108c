"""Members that differ in settings: how these are given, trained, resumed and told. Not the numbers in the states of
agents: see `test_members.py`."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from probes.killed import Copies

import qdojo
from qdojo.cli import run as command
from qdojo.config import make_config, read_config
from qdojo.errors import UsageError
from qdojo.runs import checkpoint

TINY: dict[str, Any] = {
    "seeds": 2,
    "hidden": (8,),
    "steps": 200,
    "capacity_steps": 100,
    "batch_size": 8,
    "warmup_steps": 20,
    "learning_rate_decay_steps": 200,
    "report_every_steps": 50,
    "eval_every_steps": 100,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
    "checkpoint_every_seconds": 0.0,
}
RATES = [1e-3, 1e-2, 1e-3]
pytestmark = pytest.mark.usefixtures("shared_programs")


def test_lists_make_members_of_every_combination() -> None:
    config = make_config(
        "CartPole-v1", seeds=4, seed=5, learning_rate=[1e-4, 3e-4, 1e-3], discount=np.array([0.9, 0.99])
    )
    assert config.members == 24
    assert config.combinations[0] == {"learning_rate": 1e-4, "discount": 0.9}
    assert config.combinations[1] == {"learning_rate": 1e-4, "discount": 0.99}
    assert config.combinations[-1] == {"learning_rate": 1e-3, "discount": 0.99}
    assert read_config(config.to_toml(), "a file") == config
    single = make_config("CartPole-v1", learning_rate=[1e-4])
    assert (single.learning_rate, single.vary, single.members) == (1e-4, {}, 1)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Copies:
    """Of the run below, at step 100 of 200."""
    return Copies(tmp_path_factory.mktemp("killed"), after_reports=3)


@pytest.fixture(scope="module")
def whole(killed: Copies, tmp_path_factory: pytest.TempPathFactory) -> qdojo.Run:
    root = tmp_path_factory.mktemp("whole")
    return qdojo.train("CartPole-v1", root=root, observers=[killed], **TINY | {"learning_rate": RATES})


def test_each_group_has_the_same_seeds_and_its_own_value(whole: qdojo.Run) -> None:
    assert_grouped(whole)
    assert qdojo.evaluate(whole.path, 3).returns.shape == (6, 3)
    assert whole.policy(5).act(np.zeros(4, np.float32)) in (0, 1)


def test_groups_on_the_host_loop(tmp_path: Path) -> None:
    assert_grouped(qdojo.train("CartPole-v1", root=tmp_path, loop="host", **TINY | {"learning_rate": RATES}))


def assert_grouped(run: qdojo.Run) -> None:
    """Members of the same seed and value are the same; all others are not."""
    assert run.result["members"] == [{"seed": seed, "learning_rate": rate} for rate in RATES for seed in (0, 1)]
    assert len(run.result["eval"]["mean"]) == 6
    arrays = checkpoint.load_latest(run.directory.checkpoints_path).arrays
    np.testing.assert_allclose(arrays["state/agents/hyper/learning_rate_start"], np.repeat(RATES, 2), rtol=1e-6)
    for name, array in arrays.items():
        if name.startswith(("state/agents/params", "state/tally")):
            np.testing.assert_array_equal(array[:2], array[4:], err_msg=name)
    weights = [array for name, array in arrays.items() if name.startswith("state/agents/params")]
    assert any(not np.array_equal(array[:2], array[2:4]) for array in weights)
    assert any(not np.array_equal(array[0], array[1]) for array in weights)


def test_a_run_of_groups_resumes_exactly(whole: qdojo.Run, killed: Copies) -> None:
    resumed = qdojo.resume(killed.path)
    assert resumed.config.vary == {"learning_rate": tuple(RATES)}
    jax.tree.map(np.testing.assert_array_equal, resumed.delivered.params, whole.delivered.params)


def test_by_flags(whole: qdojo.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = {name: value for name, value in TINY.items() if name != "hidden"} | {"hidden": 8}
    given = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    where = ["--runs", str(tmp_path)]
    assert command(["train", "CartPole-v1", *given, *where, "--learning-rate", "1e-3,1e-2,1e-3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, (rate, first) in zip(lines[1:], (("0.001", 0), ("0.01", 2), ("0.001", 4)), strict=True):
        told = rf"  learning_rate={rate}: greedy means .* of members {first} to {first + 1}; interquartile mean"
        assert re.match(told, line)
    assert command(["eval", "last", *where, "--episodes", "2"]) == 0
    assert "  learning_rate=0.01: " in capsys.readouterr().out
    assert command(["show", "last", *where]) == 0
    assert "  learning_rate=0.01: " in capsys.readouterr().out
    assert command(["show", "last", *where, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["result"]
    assert (result["members"], result["eval"]) == (whole.result["members"], whole.result["eval"])


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"learning_rate": []}, "learning_rate is an empty list"),
        ({"steps": [100, 200]}, "Members cannot differ in steps; they may differ in learning_rate"),
        ({"batch_size": [8, 16]}, "Members cannot differ in batch_size"),
        ({"discount": [0.9, 1.5]}, "discount is 1.5"),
        ({"priority_alpha": [0.5, 0.6]}, "priority_alpha is set, but nothing reads it"),
        ({"learning_rate": [1e-3, "fast"]}, "learning_rate"),
    ],
    ids=str,
)
def test_what_cannot_differ_is_refused(fields: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        qdojo.train("CartPole-v1", root=tmp_path, **TINY | fields)
    assert not list(tmp_path.glob("CartPole*"))
