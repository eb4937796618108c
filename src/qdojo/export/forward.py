"""Describes the forward pass of a trained network as layers and one array of weights, for `page/network.js`.

Only what happens when an agent plays is described: noise is left out, spectral normalisation is applied to the kernels.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from qdojo.errors import UsageError
from qdojo.networks.implicit import COSINE_COEFFICIENTS, COSINES, PROPOSAL_SCALE, ImplicitMLP
from qdojo.networks.inputs import MOST_DEVIATIONS, Inputs
from qdojo.networks.mlp import LAYER_NORM_EPSILON, MLP, Dueling, Hidden, LayerNorm, Linear, Table
from qdojo.networks.noisy import means
from qdojo.networks.prior import Prior
from qdojo.networks.recurrent import LSTM, RecurrentMLP
from qdojo.networks.torsos import TINY, Convolution, Convolutions, Impala, sides_and_channels
from qdojo.observations import channels_first

Layer = dict[str, Any]


class Form(NamedTuple):
    """What the outputs of a network mean, beyond its parameters."""

    form: str
    """`q`: Q-values; `c51`: logits of fixed atoms; `qr`: quantiles; `implicit`: a quantile function."""
    observation_shape: tuple[int, ...]
    """Shape of what the network sees, which is a stack if there are several frames."""
    frame_shape: tuple[int, ...]
    """Shape of one observation of the environment."""
    frames: int
    actions: int
    outputs: int
    """Numbers of each action's distribution; 1 for Q-values, 0 for a quantile function."""
    support: tuple[float, ...] = ()
    """Returns of the atoms of C51."""
    fractions: int = 0
    """Fractions at which a quantile function is evaluated, unless it proposes them."""
    cvar: float = 1.0
    prior_scale: float = 0.0
    heads: int = 1
    rescaled: bool = False
    """Whether Q-values are on the square-root scale."""


class Weights:
    """Collects arrays into one, and gives each a reference to its place."""

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        self._size = 0

    def add(self, array: Any) -> dict[str, Any]:
        """Append an array. Returns where it begins, and its shape."""
        values = np.asarray(array, np.float32)
        self._arrays.append(values.ravel())
        at, self._size = self._size, self._size + values.size
        return {"at": at, "shape": list(values.shape)}

    @property
    def all(self) -> np.ndarray:
        """Everything added so far, as one float32 array."""
        return np.concatenate(self._arrays) if self._arrays else np.zeros(0, np.float32)


def described(params: Any, form: Form, model: Any = None) -> tuple[dict[str, Any], np.ndarray]:
    """The layers of one member's network as plain data, and its weights, float32 `[weights]`.

    `model` is the Keras model with the trained weights, if the network is one. Raises UsageError if the network has a
    part that the page does not have.
    """
    weights, params = Weights(), jax.tree.map(np.asarray, params)
    heads: list[dict[str, Any]]
    if model is not None:
        heads = [{"learned": {"features": [], "cell": None, "head": _keras(model, weights)}, "fixed": None}]
    else:
        each = [params] if form.heads == 1 else [_own(params, head) for head in range(form.heads)]
        heads = [_head(own, form, weights) for own in each]
    told = {
        "form": form.form,
        "actions": form.actions,
        "outputs": form.outputs,
        "support": list(form.support),
        "fractions": form.fractions,
        "cvar": form.cvar,
        "cosines": COSINES,
        "coefficients": list(COSINE_COEFFICIENTS),
        "proposal_scale": PROPOSAL_SCALE,
        "prior_scale": form.prior_scale,
        "rescaled": form.rescaled,
        "frames": _frames(form),
        "heads": heads,
    }
    return told, weights.all


def _frames(form: Form) -> dict[str, int] | None:
    """How frames are stacked: each of the first axes' places holds `inner` numbers of every frame in turn."""
    if form.frames == 1:
        return None
    shape = form.frame_shape
    if len(shape) in (0, 2):
        return {"count": form.frames, "inner": 1}
    return {"count": form.frames, "inner": math.prod(shape) if channels_first(shape) else shape[-1]}


def _own(params: Any, head: int) -> Any:
    """The parameters of one network of an ensemble."""
    return jax.tree.map(lambda leaf: leaf[head], params)


def _head(params: Any, form: Form, weights: Weights) -> dict[str, Any]:
    learned, fixed = (params.learned, params.fixed) if isinstance(params, Prior) else (params, None)
    return {
        "learned": _part(means(learned), form, weights),
        "fixed": None if fixed is None else _part(means(fixed), form, weights),
    }


