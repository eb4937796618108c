"""C51: the return distribution on fixed atoms, learned by cross-entropy. Quantile methods are in `quantile.py`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qdojo.agents.dqn import munchausen_bonus
from qdojo.agents.learner import Loss
from qdojo.bellman.distributions import by_branch, categorical_projection, chosen, chosen_by_branch, cross_entropy
from qdojo.bellman.targets import Munchausen, log_policy
from qdojo.networks.inputs import legal_only
from qdojo.networks.network import Network
from qdojo.types import Batch, Metrics, Observation, Params, Words


def c51_network(logits: Network, support: Float[Array, "atoms"]) -> Network:
    """A network that returns Q-values, sum_i p_i z_i, computed from logits `[*branches, actions, atoms]`. Bellemare et
    al. (2017), algorithm 1."""

    def q(params: Params, observation: Observation) -> Float[Array, "*branches actions"]:
        return legal_only(jax.nn.softmax(logits.apply(params, observation)) @ support, observation)

    return logits._replace(apply=q)


def c51_loss(logits: Network, support: Float[Array, "atoms"], double: bool, munchausen: Munchausen | None) -> Loss:
    """The cross-entropy between the chosen action's distribution and the projected target distribution.

    Bellemare et al. (2017), algorithm 1. The target network chooses the next action, or with `double` the online
    network (Hessel et al., 2018, section 3). With `munchausen`, the reward includes the bonus and the next distribution
    is a mixture over the actions of the soft policy, with atoms shifted by -tau log pi; no paper does this for C51, but
    its mean equals Vieillard et al. (2020), equation 6. The branches of a MultiDiscrete action share one target, the
    mixture of their distributions, whose mean is that of Tavakoli et al. (2018), equation 6.

    The priority is the cross-entropy; Hessel et al. use the KL divergence, which is smaller by the target's entropy.
    The metric `clipped` is the fraction of the target's mass that lay outside the support and was moved to its ends.
    """
    q_network = c51_network(logits, support)

    def target(params: Params, target_params: Params, batch: Batch) -> tuple[Float[Array, "atoms"], Float[Array, ""]]:
        probabilities = by_branch(jax.nn.softmax(logits.apply(target_params, batch.obs_t)))
        selector = q_network.apply(params if double else target_params, batch.obs_t).reshape(probabilities.shape[:2])
        if munchausen is None:
            following = jnp.mean(jax.vmap(chosen)(probabilities, jnp.argmax(selector, axis=1)), axis=0)
            return _project(batch.reward_t + batch.discount_t * support, following, support)
        q_tm1 = q_network.apply(target_params, batch.obs_tm1)
        reward_t = batch.reward_t + munchausen_bonus(q_tm1, batch.action_tm1, munchausen)
        scaled = jax.vmap(log_policy, in_axes=(0, None))(selector, munchausen.temperature)
        policy = jnp.exp(scaled / munchausen.temperature)
        atoms = reward_t + batch.discount_t * (support[None, None, :] - scaled[:, :, None])
        each = jax.vmap(jax.vmap(_project, in_axes=(0, 0, None)), in_axes=(0, 0, None))
        projected, clipped = each(atoms, probabilities, support)
        return jnp.mean(jax.vmap(jnp.matmul)(policy, projected), axis=0), jnp.mean(jax.vmap(jnp.dot)(policy, clipped))

    def loss(
        params: Params, target_params: Params, batch: Batch, noise: Words
    ) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
        logits_tm1 = chosen_by_branch(logits.apply(params, batch.obs_tm1), batch.action_tm1)
        projected, clipped = jax.lax.stop_gradient(target(params, target_params, batch))
        error = jnp.mean(jax.vmap(cross_entropy, in_axes=(0, None))(logits_tm1, projected))
        return error, error, {"q_mean": jnp.mean(jax.nn.softmax(logits_tm1) @ support), "clipped": clipped}

    def td_error(params: Params, target_params: Params, batch: Batch, noise: Words) -> Float[Array, ""]:
        q_tm1 = chosen_by_branch(q_network.apply(params, batch.obs_tm1)[..., None], batch.action_tm1)
        projected, _ = target(params, target_params, batch)
        return jnp.abs(projected @ support - jnp.mean(q_tm1))

    return Loss(loss, td_error=td_error)


def _project(
    atoms: Float[Array, "atoms"], probabilities: Float[Array, "atoms"], support: Float[Array, "atoms"]
) -> tuple[Float[Array, "atoms"], Float[Array, ""]]:
    outside = (atoms < support[0]) | (atoms > support[-1])
    return categorical_projection(atoms, probabilities, support), jnp.sum(jnp.where(outside, probabilities, 0.0))
