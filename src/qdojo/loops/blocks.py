"""Lets the members of a shard learn in blocks that fit into a core's cache, one block after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from qdojo.loops.sharding import mapped
from qdojo.loops.state import AXES
from qdojo.tape import ring

WHOLE: Any = "whole"
"""In place of an axis: every block gets the whole array, of which it changes only what belongs to its own members."""
BLOCK_AXES = AXES._replace(tape=ring.AXES._replace(words=WHOLE))
"""Member axes of the training state. The tape is not cut, which would copy it."""


class Blocks:
    """Members in groups of equal size. A single block is the program without any splitting."""

    def __init__(self, members: int, most: int) -> None:
        """At most `most` members per block; the size of a block divides the number of members."""
        self.size = next(size for size in range(min(most, members), 0, -1) if members % size == 0)
        self.count = members // self.size

    def over(self, function: Callable[..., Any], carry_axes: Any, given_axes: tuple[Any, ...]) -> Callable[..., Any]:
        """`function(carry, *given) -> carry` of the members of one block as a function of all members.

        The axes are trees as in `jax.vmap`, and an axis may also be `WHOLE`. Arrays without an axis enter every block
        as they were before the first.
        """
        if self.count == 1:
            return function

        def all_blocks(carry: Any, *given: Any) -> Any:
            def block(i: Any, changed: Any) -> Any:
                first = i * self.size

                def cut(axis: Any, before: Any, now: Any) -> Any:
                    if axis is None:
                        return before
                    return now if axis == WHOLE else jax.lax.dynamic_slice_in_dim(now, first, self.size, axis)

                def entered(axis: Any, all_members: Any, before: Any, after: Any) -> Any:
                    if axis is None or axis == WHOLE:
                        return after
                    # XLA does not see that this would change nothing, and would copy it for all members.
                    if after is before:
                        return all_members
                    return jax.lax.dynamic_update_slice_in_dim(all_members, after, first, axis)

                before = mapped(cut, carry_axes, carry, changed)
                after = function(before, *mapped(cut, given_axes, given, given))
                return mapped(entered, carry_axes, changed, before, after)

            return jax.lax.fori_loop(0, self.count, block, jax.tree.map(jnp.asarray, carry))

        return all_blocks
