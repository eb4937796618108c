"""When an agent tries something at random. Not for choosing the best action: see `Agent.greedy`."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qdojo.noise import integer, uniform
from qdojo.types import Words

EPSILON_GREEDY_WORDS = 2


def linear(
    start: Float[Array, ""] | float,
    end: Float[Array, ""] | float,
    duration: Float[Array, ""] | float,
    position: Float[Array, ""],
) -> Float[Array, ""]:
    """From `start` at 0 to `end` at `duration` and there ever after, all in absolute env steps."""
    return start + (end - start) * jnp.clip(position / duration, 0.0, 1.0)


def epsilon_greedy(best: Int[Array, ""], num_actions: int, epsilon: Float[Array, ""], noise: Words) -> Int[Array, ""]:
    """The best action, or with probability `epsilon` any action, drawn for this env alone."""
    return jnp.where(uniform(noise[0]) < epsilon, integer(noise[1], num_actions), best)
