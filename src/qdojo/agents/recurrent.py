"""DRQN and R2D2: any loss on sequences, with a recurrent network. `networks/recurrent.py` has the networks.

Hausknecht and Stone (2015) start each sequence with an empty memory. Kapturowski et al. (2019) start with the memory
that the agent had at the first row, and burn in the network on some rows before it learns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from qdojo.agents.learner import Loss
from qdojo.networks.network import Network
from qdojo.observations import in_place, plain
from qdojo.types import Batch, Memory, Metrics, Observation, Params, Sequence, Words

LARGEST_SHARE = 0.9
"""eta of Kapturowski et al. (2019), section 2.3: the weight of the largest error in a sequence's priority."""


class Target(NamedTuple):
    """Marks parameters as the target network's, so that its head reads the target network's features."""

    params: Params


def reading(network: Network) -> Network:
    """A recurrent network in the form that losses take, so that any loss of the family works on sequences.

    Online and target network compute different features from the same history, so the observation of this network is
    the features of both, `[2, *features]`. Parameters marked `Target` read the second, all others the first.
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

    The memory is reset after each row that is `last`, where an episode starts, just as when the loops act.
    """

    def row(memory: Memory, seen: tuple[Observation, Bool[Array, ""]]) -> tuple[Memory, Float[Array, "*features"]]:
        observation, last = seen
        features, memory = network.features(params, observation, memory)
        return jax.tree.map(lambda old, new: jnp.where(last, new, old), memory, network.memory()), plain(features)

    memory, features = jax.lax.scan(row, memory, (observations, last))
    return features, memory


def recurrent_loss(loss: Loss, network: Network, length: int, burn_in: int, stored_state: bool) -> Loss:
    """The mean of `loss` over the transitions of a `Sequence`: `length` rows after `burn_in` rows that only update the
    memory. `loss` must be built on `reading(network)`.

    Online and target network each process all rows, from the stored memory or from an empty one. No gradient flows
    through the burn-in or through next observations. Kapturowski et al. (2019), sections 2.3 and 3; with an empty
    memory and no burn-in, these are the "bootstrapped random updates" of Hausknecht and Stone (2015).
    """
    burnt, learned = slice(burn_in), slice(burn_in, None)

    def at(observations: PyTree[Array], rows: slice | Int[Array, "some"]) -> PyTree[Array]:
        return jax.tree.map(lambda leaf: leaf[rows], observations)

    def features(params: Params, sequence: Sequence) -> Float[Array, "time *features"]:
        """Features of all rows after the burn-in."""
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
            """The mean over the rows that start a transition."""
            return jnp.sum(real * x) / jnp.maximum(jnp.sum(real), 1.0)

        priority = LARGEST_SHARE * jnp.max(real * errors) + (1.0 - LARGEST_SHARE) * mean(errors)
        return mean(losses), priority, jax.tree.map(mean, metrics)

    return Loss(of, length * loss.words)
