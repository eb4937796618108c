"""Masked observations and stacks of observations. `envs/spaces.py` has the spaces of environments."""

import jax.numpy as jnp
from jaxtyping import Array, Shaped

from qdojo.types import Masked, Observation


def plain(observation: Observation) -> Shaped[Array, "*observation"]:
    """Return the observation without its mask."""
    return jnp.asarray(observation.observation if isinstance(observation, Masked) else observation)


def in_place(observation: Observation, x: Shaped[Array, "*other"]) -> Shaped[Array, "*other"] | Masked:
    """Return `x`, with the mask of `observation` if it has one."""
    return observation._replace(observation=x) if isinstance(observation, Masked) else x


def channels_first(shape: tuple[int, ...]) -> bool:
    """Return whether an image of this shape has its channels first: three axes, the first shorter than the last."""
    return len(shape) == 3 and shape[0] < shape[-1]


def stacked_shape(shape: tuple[int, ...], frames: int) -> tuple[int, ...]:
    """Return the shape of a stack of `frames` observations of this shape; a single frame keeps its shape."""
    if frames == 1:
        return shape
    if len(shape) in (0, 2):
        return (*shape, frames)
    if channels_first(shape):
        return (frames * shape[0], *shape[1:])
    return (*shape[:-1], frames * shape[-1])


def stacked(frames: Shaped[Array, "frames *observation"]) -> Shaped[Array, "*stacked"]:
    """Stack successive observations, oldest first, into one.

    Images are concatenated along their channel axis; images without one are stacked along a new last axis. Other
    observations are concatenated along their last axis.
    """
    shape = frames.shape[1:]
    if len(shape) in (0, 2):
        return jnp.moveaxis(frames, 0, -1)
    return jnp.concatenate(list(frames), axis=0 if channels_first(shape) else -1)
