"""Bootstrapped DQN: an ensemble of networks, one of which acts for a whole episode. `networks/prior.py` has the prior
that keeps the heads diverse in states without data.

Every function takes the network or the loss of one head, of any kind. Parameters have a leading head axis.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qdojo.agents.learner import Loss
from qdojo.networks.network import Network
from qdojo.noise import integer
from qdojo.types import Actor, Batch, Memory, Metrics, Observation, Params, Words

NO_HEAD = -1
"""Memory at the start of an episode, before a head is drawn."""


def bootstrapped(network: Network, heads: int) -> Network:
    """`heads` separate networks, each with its own weights and noise; the Q-values are their mean.

    The networks are separate as in Osband et al. (2018), section 4. In Osband et al. (2016) they share a torso (figure
    1a) and evaluate by majority vote (section 6.2). `network` must return Q-values.
    """

    def apply(params: Params, observation: Observation) -> Float[Array, "*branches actions"]:
        return jnp.mean(jax.vmap(network.apply, in_axes=(0, None))(params, observation), axis=0)

    def perturb(params: Params, noise: Words) -> Params:
        return jax.vmap(network.perturb)(params, noise.reshape(heads, network.words))

    return Network(
        init=lambda key: jax.vmap(network.init)(jax.random.split(key, heads)),
        apply=apply,
        perturb=perturb,
        words=heads * network.words,
        observe=jax.vmap(network.observe, in_axes=(0, None)),
        partition=network.partition,
        hidden=network.hidden and jax.vmap(network.hidden, in_axes=(0, None)),
    )


def bootstrapped_loss(loss: Loss, heads: int) -> Loss:
    """A loss averaged over heads, each with its own target parameters and noise; so are the priority and the metrics.

    All heads learn from all data: masks with p = 1 (Osband et al., 2016, algorithm 1 and section 6.1). They differ
    only in their initial weights and their own targets.
    """

    def ensemble(
        params: Params, target_params: Params, batch: Batch, noise: Words
    ) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
        words = noise.reshape(heads, loss.words)
        each = jax.vmap(loss.of, in_axes=(0, 0, None, 0))(params, target_params, batch, words)
        return jax.tree.map(jnp.mean, each)

    return Loss(ensemble, heads * loss.words)


def bootstrapped_actor(network: Network, heads: int) -> Actor:
    """An actor that draws one head uniformly at the start of an episode and acts with it throughout the episode.

    Osband et al. (2016), algorithm 1. The memory is the head's index. `values`, used in evaluations, is the mean over
    heads.
    """
    mean = bootstrapped(network, heads).apply

    def values(params: Params, observation: Observation, memory: Memory) -> tuple[Float[Array, "*q"], Memory]:
        return mean(params, observation), memory

    def exploring(
        params: Params, observation: Observation, memory: Int[Array, ""], noise: Words
    ) -> tuple[Float[Array, "*q"], Int[Array, ""]]:
        head = jnp.where(memory == NO_HEAD, integer(noise[0], heads), memory)
        own = network.perturb(jax.tree.map(lambda leaf: leaf[head], params), noise[1:])
        return network.apply(own, observation), head

    return Actor(values, exploring, lambda: jnp.int32(NO_HEAD), 1 + network.words)
