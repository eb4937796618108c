"""Frame stacking while an agent acts. What it learns from is stacked where the tape is read: see `tape/windows.py`."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from qdojo.observations import in_place, plain, stacked
from qdojo.types import Actor, Masked, Memory, Observation, Params, Words


class Carried(NamedTuple):
    """What an agent that stacks frames carries through an episode."""

    memory: Memory
    """The memory of its network."""
    recent: Shaped[Array, "frames *observation"]
    """The observations before the current one, oldest first; undefined until the first step of an episode."""
    begun: Bool[Array, ""]
    """Whether the episode has had a step."""


def stacking(actor: Actor, frames: int, shape: tuple[int, ...], dtype: Any) -> Actor:
    """An actor that is given one observation of this shape per step and sees the latest `frames` of them, stacked.

    Early in an episode, the first observation fills the places of those that do not exist. Frames are stacked as in
    Mnih et al. (2015), methods, preprocessing. The tape stores none of what is carried for it.
    """

    def memory() -> Carried:
        return Carried(actor.memory(), jnp.zeros((frames - 1, *shape), dtype), jnp.zeros((), bool))

    def see(
        observation: Observation, before: Carried
    ) -> tuple[Shaped[Array, "*stacked"] | Masked, Shaped[Array, "frames *observation"]]:
        frame = plain(observation)[None]
        every = jnp.concatenate([jnp.where(before.begun, before.recent, frame), frame])
        return in_place(observation, stacked(every)), every[1:]

    def values(params: Params, observation: Observation, memory: Carried) -> tuple[Float[Array, "*q"], Carried]:
        seen, recent = see(observation, memory)
        q, own = actor.values(params, seen, memory.memory)
        return q, Carried(own, recent, jnp.ones((), bool))

    def exploring(
        params: Params, observation: Observation, memory: Carried, noise: Words
    ) -> tuple[Float[Array, "*q"], Carried]:
        seen, recent = see(observation, memory)
        q, own = actor.exploring(params, seen, memory.memory, noise)
        return q, Carried(own, recent, jnp.ones((), bool))

    return actor._replace(
        values=values, exploring=exploring, memory=memory, stored=lambda memory: actor.stored(memory.memory)
    )
