"""The replay memory: a ring of time steps that holds each observation once. Not for sampling: see `windows.py`.

The next observation of row t is row t+1, always: the final observation of an episode is a row of its own, marked
`last`. So truncation needs no special case, and windows of any length are read from the same rows.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped, UInt32

from qdojo.types import AnyArray, Step

RECORD_WORDS = 3
"""Words of a row before its observation."""


class Tape(NamedTuple):
    """Rows `[time, member, env, ...]` and how many were ever written.

    All of a row lies side by side, as 32-bit words, so that reading one at random from a long tape costs one cache miss
    and not five. `member` is who reads: all members, or one of them under `vmap` (`READERS`).
    """

    words: UInt32[AnyArray, "time member env words"]
    like: Shaped[AnyArray, "0 *observation"]
    """An array of no observations: their shape and dtype."""
    written: Int[Array, ""]
    member: Int[Array, "*members"]

    @property
    def rows(self) -> Step:
        """All rows as they were written."""
        return unpack(self.words, self.like)

    @property
    def capacity(self) -> int:
        """Rows that fit."""
        return self.words.shape[0]

    @property
    def num_envs(self) -> int:
        """Copies of the environment that write for each member."""
        return self.words.shape[2]

    @property
    def size(self) -> Int[Array, ""]:
        """Rows that are held now."""
        return jnp.minimum(self.written, self.capacity)


READERS = Tape(words=None, like=None, written=None, member=0)  # type: ignore[arg-type]
"""`vmap` axes for a function of one member that reads the tape: shared rows, one reader each."""


def empty(capacity: int, members: int, envs: int, observation: jax.ShapeDtypeStruct) -> Tape:
    """A tape of `capacity` rows with nothing on it."""
    like = jnp.zeros((0, *observation.shape), observation.dtype)
    words = jnp.zeros((capacity, members, envs, words_in(observation)), jnp.uint32)
    return Tape(words, like, jnp.zeros((), jnp.int32), jnp.arange(members))


def size_in_bytes(capacity: int, members: int, envs: int, observation: jax.ShapeDtypeStruct) -> int:
    """What such a tape takes, without making it."""
    return capacity * members * envs * words_in(observation) * 4


def words_in(observation: jax.ShapeDtypeStruct) -> int:
    """Words of one row."""
    return RECORD_WORDS + math.ceil(math.prod(observation.shape) * observation.dtype.itemsize / 4)


def write(tape: Tape, block: Step) -> Tape:
    """Put a block of `[time, member, env]` rows at the head. The capacity must be a multiple of the block's length."""
    start = tape.written % tape.capacity
    words = jax.lax.dynamic_update_slice_in_dim(jnp.asarray(tape.words), pack(block), start, 0)
    return tape._replace(words=words, written=tape.written + block.action.shape[0])


def cut(tape: Tape, member: Int[AnyArray, "lost"], env: Int[AnyArray, "lost"]) -> Tape:
    """The newest row of these envs starts no transition: what follows it was lost."""
    row = (tape.written - 1) % tape.capacity
    return tape._replace(words=jnp.asarray(tape.words).at[row, member, env, RECORD_WORDS - 1].set(jnp.uint32(2)))


def pack(step: Step) -> UInt32[Array, "*rows words"]:
    """Rows as words: action, reward, terminated + 2 * last, and the observation's bytes, filled up to whole words."""
    rows = step.action.shape
    observation = jnp.asarray(step.observation).reshape(*rows, -1)
    if observation.dtype.itemsize == 1:
        filled = jnp.pad(observation, [(0, 0)] * len(rows) + [(0, -observation.shape[-1] % 4)])
        observation = filled.reshape(*rows, -1, 4)
    ending = jnp.asarray(step.terminated, jnp.uint32) + jnp.uint32(2) * jnp.asarray(step.last, jnp.uint32)
    record = [_as(jnp.uint32, jnp.asarray(x)) for x in (step.action, step.reward, ending)]
    return jnp.concatenate([jnp.stack(record, axis=-1), _as(jnp.uint32, observation)], axis=-1)


def unpack(words: UInt32[AnyArray, "*rows words"], like: Shaped[AnyArray, "0 *observation"]) -> Step:
    """The rows that `pack` made these words of."""
    words = jnp.asarray(words)
    ending = words[..., 2]
    observation = _as(like.dtype, words[..., RECORD_WORDS:])
    if like.dtype.itemsize == 1:
        observation = observation.reshape(*words.shape[:-1], -1)[..., : math.prod(like.shape[1:])]
    return Step(
        observation=observation.reshape(*words.shape[:-1], *like.shape[1:]),
        action=_as(jnp.int32, words[..., 0]),
        reward=_as(jnp.float32, words[..., 1]),
        terminated=ending % 2 == 1,
        last=ending >= 2,
    )


def _as(dtype: Any, values: Array) -> Array:
    return jax.lax.bitcast_convert_type(values, dtype)


def newest(tape: Tape, age: Int[Array, "*ages"]) -> Int[Array, "*ages"]:
    """Where the row lies that was written `age` rows before the newest (age 0)."""
    return (tape.written - 1 - age) % tape.capacity


def take(tape: Tape, row: Int[Array, "*at"], env: Int[Array, "*at"]) -> Step:
    """Rows that belong to the reading member."""
    words = jnp.asarray(tape.words).at[row, tape.member, env].get(mode="promise_in_bounds")
    return unpack(words, tape.like)
