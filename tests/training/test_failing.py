"""What stops a run by itself, an agent that diverges or an environment that raises, leaves a whole checkpoint."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qdojo
from qdojo.api import Run
from qdojo.envs.contract import NativeEnvironment, Transition
from qdojo.errors import EnvironmentFailure, QdojoError
from qdojo.runs import checkpoint
from qdojo.runs.directory import list_runs, read_result

SETTINGS: dict[str, Any] = {
    "seeds": 2,
    "num_envs": 2,
    "steps": 800,
    "hidden": (8,),
    "capacity_steps": 200,
    "batch_size": 8,
    "warmup_steps": 40,
    "collect_steps": 4,
    "report_every_steps": 20,
    "eval_every_steps": 800,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
    "checkpoint_every_seconds": 0.0,
}


def train(root: Path, env: Any = "CartPole-v1", **changes: Any) -> Run:
    return qdojo.train(env, root=root, **SETTINGS | changes)


def pays_after(steps: int, reward: float) -> NativeEnvironment:
    """Pays 1 a step, and from some step on something else. It never ends."""

    def reset(noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.int32(0), jnp.zeros(4)

    def step(elapsed: jax.Array, action: jax.Array, noise: jax.Array) -> tuple[jax.Array, Transition]:
        paid = jnp.where(elapsed >= steps, reward, 1.0).astype(jnp.float32)
        return elapsed + 1, Transition(jnp.zeros(4), paid, jnp.asarray(False), jnp.asarray(False))

    return NativeEnvironment("pays", (4,), 2, 1, 50, reset, step)


def assert_diverged(root: Path, match: str, **changes: Any) -> Run:
    with pytest.raises(QdojoError, match=match):
        train(root, **changes)
    (directory,) = list_runs(root)
    result = read_result(directory)
    assert result["status"] == "failed"
    assert "no longer finite" in result["error"]
    arrays = checkpoint.load_latest(directory.checkpoints_path).arrays
    for name, array in arrays.items():
        finite = array.dtype.kind != "f" or "best/score" in name or "tape" in name or np.isfinite(array).all()
        assert finite, f"{name} of the checkpoint that a resume would take is not finite"
    return Run(directory)


def test_an_optimizer_that_overflows_is_noticed_though_the_loss_is_finite(tmp_path: Path) -> None:
    """Adam's second moment becomes inf at gradients of 1e19, and then no step is taken any more."""
    assert_diverged(
        tmp_path,
        r"^optimizer/nu/.* of member [01] is no longer finite at step [\d,]+: the agent diverged; lower learning_rate",
        learning_rate=1e6,
        learning_rate_end=1e6,
        error="mse",
        layer_norm=False,
    )


def test_divergence_stops_the_run_and_its_checkpoint_is_whole(tmp_path: Path) -> None:
    run = assert_diverged(
        tmp_path,
        r"^(loss|q_mean) of member 0 is no longer finite at step [\d,]+: the agent diverged; lower learning_rate "
        r"\(now 1e\+30\) or set max_grad_norm; the last checkpoint is intact\.$",
        learning_rate=1e30,
        learning_rate_end=1e30,
        error="mse",
        layer_norm=False,
    )
    assert run.evaluate(episodes=2).returns.shape == (2, 2)


def test_a_reward_that_is_not_finite_stops_the_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qdojo.build.stepping.native", lambda env_id: pays_after(100, jnp.inf))
    assert_diverged(tmp_path, "no longer finite at step")


class Breaks(gym.Env[np.ndarray, int]):
    """Raises in its 60th step."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.taken = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.taken += 1
        if self.taken == 60:
            raise ValueError("the gripper fell off")
        return np.zeros(4, np.float32), 1.0, self.taken % 7 == 0, False, {}


def test_an_environment_that_raises_stops_the_run_and_its_checkpoint_is_whole(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="the gripper fell off"):
        train(tmp_path, env=Breaks)
    (directory,) = list_runs(tmp_path)
    assert read_result(directory)["status"] == "failed"
    assert checkpoint.load_latest(directory.checkpoints_path).meta["steps"] == 120
