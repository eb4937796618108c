"""The value that a transition's action should have had, for one example. Not for losses: see `losses.py`.

Every function takes Q-values of the next observation and gives an estimate of its state value; the caller forms
`reward_t + discount_t * value_t`. `discount_t` is the only thing that ends the future.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def greedy_value(q_t: Float[Array, "actions"]) -> Float[Array, ""]:
    """max_a Q(s', a). Watkins (1989); with a target network, Mnih et al. (2015), equation 2."""
    return jnp.max(q_t)


def double_value(q_t: Float[Array, "actions"], q_t_selector: Float[Array, "actions"]) -> Float[Array, ""]:
    """Q(s', argmax_a Q_selector(s', a)): one network chooses, the other says what it is worth.

    van Hasselt et al. (2016), equation 4. The selector is the online network, `q_t` the target network's.
    """
    return jnp.sum(jnp.where(jnp.arange(q_t.shape[0]) == jnp.argmax(q_t_selector), q_t, 0.0))


def bellman_target(
    reward_t: Float[Array, ""], discount_t: Float[Array, ""], value_t: Float[Array, ""]
) -> Float[Array, ""]:
    """r + discount * V(s'). Sutton and Barto (2018), equation 6.8."""
    return reward_t + discount_t * value_t
