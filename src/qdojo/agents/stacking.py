"""Frame stacking for acting. For learning, frames are stacked when they are read from the tape: `tape/windows.py`."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from qdojo.observations import in_place, plain, stacked
from qdojo.types import Actor, Masked, Memory, Observation, Params, Words


class Carried(NamedTuple):
    """State that an agent with a frame stack carries from step to step within an episode."""

    memory: Memory
    """Memory of the network."""
    recent: Shaped[Array, "frames *observation"]
    """The observations before the current one, oldest first; undefined until the first step of an episode."""
    begun: Bool[Array, ""]
    """Whether the episode has had a step."""


def stacking(actor: Actor, frames: int, shape: tuple[int, ...], dtype: Any) -> Actor:
    """Return an actor that receives one observation of this shape per step and acts on a stack of the last `frames`.

    Early in an episode, the first observation is repeated to fill the stack. Stacking follows Mnih et al. (2015),
    methods, preprocessing. The tape does not store the stack.
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
