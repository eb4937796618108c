"""Converts built-in dense networks to Keras models, and reads their weights from Keras files. `keras.py` uses Keras
models as networks."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qdojo.errors import UsageError
from qdojo.networks.keras import import_keras, keras_settings
from qdojo.networks.mlp import LAYER_NORM_EPSILON, MLP, Dueling, Hidden, Linear, Table
from qdojo.networks.network import Network
from qdojo.networks.weights import load_weights
from qdojo.types import Params

if TYPE_CHECKING:
    import keras


@keras_settings()
def mlp_as_keras(params: MLP, observation_shape: tuple[int, ...]) -> "keras.Model":
    """A plain Keras model equivalent to one member's dense network: a Sequential unless the network is dueling.

    For a dueling network the two streams are concatenated, and one linear layer computes V + A - mean A. Raises
    `UsageError` for a network with convolutions.
    """
    if params.inputs.torso is not None:
        raise UsageError("This agent's network begins with convolutions, but only dense layers have a Keras form.")
    keras = import_keras()
    scale = params.inputs.scale
    begin = [] if scale == 1 else [keras.layers.Rescaling(1.0 / scale)]
    begin += [] if len(observation_shape) == 1 else [keras.layers.Flatten()]
    shared = [layer for hidden in params.hidden for layer in _hidden_layers(hidden)]
    if isinstance(params.head, Linear):
        layers = [*begin, *shared, _dense(params.head)]
        model = keras.Sequential([keras.layers.Input(observation_shape), *layers])
        values = [*(value for hidden in params.hidden for value in _values(hidden)), *_kernel_and_bias(params.head)]
    else:
        head = params.head
        streams = [_hidden_layers(head.value_hidden), _hidden_layers(head.advantage_hidden)]
        inputs = keras.layers.Input(observation_shape)
        x = _through([*begin, *shared], inputs)
        joined = keras.layers.Concatenate()([_through(stream, x) for stream in streams])
        layers = [*shared, *streams[0], *streams[1], keras.layers.Dense(head.advantage.bias.shape[0])]
        model = keras.Model(inputs, layers[-1](joined))
        hidden_layers = [*params.hidden, head.value_hidden, head.advantage_hidden]
        values = [*(value for hidden in hidden_layers for value in _values(hidden)), *_joined(head)]
    variables = [variable for layer in layers for variable in layer.trainable_variables]
    for variable, value in zip(variables, values, strict=True):
        variable.assign(np.asarray(value))
    return model


def _dense(linear: Linear | Table) -> Any:
    return import_keras().layers.Dense(linear.bias.shape[0])


def _hidden_layers(hidden: Hidden) -> list[Any]:
    layers = import_keras().layers
    norm = [] if hidden.norm is None else [layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON)]
    return [_dense(hidden.linear), *norm, layers.ReLU()]


def _through(layers: list[Any], x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x


def _kernel_and_bias(linear: Linear | Table) -> list[Any]:
    return [linear.kernel, linear.bias]


def _values(hidden: Hidden) -> list[Any]:
    norm = [] if hidden.norm is None else [hidden.norm.scale, hidden.norm.offset]
    return [*_kernel_and_bias(hidden.linear), *norm]


def _joined(head: Dueling) -> list[Any]:
    """Kernel and bias of the linear layer over both streams that computes V + A - mean A for every action."""
    weight, bias = head.advantage.weight, head.advantage.bias
    actions = bias.shape[0]
    of_value = jnp.broadcast_to(head.value.weight, (actions, head.value.weight.shape[1]))
    of_advantage = weight - jnp.mean(weight, axis=0)
    return [jnp.concatenate([of_value, of_advantage], axis=1).T, head.value.bias + bias - jnp.mean(bias)]


def read_weights(path: Path | str, network: Network) -> Params:
    """Parameters for a built-in or a Keras network from a Keras weights file. `load_weights` says which files it reads.

    A built-in network must not be dueling, because the layers of the two streams cannot be told apart in the file.
    Raises `UsageError` if it begins with convolutions.
    """
    given = network.init(jax.random.key(0))
    if isinstance(given, MLP):
        if given.inputs.torso is not None:
            raise UsageError("weights is a Keras file of dense layers only; use torso='dense', or leave weights out.")
        weights = load_weights(Path(path), [variable.shape[::-1] for variable in _variables(given)])
        return eqx.tree_at(_variables, given, [jnp.asarray(weight.T) for weight in weights])
    weights = load_weights(Path(path), [variable.shape for variable in given.trainable])
    return given._replace(trainable=[jnp.asarray(weight) for weight in weights])


def _variables(params: Any) -> list[Any]:
    """The variables of a dense network in Keras' order, layer by layer; its kernels are the transpose of Keras'."""
    variables = []
    for hidden in params.hidden:
        variables += [hidden.linear.weight, hidden.linear.bias]
        if hidden.norm is not None:
            variables += [hidden.norm.scale, hidden.norm.offset]
    return [*variables, params.head.weight, params.head.bias]
