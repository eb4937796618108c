"""Rows of a tape in the host's memory, for an accelerator whose own memory is too small. `ring.py` reads and writes
them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

from qdojo.types import AnyArray


@jax.tree_util.register_static
class HostWords:
    """An array of rows that compiled programs do not get as an argument: they fetch the rows that they read.

    To a program it is a constant, so a program belongs to one array. Rows may be written between programs, but not
    while one runs.
    """

    def __init__(self, array: UInt32[np.ndarray, "time member env words"]) -> None:
        self.array, self.shape = array, array.shape

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HostWords) and other.array is self.array

    def __hash__(self) -> int:
        return id(self.array)

    def fetched(
        self, row: Int[Array, "*at"], member: Int[Array, "*members"], env: Int[Array, "*at"], words: int
    ) -> UInt32[Array, "*at words"]:
        """The first `words` words of these rows, in a compiled program; under `vmap` of all examples at once."""
        _, members, envs, _ = self.shape
        rows = self.array.reshape(-1, self.shape[-1])

        def gather(at: AnyArray) -> np.ndarray:
            return rows[np.asarray(at), :words]

        at = jnp.asarray((row * members + member) * envs + env)
        found = jax.ShapeDtypeStruct((*at.shape, words), jnp.uint32)
        return jax.pure_callback(gather, found, at, vmap_method="broadcast_all")

    def write(self, start: int, block: UInt32[np.ndarray, "rows member env words"]) -> None:
        """Replace the rows from `start` on."""
        self.array[start : start + len(block)] = block
