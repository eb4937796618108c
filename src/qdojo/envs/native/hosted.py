"""Wraps a JAX environment as a Gymnasium environment, for `watch`, `doctor` and the host loop."""

import functools
from typing import Any

import gymnasium as gym
import jax
import numpy as np
from jaxtyping import UInt8

from qdojo.envs.contract import NativeEnvironment
from qdojo.envs.native.own import adapted
from qdojo.envs.spaces import MASK
from qdojo.errors import UsageError


def observation_space(env: NativeEnvironment) -> gym.spaces.Box:
    """Return the environment's observation space, without the mask."""
    dtype = np.dtype(env.observation_dtype)
    low: float = 0 if dtype == np.uint8 else -np.inf if dtype.kind == "f" else np.iinfo(dtype).min
    high: float = env.observation_high if dtype == np.uint8 else np.inf if dtype.kind == "f" else np.iinfo(dtype).max
    return gym.spaces.Box(low, high, env.observation_shape, dtype.type)


class Hosting:
    """Factory for copies of a user's environment that share their compiled programs.

    It pickles as the user's own functions, which workers import.
    """

    def __init__(self, env: NativeEnvironment, name: str) -> None:
        self._env, self._name = env, name

    def __call__(self, render_mode: str | None = None) -> "HostedNative":
        return HostedNative(self._adapted, render_mode)

    def __reduce__(self) -> tuple[type["Hosting"], tuple[NativeEnvironment, str]]:
        return Hosting, (self._env, self._name)

    @functools.cached_property
    def _adapted(self) -> NativeEnvironment:
        # `jax.jit` compiles a function object once, so all copies must share the same one.
        return adapted(self._env, self._name)


class HostedNative(gym.Env[Any, Any]):
    """One copy, stepped from Python. Its mask is in `info["action_mask"]`; it renders if it has `env.render`."""

    def __init__(self, env: NativeEnvironment, render_mode: str | None = None) -> None:
        """Raises UsageError for a render mode that the environment does not have."""
        if render_mode == "human":
            raise UsageError(f"{env.name} cannot open a window; record a film instead: --record play.mp4")
        if render_mode is not None and env.render is None:
            raise UsageError(f"{env.name} cannot be rendered; give its NativeEnvironment a `render`")
        self.native, self.render_mode = env, render_mode
        self.metadata = {"render_modes": [] if env.render is None else ["rgb_array"]}
        self.observation_space = observation_space(env)
        self.action_space = gym.spaces.Discrete(env.num_actions)
        self._reset, self._step = jax.jit(env.reset), jax.jit(env.step)
        self._render = None if env.render is None else jax.jit(env.render)
        self._state: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self._state, observation = self._reset(self._words())
        return self._shown(observation)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        self._state, moved = self._step(self._state, np.int32(action), self._words())
        observation, info = self._shown(moved.observation)
        return observation, float(moved.reward), bool(moved.terminated), bool(moved.truncated), info

    def render(self) -> UInt8[np.ndarray, "height width 3"] | None:
        """Return the state as an RGB image; None if no render mode was requested."""
        if self._render is None or self.render_mode is None:
            return None
        return np.asarray(self._render(self._state))

    def _words(self) -> Any:
        return self.np_random.integers(2**32, size=self.native.noise_words, dtype=np.uint32)

    def _shown(self, observation: Any) -> tuple[np.ndarray, dict[str, Any]]:
        if not self.native.masked:
            return np.asarray(observation).astype(self.observation_space.dtype), {}
        shown, mask = observation
        return np.asarray(shown).astype(self.observation_space.dtype), {MASK: np.asarray(mask)}
