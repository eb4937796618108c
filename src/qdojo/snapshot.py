"""A state as named arrays and back, bit by bit. Not for files: see `runs/checkpoint.py`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from qdojo.errors import UsageError

Arrays = dict[str, np.ndarray]


def to_arrays(tree: PyTree[Any]) -> Arrays:
    """Every leaf, named by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): np.asarray(leaf) for path, leaf in leaves}


def from_arrays(template: PyTree[Any], arrays: Arrays) -> PyTree[Any]:
    """The tree of `template`'s structure that holds `arrays`; NumPy leaves stay NumPy, the rest go to the device.

    Raises UsageError where a name, a shape or a dtype is not the template's: the state of another config.
    """
    unknown = sorted(arrays.keys() - {_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(template)})
    if unknown:
        raise UsageError(f"{unknown[0]} is in the checkpoint, but this config needs no such array.")

    def leaf(path: Any, like: Any) -> Any:
        name = _name(path)
        found = arrays.get(name)
        if found is None or found.shape != like.shape or found.dtype != like.dtype:
            shape = "missing" if found is None else f"{found.dtype}{list(found.shape)}"
            needed = f"{like.dtype}{list(like.shape)}"
            raise UsageError(f"{name} is {shape} in the checkpoint, but this config needs {needed}.")
        return np.array(found) if isinstance(like, np.ndarray) else jnp.array(found)

    return jax.tree_util.tree_map_with_path(leaf, template)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
