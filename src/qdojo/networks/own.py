"""A user's Equinox module as a Q-network. Keras models are in `keras.py`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qdojo.errors import UsageError, tried
from qdojo.networks.inputs import legal_only
from qdojo.networks.network import Network
from qdojo.observations import plain
from qdojo.types import Observation, Params


def own_network(
    build: Callable[[Array], Any], name: str, observation_shape: tuple[int, ...], dtype: Any, q_shape: tuple[int, ...]
) -> Network:
    """The network that `build` defines: it maps a key to a module, which maps one observation to Q-values `q_shape`.

    The parameters are the module's arrays; everything else in it (activation functions, sizes) is the same for all
    members. Action masks are applied to its output. Raises UsageError if `build` returns no module, or the module
    returns values of another shape.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    module = tried(f"network {name}", lambda: eqx.filter_eval_shape(build, key))
    if not callable(module) or not isinstance(module, eqx.Module):
        raise UsageError(
            f"network {name} returned a {type(module).__name__}; return an Equinox module that maps one observation to "
            "Q-values, or write a function without arguments that returns a Keras model."
        )
    _, rest = eqx.partition(module, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def init(key: Array) -> Params:
        return eqx.filter(build(key), eqx.is_array)

    def apply(params: Params, observation: Observation) -> Float[Array, "*branches actions"]:
        q = eqx.combine(params, rest)(plain(observation))
        return legal_only(jnp.asarray(q, jnp.float32), observation)

    network = Network(init, apply)
    shown = jax.ShapeDtypeStruct(observation_shape, dtype)
    params = jax.eval_shape(init, key)
    found = tried(f"the module of network {name}", lambda: jax.eval_shape(apply, params, shown))
    if found.shape != q_shape:
        raise UsageError(
            f"The module of network {name} returns shape {list(found.shape)} for one observation of shape "
            f"{list(observation_shape)}; return Q-values of shape {list(q_shape)}, one per action."
        )
    return network
