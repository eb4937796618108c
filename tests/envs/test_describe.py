"""Spaces and environments as data, and back."""

import functools
import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from qdojo.envs.describe import described, from_description, space_from_data, space_to_data
from qdojo.envs.resolve import resolve
from qdojo.envs.spaces import check_spaces
from qdojo.errors import UsageError

SPACES: list[spaces.Space[Any]] = [
    spaces.Box(-np.inf, np.inf, (3, 2), np.float32),
    spaces.Box(np.array([-1.0, -np.inf]), np.array([0.1, 7.5]), dtype=np.float64),
    spaces.Box(0, 255, (4, 4, 3), np.uint8),
    spaces.Box(-(2**63), 2**63 - 1, (2,), np.int64),
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([3, 2], start=[1, 0]),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Tuple((spaces.MultiBinary(2), spaces.Discrete(3)))}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_comes_back_as_it_was(space: spaces.Space[Any]) -> None:
    data = json.loads(json.dumps(space_to_data(space), allow_nan=False))
    found = space_from_data(data)
    assert found == space
    assert found.dtype == space.dtype
    if isinstance(space, spaces.Dict) and isinstance(found, spaces.Dict):
        assert list(found.spaces) == list(space.spaces), "the order of its keys is the order of its numbers"


def test_the_bounds_of_a_large_picture_are_two_numbers() -> None:
    high = np.full((200, 200), 255, np.uint8)
    high[0, 0] = 7
    data = space_to_data(spaces.Box(np.zeros_like(high), high, dtype=np.uint8))
    assert (data["low"], data["high"]) == (0, 255)


def test_a_space_that_is_not_played_is_named() -> None:
    assert space_to_data(spaces.Text(4)) == {"kind": "Text"}
    assert isinstance(space_from_data({"kind": "Text"}), spaces.Space)


def test_an_environment_comes_back_without_being_built(monkeypatch: pytest.MonkeyPatch) -> None:
    data = json.loads(json.dumps(described(resolve("CartPole-v1")), allow_nan=False))
    with monkeypatch.context() as patch:
        patch.setattr(gym, "make", lambda *_, **__: pytest.fail("it was built"))
        found = from_description(data)
        assert check_spaces(found).observation_shape == (4,)
    assert (found.name, found.native_id, found.max_episode_steps) == ("CartPole-v1", "CartPole-v1", 500)
    assert found.reward_threshold == 475.0
    env = found.make(render_mode="rgb_array")
    assert env.render_mode == "rgb_array"
    env.close()


def test_a_callables_environment_is_made_again_from_its_spec() -> None:
    spec = resolve(lambda **kwargs: gym.wrappers.TimeLimit(gym.make("Acrobot-v1", **kwargs), 7))
    env = from_description(described(spec)).make()
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(7)] == [False] * 6 + [True]
    env.close()


def test_what_cannot_be_made_again_is_asked_for() -> None:
    class Local(gym.Env[np.ndarray, int]):
        observation_space = spaces.Box(0.0, 1.0, (1,))
        action_space = spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros(1, np.float32), {}

    data = described(resolve(Local))
    with pytest.raises(UsageError, match=r"\(it was given in Python\); pass it as env=\.$"):
        from_description(data).make()
    assert isinstance(from_description(data, Local).make(), Local)


class Sized(gym.Env[np.ndarray, int]):
    action_space = spaces.Discrete(2)

    def __init__(self, size: int = 1) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (size,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(self.observation_space.shape, np.float32), {}


def test_a_partial_is_named_after_its_function_and_never_made_again_without_its_arguments() -> None:
    make = functools.partial(Sized, size=3)
    spec = resolve(make)
    assert spec.name == f"{__name__}:Sized (as it was given)"
    data = described(spec)
    with pytest.raises(UsageError, match=r"^\S+:Sized was given as an object .* pass it as env=\.$") as raised:
        from_description(data).make()
    assert str(raised.value).count("env=") == 1
    assert from_description(data, make).make().observation_space.shape == (3,)
