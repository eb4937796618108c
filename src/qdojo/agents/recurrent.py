"""DRQN and R2D2: Q-learning on sequences, by a network with a memory. Not for the cells: see `networks/recurrent.py`.

Hausknecht and Stone (2015) start each sequence from an empty memory; Kapturowski et al. (2019) from the one that the
agent had when it saw the first row, and let the network warm up over some rows before it learns.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from qdojo.agents.dqn import Rule, Values, distance, target_value
from qdojo.agents.learner import Loss
from qdojo.networks.recurrent import RecurrentNetwork
from qdojo.types import Actor, Memory, Metrics, Network, Observation, Params, Sequence, Words

LARGEST_SHARE = 0.9
"""eta of Kapturowski et al. (2019), section 2.3: the share of the largest error in a sequence's priority."""


def q_network(network: RecurrentNetwork) -> Network:
    """The same parameters as a network without a memory: Q-values of an episode's first observation."""

    def apply(params: Params, observation: Observation) -> Float[Array, "*q"]:
        return network.step(params, observation, network.memory())[0]

    return Network(network.init, apply, network.perturb, network.words, network.observe)


def recurrent_actor(network: RecurrentNetwork) -> Actor:
    """Plays with the memory, and with the network's noise while it explores."""

    def exploring(
        params: Params, observation: Observation, memory: Memory, noise: Words
    ) -> tuple[Float[Array, "*q"], Memory]:
        return network.step(network.perturb(params, noise), observation, memory)

    return Actor(network.step, exploring, network.memory, network.words)


def unrolled(
    network: RecurrentNetwork, params: Params, observations: Observation, last: Bool[Array, "time"], memory: Memory
) -> tuple[Float[Array, "time *q"], Memory]:
    """Q-values of successive observations `[time, ...]`, and the memory after them.

    An episode starts after each row that is `last`, and with it the memory, as it does when the loops act.
    """

    def row(memory: Memory, seen: tuple[Observation, Bool[Array, ""]]) -> tuple[Memory, Float[Array, "*q"]]:
        observation, last = seen
        q, memory = network.step(params, observation, memory)
        return jax.tree.map(lambda old, new: jnp.where(last, new, old), memory, network.memory()), q

    memory, q = jax.lax.scan(row, memory, (observations, last))
    return q, memory


def recurrent_loss(network: RecurrentNetwork, rule: Rule, burn_in: int, stored_state: bool) -> Loss:
    """The mean of the DQN loss over the transitions of a `Sequence`, whose first `burn_in` rows only make the memory.

    Online and target network each go over all rows, from the stored memory or from an empty one; no gradient goes
    through the burn-in. Kapturowski et al. (2019), sections 2.3 and 3; from an empty memory and without burn-in, the
    "bootstrapped random updates" of Hausknecht and Stone (2015).
    """

    def q_values(params: Params, sequence: Sequence) -> Float[Array, "time *q"]:
        """Of all rows after the burn-in."""
        memory = sequence.memory if stored_state else network.memory()
        early = jax.tree.map(lambda leaf: leaf[:burn_in], sequence.obs_tm1)
        later = jax.tree.map(lambda leaf: leaf[burn_in:], sequence.obs_tm1)
        _, memory = unrolled(network, jax.lax.stop_gradient(params), early, sequence.last[:burn_in], memory)
        return unrolled(network, params, later, sequence.last[burn_in:], memory)[0]

    def loss(
        params: Params, target_params: Params, sequence: Sequence, noise: Words
    ) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
        q, target_q = q_values(params, sequence), q_values(target_params, sequence)
        learned = sequence.starts.shape[0]
        after = sequence.after_t - burn_in
        values = Values(
            q_t=target_q[after],
            selector_t=jax.lax.stop_gradient(q)[after] if rule.double else target_q[after],
            q_before=target_q[:learned],
        )
        target = jax.vmap(target_value, in_axes=(None, 0, 0, 0, 0))(
            rule, values, sequence.action_tm1, sequence.reward_t, sequence.discount_t
        )
        losses, errors, metrics = jax.vmap(distance, in_axes=(None, 0, 0, 0))(
            rule, q[:learned], sequence.action_tm1, target
        )

        real = sequence.starts.astype(jnp.float32)

        def mean(x: Float[Array, "learned"]) -> Float[Array, ""]:
            """Over the rows that start a transition."""
            return jnp.sum(real * x) / jnp.maximum(jnp.sum(real), 1.0)

        largest = jnp.max(real * errors)
        priority = LARGEST_SHARE * largest + (1.0 - LARGEST_SHARE) * mean(errors)
        return mean(losses), priority, jax.tree.map(mean, metrics)

    return Loss(loss)
