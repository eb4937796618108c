"""Bellman targets for the value of a transition's action, for one example. `losses.py` has the loss functions.

The functions named `*_value` take Q-values of the next observation and return an estimate of its state value; the
caller computes `reward_t + discount_t * value_t`. Termination enters only through `discount_t`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

RESCALING_SLOPE = 1e-3
"""epsilon of Pohlen et al. (2018), equation 7, which makes the inverse Lipschitz continuous."""


def chosen(q: Float[Array, "actions"], action: Int[Array, ""]) -> Float[Array, ""]:
    """Q(s, a), as a masked sum: the gradient of a gather is a scatter, which is slow on a CPU."""
    return jnp.sum(jnp.where(jnp.arange(q.shape[0]) == action, q, 0.0))


def greedy_value(q_t: Float[Array, "actions"]) -> Float[Array, ""]:
    """max_a Q(s', a). Watkins (1989); with a target network, Mnih et al. (2015), equation 2."""
    return jnp.max(q_t)


def double_value(q_t: Float[Array, "actions"], q_t_selector: Float[Array, "actions"]) -> Float[Array, ""]:
    """Q(s', argmax_a Q_selector(s', a)): one network selects the action, the other evaluates it.

    van Hasselt et al. (2016), equation 4. The online network gives `q_t_selector`, the target network `q_t`.
    """
    return chosen(q_t, jnp.argmax(q_t_selector))


def bellman_target(
    reward_t: Float[Array, ""], discount_t: Float[Array, ""], value_t: Float[Array, ""]
) -> Float[Array, ""]:
    """r + discount * V(s'). Sutton and Barto (2018), equation 6.8."""
    return reward_t + discount_t * value_t


class Munchausen(NamedTuple):
    """The constants of Munchausen RL. Vieillard et al. (2020), section 3, use 0.9, 0.03 and -1."""

    alpha: Float[Array, ""] | float
    """Scale of the bonus: the factor of the scaled log-policy that is added to the reward."""
    temperature: Float[Array, ""] | float
    """tau of the softmax policy, above 0, in units of reward."""
    floor: Float[Array, ""] | float
    """l_0: lower limit of the scaled log-policy, at most 0."""


def log_policy(q: Float[Array, "actions"], temperature: Float[Array, ""] | float) -> Float[Array, "actions"]:
    """tau log pi, where pi = softmax(Q / tau): at most 0, and finite at any temperature above 0.

    Vieillard et al. (2020), appendix B.1: the maximum is subtracted first, so no exponential overflows.
    """
    below = q - jnp.max(q)
    return below - temperature * jax.nn.logsumexp(below / temperature)


def munchausen_bonus(
    q_tm1: Float[Array, "actions"],
    action_tm1: Int[Array, ""],
    alpha: Float[Array, ""] | float,
    temperature: Float[Array, ""] | float,
    floor: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """alpha * tau log pi(a|s), with tau log pi clipped to [floor, 0]. `q_tm1` comes from the target network.

    Vieillard et al. (2020), equation 6 and section 3. It is added to the reward; with n-step returns, only to that of
    the window's first step.
    """
    scaled = log_policy(q_tm1, temperature)
    return alpha * jnp.clip(chosen(scaled, action_tm1), floor, 0.0)


def double_soft_value(
    q_t: Float[Array, "actions"], q_t_selector: Float[Array, "actions"], temperature: Float[Array, ""] | float
) -> Float[Array, ""]:
    """sum_a pi(a|s') (Q(s', a) - tau log pi(a|s')), where pi = softmax(Q_selector / tau).

    Vieillard et al. (2020), equation 6, where the selector is `q_t` itself; no paper uses another selector. The value
    converges to `double_value` as the temperature goes to 0.
    """
    scaled = log_policy(q_t_selector, temperature)
    return jnp.sum(jnp.exp(scaled / temperature) * (q_t - scaled))


def rescaled(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x, which compresses large returns. Pohlen et al. (2018), eq. 7."""
    return jnp.sign(x) * (jnp.sqrt(jnp.abs(x) + 1.0) - 1.0) + RESCALING_SLOPE * x


def unrescaled(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The inverse of `rescaled`. Pohlen et al. (2018), proposition A.2 (iii).

    With u = sqrt(|h^-1(x)| + 1), epsilon u^2 + u = |x| + 1 + epsilon. The root is computed in a form that avoids
    cancellation in float32.
    """
    e = RESCALING_SLOPE
    size = jnp.abs(x)
    # u - 1, from e (u - 1)^2 + (1 + 2 e)(u - 1) = |x|.
    above = 2.0 * size / (1.0 + 2.0 * e + jnp.sqrt((1.0 + 2.0 * e) ** 2 + 4.0 * e * size))
    return jnp.sign(x) * above * (above + 2.0)
