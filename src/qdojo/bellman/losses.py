"""Loss functions of the error between a value and its target, for one example. `targets.py` computes targets."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def squared_error(error: Float[Array, ""]) -> Float[Array, ""]:
    """error**2, whose gradient is 2 * error, as in Keras' MSE."""
    return jnp.square(error)


def huber(error: Float[Array, ""], delta: float = 1.0) -> Float[Array, ""]:
    """Quadratic within `delta`, linear outside: the error clipping of Mnih et al. (2015), Methods."""
    size = jnp.abs(error)
    return jnp.where(size <= delta, 0.5 * jnp.square(error), delta * (size - 0.5 * delta))
