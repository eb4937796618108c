"""Rejects images that the network would misread, and suggests smaller images when memory is short. `player.py` builds
the layers that read images."""

import math
from typing import Any

import numpy as np
from gymnasium import spaces as gym_spaces

from qdojo.config import Config, beyond_preset
from qdojo.envs.resolve import EnvSpec
from qdojo.errors import UsageError
from qdojo.networks.torsos import LEAST_SIDES

LARGE_BYTES = 50_000
"""Size of an observation from which smaller images are suggested; about seven images of 84 x 84 pixels."""
SIDE = 84


def check_images(config: Config, spec: EnvSpec) -> None:
    """Raises UsageError for stacks of colour images, which no torso can read, for float images of 0 to 255, and for
    stacks that no episode fills."""
    steps = spec.max_episode_steps
    if steps is not None and config.frame_stack > steps:
        raise UsageError(
            f"frame_stack is {config.frame_stack}, but episodes of {spec.name} end after {steps} steps; use {steps} or "
            "less."
        )
    space = spec.observation_space
    if not isinstance(space, gym_spaces.Box) or config.network != "mlp":
        return
    if config.torso == "dense" and beyond_preset(config, ("torso",)):
        return
    shape = tuple(space.shape)
    if len(shape) == 4 and space.dtype == np.uint8 and sorted(shape)[-2] >= LEAST_SIDES["nature"]:
        raise UsageError(
            f"observations of {spec.name} have shape {shape}, a stack of colour images, which no torso can read; let "
            f"qdojo stack single images (frame_stack={min(shape[0], 32)}), convert them to greyscale, or set "
            "torso='dense'."
        )
    is_image = len(shape) == 3 and sorted(shape)[1] >= LEAST_SIDES["nature"] and {shape[0], shape[2]} & {1, 3, 4}
    if is_image and space.dtype.kind == "f" and float(space.high.max()) == 255.0:
        raise UsageError(
            f"observations of {spec.name} are {space.dtype} images of 0 to 255, which the network would not treat as "
            "images; return them as uint8, which also takes a quarter of the memory, or set torso='dense'."
        )


def smaller_images(config: Config, observation: Any, needed: int) -> str | None:
    """Return how `resize` and `grayscale` would reduce the `needed` bytes of a tape of these observations; None if they
    are not large images."""
    shape = tuple(getattr(observation, "shape", ()))
    size = math.prod(shape)
    if getattr(observation, "dtype", None) != np.uint8 or size < LARGE_BYTES or len(shape) not in (2, 3):
        return None
    if config.resize is not None and config.grayscale:
        return None
    coloured = len(shape) == 3 and 3 in (shape[0], shape[2])
    each = {f"resize={SIDE}": SIDE * SIDE * (3 if coloured else 1)}
    if coloured:
        each |= {"grayscale": size // 3, f"resize={SIDE} and grayscale": SIDE * SIDE}
    told = [f"{needed * part / size / 1e9:,.2g} GB with {name}" for name, part in each.items()]
    return f"images of shape {shape} would take {' or '.join(told)}"
