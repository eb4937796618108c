"""A state as a few flat arrays: for calls so short that handling each of its arrays is what they cost."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Shaped

Packed = dict[str, Shaped[Array, "member numbers"]]
"""All numbers of a member in one row, an array for each dtype."""


class Packing:
    """How the arrays of one tree lie in the packed rows."""

    def __init__(self, like: PyTree[Any]) -> None:
        """`like` has arrays, or their shapes and dtypes, with a leading member axis."""
        leaves, self._structure = jax.tree.flatten(like)
        self._shapes = [leaf.shape for leaf in leaves]
        self._dtypes = [str(leaf.dtype) for leaf in leaves]

    def pack(self, tree: PyTree[Shaped[Array, "member ..."]]) -> Packed:
        """Every number of the tree."""
        leaves = jax.tree.leaves(tree)
        rows: dict[str, list[Array]] = {dtype: [] for dtype in self._dtypes}
        for leaf, dtype in zip(leaves, self._dtypes, strict=True):
            rows[dtype].append(leaf.reshape(leaf.shape[0], -1))
        return {dtype: jnp.concatenate(parts, axis=1) for dtype, parts in rows.items()}

    def unpack(self, packed: Packed) -> Any:
        """The tree again, bit by bit."""
        leaves = []
        starts = dict.fromkeys(packed, 0)
        for shape, dtype in zip(self._shapes, self._dtypes, strict=True):
            size = math.prod(shape[1:])
            leaves.append(packed[dtype][:, starts[dtype] : starts[dtype] + size].reshape(shape))
            starts[dtype] += size
        return jax.tree.unflatten(self._structure, leaves)
