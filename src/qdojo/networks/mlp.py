"""Q-networks of dense layers, with optional LayerNorm and dueling heads. Keras models are in `keras.py`."""

import math
from collections.abc import Sequence
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qdojo.networks.inputs import INPUTS, Design, Inputs, legal_only, observed
from qdojo.networks.network import Network
from qdojo.types import AnyArray, Observation

LAYER_NORM_EPSILON = 1e-5


class Linear(eqx.Module):
    """W x + b. W has shape `[outputs, inputs]`, so the gradient needs no transposed copy of it."""

    weight: Float[Array, "outputs inputs"]
    bias: Float[Array, "outputs"]

    def __init__(self, inputs: int, outputs: int, key: Array) -> None:
        """Uniform in +-1/sqrt(inputs), for weights and bias alike (LeCun et al., 1998, section 4.6)."""
        bound = 1.0 / math.sqrt(inputs)
        weight_key, bias_key = jax.random.split(key)
        self.weight = jax.random.uniform(weight_key, (outputs, inputs), minval=-bound, maxval=bound)
        self.bias = jax.random.uniform(bias_key, (outputs,), minval=-bound, maxval=bound)

    def __call__(self, x: Float[Array, "inputs"]) -> Float[Array, "outputs"]:
        return jnp.inner(x, self.weight) + self.bias

    def of_one_hot(self, x: Float[Array, "inputs"]) -> Float[Array, "outputs"]:
        """The same for an `x` with at most one element other than zero, without products with zeros."""
        place = jnp.argmax(x != 0.0)
        return x[place] * self.weight[:, place] + self.bias

    @property
    def kernel(self) -> Float[AnyArray, "inputs outputs"]:
        """W as in Keras, transposed."""
        return self.weight.T


class Table(eqx.Module):
    """`Linear.of_one_hot` with W as `[inputs, outputs]`, so that the weights of one input lie together in memory."""

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, "outputs"]

    def __init__(self, linear: Linear) -> None:
        self.weight, self.bias = linear.weight.T, linear.bias

    def __call__(self, x: Float[Array, "inputs"]) -> Float[Array, "outputs"]:
        place = jnp.argmax(x != 0.0)
        return x[place] * self.weight[place] + self.bias

    @property
    def kernel(self) -> Float[AnyArray, "inputs outputs"]:
        """W, which is as in Keras."""
        return self.weight


class LayerNorm(eqx.Module):
    """Mean 0 and variance 1 over the features, then a learned scale and offset. Ba et al. (2016), equation 4."""

    scale: Float[Array, "features"]
    offset: Float[Array, "features"]

    def __init__(self, features: int) -> None:
        self.scale = jnp.ones(features)
        self.offset = jnp.zeros(features)

    def __call__(self, x: Float[Array, "features"]) -> Float[Array, "features"]:
        return _normalised(x, self.scale, self.offset)


@jax.custom_vjp
def _normalised(
    x: Float[Array, "features"], scale: Float[Array, "features"], offset: Float[Array, "features"]
) -> Float[Array, "features"]:
    """LayerNorm with a hand-written gradient: XLA's CPU backend runs the one that JAX derives at half the speed."""
    return _forward(x, scale, offset)[0]


def _forward(
    x: Float[Array, "features"], scale: Float[Array, "features"], offset: Float[Array, "features"]
) -> tuple[Float[Array, "features"], tuple[Array, Array, Array]]:
    centred = x - jnp.mean(x)
    deviation = jax.lax.rsqrt(jnp.mean(jnp.square(centred)) + LAYER_NORM_EPSILON)
    normal = centred * deviation
    return normal * scale + offset, (normal, deviation, scale)


def _backward(kept: tuple[Array, Array, Array], slope: Float[Array, "features"]) -> tuple[Array, Array, Array]:
    normal, deviation, scale = kept
    product = slope * normal
    mean_pull = (jnp.dot(slope, scale) + normal * jnp.dot(product, scale)) / slope.shape[0]
    return deviation * (slope * scale - mean_pull), product, slope


_normalised.defvjp(_forward, _backward)


class Hidden(eqx.Module):
    """A dense layer, optional LayerNorm, and ReLU."""

    linear: Linear | Table
    norm: LayerNorm | None
    one_hot: bool = eqx.field(static=True)

    def __init__(
        self, inputs: int, outputs: int, layer_norm: bool, key: Array, one_hot: bool = False, table: bool = False
    ) -> None:
        linear = Linear(inputs, outputs, key)
        self.linear = Table(linear) if table else linear
        self.norm = LayerNorm(outputs) if layer_norm else None
        self.one_hot = one_hot

    def __call__(self, x: Float[Array, "inputs"]) -> Float[Array, "outputs"]:
        layer = self.linear
        x = layer.of_one_hot(x) if self.one_hot and isinstance(layer, Linear) else layer(x)
        return jax.nn.relu(x if self.norm is None else self.norm(x))


