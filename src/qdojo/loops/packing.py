"""A state as a few flat arrays: for calls so short that handling each of its arrays is what they cost."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Shaped

Packed = dict[str, Shaped[Array, "member ..."]]
"""All numbers of a member in one row, an array for each dtype; and large arrays as they are."""
LARGE = 100_000
"""Numbers of one member from which on an array costs more to copy than to handle."""


class Packing:
    """How the arrays of one tree lie in the packed rows."""

    def __init__(self, like: PyTree[Any]) -> None:
        """`like` has arrays, or their shapes and dtypes, with a leading member axis."""
        leaves, self._structure = jax.tree.flatten(like)
        self._shapes = [leaf.shape for leaf in leaves]
        self._places = [
            f"array {i}" if math.prod(leaf.shape[1:]) > LARGE else str(leaf.dtype) for i, leaf in enumerate(leaves)
        ]

    def pack(self, tree: PyTree[Shaped[Array, "member ..."]]) -> Packed:
        """Every number of the tree."""
        rows: dict[str, list[Array]] = {place: [] for place in self._places}
        for leaf, place in zip(jax.tree.leaves(tree), self._places, strict=True):
            rows[place].append(leaf.reshape(leaf.shape[0], -1))
        return {place: jnp.concatenate(parts, axis=1) for place, parts in rows.items()}

    def unpack(self, packed: Packed) -> Any:
        """The tree again, bit by bit."""
        leaves = []
        starts = dict.fromkeys(packed, 0)
        for shape, place in zip(self._shapes, self._places, strict=True):
            size = math.prod(shape[1:])
            leaves.append(packed[place][:, starts[place] : starts[place] + size].reshape(shape))
            starts[place] += size
        return jax.tree.unflatten(self._structure, leaves)
