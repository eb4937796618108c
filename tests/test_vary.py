"""Members that differ in settings: how these are given, trained, resumed and told. Not the numbers in the states of
agents: see `test_members.py`."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import qdojo
from qdojo.cli import run as command
from qdojo.config import make_config, read_config
from qdojo.errors import UsageError

TINY: dict[str, Any] = {
    "hidden": (8,),
    "steps": 200,
    "capacity_steps": 100,
    "batch_size": 8,
    "warmup_steps": 20,
    "report_every_steps": 100,
    "eval_every_steps": 100,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
}
FLAGS = [
    *("--hidden", "8", "--steps", "200", "--capacity-steps", "100", "--batch-size", "8", "--warmup-steps", "20"),
    *("--eval-every-steps", "100", "--eval-episodes", "2", "--final-eval-episodes", "2"),
]


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


@pytest.mark.parametrize("loop", ["device", "host"])
def test_each_group_has_the_same_seeds_and_its_own_value(loop: str, tmp_path: Path) -> None:
    """Where nothing is learned yet, members of the same seed are the same; afterwards only those of one value are."""
    rates = [1e-3, 1e-2, 1e-3]
    run = qdojo.train("CartPole-v1", root=tmp_path, loop=loop, seeds=2, learning_rate=rates, **TINY)
    assert run.result["members"] == [{"seed": seed, "learning_rate": rate} for rate in rates for seed in (0, 1)]
    assert len(run.result["eval"]["mean"]) == 6
    from qdojo.runs import checkpoint

    arrays = checkpoint.load_latest(run.directory.checkpoints_path).arrays
    np.testing.assert_allclose(arrays["state/agents/hyper/learning_rate_start"], np.repeat(rates, 2), rtol=1e-6)
    for name, array in arrays.items():
        if name.startswith(("state/agents/params", "state/tally")):
            np.testing.assert_array_equal(array[:2], array[4:], err_msg=name)
    weights = [array for name, array in arrays.items() if name.startswith("state/agents/params")]
    assert any(not np.array_equal(array[:2], array[2:4]) for array in weights)
    assert any(not np.array_equal(array[0], array[1]) for array in weights)
    assert qdojo.evaluate(run.path, 3).returns.shape == (6, 3)
    assert run.policy(5).act(np.zeros(4, np.float32)) in (0, 1)


def test_a_run_of_groups_resumes_exactly(tmp_path: Path) -> None:
    fields = TINY | {"seeds": 2, "learning_rate": [1e-3, 1e-2], "learning_rate_decay_steps": 200}
    whole = qdojo.train("CartPole-v1", root=tmp_path / "whole", **fields)
    short = qdojo.train("CartPole-v1", root=tmp_path / "short", **fields | {"steps": 100})
    assert short.config.vary == {"learning_rate": (1e-3, 1e-2)}
    resumed = qdojo.resume(short.path, steps=200)
    jax.tree.map(np.testing.assert_array_equal, resumed.delivered.params, whole.delivered.params)


def test_by_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--runs", str(tmp_path), "--seeds", "2"]
    assert command(["train", "CartPole-v1", *FLAGS, *where, "--learning-rate", "1e-3,1e-2"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert re.match(r"  learning_rate=0\.001: greedy means .* of members 0 to 1; interquartile mean", lines[1])
    assert re.match(r"  learning_rate=0\.01: greedy means .* of members 2 to 3; interquartile mean", lines[2])
    assert command(["eval", "last", "--runs", str(tmp_path), "--episodes", "2"]) == 0
    assert "  learning_rate=0.01: " in capsys.readouterr().out
    assert command(["show", "last", "--runs", str(tmp_path)]) == 0
    assert "  learning_rate=0.01: " in capsys.readouterr().out
    assert command(["train", "CartPole-v1", *FLAGS, *where, "--epsilon-end", "0.05,0.1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [own["epsilon_end"] for own in result["members"]] == [0.05, 0.05, 0.1, 0.1]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"learning_rate": []}, "learning_rate is an empty list"),
        ({"steps": [100, 200]}, "Members cannot differ in steps; they may in learning_rate"),
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
