"""How the steps and pictures of an environment are prepared for an agent. For Atari games see `atari.py`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from jaxtyping import UInt8

from qdojo.envs.failures import close_quietly
from qdojo.envs.pictures import AreaResize, grey
from qdojo.errors import UsageError


@dataclass(frozen=True)
class Preparation:
    """The settings of a run that change an environment, by the same names; None leaves it as it is."""

    frame_skip: int | None = None
    grayscale: bool | None = None
    resize: int | None = None
    from_pixels: bool = False
    sticky_actions: float | None = None
    noop_max: int | None = None
    terminal_on_life_loss: bool | None = None
    full_action_space: bool | None = None
    max_frames: int | None = None

    @classmethod
    def of(cls, settings: Any) -> "Preparation":
        """Return the preparation that a config asks for."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})

    @classmethod
    def from_json(cls, told: str | None) -> "Preparation":
        """Return the preparation that `to_json` wrote, an empty one for None."""
        return cls() if told is None else cls(**json.loads(told))

    def to_json(self) -> str:
        """Return all that is set, as JSON."""
        return json.dumps(self.settings)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What is set, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None and value is not False}


def prepared(make: Callable[..., Any], name: str, preparation: Preparation, **kwargs: Any) -> gym.Env[Any, Any]:
    """Make an environment, called `name`, and prepare it. Raises UsageError if its observations do not fit."""
    if preparation.from_pixels and kwargs.get("render_mode") is None:
        kwargs["render_mode"] = "rgb_array"
    env = make(**kwargs)
    try:
        return PreparedEnv(env, name, preparation)
    except BaseException:
        close_quietly(env)
        raise


class PreparedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """An environment whose actions are held for `frame_skip` steps, and whose pictures are drawn, grey or resized."""

    def __init__(self, env: Any, name: str, preparation: Preparation) -> None:
        if isinstance(env, VectorEnv):
            setting = next(iter(preparation.settings))
            raise UsageError(f"{setting} is set, but {name} is a ready-made vector; prepare its environments yourself.")
        super().__init__(env)
        self._name, self._skip, self._from_pixels = name, preparation.frame_skip or 1, preparation.from_pixels
        self._grey = bool(preparation.grayscale)
        self._smaller: AreaResize | None = None
        if not (preparation.from_pixels or preparation.grayscale or preparation.resize):
            return
        shape = self._picture_shape(preparation)
        if self._grey and len(shape) == 2:
            self._grey = False
        if preparation.resize:
            self._smaller = AreaResize(shape[0], shape[1], preparation.resize, preparation.resize)
        sides = shape[:2] if preparation.resize is None else (preparation.resize, preparation.resize)
        colours = () if self._grey else shape[2:]
        self.observation_space = gym.spaces.Box(0, 255, (*sides, *colours), np.uint8)

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """That of the environment inside: how it is prepared is stored beside it."""
        return self.env.spec

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._shown(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Hold an action until the frames are skipped or the episode ends; the reward is the sum."""
        total = 0.0
        for _ in range(self._skip):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return self._shown(observation), total, terminated, truncated, info

    def _shown(self, observation: Any) -> Any:
        if self._from_pixels:
            observation = self._drawn()
        if self._grey:
            observation = grey(observation)
        return observation if self._smaller is None else self._smaller(observation)

    def _drawn(self) -> UInt8[np.ndarray, "height width 3"]:
        picture = self.env.render()
        if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3):
            raise UsageError(
                f"from_pixels is set, but render() of {self._name} gives no picture (uint8, height x width x 3)."
            )
        return picture

    def _picture_shape(self, preparation: Preparation) -> tuple[int, ...]:
        if preparation.from_pixels:
            self.env.reset(seed=0)
            return self._drawn().shape
        space = self.env.observation_space
        is_picture = isinstance(space, gym.spaces.Box) and space.dtype == np.uint8
        shape = tuple(space.shape or ())
        if not is_picture or not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
            setting = "grayscale" if preparation.grayscale else "resize"
            raise UsageError(
                f"{setting} is set, but observations of {self._name} are {space}, not pictures of uint8 and shape "
                "[height, width] or [height, width, 3]; leave it out, or set from_pixels to learn from what it draws."
            )
        return shape