class Dueling(eqx.Module):
    """One stream for the state value V and one for the advantages A, each with a hidden layer: V + A - mean A.

    Wang et al. (2016), equation 9. With several outputs per action, it applies to each output (Hessel et al., 2018,
    section 3). With several branches, all share one V, and each branch subtracts the mean over its own actions
    (Tavakoli et al., 2018, equation 1).
    """

    value_hidden: Hidden
    value: Linear
    advantage_hidden: Hidden
    advantage: Linear
    num_actions: int = eqx.field(static=True)
    branch_sizes: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, inputs: int, width: int, design: Design, outputs: int, key: Array) -> None:
        keys = jax.random.split(key, 4)
        self.num_actions, self.branch_sizes = design.num_actions, design.branch_sizes
        self.value_hidden = Hidden(inputs, width, design.layer_norm, keys[0])
        self.value = Linear(width, outputs, keys[1])
        self.advantage_hidden = Hidden(inputs, width, design.layer_norm, keys[2])
        self.advantage = Linear(width, math.prod(design.q_shape) * outputs, keys[3])

    def __call__(self, x: Float[Array, "inputs"]) -> Float[Array, "values"]:
        value = self.value(self.value_hidden(x))
        advantage = self.advantage(self.advantage_hidden(x)).reshape(-1, self.num_actions, value.shape[0])
        sizes = self.branch_sizes or (self.num_actions,) * advantage.shape[0]
        exists = np.arange(self.num_actions) < np.array(sizes)[:, None]
        # Not `jnp.mean(where=...)`, which ONNX converters do not support.
        total = jnp.sum(jnp.where(exists[:, :, None], advantage, 0.0), axis=1, keepdims=True)
        mean = total / np.array(sizes, np.float32)[:, None, None]
        return (value[None, None] + advantage - mean).reshape(-1)


class MLP(eqx.Module):
    """Hidden layers and a head with `outputs` values per action.

    With `dueling`, each of the head's two streams has its own last hidden layer.
    """

    inputs: Inputs
    hidden: list[Hidden]
    head: Linear | Dueling

    def __init__(self, design: Design, outputs: int, key: Array) -> None:
        hidden = design.hidden
        shared = hidden[:-1] if design.dueling else hidden
        *keys, last = jax.random.split(key, len(hidden) + 1)
        self.inputs = Inputs(design, jax.random.fold_in(key, INPUTS))
        self.hidden = layers(design, shared, keys)
        width = shared[-1] if shared else design.features
        if design.dueling:
            self.head = Dueling(width, hidden[-1], design, outputs, last)
        else:
            self.head = Linear(width, math.prod(design.q_shape) * outputs, last)

    def __call__(self, observation: Observation) -> Float[Array, "values"]:
        x = self.inputs(observation)
        for layer in self.hidden:
            x = layer(x)
        return self.head(x)

    def activations(self, observation: Observation) -> list[Float[Array, "..."]]:
        """The outputs of all hidden layers, after ReLU."""
        x = self.inputs(observation)
        found = outputs_of(self.hidden, x)
        if isinstance(self.head, Dueling):
            x = found[-1] if found else x
            found += [self.head.value_hidden(x), self.head.advantage_hidden(x)]
        return found


def layers(design: Design, widths: Sequence[int], keys: Sequence[Array] | Array) -> list[Hidden]:
    """Hidden layers of these widths, the first of which follows the inputs."""
    sizes = pairwise((design.features, *widths))
    return [
        Hidden(a, b, design.layer_norm, key, design.one_hot and place == 0, design.table and place == 0)
        for place, ((a, b), key) in enumerate(zip(sizes, keys, strict=False))
    ]


def outputs_of(hidden: Sequence[Hidden], x: Float[Array, "inputs"]) -> list[Float[Array, "..."]]:
    """The outputs of each of some successive layers."""
    found = []
    for layer in hidden:
        x = layer(x)
        found.append(x)
    return found


def mlp(design: Design, outputs: int | None = None) -> Network:
    """A network that returns Q-values `design.q_shape`; or, if `outputs` is given, `[*q_shape, outputs]` without
    applying the action mask, which is left to the code that computes Q-values from them.

    Every parameter is an array, so the module itself serves as the parameters. `dueling` needs a hidden layer.
    """

    def apply(params: MLP, observation: Observation) -> Float[Array, "*q"]:
        values = params(observation)
        if outputs is None:
            return legal_only(values.reshape(design.q_shape), observation)
        return values.reshape(*design.q_shape, outputs)

    return Network(
        init=lambda key: MLP(design, outputs or 1, key),
        apply=apply,
        observe=observed,
        hidden=lambda params, observation: params.activations(observation),
    )
