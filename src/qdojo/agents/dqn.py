"""The DQN loss: Q-learning against a target network, with Double selection where asked. One formula, one example."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qdojo.agents.learner import Loss
from qdojo.bellman import losses, targets
from qdojo.types import Batch, Metrics, Network, Params

ERRORS: dict[str, Callable[[Float[Array, ""]], Float[Array, ""]]] = {
    "mse": losses.squared_error,
    "huber": losses.huber,
}


def dqn_loss(network: Network, double: bool, error: str) -> Loss:
    """(r + discount * Q_target(s', a*) - Q(s, a)), squared or Huber.

    Mnih et al. (2015), algorithm 1; with `double`, a* is the online network's choice (van Hasselt et al., 2016).
    """
    distance = ERRORS[error]

    def loss(params: Params, target_params: Params, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        q_tm1 = network.apply(params, batch.obs_tm1)
        q_t = network.apply(target_params, batch.obs_t)
        if double:
            value_t = targets.double_value(q_t, network.apply(jax.lax.stop_gradient(params), batch.obs_t))
        else:
            value_t = targets.greedy_value(q_t)
        target = jax.lax.stop_gradient(targets.bellman_target(batch.reward_t, batch.discount_t, value_t))
        chosen = jnp.sum(jnp.where(jnp.arange(q_tm1.shape[0]) == batch.action_tm1, q_tm1, 0.0))
        return distance(target - chosen), {"q_mean": chosen}

    return loss
