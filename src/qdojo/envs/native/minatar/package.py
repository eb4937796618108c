"""The package `minatar` as an environment for the host loop, if it is installed. `game.py` has our own version."""

import importlib
import importlib.util
import logging
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs import registration
from jaxtyping import UInt8

from qdojo.envs.native.minatar import MINATAR


def register_package() -> None:
    """Register the ids of the package in Gymnasium, which does not do so by itself."""
    if MINATAR.keys() <= registration.registry.keys() or importlib.util.find_spec("minatar") is None:
        return
    # Without seaborn, the package warns through the root logger at its import; what needs seaborn is not used here.
    handlers, level = logging.root.handlers[:], logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        importlib.import_module("minatar.gym").register_envs()
    finally:
        logging.disable(level)
        logging.root.handlers[:] = handlers


class AsImages(gym.ObservationWrapper[Any, Any, Any]):
    """The package's environment with uint8 observations, which networks treat as images, drawn as our own is."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(0, 1, env.observation_space.shape, np.uint8)
        self._last: Any = None

    def observation(self, observation: Any) -> UInt8[np.ndarray, "10 10 channels"]:
        self._last = np.asarray(observation, np.uint8)
        return self._last

    def render(self) -> Any:
        """Return the observation as an RGB image, or what the package returns in its other modes."""
        if self.render_mode != "rgb_array":
            return super().render()
        import jax.numpy as jnp

        from qdojo.envs.native.minatar.drawing import drawn

        return np.asarray(drawn(jnp.asarray(self._last)))
