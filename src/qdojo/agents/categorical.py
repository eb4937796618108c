"""C51: the distribution of the return on fixed atoms, learned by cross-entropy. Not for quantiles: `quantile.py`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qdojo.agents.learner import Loss
from qdojo.bellman import targets
from qdojo.bellman.distributions import categorical_projection, chosen, cross_entropy
from qdojo.bellman.targets import Munchausen
from qdojo.networks.inputs import legal_only
from qdojo.types import Batch, Metrics, Network, Observation, Params, Words


def c51_network(logits: Network, support: Float[Array, "atoms"]) -> Network:
    """Q-values, sum_i p_i z_i, where the network gives logits `[actions, atoms]`. Bellemare et al. (2017), alg. 1."""

    def q(params: Params, observation: Observation) -> Float[Array, "actions"]:
        return legal_only(jax.nn.softmax(logits.apply(params, observation)) @ support, observation)

    return logits._replace(apply=q)


def c51_loss(logits: Network, support: Float[Array, "atoms"], double: bool, munchausen: Munchausen | None) -> Loss:
    """The cross-entropy of the chosen action's distribution with the projected one of reward and next state.

    Bellemare et al. (2017), algorithm 1. The next action is the target network's choice, or with `double` the online
    network's (Hessel et al., 2018, section 3). With `munchausen` the reward has its bonus and the next distribution is
    the mixture, over the actions of the soft policy, of atoms shifted by -tau log pi (for C51 in no paper; the mean is
    that of Vieillard et al., 2020, equation 6).

    The priority is the cross-entropy; Hessel et al. take the divergence, which is less by the target's own entropy.
    The metric `clipped` is the share of the target's mass that lay outside the support and was moved to its ends.
    """
    q_network = c51_network(logits, support)

    def target(params: Params, target_params: Params, batch: Batch) -> tuple[Float[Array, "atoms"], Float[Array, ""]]:
        probabilities = jax.nn.softmax(logits.apply(target_params, batch.obs_t))
        selector = q_network.apply(params if double else target_params, batch.obs_t)
        if munchausen is None:
            probabilities = chosen(probabilities, jnp.argmax(selector))
            return _project(batch.reward_t + batch.discount_t * support, probabilities, support)
        q_tm1 = q_network.apply(target_params, batch.obs_tm1)
        bonus = targets.munchausen_bonus(q_tm1, batch.action_tm1, *munchausen)
        scaled = targets.log_policy(selector, munchausen.temperature)
        policy = jnp.exp(scaled / munchausen.temperature)
        atoms = batch.reward_t + bonus + batch.discount_t * (support[None, :] - scaled[:, None])
        projected, clipped = jax.vmap(_project, in_axes=(0, 0, None))(atoms, probabilities, support)
        return policy @ projected, policy @ clipped

    def loss(
        params: Params, target_params: Params, batch: Batch, noise: Words
    ) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
        logits_tm1 = chosen(logits.apply(params, batch.obs_tm1), batch.action_tm1)
        projected, clipped = jax.lax.stop_gradient(target(params, target_params, batch))
        error = cross_entropy(logits_tm1, projected)
        return error, error, {"q_mean": jax.nn.softmax(logits_tm1) @ support, "clipped": clipped}

    return Loss(loss)


def _project(
    atoms: Float[Array, "atoms"], probabilities: Float[Array, "atoms"], support: Float[Array, "atoms"]
) -> tuple[Float[Array, "atoms"], Float[Array, ""]]:
    outside = (atoms < support[0]) | (atoms > support[-1])
    return categorical_projection(atoms, probabilities, support), jnp.sum(jnp.where(outside, probabilities, 0.0))
