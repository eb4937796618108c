"""Converts a state to named arrays and back without changing a bit. `runs/checkpoint.py` handles the files."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from qdojo.errors import UsageError

Arrays = dict[str, np.ndarray]
BLOCK_BYTES = 64 * 2**20
"""Larger arrays are moved to the device in blocks of this size, so that a file's data is never in memory twice."""


def to_arrays(tree: PyTree[Any]) -> Arrays:
    """All leaves of a tree, named by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): np.asarray(leaf) for path, leaf in leaves}


def from_arrays(template: PyTree[Any], arrays: Mapping[str, Any], filled_up: tuple[str, ...] = ()) -> PyTree[Any]:
    """The tree of `template`'s structure that holds `arrays`; NumPy leaves stay NumPy, the rest go to the device.

    Large arrays are only sliced, so they need not be NumPy arrays: their slices must be, as those of `segments.Rows`.

    Arrays named in `filled_up` may have fewer rows than the template; missing rows are zeros. Raises UsageError if a
    name, a shape or a dtype differs from the template, as in the state of another config.
    """
    unknown = sorted(arrays.keys() - {_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(template)})
    if unknown:
        raise UsageError(f"{unknown[0]} is in the checkpoint, but this config has no such array.")

    def leaf(path: Any, like: Any) -> Any:
        name = _name(path)
        found = arrays.get(name)
        if found is None or not _fits(found, like, name in filled_up):
            shape = "missing" if found is None else f"{found.dtype}{list(found.shape)}"
            needed = f"{like.dtype}{list(like.shape)}"
            raise UsageError(f"{name} is {shape} in the checkpoint, but this config needs {needed}.")
        return np.array(found) if isinstance(like, np.ndarray) else _on_device(found, like.shape)

    return jax.tree_util.tree_map_with_path(leaf, template)


def _fits(found: Any, like: Any, may_be_short: bool) -> bool:
    if found.dtype != like.dtype or found.shape == like.shape:
        return bool(found.dtype == like.dtype)
    shorter = found.ndim == len(like.shape) and found.shape[1:] == like.shape[1:] and len(found) < like.shape[0]
    return may_be_short and shorter


def _on_device(found: Any, shape: tuple[int, ...]) -> jax.Array:
    """The array on the device, padded with rows of zeros to `shape`."""
    if found.shape == shape and found.nbytes <= BLOCK_BYTES:
        return jnp.array(found)
    array = jnp.zeros(shape, found.dtype)
    rows = max(1, BLOCK_BYTES * len(found) // max(1, found.nbytes))
    for start in range(0, len(found), rows):
        array = _written(array, np.ascontiguousarray(found[start : start + rows]), start)
    return array


@partial(jax.jit, donate_argnums=0)
def _written(array: jax.Array, block: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(array, block, start, 0)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
