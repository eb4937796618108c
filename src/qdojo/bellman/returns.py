"""Returns of a window of rewards. Not for reading the tape: see `tape/windows.py`."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def n_step_return(
    reward_t: Float[Array, "n"],
    terminated_t: Bool[Array, "n"],
    alive: Bool[Array, "n"],
    gamma: Float[Array, ""] | float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The discounted sum of a window's rewards, and the discount of the value that follows it.

    `alive[i]` says that step i belongs to the window; it is true for a prefix of length k >= 1. Returns
    sum_i gamma**i r_i over that prefix, and gamma**k * (1 - terminated). Sutton and Barto (2018), equation 7.1.
    """
    total, discount = jnp.zeros_like(reward_t[0]), jnp.ones_like(reward_t[0])
    # Unrolled: n is small, and these few scalars fuse into the kernel that gathers the rows.
    for i in range(reward_t.shape[0]):
        total = total + jnp.where(alive[i], discount * reward_t[i], 0.0)
        after = jnp.where(terminated_t[i], 0.0, discount * gamma)
        discount = jnp.where(alive[i], after, discount)
    return total, discount
