"""Observations with and without a mask, and stacks of them. Not for spaces of environments: see `envs/spaces.py`."""

import jax.numpy as jnp
from jaxtyping import Array, Shaped

from qdojo.types import Masked, Observation


def plain(observation: Observation) -> Shaped[Array, "*observation"]:
    """The observation without its mask."""
    return jnp.asarray(observation.observation if isinstance(observation, Masked) else observation)


def in_place(observation: Observation, x: Shaped[Array, "*other"]) -> Shaped[Array, "*other"] | Masked:
    """`x` in place of the observation, with the mask of the observation if it has one."""
    return observation._replace(observation=x) if isinstance(observation, Masked) else x


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether the first axis of an image holds its channels: with three axes, if it is shorter than the last axis."""
    return len(shape) == 3 and shape[0] < shape[-1]


def stacked_shape(shape: tuple[int, ...], frames: int) -> tuple[int, ...]:
    """The shape of `frames` observations of this shape after `stacked`; with one frame, the shape as it is."""
    if frames == 1:
        return shape
    if len(shape) in (0, 2):
        return (*shape, frames)
    if channels_first(shape):
        return (frames * shape[0], *shape[1:])
    return (*shape[:-1], frames * shape[-1])


def stacked(frames: Shaped[Array, "frames *observation"]) -> Shaped[Array, "*stacked"]:
    """Successive observations, oldest first, as one.

    Images are joined along their channels, and get a last axis of channels if they have none. Other observations are
    joined along their last axis.
    """
    shape = frames.shape[1:]
    if len(shape) in (0, 2):
        return jnp.moveaxis(frames, 0, -1)
    return jnp.concatenate(list(frames), axis=0 if channels_first(shape) else -1)
