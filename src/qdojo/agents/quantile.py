"""QR-DQN, IQN and FQF: the return distribution as quantiles. `categorical.py` uses fixed atoms.

They evaluate the quantile function at even, random and proposed fractions, respectively. With `munchausen`, the next
quantiles are averaged over the actions of the soft policy after subtracting tau log pi from each, as in Vieillard et
al. (2020), appendix B.1.
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
"""K of Dabney et al. (2018b), section 4. FQF ignores it and uses its proposed fractions."""


def qrdqn_network(quantiles: Network) -> Network:
    """A network that returns Q-values: the means of the quantiles `[*branches, actions, n]` of another network. Dabney
    et al. (2018a), algorithm 1."""

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
    """Quantile regression at random fractions, drawn separately for each example and network.

    Dabney et al. (2018b), equation 3. The next action maximises the mean of the target's own samples; the paper draws
    others for this, which costs a forward pass per sample. With `double` (the online network's mean) or `cvar` below 1
    (the mean of the worst returns), the Q-values of `acting(network, acting_fractions, cvar)` choose the next action.
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
    """Quantile regression at the midpoints of the proposed intervals, plus the loss of the proposal.

    Yang et al. (2019), algorithm 1. The online network proposes the fractions from the first observation, and both
    networks use them. The next action maximises the mean of the target's quantiles (with `double`, the mean of the
    online network at its own fractions). The paper uses a separate optimizer for the proposal; here it learns slowly
    because its logits are scaled (see `implicit.py`). Raises ValueError for a network without a proposal.
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
    """The quantiles with the fraction axis last, as a QR-DQN network returns them."""
    return jnp.moveaxis(network.apply(params, observation, fractions), 0, -1)


def _targets(
    q_network: Network,
    following: Float[Array, "*branches actions m"],
    selector: Float[Array, "*branches actions"],
    target_params: Params,
    batch: Batch,
    munchausen: Munchausen | None,
) -> Float[Array, "branches m"]:
    """r + discount * the next action's quantiles in the target network's `following`, without gradient.

    The next action is the one with the largest `selector`: Q-values of the online network with Double DQN (van Hasselt
    et al., 2016), else of the target network.
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
    """Loss, priority, metrics. If the intervals of [0, 1] differ in width, means are weighted by `widths`.

    The branches of a MultiDiscrete action share one target, the mixture of their distributions. It consists of all
    quantiles in `goal`, and its mean is that of Tavakoli et al. (2018), equation 6.
    """
    mean, goal_mean = (jnp.mean(x if widths is None else x @ widths) for x in (quantiles, goal))
    loss = jnp.mean(jax.vmap(quantile_huber, in_axes=(0, None, None))(quantiles, fractions, goal.reshape(-1)))
    return loss, jnp.abs(goal_mean - mean), {"q_mean": mean}
