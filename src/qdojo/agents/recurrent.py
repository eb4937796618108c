"""DRQN and R2D2: any loss on sequences, by a network with a memory. Not for the cells: see `networks/recurrent.py`.

Hausknecht and Stone (2015) start each sequence from an empty memory; Kapturowski et al. (2019) from the one that the
agent had when it saw the first row, and let the network warm up over some rows before it learns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from qdojo.agents.learner import Loss
from qdojo.networks.inputs import in_place, plain
from qdojo.networks.network import Network
from qdojo.types import Batch, Memory, Metrics, Observation, Params, Sequence, Words

LARGEST_SHARE = 0.9
"""eta of Kapturowski et al. (2019), section 2.3: the share of the largest error in a sequence's priority."""


class Target(NamedTuple):
    """The target network's parameters, so marked that its head reads features of its own."""

    params: Params


def reading(network: Network) -> Network:
    """A network with a memory as losses see it: any of the family learns from sequences by it.

    What each of the two networks makes of all that came before is not the same, so its observation is the features of
    both, `[2, *features]`, the online network's first. A `Target` reads the second.
    """

    def own(function: Callable[..., Any]) -> Callable[..., Any]:
        def read(params: Params, features: Observation, *rest: Any) -> Any:
            of_online, of_target = plain(features)
            if isinstance(params, Target):
                return function(params.params, in_place(features, of_target), *rest)
            return function(params, in_place(features, of_online), *rest)

        return read

    return network._replace(apply=own(network.apply), proposal=network.proposal and own(network.proposal))


def unrolled(
    network: Network, params: Params, observations: Observation, last: Bool[Array, "time"], memory: Memory
) -> tuple[Float[Array, "time *features"], Memory]:
    """Features of successive observations `[time, ...]`, and the memory after them.

    An episode starts after each row that is `last`, and with it the memory, as it does when the loops act.
    """

    def row(memory: Memory, seen: tuple[Observation, Bool[Array, ""]]) -> tuple[Memory, Float[Array, "*features"]]:
        observation, last = seen
        features, memory = network.features(params, observation, memory)
        return jax.tree.map(lambda old, new: jnp.where(last, new, old), memory, network.memory()), plain(features)

    memory, features = jax.lax.scan(row, memory, (observations, last))
    return features, memory


def recurrent_loss(loss: Loss, network: Network, length: int, burn_in: int, stored_state: bool) -> Loss:
    """The mean of `loss` over the transitions of a `Sequence`, `length` rows that come after `burn_in` others, which
    only make the memory. `loss` is built on `reading(network)`.

    Online and target network each go over all rows, from the stored memory or from an empty one; no gradient goes
    through the burn-in, nor through what follows a transition. Kapturowski et al. (2019), sections 2.3 and 3; from an
    empty memory and without burn-in, the "bootstrapped random updates" of Hausknecht and Stone (2015).
    """
    burnt, learned = slice(burn_in), slice(burn_in, None)

    def at(observations: PyTree[Array], rows: slice | Int[Array, "some"]) -> PyTree[Array]:
        return jax.tree.map(lambda leaf: leaf[rows], observations)

    def features(params: Params, sequence: Sequence) -> Float[Array, "time *features"]:
        """Of all rows after the burn-in."""
        memory = sequence.memory if stored_state else network.memory()
        seen, last = sequence.obs_tm1, sequence.last
        _, memory = unrolled(network, jax.lax.stop_gradient(params), at(seen, burnt), last[burnt], memory)
        return unrolled(network, params, at(seen, learned), last[learned], memory)[0]

    def of(
        params: Params, target_params: Params, sequence: Sequence, noise: Words
    ) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
        both = jnp.stack([features(params, sequence), features(target_params, sequence)], axis=1)
        seen = in_place(at(sequence.obs_tm1, learned), both)
        real = sequence.starts.astype(jnp.float32)
        transitions = Batch(
            obs_tm1=at(seen, slice(length)),
            action_tm1=sequence.action_tm1,
            reward_t=sequence.reward_t,
            discount_t=sequence.discount_t,
            obs_t=jax.lax.stop_gradient(at(seen, sequence.after_t - burn_in)),
            weight=real,
        )
        losses, errors, metrics = jax.vmap(loss.of, in_axes=(None, None, 0, 0))(
            params, Target(target_params), transitions, noise.reshape(length, loss.words)
        )

        def mean(x: Float[Array, "learned"]) -> Float[Array, ""]:
            """Over the rows that start a transition."""
            return jnp.sum(real * x) / jnp.maximum(jnp.sum(real), 1.0)

        priority = LARGEST_SHARE * jnp.max(real * errors) + (1.0 - LARGEST_SHARE) * mean(errors)
        return mean(losses), priority, jax.tree.map(mean, metrics)

    return Loss(of, length * loss.words)
