"""Lets the members of a shard learn in blocks that fit into a core's cache, one block after the other."""

from typing import Any

import jax
import jax.numpy as jnp

from qdojo.loops.sharding import Shards, mapped
from qdojo.loops.state import Programs


class Blocks:
    """The members of a shard in groups of equal size. A single block is the program without any splitting.

    `axes` is everywhere a tree as in `jax.vmap`: the index of the member axis of each array, or None if all members
    share the array. `name` is that of the tree, for the compiled program.
    """

    def __init__(self, shards: Shards, most: int) -> None:
        """At most `most` members per block; the size of a block divides the number of members of a shard."""
        self.size = next(size for size in range(min(most, shards.each), 0, -1) if shards.each % size == 0)
        self.count = shards.each // self.size
        self._shards = shards

    def cut(self, programs: Programs, name: str, tree: Any, axes: Any) -> list[Any]:
        """The arrays of each block, from those of all members."""
        if self.count == 1:
            return [tree]

        def block(first: int, tree: Any) -> Any:
            def leaf(axis: int | None, every: Any) -> Any:
                return every if axis is None else jax.lax.slice_in_dim(every, first, first + self.size, axis=axis)

            return mapped(leaf, axes, tree)

        def cut(tree: Any) -> list[Any]:
            return [block(number * self.size, tree) for number in range(self.count)]

        return programs.jitted(f"cut {name}", self._shards.over(cut, (axes,), [axes] * self.count))(tree)

    def joined(self, programs: Programs, name: str, blocks: list[Any], axes: Any) -> Any:
        """The arrays of all members, from those of each block."""
        if self.count == 1:
            return blocks[0]

        def join(blocks: list[Any]) -> Any:
            return mapped(lambda axis, *each: each[0] if axis is None else jnp.concatenate(each, axis), axes, *blocks)

        return programs.jitted(f"joined {name}", self._shards.over(join, ([axes] * self.count,), axes))(blocks)

    def free(self, tree: Any) -> None:
        """Free the arrays of all members, which are there once more as those of the blocks."""
        if self.count > 1:
            for leaf in jax.tree.leaves(tree):
                if isinstance(leaf, jax.Array):
                    leaf.delete()
