"""Epsilon-greedy evaluations: how many actions are random, which ones, and which seed they derive from."""

from typing import Any

import gymnasium as gym
import numpy as np

from qdojo.build.stepping import vector_opener
from qdojo.config import make_config
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.resolve import resolve
from qdojo.envs.spaces import check_spaces
from qdojo.envs.straying import StrayingVector, straying


class Echo(gym.Env[Any, Any]):
    """Pays the action that was taken; of five, only 1 and 3 are legal."""

    observation_space = gym.spaces.Box(0, 9, (1,), np.float32)
    action_space = gym.spaces.Discrete(5)
    info = {"action_mask": np.array([0, 1, 0, 1, 0], np.int8)}  # noqa: RUF012

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), dict(self.info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), float(action), False, False, dict(self.info)


def paid(seeds: list[int], epsilon: float) -> np.ndarray:
    """[300, member * 2]: what is paid where action 1 is always chosen."""
    spec = resolve(Echo)
    vector = StrayingVector(HostEnvironment(spec, seeds, 2), epsilon, seeds)
    vector.reset()
    return np.stack([vector.step(np.full(2 * len(seeds), 1)).reward for _ in range(300)])


def test_so_many_actions_are_random_and_all_are_legal() -> None:
    found = paid([4], 0.2)
    assert set(np.unique(found)) == {1.0, 3.0}
    # Half of the random actions are the chosen one.
    assert abs((found == 3.0).mean() - 0.1) < 0.03
    assert (paid([4], 0.0) == 1.0).all()


def test_a_member_strays_the_same_whatever_is_beside_it() -> None:
    np.testing.assert_array_equal(paid([4], 0.2), paid([7, 4], 0.2)[:, 2:])


def test_evaluations_stray_and_training_does_not() -> None:
    spec = resolve("CartPole-v1")
    opened = vector_opener(make_config("CartPole-v1", loop="host", eval_epsilon=0.1, seed=5), spec, check_spaces(spec))
    training, evaluation = opened([5], 1), opened([123], 1)
    assert isinstance(training, HostEnvironment)
    assert isinstance(evaluation, StrayingVector)
    training.close()
    evaluation.close()


def test_a_watched_agent_strays_as_often() -> None:
    seen: list[int] = []
    act = straying(lambda shown: seen.append(1) or 1, np.array([False, True, False, True, False]), 0.2, seed=0)
    found = np.array([act(np.zeros(1, np.float32)) for _ in range(4_000)])
    assert set(found) == {1, 3}
    assert abs((found == 3).mean() - 0.1) < 0.015
    assert len(seen) == 4_000
    assert straying(seen.append, np.ones(2, bool), 0.0, seed=0) == seen.append
