"""Packs a state into a few flat arrays, for calls so short that the overhead per array dominates."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Shaped

Packed = dict[str, Shaped[Array, "member ..."]]
"""One array per dtype with one row per member, which concatenates its values; large arrays stay separate."""
LARGE = 100_000
"""Number of values per member above which copying an array costs more than its overhead."""


class Packing:
    """The layout of the arrays of one tree in the packed arrays."""

    def __init__(self, like: PyTree[Any]) -> None:
        """`like` has arrays, or their shapes and dtypes, with a leading member axis."""
        leaves, self._structure = jax.tree.flatten(like)
        self._shapes = [leaf.shape for leaf in leaves]
        self._places = [
            f"array {i}" if math.prod(leaf.shape[1:]) > LARGE else str(leaf.dtype) for i, leaf in enumerate(leaves)
        ]

    def pack(self, tree: PyTree[Shaped[Array, "member ..."]]) -> Packed:
        """The packed arrays of a tree."""
        rows: dict[str, list[Array]] = {place: [] for place in self._places}
        for leaf, place in zip(jax.tree.leaves(tree), self._places, strict=True):
            rows[place].append(leaf.reshape(leaf.shape[0], -1))
        return {place: jnp.concatenate(parts, axis=1) for place, parts in rows.items()}

    def unpack(self, packed: Packed) -> Any:
        """The tree that was packed, with identical bits."""
        leaves = []
        starts = dict.fromkeys(packed, 0)
        for shape, place in zip(self._shapes, self._places, strict=True):
            size = math.prod(shape[1:])
            part = packed[place][:, starts[place] : starts[place] + size]
            leaves.append(part.reshape(len(part), *shape[1:]))
            starts[place] += size
        return jax.tree.unflatten(self._structure, leaves)
