"""Checks the result of a reset or a step against the environment's spaces, as strictly as Gymnasium does. Training is
more lenient: see `encoders.py`."""

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from qdojo.envs.copies import one_number


def wrong_step(result: Any, space: gym.Space[Any]) -> str:
    """Return what is wrong with a step's return value and how to fix it; empty if nothing is wrong."""
    if not isinstance(result, tuple) or len(result) != 5:
        return f"it returned {kind(result)}; return (observation, reward, terminated, truncated, info)."
    observation, reward, terminated, truncated, info = result
    try:
        finite = math.isfinite(one_number(reward)) and np.ndim(reward) == 0
    except (TypeError, ValueError):
        finite = False
    if not finite:
        return f"the reward is {' '.join(repr(reward).split())}; return one finite float."
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, bool | np.bool_):
            return f"{name} is {flag!r} of type {type(flag).__name__}; return bool({name})."
    if not isinstance(info, dict):
        return f"info is a {type(info).__name__}; return a dict."
    return wrong_observation(observation, space)


def wrong_observation(observation: Any, space: gym.Space[Any]) -> str:
    """Return what is wrong with an observation and how to fix it; empty if nothing is wrong."""
    if isinstance(space, gym.spaces.Box):
        return _wrong_array(observation, space)
    if isinstance(space, gym.spaces.Dict) and isinstance(observation, Mapping) and observation.keys() == space.keys():
        found = ((key, wrong_observation(observation[key], part)) for key, part in space.items())
        return next((f"in part {key!r}, {wrong}" for key, wrong in found if wrong), "")
    if observation not in space:
        shown = " ".join(repr(observation).split())
        return f"the observation {shown} is outside {space}; fix whichever of the two is wrong."
    return ""


def _wrong_array(observation: Any, space: gym.spaces.Box) -> str:
    if not isinstance(observation, np.ndarray | np.generic):
        return f"the observation is a {type(observation).__name__}; return np.asarray(..., dtype=np.{space.dtype})."
    observation = np.asarray(observation)
    if observation.shape != space.shape:
        return f"the observation has shape {observation.shape}, but its space has {space.shape}; make them equal."
    if not np.can_cast(observation.dtype, space.dtype):
        return f"the observation is {observation.dtype}, but its space {space.dtype}; return .astype(np.{space.dtype})."
    if not np.isfinite(observation).all():
        return "the observation holds NaN or inf; find the division or overflow that causes it, or clip it."
    below, above = observation < space.low, observation > space.high
    if (below | above).any():
        index = tuple(int(i) for i in np.argwhere(below | above)[0])
        value, low, high = observation[index], space.low[index], space.high[index]
        return f"observation{list(index)} is {value:g}, outside its space's {low:g} .. {high:g}; widen the Box or clip."
    return ""


def kind(result: Any) -> str:
    """Describe the type of a return value in a few words."""
    if isinstance(result, tuple):
        return f"a tuple of {len(result)}"
    return f"a {type(result).__name__}"
