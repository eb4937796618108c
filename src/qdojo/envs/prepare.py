"""Frame skipping and image preprocessing for any environment. Atari games have their own: see `atari.py`."""

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
    """The settings of a run that change its environment, under the same names; None changes nothing."""

    frame_skip: int | None = None
    max_pooling: bool | None = None
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
        """Return the preparation that a config defines."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})

    @classmethod
    def from_json(cls, told: str | None) -> "Preparation":
        """Return the preparation that `to_json` wrote; None gives an empty one."""
        return cls() if told is None else cls(**json.loads(told))

    def to_json(self) -> str:
        """Return the settings that are set, as JSON."""
        return json.dumps(self.settings)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that are set, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __bool__(self) -> bool:
        """Return whether any setting changes an environment."""
        return any(self.settings.values())


def prepared(make: Callable[..., Any], name: str, preparation: Preparation, **kwargs: Any) -> gym.Env[Any, Any]:
    """Make an environment called `name` and wrap it. Raises UsageError if its observations cannot be prepared."""
    if preparation.from_pixels and kwargs.get("render_mode") is None:
        kwargs["render_mode"] = "rgb_array"
    env = make(**kwargs)
    try:
        return PreparedEnv(env, name, preparation)
    except BaseException:
        close_quietly(env)
        raise


class PreparedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Repeats each action for `frame_skip` steps, and renders, greyscales or resizes the images of an environment."""

    def __init__(self, env: Any, name: str, preparation: Preparation) -> None:
        if isinstance(env, VectorEnv):
            setting = next(name for name, value in preparation.settings.items() if value)
            raise UsageError(f"{setting} is set, but {name} is a vector environment; wrap its environments yourself.")
        super().__init__(env)
        self._name, self._skip, self._from_pixels = name, preparation.frame_skip or 1, preparation.from_pixels
        self._grey = bool(preparation.grayscale)
        self._smaller: AreaResize | None = None
        self._first = self._flat = False
        if not (preparation.from_pixels or preparation.grayscale or preparation.resize):
            return
        shape = self._picture_shape(preparation)
        self._first = len(shape) == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3)
        shape = (*shape[1:], shape[0]) if self._first else shape
        self._flat = len(shape) == 3 and shape[2] == 1
        shape = shape[:2] if self._flat else shape
        self._grey = self._grey and len(shape) == 3
        if preparation.resize:
            self._smaller = AreaResize(shape[0], shape[1], preparation.resize, preparation.resize)
        sides = shape[:2] if preparation.resize is None else (preparation.resize, preparation.resize)
        colours = () if self._grey else shape[2:]
        self.observation_space = gym.spaces.Box(0, 255, (*sides, *colours), np.uint8)

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """The wrapped environment's spec; the preparation is stored separately."""
        return self.env.spec

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._shown(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Repeat an action for `frame_skip` steps or until the episode ends; the rewards are summed."""
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
        if self._first:
            observation = np.moveaxis(observation, 0, -1)
        if self._flat:
            observation = observation[..., 0]
        if self._grey:
            observation = grey(observation)
        return observation if self._smaller is None else self._smaller(observation)

    def _drawn(self) -> UInt8[np.ndarray, "height width 3"]:
        picture = self.env.render()
        if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3):
            raise UsageError(
                f"from_pixels is set, but render() of {self._name} does not return a uint8 image [height, width, 3]."
            )
        return picture

    def _picture_shape(self, preparation: Preparation) -> tuple[int, ...]:
        if preparation.from_pixels:
            self.env.reset(seed=0)
            return self._drawn().shape
        space = self.env.observation_space
        is_picture = isinstance(space, gym.spaces.Box) and space.dtype == np.uint8
        shape = tuple(space.shape or ())
        if not is_picture or not (len(shape) == 2 or (len(shape) == 3 and {shape[0], shape[2]} & {1, 3})):
            setting = "grayscale" if preparation.grayscale else "resize"
            raise UsageError(
                f"{setting} is set, but observations of {self._name} are {space}, not uint8 images with one or three "
                "channels; leave it out, or set from_pixels to learn from rendered images."
            )
        return shape
