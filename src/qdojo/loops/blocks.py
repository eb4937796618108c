"""Lets the members of a shard learn in blocks that fit into a core's cache, one block after the other."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from qdojo.loops.sharding import Shards, mapped
from qdojo.loops.state import AXES, NO_TALLY, Programs, TrainState
from qdojo.tape import ring

OWN = AXES._replace(tape=ring.READERS)
"""Member axes of the part of the state of which each block has its own. The tape is not cut, which would copy it."""
IS_OWN = jax.tree.map(lambda axis: axis is not None, OWN, is_leaf=lambda axis: axis is None)


def parted(state: TrainState) -> tuple[Any, Any]:
    """The members' own arrays and those that they share, without the words of the tape, a tally or a partial chunk."""
    tape = state.tape._replace(words=None)
    return eqx.partition(state._replace(tape=tape, tally=NO_TALLY, partial=None), IS_OWN)


def whole(rows: UInt32[Array, "..."], own: Any, shared: Any) -> TrainState:
    """The state that was `parted`, with the words of the tape."""
    state = eqx.combine(own, shared)
    return state._replace(tape=state.tape._replace(words=rows))


class Blocks:
    """The members of a shard in groups of equal size. A single block is the program without any splitting.

    `axes` is everywhere a tree as in `jax.vmap`: the index of the member axis of each array, or None if all members
    share the array. `name` is that of the tree, for the compiled program.
    """

    def __init__(self, shards: Shards, most: int, programs: Programs) -> None:
        """At most `most` members per block; the size of a block divides the number of members of a shard."""
        self.size = next(size for size in range(min(most, shards.each), 0, -1) if shards.each % size == 0)
        self.count = shards.each // self.size
        self._shards, self._programs = shards, programs

    def states(self, state: TrainState) -> tuple[list[Any], Any]:
        """Each block's own part of a state, which takes its place in memory, and the part that the blocks share."""
        own, shared = parted(state)
        blocks = self.cut("state", own, OWN)
        self.free(state)
        return blocks, shared

    def state(self, rows: UInt32[Array, "..."], blocks: list[Any], shared: Any) -> TrainState:
        """The state of all members, with the words of the tape and without a tally."""
        return whole(rows, self.joined("state", blocks, OWN), shared)

    def free(self, state: TrainState) -> None:
        """Free the members' own arrays, which are there once more as those of the blocks."""
        if self.count > 1:
            for leaf in jax.tree.leaves(parted(state)[0]):
                if isinstance(leaf, jax.Array):
                    leaf.delete()

    def cut(self, name: str, tree: Any, axes: Any) -> list[Any]:
        """The arrays of each block, from those of all members."""
        if self.count == 1:
            return [tree]

        def block(first: int, tree: Any) -> Any:
            def leaf(axis: int | None, every: Any) -> Any:
                return every if axis is None else jax.lax.slice_in_dim(every, first, first + self.size, axis=axis)

            return mapped(leaf, axes, tree)

        def cut(tree: Any) -> list[Any]:
            return [block(number * self.size, tree) for number in range(self.count)]

        return self._programs.jitted(f"cut {name}", self._shards.over(cut, (axes,), [axes] * self.count))(tree)

    def joined(self, name: str, blocks: list[Any], axes: Any) -> Any:
        """The arrays of all members, from those of each block."""
        if self.count == 1:
            return blocks[0]

        def join(blocks: list[Any]) -> Any:
            return mapped(lambda axis, *each: each[0] if axis is None else jnp.concatenate(each, axis), axes, *blocks)

        return self._programs.jitted(f"joined {name}", self._shards.over(join, ([axes] * self.count,), axes))(blocks)