def _part(module: Any, form: Form, weights: Weights) -> dict[str, Any]:
    """One network: layers up to its cell, the cell if it has one, and the head after it."""
    if isinstance(module, RecurrentMLP):
        trunk = [*_inputs(module.inputs, form.observation_shape, weights), *_hidden(module.hidden, weights)]
        head = _part(means(module.head), form._replace(observation_shape=()), weights)
        return {**head, "features": trunk, "cell": _cell(module.cell, weights)}
    if isinstance(module, ImplicitMLP):
        begin = _inputs(module.inputs, form.observation_shape, weights)
        last = [] if module.last is None else _hidden([module.last], weights)
        return {
            "features": begin,
            "cell": None,
            "psi": _hidden(module.features, weights),
            "embedding": _dense(module.embedding, weights),
            "head": [*last, *_top(module.head, weights)],
            "proposal": None if module.proposal is None else _dense(module.proposal, weights),
        }
    if isinstance(module, MLP):
        begin = _inputs(module.inputs, form.observation_shape, weights)
        return {
            "features": [*begin, *_hidden(module.hidden, weights)],
            "cell": None,
            "head": _top(module.head, weights),
        }
    raise UsageError("this agent's network is an Equinox module of its own, which the page cannot compute")


def _cell(cell: Any, weights: Weights) -> dict[str, Any]:
    width = cell.of_memory.weight.shape[1]
    kind, size = ("lstm", 2 * width) if isinstance(cell, LSTM) else ("gru", width)
    return {
        "kind": kind,
        "size": size,
        "of_input": _dense(cell.of_input, weights),
        "of_memory": _dense(cell.of_memory, weights),
    }


def _inputs(inputs: Inputs, shape: tuple[int, ...], weights: Weights) -> list[Layer]:
    if inputs.tables:
        tables = [weights.add(table) for table in inputs.tables]
        return [{"layer": "embed", "tables": tables, "size": inputs.tables[0].shape[1]}]
    layers: list[Layer] = [] if inputs.scale == 1 else [_affine(1.0 / inputs.scale)]
    if inputs.statistics is not None:
        mean, variance = weights.add(inputs.statistics.mean), weights.add(inputs.statistics.variance)
        bounds = {"least": inputs.statistics.least_variance, "most": MOST_DEVIATIONS}
        layers.append({"layer": "standardize", "mean": mean, "variance": variance, **bounds})
    if inputs.torso is None:
        return layers
    if inputs.channels_first:
        layers.append({"layer": "channels_last", "shape": list(shape)})
    return [*layers, *_torso(inputs.torso, sides_and_channels(shape, inputs.channels_first), weights)]


def _torso(torso: Convolutions | Impala, shape: tuple[int, int, int], weights: Weights) -> list[Layer]:
    layers: list[Layer] = []
    if isinstance(torso, Convolutions):
        for convolution in torso.convolutions:
            layer, shape = _convolution(convolution, shape, weights)
            layers += [layer, RELU]
        return layers
    for stage in torso.stages:
        layer, shape = _convolution(stage.convolution, shape, weights)
        layers += [layer, {"layer": "pool", "shape": list(shape)}]
        shape = (math.ceil(shape[0] / 2), math.ceil(shape[1] / 2), shape[2])
        for block in stage.blocks:
            first, second = (_convolution(each, shape, weights)[0] for each in (block.first, block.second))
            layers.append({"layer": "residual", "inside": [RELU, first, RELU, second]})
    return [*layers, RELU]


