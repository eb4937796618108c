"""Splits the members of a population over devices. No agent, loss or environment knows of it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, UInt32

from qdojo.errors import UsageError

MEMBER = "member"
"""Name of the only axis of the mesh."""


class Shards:
    """Members in groups of equal size, each on a device of its own; a group is a shard.

    A single shard is the program without any splitting. If the members do not fill all shards, the last member is
    repeated: arrays inside a loop have `slots` members, and `cut` removes the copies from what leaves it.

    `axes` is everywhere a tree as in `jax.vmap`: the index of the member axis of each array, or None if all shards
    share the array.
    """

    def __init__(self, members: int, most: int = 1) -> None:
        """At most `most` shards. Raises UsageError if JAX has fewer devices than that takes."""
        self.members = members
        self.each = math.ceil(members / most)
        """Members per shard."""
        self.count = math.ceil(members / self.each)
        self.slots = self.each * self.count
        self.mesh = None
        if self.count > 1:
            devices = jax.local_devices()
            if len(devices) < self.count:
                raise UsageError(
                    f"shards is {self.count}, but JAX already runs in this process with {len(devices)} device(s); use "
                    "a new process, or set jax_num_cpu_devices before JAX is first used."
                )
            self.mesh = Mesh(np.array(devices[: self.count]), (MEMBER,))

    def over(self, function: Callable[..., Any], in_axes: tuple[Any, ...], out_axes: Any) -> Callable[..., Any]:
        """`function` of the members of one shard as a function of all members, computed by all devices at once."""
        if self.mesh is None:
            return function
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=_specs(in_axes), out_specs=_specs(out_axes), check_vma=False
        )

    def numbers(self) -> UInt32[Array, "member"]:
        """The numbers of a shard's members, inside a function given to `over`."""
        if self.mesh is None:
            return jnp.arange(self.members, dtype=jnp.uint32)
        slot = jax.lax.axis_index(MEMBER).astype(jnp.uint32) * self.each + jnp.arange(self.each, dtype=jnp.uint32)
        return jnp.minimum(slot, self.members - 1)

    def own(self, of_members: Any) -> Any:
        """The entries `[member]` of a shard's members, inside a function given to `over`."""
        return of_members if self.mesh is None else jax.tree.map(lambda every: every[self.numbers()], of_members)

    def readers(self, stored: int) -> np.ndarray:
        """What `Tape.member` holds on a tape of `stored` members, which may be a single one: places in the shard."""
        return np.arange(self.slots) % self.each % stored

    def described(self, template: Any, axes: Any) -> Any:
        """Shapes and dtypes with the devices that hold each array."""
        if self.mesh is None:
            return template
        mesh = self.mesh

        def leaf(axis: int | None, like: Any) -> Any:
            return jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=NamedSharding(mesh, _spec(axis)))

        return mapped(leaf, axes, template)

    def placed(self, tree: Any, axes: Any) -> Any:
        """Arrays of all members, on the host or on any device, on the devices of their shards."""
        if self.mesh is None:
            return tree
        mesh = self.mesh

        def leaf(axis: int | None, array: Any) -> Any:
            return jax.device_put(array, NamedSharding(mesh, _spec(axis)))

        return mapped(leaf, axes, self.filled(tree, axes))

    def filled(self, tree: Any, axes: Any) -> Any:
        """Arrays of all members on the host, with the last member repeated in the slots that are left."""
        if self.slots == self.members:
            return tree
        return mapped(lambda axis, array: array if axis is None else repeated(array, axis, self.slots), axes, tree)

    def cut(self, tree: Any, axes: Any) -> Any:
        """Arrays without the copies of the last member; on the host if there are any, else unchanged."""
        if self.slots == self.members:
            return tree

        def leaf(axis: int | None, array: Any) -> Any:
            host = np.asarray(array)
            return host if axis is None else host[(slice(None),) * axis + (slice(self.members),)]

        return mapped(leaf, axes, tree)

    def gathered(self, tree: Any) -> Any:
        """Arrays `[member, ...]` on the first device, for calls so short that waking the other devices costs more."""
        if self.mesh is None:
            return tree
        return jax.device_put(self.cut(tree, 0), self.mesh.devices[0])


def repeated(array: Any, axis: int, size: int) -> Any:
    """An array whose last entry along `axis` is repeated up to `size` entries."""
    if array.shape[axis] == size:
        return array
    host = np.asarray(array)
    return np.take(host, np.minimum(np.arange(size), host.shape[axis] - 1), axis)


def mapped(function: Callable[..., Any], axes: Any, *trees: Any) -> Any:
    """`function(axis, leaf, ...)` of the leaves of trees of equal structure; `axes` has the axis of each leaf."""

    def below(axis: Any, *parts: Any) -> Any:
        return jax.tree.map(lambda *leaves: function(axis, *leaves), *parts)

    return jax.tree.map(below, axes, *trees, is_leaf=lambda axis: axis is None)


def _specs(axes: Any) -> Any:
    return jax.tree.map(_spec, axes, is_leaf=lambda axis: axis is None)


def _spec(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, MEMBER)
