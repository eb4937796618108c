"""A Q-network of dense layers, with LayerNorm where asked. Not for Keras models: see `keras.py`."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from qdojo.types import Network

LAYER_NORM_EPSILON = 1e-5


class Linear(eqx.Module):
    """W x + b. With W as `[outputs, inputs]` no product of the gradient needs a transposed copy."""

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
    """With a gradient of its own: of the one that JAX derives, XLA's CPU backend makes kernels twice as slow."""
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
    """A dense layer, LayerNorm where asked, and relu."""

    linear: Linear
    norm: LayerNorm | None

    def __init__(self, inputs: int, outputs: int, layer_norm: bool, key: Array) -> None:
        self.linear = Linear(inputs, outputs, key)
        self.norm = LayerNorm(outputs) if layer_norm else None

    def __call__(self, x: Float[Array, "inputs"]) -> Float[Array, "outputs"]:
        x = self.linear(x)
        return jax.nn.relu(x if self.norm is None else self.norm(x))


class Dueling(eqx.Module):
    """A stream for the state's value V and one for the advantages A, each with a hidden layer: V + A - mean A.

    Wang et al. (2016), equation 9; with several outputs an action, for each of them (Hessel et al., 2018, section 3).
    """

    value_hidden: Hidden
    value: Linear
    advantage_hidden: Hidden
    advantage: Linear

    def __init__(self, inputs: int, width: int, actions: int, outputs: int, layer_norm: bool, key: Array) -> None:
        keys = jax.random.split(key, 4)
        self.value_hidden = Hidden(inputs, width, layer_norm, keys[0])
        self.value = Linear(width, outputs, keys[1])
        self.advantage_hidden = Hidden(inputs, width, layer_norm, keys[2])
        self.advantage = Linear(width, actions * outputs, keys[3])

    def __call__(self, x: Float[Array, "inputs"]) -> Float[Array, "values"]:
        value = self.value(self.value_hidden(x))
        advantage = self.advantage(self.advantage_hidden(x)).reshape(-1, value.shape[0])
        return (value[None] + advantage - jnp.mean(advantage, axis=0, keepdims=True)).reshape(-1)


class MLP(eqx.Module):
    """Hidden layers and a head of `outputs` values for each action.

    With `dueling` each of the head's two streams has the last hidden layer as its own.
    """

    hidden: list[Hidden]
    head: Linear | Dueling

    def __init__(
        self,
        inputs: int,
        hidden: tuple[int, ...],
        actions: int,
        outputs: int,
        layer_norm: bool,
        dueling: bool,
        key: Array,
    ) -> None:
        keys = jax.random.split(key, len(hidden) + 1)
        shared = hidden[:-1] if dueling else hidden
        widths = (inputs, *shared)
        self.hidden = [Hidden(widths[i], widths[i + 1], layer_norm, keys[i]) for i in range(len(shared))]
        if dueling:
            self.head = Dueling(widths[-1], hidden[-1], actions, outputs, layer_norm, keys[-1])
        else:
            self.head = Linear(widths[-1], actions * outputs, keys[-1])

    def __call__(self, observation: Shaped[Array, "*observation"]) -> Float[Array, "values"]:
        x = jnp.ravel(observation).astype(jnp.float32)
        for layer in self.hidden:
            x = layer(x)
        return self.head(x)


def mlp(
    observation_shape: tuple[int, ...],
    num_actions: int,
    hidden: tuple[int, ...],
    layer_norm: bool,
    dueling: bool = False,
    outputs: int | None = None,
) -> Network:
    """A network over flattened observations: `[actions]`, or `[actions, outputs]` where `outputs` are given.

    Every parameter is an array, so the module is its own parameters. `dueling` needs at least one hidden layer.
    """
    inputs = math.prod(observation_shape)
    shape = (num_actions,) if outputs is None else (num_actions, outputs)
    return Network(
        init=lambda key: MLP(inputs, hidden, num_actions, outputs or 1, layer_norm, dueling, key),
        apply=lambda params, observation: params(observation).reshape(shape),
    )
