"""Converts a state to named arrays and back without changing a bit. `runs/checkpoint.py` handles the files."""

from collections.abc import Iterator, Mapping
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

    Arrays that the template's `sharding` splits over devices may have fewer members: the last one is repeated. Arrays
    named in `filled_up` may have fewer rows than the template; missing rows are zeros. Raises UsageError if a
    name, a shape or a dtype differs from the template, as in the state of another config.
    """
    unknown = sorted(arrays.keys() - names(template))
    if unknown:
        raise UsageError(f"{unknown[0]} is in the checkpoint, but this config has no such array.")

    def leaf(path: Any, like: Any) -> Any:
        name = _name(path)
        found = arrays.get(name)
        if found is None or not _fits(found, like, name in filled_up):
            shape = "missing" if found is None else f"{found.dtype}{list(found.shape)}"
            needed = f"{like.dtype}{list(like.shape)}"
            raise UsageError(f"{name} is {shape} in the checkpoint, but this config needs {needed}.")
        return _on_host(found, like) if isinstance(like, np.ndarray) else _on_device(found, like)

    return jax.tree_util.tree_map_with_path(leaf, template)


def names(tree: PyTree[Any]) -> set[str]:
    """The names of a tree's leaves."""
    return {_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def _fits(found: Any, like: Any, may_be_short: bool) -> bool:
    if found.dtype != like.dtype or found.ndim != len(like.shape):
        return False
    short = ({0} if may_be_short else set()) | {_split_axis(like)}
    axes = enumerate(zip(found.shape, like.shape, strict=True))
    return all(has == wanted or (axis in short and has < wanted) for axis, (has, wanted) in axes)


def _split_axis(like: Any) -> int | None:
    """The axis along which an array is split over devices, if it is."""
    spec = getattr(getattr(like, "sharding", None), "spec", ())
    return next((axis for axis, name in enumerate(spec) if name is not None), None)


def _on_host(found: Any, like: np.ndarray) -> np.ndarray:
    """A copy of the array, padded with rows of zeros to the shape of `like`."""
    if found.shape == like.shape and found.nbytes <= BLOCK_BYTES:
        return np.array(found)
    array = np.zeros_like(like)
    for start, block in _blocks(found):
        array[start : start + len(block)] = block
    return array


def _blocks(found: Any) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of a large array, a block at a time, and where each block begins."""
    rows = max(1, BLOCK_BYTES * len(found) // max(1, found.nbytes))
    for start in range(0, len(found), rows):
        yield start, np.ascontiguousarray(found[start : start + rows])


def _on_device(found: Any, like: Any) -> jax.Array:
    """The array on its devices, padded with rows of zeros to the shape of `like`."""
    shape, split = like.shape, _split_axis(like)
    sharding = like.sharding if hasattr(getattr(like, "sharding", None), "spec") else None
    if found.shape == shape and found.nbytes <= BLOCK_BYTES and split is None:
        return jnp.array(found, device=sharding)
    if split == 0:
        return jax.device_put(_repeated(found, 0, shape[0]), sharding)
    array = jnp.zeros(shape, found.dtype, device=sharding)
    for start, block in _blocks(found):
        array = _written(array, block if split is None else _repeated(block, split, shape[split]), start)
    return array


def _repeated(array: Any, axis: int, size: int) -> Any:
    """An array whose last entry along `axis` is repeated up to `size` entries."""
    there = array.shape[axis]
    return array if there == size else np.take(array, np.minimum(np.arange(size), there - 1), axis)


@partial(jax.jit, donate_argnums=0)
def _written(array: jax.Array, block: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(array, block, start, 0)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
