"""Image preprocessing and frame skipping for any environment, and restoring both from what a run stores."""

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from qdojo.build.training import build
from qdojo.config import make_config
from qdojo.envs.describe import described, from_description
from qdojo.envs.pictures import AreaResize, grey
from qdojo.envs.prepare import Preparation
from qdojo.envs.resolve import resolve
from qdojo.errors import UsageError

PIXELS = Preparation(from_pixels=True, grayscale=True, resize=84, frame_skip=2)


class Colours(gym.Env[Any, Any]):
    """An image that gets brighter with each step; five steps with a reward of 1 each."""

    observation_space: gym.Space[Any] = gym.spaces.Box(0, 255, (40, 60, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = 0
        return self.shown(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.at += 1
        return self.shown(), 1.0, self.at == 5, False, {}

    def render(self) -> Any:
        return None

    def shown(self) -> Any:
        return np.full((40, 60, 3), 10 * self.at, np.uint8)


class Window(Colours):
    """A captured window: one channel, which comes first."""

    observation_space = gym.spaces.Box(0, 255, (1, 360, 640), np.uint8)

    def shown(self) -> Any:
        return np.full((1, 360, 640), self.at, np.uint8)


class Stacks(Colours):
    observation_space = gym.spaces.Box(0, 255, (4, 84, 84, 3), np.uint8)

    def shown(self) -> Any:
        return np.zeros((4, 84, 84, 3), np.uint8)


class Bright(Colours):
    observation_space = gym.spaces.Box(0.0, 255.0, (40, 60, 3), np.float32)

    def shown(self) -> Any:
        return np.zeros((40, 60, 3), np.float32)


class Floats(Colours):
    observation_space = gym.spaces.Box(0.0, 1.0, (40, 60, 3), np.float32)


def test_an_environment_is_learned_from_what_it_draws() -> None:
    spec = resolve("CartPole-v1", PIXELS)
    assert (spec.observation_space.shape, spec.native_id, spec.max_episode_steps) == ((84, 84), None, 250)
    env = spec.make()
    frame, _ = env.reset(seed=3)
    plain = gym.make("CartPole-v1", render_mode="rgb_array")
    plain.reset(seed=3)
    np.testing.assert_array_equal(frame, AreaResize(400, 600, 84, 84)(grey(plain.render())))
    frame, reward, *_ = env.step(1)
    plain.step(1)
    plain.step(1)
    assert reward == 2.0
    np.testing.assert_array_equal(frame, AreaResize(400, 600, 84, 84)(grey(plain.render())))
    env.close()
    plain.close()


def test_what_is_stored_makes_it_again() -> None:
    again = from_description(json.loads(json.dumps(described(resolve("CartPole-v1", PIXELS)))))
    env = again.make()
    assert env.reset(seed=0)[0].shape == again.observation_space.shape == (84, 84)
    env.close()


def test_an_action_is_held_until_the_end_and_rewards_are_summed() -> None:
    env = resolve(Colours, Preparation(frame_skip=3, resize=20)).make()
    frame, _ = env.reset(seed=0)
    assert frame.shape == (20, 20, 3)
    first, second = env.step(0), env.step(0)
    assert (first[1], first[2], second[1], second[2]) == (3.0, False, 2.0, True)
    assert (first[0] == 30).all()
    assert (second[0] == 50).all()


def test_shades_of_grey_have_no_third_axis() -> None:
    assert resolve(Colours, Preparation(grayscale=True)).observation_space.shape == (40, 60)


@pytest.mark.parametrize(
    ("env", "preparation", "words"),
    [
        ("CartPole-v1", Preparation(resize=84), "resize is set, but observations of CartPole-v1 are Box"),
        ("CartPole-v1", Preparation(grayscale=True), "or set from_pixels to learn from rendered images"),
        (Floats, Preparation(grayscale=True), "not uint8 images with one or three channels"),
        (Colours, Preparation(from_pixels=True), "from_pixels is set, but render() of"),
        (lambda: gym.make_vec("CartPole-v1", 2), Preparation(frame_skip=2), "is a vector environment"),
    ],
)
def test_what_cannot_be_prepared_is_refused(env: Any, preparation: Preparation, words: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(env, preparation)
    assert words in str(error.value)


def test_channels_may_come_first() -> None:
    spec = resolve(Window, Preparation(resize=84))
    assert spec.observation_space.shape == spec.make().reset(seed=0)[0].shape == (84, 84)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (
            Stacks,
            "a stack of colour images, which no torso can read; let qdojo stack single images (frame_stack=4)",
        ),
        (Bright, "are float32 images of 0 to 255, which the network would not treat as images; return them"),
    ],
)
def test_images_that_would_be_read_as_something_else_are_refused(env: Any, words: str) -> None:
    with pytest.raises(UsageError) as error:
        build(make_config("images", capacity_steps=100), env=env)
    assert words in str(error.value)


def test_images_that_do_not_fit_are_told_of_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qdojo.build.memory.free_bytes", lambda: 10**10)
    with pytest.raises(UsageError) as error:
        build(make_config("window", capacity_steps=100_000), env=Window)
    assert "or less; images of shape (1, 360, 640) would take 0.71 GB with resize=84." in str(error.value)
