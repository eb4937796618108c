"""Parameters of any network, drawn by NumPy: nothing is compiled. Not for what an initialisation itself promises."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qdojo.networks.network import Network


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    """float32 from a standard normal distribution."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def words(*shape: int, seed: int = 0) -> Array:
    """Random words of uint32."""
    return jnp.asarray(np.random.default_rng(seed).integers(2**32, size=shape, dtype=np.uint32))


def weights(network: Network, seed: int = 0) -> Any:
    """The form of `network.init`; floats are uniform within the bound of a dense layer of 8 inputs, the rest 0."""
    generator = np.random.default_rng(seed)

    def leaf(form: jax.ShapeDtypeStruct) -> Array:
        if not jnp.issubdtype(form.dtype, jnp.floating):
            return jnp.asarray(np.zeros(form.shape, form.dtype))
        return jnp.asarray(generator.uniform(-0.35, 0.35, form.shape).astype(form.dtype))

    return jax.tree.map(leaf, jax.eval_shape(network.init, jax.random.key(0)))
