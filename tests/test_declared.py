"""What an agent warns of: Q-values that no return can justify, and returns outside its atoms."""

import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import qdojo
from qdojo.agents.learner import Loss
from qdojo.build.declared import checks
from qdojo.config import make_config
from qdojo.envs.resolve import resolve
from qdojo.envs.spaces import check_spaces
from qdojo.loops.state import fresh_tally
from qdojo.types import Report

SPACES = check_spaces(resolve("CartPole-v1"))


class Heard:
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warned(self, message: str) -> None:
        self.warnings.append(message)


TINY: dict[str, Any] = {
    "steps": 600,
    "warmup_steps": 50,
    "hidden": (8,),
    "final_eval_episodes": 2,
    "eval_every_steps": None,
}


def told(q: list[float], reward: float = 1.0, longest: int = 30, **fields: Any) -> list[str]:
    """What the checks say of Q-values, a member each."""
    config = make_config("CartPole-v1", seeds=len(q), **fields)
    zeros = np.zeros(len(q))
    report = Report(5_000, 100, zeros.astype(int), [], {"q_mean": np.array(q), "clipped": zeros}, 1.0)
    tally = fresh_tally(len(q), 1)
    tally = tally._replace(longest=np.full(len(q), longest), largest_reward=np.full(len(q), reward))
    return [said for check in checks(config, SPACES) if (said := check(report, tally))]


def test_values_that_rewards_justify_are_believed() -> None:
    """Rewards of 1 and discount=0.99 are worth 100; twice that may be an overestimate."""
    assert not told([100.0, -199.0])
    (said,) = told([50.0, 201.0], preset="dqn", error="huber")
    assert "the Q-values of member 1 average 201 at step 5,000" in said
    assert "rewards of at most 1 per step justify no more than 100" in said
    for remedy in ("error='mse'", "double=True", "a larger target_sync_updates", "a learning_rate below"):
        assert remedy in said
    assert "error=" not in told([8e6], preset="dqn", error="mse")[0]


@pytest.mark.parametrize(
    ("q", "fields", "is_told"),
    [
        (9.0, {"reward": 0.0}, False),
        (11.0, {"reward": 0.0}, True),
        (59.0, {"discount": 1.0}, False),
        (61.0, {"discount": 1.0}, True),
        (-201.0, {}, True),
        (210.0, {"munchausen": True}, False),
        (19.0, {"reward": 0.0, "prior_scale": 1.0}, False),
    ],
    ids=["untrained", "out of nothing", "undiscounted", "more than the longest", "below", "bonus", "prior"],
)
def test_what_can_be_believed(q: float, fields: dict[str, Any], is_told: bool) -> None:
    assert bool(told([q], **fields)) is is_told


def test_a_run_whose_values_leave_all_bounds_says_so_once(tmp_path: Path) -> None:
    """A loss that pays for high values."""

    def rising(network: Any, rule: Any) -> Loss:
        def of(params: Any, target_params: Any, batch: Any, noise: Any) -> Any:
            q = network.apply(params, batch.obs_tm1)[batch.action_tm1]
            return -q, 1.0 + 0.0 * q, {"q_mean": q}

        return Loss(of)

    heard = Heard()
    qdojo.train("CartPole-v1", loss=rising, root=tmp_path, observers=[heard], learning_rate=0.1, discount=0.9, **TINY)
    assert len([said for said in heard.warnings if "overestimates its returns" in said]) == 1


def paid(factor: float) -> gym.Env[Any, Any]:
    """CartPole with its rewards multiplied."""
    return gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda reward: factor * float(reward))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factor", "fields", "remedy"),
    [
        (1e6, {}, "set value_rescaling=True, or divide the rewards"),
        (1e6, {"distribution": "qrdqn"}, "; divide the rewards"),
        (1e6, {"value_rescaling": True}, None),
        (1.0, {}, None),
    ],
    ids=["large", "quantiles", "rescaled", "usual"],
)
def test_returns_out_of_the_networks_reach_are_told(
    factor: float, fields: dict[str, Any], remedy: str | None, tmp_path: Path
) -> None:
    heard = Heard()
    settings = TINY | {"steps": 2_100, "updates_per_step": 1.0} | fields
    qdojo.train(functools.partial(paid, factor), root=tmp_path, observers=[heard], **settings)
    said = [each for each in heard.warnings if "temporal-difference errors of member 0" in each]
    assert [remedy in each for each in said if remedy] == [True] * (remedy is not None)
    assert len(said) == (remedy is not None)
