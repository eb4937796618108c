"""The replay memory: a ring of time steps that holds each observation once. Not for sampling: see `windows.py`.

The next observation of row t is row t+1, always: the final observation of an episode is a row of its own, marked
`last`. So truncation needs no special case, and windows of any length are read from the same rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from qdojo.types import AnyArray, Step


class Tape(NamedTuple):
    """Rows `[time, member, env, ...]` and how many were ever written.

    `member` is who reads: all members, or one of them under `vmap` (`READERS`).
    """

    rows: Step
    written: Int[Array, ""]
    member: Int[Array, "*members"]

    @property
    def capacity(self) -> int:
        """Rows that fit."""
        return self.rows.action.shape[0]

    @property
    def num_envs(self) -> int:
        """Copies of the environment that write for each member."""
        return self.rows.action.shape[2]

    @property
    def size(self) -> Int[Array, ""]:
        """Rows that are held now."""
        return jnp.minimum(self.written, self.capacity)


READERS = Tape(rows=None, written=None, member=0)  # type: ignore[arg-type]
"""`vmap` axes for a function of one member that reads the tape: shared rows, one reader each."""


def empty(capacity: int, members: int, envs: int, observation: jax.ShapeDtypeStruct) -> Tape:
    """A tape of `capacity` rows with nothing on it."""
    shape = (capacity, members, envs)
    rows = Step(
        observation=jnp.zeros(shape + observation.shape, observation.dtype),
        action=jnp.zeros(shape, jnp.int32),
        reward=jnp.zeros(shape, jnp.float32),
        terminated=jnp.zeros(shape, bool),
        last=jnp.zeros(shape, bool),
    )
    return Tape(rows, jnp.zeros((), jnp.int32), jnp.arange(members))


def size_in_bytes(capacity: int, members: int, envs: int, observation: jax.ShapeDtypeStruct) -> int:
    """What such a tape takes, without making it."""
    values = observation.dtype.itemsize
    for axis in observation.shape:
        values *= axis
    return capacity * members * envs * (values + 4 + 4 + 1 + 1)


def write(tape: Tape, block: Step) -> Tape:
    """Put a block of `[time, member, env]` rows at the head. The capacity must be a multiple of the block's length."""
    start = tape.written % tape.capacity
    rows = jax.tree.map(lambda ring, new: jax.lax.dynamic_update_slice_in_dim(ring, new, start, 0), tape.rows, block)
    return tape._replace(rows=rows, written=tape.written + block.action.shape[0])


def newest(tape: Tape, age: Int[Array, "*ages"]) -> Int[Array, "*ages"]:
    """Where the row lies that was written `age` rows before the newest (age 0)."""
    return (tape.written - 1 - age) % tape.capacity


def take(
    field: Shaped[AnyArray, "time member env *rest"], tape: Tape, row: Int[Array, "*#at"], env: Int[Array, "*#at"]
) -> Shaped[Array, "*at_and_rest"]:
    """Entries of one field that belong to the reading member; `row` and `env` are broadcast."""
    return jnp.asarray(field).at[row, tape.member, env].get(mode="promise_in_bounds")
