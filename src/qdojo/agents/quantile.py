"""QR-DQN, IQN and FQF: the distribution of the return by its quantiles. Not for fixed atoms: see `categorical.py`.

They differ in where the quantile function is asked: at even fractions, at random ones, at proposed ones. With
`munchausen` the next quantiles are averaged over the actions of the soft policy, each less tau log pi, as in Vieillard
et al. (2020), appendix B.1.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qdojo.agents.dqn import munchausen_bonus
from qdojo.agents.learner import Loss
from qdojo.bellman.distributions import (
    by_branch,
    chosen,
    chosen_by_branch,
    fraction_loss,
    midpoints,
    quantile_huber,
)
from qdojo.bellman.targets import Munchausen, log_policy
from qdojo.networks.implicit import acting
from qdojo.networks.inputs import legal_only
from qdojo.networks.network import Network
from qdojo.noise import uniform
from qdojo.types import Batch, Metrics, Observation, Params, Words

ACTING_FRACTIONS = 32
"""K of Dabney et al. (2018b), section 4; FQF proposes its own."""


def qrdqn_network(quantiles: Network) -> Network:
    """Q-values, the mean quantiles, of a network that gives `[*branches, actions, n]`. Dabney et al. (2018a), algorithm
    1."""

    def q(params: Params, observation: Observation) -> Float[Array, "*branches actions"]:
        return legal_only(jnp.mean(quantiles.apply(params, observation), axis=-1), observation)

    return quantiles._replace(apply=q)


def qrdqn_loss(quantiles: Network, double: bool, munchausen: Munchausen | None) -> Loss:
    """Quantile regression at even fractions. Dabney et al. (2018a), algorithm 1 and equation 10."""
    q_network = qrdqn_network(quantiles)

    def loss(
        params: Params, target_params: Params, batch: Batch, noise: Words
    ) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
        following = quantiles.apply(target_params, batch.obs_t)
        selector = q_network.apply(params, batch.obs_t) if double else legal_only(jnp.mean(following, -1), batch.obs_t)
        goal = _targets(q_network, following, selector, target_params, batch, munchausen)
        found = chosen_by_branch(quantiles.apply(params, batch.obs_tm1), batch.action_tm1)
        return _regression(found, midpoints(found.shape[1]), goal)

    return Loss(loss)


def iqn_loss(
    network: Network,
    double: bool,
    munchausen: Munchausen | None,
    online_samples: int = 4,
    target_samples: int = 8,
    acting_fractions: int = 8,
    cvar: float = 1.0,
) -> Loss:
    """Quantile regression at random fractions, new ones for each example and network.

    Dabney et al. (2018b), equation 3. The target's action has the largest mean of the target's own samples, for which
    the paper draws others: each costs a pass for each example. Where another mean chooses (`double`: the online
    network's; `cvar` below 1: that of the worst returns), it is that of `acting(network, acting_fractions, cvar)`.
    """
    q_network = acting(network, acting_fractions, cvar)

    def loss(
        params: Params, target_params: Params, batch: Batch, noise: Words
    ) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
        fractions, target_fractions = jnp.split(uniform(noise), [online_samples])
        following = _at(network, target_params, batch.obs_t, target_fractions)
        if double or cvar < 1.0:
            selector = q_network.apply(params if double else target_params, batch.obs_t)
        else:
            selector = legal_only(jnp.mean(following, axis=-1), batch.obs_t)
        goal = _targets(q_network, following, selector, target_params, batch, munchausen)
        found = chosen_by_branch(_at(network, params, batch.obs_tm1, fractions), batch.action_tm1)
        return _regression(found, fractions, goal)

    return Loss(loss, online_samples + target_samples)


def fqf_loss(network: Network, double: bool, munchausen: Munchausen | None) -> Loss:
    """Quantile regression at the middles of the proposed parts, plus the loss of the proposal.

    Yang et al. (2019), algorithm 1. The fractions are those of the example's own observation for both networks, and
    come from the online one. The target's action has the largest mean of the same quantiles (with `double`: of the
    online network at its own fractions). The paper gives the proposal an optimizer of its own; here it moves slowly
    because its logits are scaled (see `implicit.py`). Raises ValueError for a network that proposes nothing.
    """
    if network.proposal is None:
        raise ValueError("FQF needs a network with a proposal: build it with implicit(..., proposed=n).")
    proposal, q_network = network.proposal, acting(network, ACTING_FRACTIONS, 1.0)

    def loss(
        params: Params, target_params: Params, batch: Batch, noise: Words
    ) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
        edges = proposal(params, batch.obs_tm1)
        fixed = jax.lax.stop_gradient(edges)
        inner, middles, widths = fixed[1:-1], 0.5 * (fixed[:-1] + fixed[1:]), fixed[1:] - fixed[:-1]
        following = _at(network, target_params, batch.obs_t, middles)
        selector = q_network.apply(params, batch.obs_t) if double else legal_only(following @ widths, batch.obs_t)
        goal = _targets(q_network, following, selector, target_params, batch, munchausen)
        found = chosen_by_branch(_at(network, params, batch.obs_tm1, middles), batch.action_tm1)
        at_inner = chosen_by_branch(_at(network, params, batch.obs_tm1, inner), batch.action_tm1)
        proposing = jax.vmap(fraction_loss, in_axes=(None, 0, 0, 0))(edges[1:-1], at_inner, found[:, :-1], found[:, 1:])
        error, priority, metrics = _regression(found, middles, goal, widths)
        return error + jnp.mean(proposing), priority, metrics

    return Loss(loss)


def _at(
    network: Network, params: Params, observation: Observation, fractions: Float[Array, "n"]
) -> Float[Array, "*branches actions n"]:
    """The quantiles with their fractions last, as a network of fixed ones has them."""
    return jnp.moveaxis(network.apply(params, observation, fractions), 0, -1)


def _targets(
    q_network: Network,
    following: Float[Array, "*branches actions m"],
    selector: Float[Array, "*branches actions"],
    target_params: Params,
    batch: Batch,
    munchausen: Munchausen | None,
) -> Float[Array, "branches m"]:
    """r + discount * the quantiles, of the target network's `following`, that the next action has; without gradient.

    That action is the one with the largest `selector`: with Double Q-values of the online network (van Hasselt et al.,
    2016), else of the target network.
    """
    following = by_branch(following)
    selector = selector.reshape(following.shape[:2])
    if munchausen is None:
        reward, value = batch.reward_t, jax.vmap(chosen)(following, jnp.argmax(selector, axis=1))
    else:
        q_tm1 = q_network.apply(target_params, batch.obs_tm1)
        reward = batch.reward_t + munchausen_bonus(q_tm1, batch.action_tm1, munchausen)
        scaled = jax.vmap(log_policy, in_axes=(0, None))(selector, munchausen.temperature)
        policy = jnp.exp(scaled / munchausen.temperature)
        value = jax.vmap(jnp.matmul)(policy, following - scaled[:, :, None])
    return jax.lax.stop_gradient(reward + batch.discount_t * value)


def _regression(
    quantiles: Float[Array, "branches n"],
    fractions: Float[Array, "n"],
    goal: Float[Array, "branches m"],
    widths: Float[Array, "n"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
    """Loss, priority, metrics. Where the parts of [0, 1] differ in width, means are weighted by `widths`.

    The branches of a MultiDiscrete action share one target: the mixture of theirs, whose quantiles are all of `goal`,
    and whose mean is that of Tavakoli et al. (2018), equation 6.
    """
    mean, goal_mean = (jnp.mean(x if widths is None else x @ widths) for x in (quantiles, goal))
    loss = jnp.mean(jax.vmap(quantile_huber, in_axes=(0, None, None))(quantiles, fractions, goal.reshape(-1)))
    return loss, jnp.abs(goal_mean - mean), {"q_mean": mean}
