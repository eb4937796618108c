"""Returns computed from successive rewards. `tape/windows.py` reads the rewards from the tape."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def n_step_return(
    reward_t: Float[Array, "n"],
    terminated_t: Bool[Array, "n"],
    alive: Bool[Array, "n"],
    gamma: Float[Array, ""] | float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The discounted sum of a window's rewards, and the discount of the next value.

    `alive[i]` says whether step i belongs to the window; it is true for a prefix of length k >= 1. Returns
    sum_i gamma**i r_i over that prefix, and gamma**k * (1 - terminated). Sutton and Barto (2018), equation 7.1.
    """
    total, discount = jnp.zeros_like(reward_t[0]), jnp.ones_like(reward_t[0])
    # Unrolled, because n is small and these few scalars fuse into the kernel that gathers the rows.
    for i in range(reward_t.shape[0]):
        total = total + jnp.where(alive[i], discount * reward_t[i], 0.0)
        after = jnp.where(terminated_t[i], 0.0, discount * gamma)
        discount = jnp.where(alive[i], after, discount)
    return total, discount


def lambda_return(
    reward_t: Float[Array, "n"],
    discount_t: Float[Array, "n"],
    value_t: Float[Array, "n"],
    followed: Bool[Array, "n"],
    lambda_: Float[Array, ""] | float,
) -> Float[Array, "n"]:
    """The Q(lambda) return of each of n successive steps, computed backwards.

    G_i = r_i + discount_i * ((1 - lambda) v_i + lambda G_{i+1}), where v_i is the value of the observation after step
    i. For the newest step, and where `followed` is false because the episode ended and no step follows, v_i replaces
    the whole bracket. Gallici et al. (2025), section 3.3; Peng and Williams (1996).
    """

    def step(
        following: Float[Array, ""], row: tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""], Bool[Array, ""]]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        reward, discount, value, goes_on = row
        future = (1.0 - lambda_) * value + lambda_ * following
        total = reward + discount * jnp.where(goes_on, future, value)
        return total, total

    rows = (reward_t, discount_t, value_t, followed)
    return jax.lax.scan(step, value_t[-1], rows, reverse=True)[1]
