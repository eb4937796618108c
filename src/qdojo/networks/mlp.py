"""A Q-network of dense layers, with LayerNorm where asked. Not for Keras models: see `keras.py`."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from qdojo.types import Network

LAYER_NORM_EPSILON = 1e-5


class Linear(eqx.Module):
    """x W + b, with W as `[inputs, outputs]`, the way Keras keeps it."""

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, "outputs"]

    def __init__(self, inputs: int, outputs: int, key: Array) -> None:
        """Uniform in +-1/sqrt(inputs), for weights and bias alike (LeCun et al., 1998, section 4.6)."""
        bound = 1.0 / math.sqrt(inputs)
        weight_key, bias_key = jax.random.split(key)
        self.weight = jax.random.uniform(weight_key, (inputs, outputs), minval=-bound, maxval=bound)
        self.bias = jax.random.uniform(bias_key, (outputs,), minval=-bound, maxval=bound)

    def __call__(self, x: Float[Array, "inputs"]) -> Float[Array, "outputs"]:
        return x @ self.weight + self.bias


class LayerNorm(eqx.Module):
    """Mean 0 and variance 1 over the features, then a learned scale and offset. Ba et al. (2016), equation 4."""

    scale: Float[Array, "features"]
    offset: Float[Array, "features"]

    def __init__(self, features: int) -> None:
        self.scale = jnp.ones(features)
        self.offset = jnp.zeros(features)

    def __call__(self, x: Float[Array, "features"]) -> Float[Array, "features"]:
        centred = x - jnp.mean(x)
        deviation = jax.lax.rsqrt(jnp.mean(jnp.square(centred)) + LAYER_NORM_EPSILON)
        return centred * deviation * self.scale + self.offset


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