def _convolution(
    convolution: Convolution, shape: tuple[int, int, int], weights: Weights
) -> tuple[Layer, tuple[int, int, int]]:
    """The layer, and the shape of its output."""
    kernel = np.asarray(convolution.kernel)
    if convolution.spectral_norm:
        # Its largest singular value, to which the power iteration of `spectrally_normalized` converges.
        kernel = kernel / max(float(np.linalg.norm(kernel.reshape(kernel.shape[0], -1), 2)), TINY)
    outputs, side = kernel.shape[:2]
    stride = convolution.stride
    pads = jax.lax.padtype_to_pads(shape[:2], (side, side), (stride, stride), convolution.padding)
    rows, columns = ((length + sum(pad) - side) // stride + 1 for length, pad in zip(shape[:2], pads, strict=True))
    layer = {"layer": "convolution", "kernel": weights.add(kernel), "bias": weights.add(convolution.bias)}
    before = {"above": pads[0][0], "beside": pads[1][0]}
    sizes = {"shape": list(shape), "side": side, "stride": stride, "rows": rows, "columns": columns, **before}
    return {**layer, **sizes}, (rows, columns, outputs)


RELU: Layer = {"layer": "relu"}


def _affine(scale: float, offset: float = 0.0) -> Layer:
    return {"layer": "affine", "scale": scale, "offset": offset}


def _hidden(layers: list[Hidden], weights: Weights) -> list[Layer]:
    told: list[Layer] = []
    for hidden in layers:
        norm = [] if hidden.norm is None else [_norm(hidden.norm, weights)]
        told += [_dense(hidden.linear, weights), *norm, RELU]
    return told


def _dense(linear: Linear | Table, weights: Weights) -> Layer:
    return {"layer": "dense", "weight": weights.add(linear.kernel.T), "bias": weights.add(linear.bias)}


def _norm(norm: LayerNorm, weights: Weights) -> Layer:
    return {
        "layer": "norm",
        "scale": weights.add(norm.scale),
        "offset": weights.add(norm.offset),
        "epsilon": LAYER_NORM_EPSILON,
    }


def _top(head: Linear | Dueling, weights: Weights) -> list[Layer]:
    if isinstance(head, Linear):
        return [_dense(head, weights)]
    outputs = head.value.bias.shape[0]
    branches = head.advantage.bias.shape[0] // (head.num_actions * outputs)
    return [
        {
            "layer": "dueling",
            "value": [*_hidden([head.value_hidden], weights), _dense(head.value, weights)],
            "advantage": [*_hidden([head.advantage_hidden], weights), _dense(head.advantage, weights)],
            "sizes": list(head.branch_sizes or (head.num_actions,) * branches),
            "actions": head.num_actions,
            "outputs": outputs,
        }
    ]


# Keras models. --------------------------------------------------------------------------------------------------------

ACTIVATIONS = ("tanh", "sigmoid", "elu", "selu", "softplus", "silu")


def _keras(model: Any, weights: Weights) -> list[Layer]:
    """The layers of a Keras model in which each layer feeds the next."""
    told: list[Layer] = []
    for layer in _chain(model):
        told += _keras_layer(layer, weights)
    return told


def _chain(model: Any) -> list[Any]:
    """The layers of a model, nested models included. Raises UsageError unless each feeds only the next."""
    found: list[Any] = []
    for layer in model.layers:
        nodes = getattr(layer, "_inbound_nodes", [])
        inputs = nodes[0].input_tensors if nodes else []
        if len(inputs) > 1:
            raise UsageError(
                f"its layer {layer.name!r} has {len(inputs)} inputs, and the page has only chains of layers"
            )
        found += _chain(layer) if hasattr(layer, "layers") else [layer]
    if not hasattr(model, "layers") or type(model).__name__ not in ("Sequential", "Functional"):
        raise UsageError(f"its model is a {type(model).__name__}, and the page has only chains of layers")
    return found


def _keras_layer(layer: Any, weights: Weights) -> list[Layer]:
    kind, values = type(layer).__name__, [np.asarray(value) for value in layer.weights]
    if kind in ("InputLayer", "Flatten", "Dropout"):
        return []
    if kind == "Dense" and values[0].ndim == 2:
        bias = values[1] if layer.use_bias else np.zeros(values[0].shape[1])
        dense = {"layer": "dense", "weight": weights.add(values[0].T), "bias": weights.add(bias)}
        return [dense, *_activation(layer, layer.activation.__name__)]
    if kind == "Activation":
        return _activation(layer, layer.activation.__name__)
    if kind == "ReLU" and layer.max_value is None and not layer.negative_slope and not layer.threshold:
        return [RELU]
    if kind == "Rescaling":
        return [_affine(float(layer.scale), float(layer.offset))]
    if kind == "LayerNormalization" and len(values) == 2:
        scale, offset = values
        names = {"scale": weights.add(scale), "offset": weights.add(offset), "epsilon": float(layer.epsilon)}
        return [{"layer": "norm", **names}]
    raise UsageError(f"its Keras layer {layer.name!r} ({kind}) is none of those that the page has")


def _activation(layer: Any, name: str) -> list[Layer]:
    if name in ("linear", "relu"):
        return [] if name == "linear" else [RELU]
    if name not in ACTIVATIONS:
        raise UsageError(f"its Keras layer {layer.name!r} has the activation {name!r}, which the page does not have")
    return [{"layer": "activation", "name": name}]
