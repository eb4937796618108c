"""Noisy networks: exploration by learned noise on the weights of dense layers. `agents/` applies the noise.

The noise is factorised Gaussian noise as in Fortunato et al. (2018), section 3 (b).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qdojo.networks.mlp import Linear
from qdojo.networks.network import Network
from qdojo.noise import normal
from qdojo.types import Observation, Params, Words

SIGMA_0 = 0.5


class Noisy(NamedTuple):
    """Parameters of a noisy network."""

    mean: Params
    """Parameters without noise: mu."""
    spread: Params
    """Standard deviations: a `Linear` of sigmas for each `Linear` of `mean`, and None for every other array."""


class NoisyFunctions(NamedTuple):
    """The functions that make a network with `Linear` layers noisy, independent of its other functions."""

    init: Callable[[Array], Noisy]
    perturb: Callable[[Noisy, Words], Params]
    """mu + sigma * epsilon, in the form of the parameters without noise."""
    means: Callable[[Params], Params]
    """mu of noisy parameters; other parameters unchanged."""
    words: int
    """Random words that one call of `perturb` consumes: inputs + outputs of every layer."""


def noisy(network: Network) -> Network:
    """The network with noise on all its `Linear` layers. Only `perturb` adds noise; the other functions use mu.

    Raises `ValueError` if the network has no such layer.
    """
    functions = noisy_functions(network.init)
    return network.through(functions.means)._replace(
        init=functions.init, perturb=functions.perturb, words=functions.words, observe=seen_by_means(network.observe)
    )


def seen_by_means(observe: Callable[[Params, Observation], Params]) -> Callable[[Noisy, Observation], Noisy]:
    """`observe`, which updates the statistics of observations, for noisy parameters."""
    return lambda params, observation: params._replace(mean=observe(params.mean, observation))


def noisy_functions(init: Callable[[Array], Params]) -> NoisyFunctions:
    """Noise for the `Linear` layers among the parameters that `init` returns.

    sigma starts at `SIGMA_0` / sqrt(inputs), and mu is uniform in +-1 / sqrt(inputs), as `Linear` draws it
    (section 3.2). Raises `ValueError` if there is no such layer.
    """
    shapes = jax.eval_shape(init, jax.random.key(0))
    words = sum(sum(leaf.weight.shape) for leaf in jax.tree.leaves(shapes, is_leaf=is_linear) if is_linear(leaf))
    if words == 0:
        raise ValueError("A noisy network needs `Linear` layers, and this one has none.")

    def noisy_init(key: Array) -> Noisy:
        mean = init(key)
        return Noisy(
            mean, jax.tree.map(lambda leaf: sigmas(leaf) if is_linear(leaf) else None, mean, is_leaf=is_linear)
        )

    return NoisyFunctions(noisy_init, perturb, means, words)


def is_linear(leaf: Any) -> TypeGuard[Linear]:
    """Whether this node of the parameters is a layer that gets noise."""
    return isinstance(leaf, Linear)


def sigmas(layer: Linear) -> Linear:
    """The initial sigma of a layer, the same for weights and biases."""
    sigma = SIGMA_0 / math.sqrt(layer.weight.shape[1])
    return jax.tree.map(lambda mu: jnp.full_like(mu, sigma), layer)


def perturb(params: Noisy, noise: Words) -> Params:
    """mu + sigma * epsilon, with independent noise for every layer. Fortunato et al. (2018), equation 9."""
    layers, structure = jax.tree.flatten(params.mean, is_leaf=is_linear)
    spreads = jax.tree.leaves(params.spread, is_leaf=is_linear)
    places = [i for i, layer in enumerate(layers) if is_linear(layer)]
    epsilon, used = signed_root(normal(noise)), 0
    for i, spread in zip(places, spreads, strict=True):
        outputs, inputs = spread.weight.shape
        own, used = epsilon[used : used + inputs + outputs], used + inputs + outputs
        layers[i] = perturbed(layers[i], spread, own[:inputs], own[inputs:])
    return jax.tree.unflatten(structure, layers)


def perturbed(
    mean: Linear, spread: Linear, of_inputs: Float[Array, "inputs"], of_outputs: Float[Array, "outputs"]
) -> Linear:
    """One layer with the noise epsilon_w = f(e_out) f(e_in)^T and epsilon_b = f(e_out): equations 10 and 11."""
    weight = mean.weight + spread.weight * of_outputs[:, None] * of_inputs[None]
    bias = mean.bias + spread.bias * of_outputs
    return eqx.tree_at(lambda layer: (layer.weight, layer.bias), mean, (weight, bias))


def signed_root(x: Float[Array, "words"]) -> Float[Array, "words"]:
    """f(x) = sign(x) sqrt(|x|), applied to the factors whose product is the noise of a weight."""
    return jnp.sign(x) * jnp.sqrt(jnp.abs(x))


def means(params: Params) -> Params:
    """mu of noisy parameters; other parameters, including perturbed ones, unchanged."""
    return params.mean if isinstance(params, Noisy) else params
