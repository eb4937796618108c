"""A run that begins with the delivered agent of another."""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import qdojo
from qdojo.errors import UsageError
from qdojo.runs import checkpoint, metrics

TINY: dict[str, Any] = {
    "hidden": (8,),
    "steps": 60,
    "capacity_steps": 64,
    "batch_size": 8,
    "warmup_steps": 20,
    "eval_every_steps": 30,
    "report_every_steps": 20,
    "eval_episodes": 1,
    "final_eval_episodes": 2,
}


class Heard:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warned(self, message: str) -> None:
        self.warnings.append(message)


class Quits:
    """Stops at once, when all is read and nothing compiled."""

    def compiling(self) -> None:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> qdojo.Run:
    return qdojo.train("CartPole-v1", root=tmp_path_factory.mktemp("teacher"), seeds=2, dueling=True, **TINY)


def test_every_member_begins_with_the_best_agent_and_nothing_else(teacher: qdojo.Run, tmp_path: Path) -> None:
    """And the run resumes without the one that it began with."""
    heard = Heard()
    begun_with = Path(shutil.copytree(teacher.path, tmp_path / "teacher"))
    # Nothing is learned: what it delivers is what it began with.
    unlearned = TINY | {"warmup_steps": 1000}
    run = qdojo.train(
        "CartPole-v1", root=tmp_path, weights="teacher", seeds=2, dueling=True, observers=[heard], **unlearned
    )
    best = int(np.argmax(teacher.delivered.score))
    for member in range(2):
        ours, theirs = run.policy(member).params, teacher.policy(best).params
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    (told,) = [warning for warning in heard.warnings if "starts from the weights" in warning]
    assert f"of member {best} of {begun_with}" in told
    for word in ("replay memory is empty", "optimizer is new", "exploration starts at its final value"):
        assert word in told
    epsilon = metrics.metric(run.directory.metrics_path, "epsilon")[0].values
    assert epsilon.tolist() == pytest.approx([run.config.epsilon_end] * len(epsilon))
    shutil.rmtree(begun_with)
    with pytest.raises(KeyboardInterrupt):
        qdojo.resume(run.path, steps=100, observers=[Quits()])


def test_another_network_and_no_run_are_refused(teacher: qdojo.Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^weights is .*whose network has another shape: params/"):
        qdojo.train("CartPole-v1", root=tmp_path, weights=str(teacher.path), **TINY)
    with pytest.raises(UsageError, match="another shape"):
        qdojo.train("CartPole-v1", root=tmp_path, weights=str(teacher.path), dueling=True, **TINY | {"hidden": (9,)})
    with pytest.raises(UsageError, match="nowhere"):
        qdojo.train("CartPole-v1", root=tmp_path, weights="nowhere", **TINY)
    shutil.copytree(teacher.path, tmp_path / "unborn")
    shutil.rmtree(tmp_path / "unborn" / "checkpoints" / "best")
    with pytest.raises(UsageError, match="has delivered no agent"):
        qdojo.train("CartPole-v1", root=tmp_path, weights=str(tmp_path / "unborn"), dueling=True, **TINY)
    assert checkpoint.exists(teacher.directory.checkpoints_path)
    assert len(list(tmp_path.glob("CartPole*"))) == 0
