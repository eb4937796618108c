"""A Q-network of dense layers, with LayerNorm where asked. Not for Keras models: see `keras.py`."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from qdojo.types import Network

LAYER_NORM_EPSILON = 1e-5


class Linear(eqx.Module):
    """W x + b. With W as `[outputs, inputs]` no product of the gradient needs a transposed copy: 1.3 times at 256x256."""

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


class MLP(eqx.Module):
    """Dense layers, each followed by LayerNorm (where `norms` has one) and relu, and a linear head."""

    layers: list[Linear]
    norms: list[LayerNorm]
    head: Linear

    def __init__(self, inputs: int, hidden: tuple[int, ...], outputs: int, layer_norm: bool, key: Array) -> None:
        keys = jax.random.split(key, len(hidden) + 1)
        widths = (inputs, *hidden)
        self.layers = [Linear(widths[i], widths[i + 1], keys[i]) for i in range(len(hidden))]
        self.norms = [LayerNorm(width) for width in hidden] if layer_norm else []
        self.head = Linear(widths[-1], outputs, keys[-1])

    def __call__(self, observation: Shaped[Array, "*observation"]) -> Float[Array, "outputs"]:
        x = jnp.ravel(observation).astype(jnp.float32)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if self.norms:
                x = self.norms[i](x)
            x = jax.nn.relu(x)
        return self.head(x)


def mlp(observation_shape: tuple[int, ...], num_actions: int, hidden: tuple[int, ...], layer_norm: bool) -> Network:
    """A network over flattened observations; every parameter is an array, so the module is its own parameters."""
    inputs = math.prod(observation_shape)
    return Network(
        init=lambda key: MLP(inputs, hidden, num_actions, layer_norm, key),
        apply=lambda params, observation: params(observation),
    )
