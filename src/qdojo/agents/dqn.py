"""The DQN loss: Q-learning against a target network, with Double selection where asked. One formula, one example."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qdojo.agents.learner import Loss
from qdojo.bellman import losses, targets
from qdojo.bellman.targets import Munchausen
from qdojo.types import Batch, Metrics, Network, Params, Words

ERRORS: dict[str, Callable[[Float[Array, ""]], Float[Array, ""]]] = {
    "mse": losses.squared_error,
    "huber": losses.huber,
}


def dqn_loss(network: Network, double: bool, error: str, munchausen: Munchausen | None = None) -> Loss:
    """(r + discount * Q_target(s', a*) - Q(s, a)), squared or Huber.

    Mnih et al. (2015), algorithm 1; with `double`, a* is the online network's choice (van Hasselt et al., 2016). With
    `munchausen` a bonus for the policy's own choice joins the reward, and the maximum becomes a soft one (Vieillard et
    al., 2020, equation 6).
    """
    distance = ERRORS[error]

    def loss(
        params: Params, target_params: Params, batch: Batch, noise: Words
    ) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
        q_tm1 = network.apply(params, batch.obs_tm1)
        q_t = network.apply(target_params, batch.obs_t)
        selector = network.apply(jax.lax.stop_gradient(params), batch.obs_t) if double else q_t
        reward_t = batch.reward_t
        if munchausen is None:
            value_t = targets.double_value(q_t, selector)
        else:
            q_before = network.apply(target_params, batch.obs_tm1)
            reward_t = reward_t + targets.munchausen_bonus(q_before, batch.action_tm1, *munchausen)
            value_t = targets.double_soft_value(q_t, selector, munchausen.temperature)
        target = jax.lax.stop_gradient(targets.bellman_target(reward_t, batch.discount_t, value_t))
        chosen = jnp.sum(jnp.where(jnp.arange(q_tm1.shape[0]) == batch.action_tm1, q_tm1, 0.0))
        return distance(target - chosen), jnp.abs(target - chosen), {"q_mean": chosen}

    return Loss(loss)
