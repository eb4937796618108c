"""The DQN loss for one example: Q-learning with a target network and, optionally, Double DQN's action selection."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qdojo.agents.learner import Loss
from qdojo.bellman import losses, targets
from qdojo.bellman.targets import Munchausen
from qdojo.networks.network import Network
from qdojo.types import Batch, Metrics, Params, Words

ERRORS: dict[str, Callable[[Float[Array, ""]], Float[Array, ""]]] = {
    "mse": losses.squared_error,
    "huber": losses.huber,
}


class Rule(NamedTuple):
    """The options of the target and the error of a scalar Q-value."""

    double: bool
    """Whether the online network chooses a* (van Hasselt et al., 2016) instead of the target network."""
    error: str
    """A key of `ERRORS`."""
    munchausen: Munchausen | None = None
    rescaled: bool = False
    """Whether Q-values estimate returns transformed by `targets.rescaled` (Kapturowski et al., 2019, section 2.3)."""


class Values(NamedTuple):
    """Q-values of one transition that determine its target."""

    q_t: Float[Array, "*branches actions"]
    """Target network's Q-values of the next observation."""
    selector_t: Float[Array, "*branches actions"]
    """Q-values that select the next action: the online network's with Double DQN, else `q_t`."""
    q_before: Float[Array, "*branches actions"]
    """Target network's Q-values of the first observation, for Munchausen; otherwise not used."""


def dqn_loss(network: Network, rule: Rule) -> Loss:
    """(r + discount * Q_target(s', a*) - Q(s, a)), squared or Huber. Mnih et al. (2015), algorithm 1."""

    def loss(
        params: Params, target_params: Params, batch: Batch, noise: Words
    ) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
        q_t = network.apply(target_params, batch.obs_t)
        values = Values(
            q_t=q_t,
            selector_t=network.apply(jax.lax.stop_gradient(params), batch.obs_t) if rule.double else q_t,
            q_before=q_t if rule.munchausen is None else network.apply(target_params, batch.obs_tm1),
        )
        q_tm1 = network.apply(params, batch.obs_tm1)
        target = target_value(rule, values, batch.action_tm1, batch.reward_t, batch.discount_t)
        return distance(rule, q_tm1, batch.action_tm1, target)

    return Loss(loss)


def target_value(
    rule: Rule,
    values: Values,
    action_tm1: Int[Array, "*branches"],
    reward_t: Float[Array, ""],
    discount_t: Float[Array, ""],
) -> Float[Array, ""]:
    """r + discount * V(s'), without gradient. With `munchausen`, the Munchausen bonus is added to the reward and a soft
    maximum replaces the maximum (Vieillard et al., 2020, equation 6).

    The branches of a MultiDiscrete action share one target with their mean value (Tavakoli et al., 2018, equation 6);
    a Discrete action is a single branch.
    """
    q_t, selector_t = (q.reshape(-1, q.shape[-1]) for q in (values.q_t, values.selector_t))
    if rule.munchausen is None:
        value_t = jax.vmap(targets.double_value)(q_t, selector_t)
    else:
        reward_t = reward_t + munchausen_bonus(values.q_before, action_tm1, rule.munchausen)
        soft = jax.vmap(targets.double_soft_value, in_axes=(0, 0, None))
        value_t = soft(q_t, selector_t, rule.munchausen.temperature)
    if not rule.rescaled:
        return jax.lax.stop_gradient(targets.bellman_target(reward_t, discount_t, jnp.mean(value_t)))
    value = jnp.mean(targets.unrescaled(value_t))
    return jax.lax.stop_gradient(targets.rescaled(targets.bellman_target(reward_t, discount_t, value)))


def munchausen_bonus(
    q_tm1: Float[Array, "*branches actions"], action_tm1: Int[Array, "*branches"], munchausen: Munchausen
) -> Float[Array, ""]:
    """The bonus added to the reward, averaged over branches. `q_tm1` comes from the target network."""
    each = jax.vmap(targets.munchausen_bonus, in_axes=(0, 0, None, None, None))
    return jnp.mean(each(q_tm1.reshape(-1, q_tm1.shape[-1]), action_tm1.reshape(-1), *munchausen))


def distance(
    rule: Rule, q_tm1: Float[Array, "*branches actions"], action_tm1: Int[Array, "*branches"], target: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
    """Loss, priority and metrics of the chosen action's value, averaged over branches.

    The metric `q_mean` is in units of the return, even if Q-values are rescaled.
    """
    q = jax.vmap(targets.chosen)(q_tm1.reshape(-1, q_tm1.shape[-1]), action_tm1.reshape(-1))
    error = target - q
    shown = targets.unrescaled(q) if rule.rescaled else q
    return jnp.mean(jax.vmap(ERRORS[rule.error])(error)), jnp.mean(jnp.abs(error)), {"q_mean": jnp.mean(shown)}
