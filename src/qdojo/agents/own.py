"""Checks a user's own loss before anything is compiled. The built-in losses are in `dqn.py` and its neighbours."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from qdojo.agents.dqn import Rule
from qdojo.agents.learner import Loss
from qdojo.errors import UsageError, tried
from qdojo.networks.network import Network
from qdojo.types import Batch


def own_loss(
    make: Callable[[Network, Rule], Loss], network: Network, rule: Rule, observation: Any, action_shape: tuple[int, ...]
) -> Loss:
    """The loss that `make` returns for a network and a rule. It is traced for one transition but not run.

    `observation` has the shape and dtype of each array of one observation; if it is None, nothing is traced. Raises
    UsageError, in one sentence with the fix, if `make` returns no `Loss` or the loss does not return (loss, priority,
    metrics) as scalars.
    """
    name = getattr(make, "__qualname__", type(make).__name__)
    loss = tried(f"loss {name}", lambda: make(network, rule))
    if not isinstance(loss, Loss):
        raise UsageError(f"loss {name} returned a {type(loss).__name__}; return a qdojo.agents.learner.Loss.")
    if observation is None:
        return loss
    number = jax.ShapeDtypeStruct((), jnp.float32)
    action: Any = jax.ShapeDtypeStruct(action_shape, jnp.int32)
    batch = Batch(observation, action, number, number, observation, number)  # type: ignore[arg-type]
    params = jax.eval_shape(network.init, jax.eval_shape(lambda: jax.random.key(0)))
    noise = jax.ShapeDtypeStruct((loss.words,), jnp.uint32)
    given = tried(f"loss {name}", lambda: jax.eval_shape(loss.of, params, params, batch, noise))
    fits = isinstance(given, tuple) and len(given) == 3 and isinstance(given[2], dict)
    if not fits or any(leaf.shape != () for leaf in jax.tree.leaves(given)):
        raise UsageError(
            f"loss {name} returns shapes {jax.tree.map(lambda leaf: list(leaf.shape), given)} for one transition; "
            "return (loss, priority, metrics): two scalars and a dict of scalars by name."
        )
    return loss
