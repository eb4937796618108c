"""The replay buffer: a ring of time steps that holds each observation once. `sampling.py` draws rows from it.

The next observation of row t is always in row t+1: the final observation of an episode has a row of its own, marked
`last`. So truncation needs no special case, and windows of any length are read from the same rows.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from qdojo.tape.host_words import HostWords
from qdojo.types import AnyArray, Step

ENDING, REWARD = 0, 1
"""Indices of the two single-word parts of a row: terminated + 2 * last, and the reward. The other parts follow."""


class Tape(NamedTuple):
    """Rows `[time, member, env, ...]` and the number of rows ever written.

    A row is stored contiguously as 32-bit words, so that reading a random row of a long tape costs one cache miss
    instead of one per field. `member` indexes the members that a reader sees: all, or one under `vmap` (`READERS`).
    """

    words: UInt32[AnyArray, "time member env words"] | HostWords
    like: Step
    """An empty block of rows, `[0, ...]`, which holds their shapes and dtypes."""
    written: Int[Array, ""]
    member: Int[Array, "*members"]

    @property
    def rows(self) -> Step:
        """All rows, unpacked, in the order of the ring."""
        words = self.words.array if isinstance(self.words, HostWords) else self.words
        return unpack(words, self.like)

    @property
    def capacity(self) -> int:
        """Maximum number of rows."""
        return self.words.shape[0]

    @property
    def num_envs(self) -> int:
        """Copies of the environment per member."""
        return self.words.shape[2]

    @property
    def size(self) -> Int[Array, ""]:
        """Number of rows currently stored."""
        return jnp.minimum(self.written, self.capacity)


READERS = Tape(words=None, like=None, written=None, member=0)  # type: ignore[arg-type]
"""`vmap` axes of the tape in a function of one member: the rows are shared, and `member` is mapped."""
AXES = READERS._replace(words=1)  # type: ignore[arg-type]
"""Member axes of a tape whose members have rows of their own."""


def empty(
    capacity: int, members: int, envs: int, observation: Any, action_shape: tuple[int, ...] = (), memory: Any = ()
) -> Tape:
    """An empty tape with room for `capacity` rows; `observation` and `memory` are trees of shapes and dtypes."""
    row = _row(observation, action_shape, memory)
    like = jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape), leaf.dtype), row)
    words = jnp.zeros((capacity, members, envs, _words_in(row)), jnp.uint32)
    return Tape(words, like, jnp.zeros((), jnp.int32), jnp.arange(members))


def size_in_bytes(
    capacity: int, members: int, envs: int, observation: Any, action_shape: tuple[int, ...] = (), memory: Any = ()
) -> int:
    """Size of such a tape in bytes, computed without allocating it."""
    return capacity * members * envs * _words_in(_row(observation, action_shape, memory)) * 4


def _row(observation: Any, action_shape: tuple[int, ...], memory: Any) -> Step:
    def one(dtype: Any, shape: tuple[int, ...] = ()) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    return Step(observation, one(jnp.int32, action_shape), one(jnp.float32), one(jnp.bool_), one(jnp.bool_), memory)


def _words_in(row: Step) -> int:
    return 2 + sum(math.ceil(math.prod(leaf.shape) * leaf.dtype.itemsize / 4) for leaf in _others(row))


def _others(step: Step) -> list[Any]:
    """The arrays of a row that may have any shape."""
    return jax.tree.leaves((step.action, step.observation, step.memory))


def moved_to_host(tape: Tape, capacity: int) -> Tape:
    """An empty tape with room for `capacity` rows in the host's memory."""
    return tape._replace(words=np.zeros((capacity, *tape.words.shape[1:]), np.uint32))


def for_programs(tape: Tape) -> Tape:
    """A tape as compiled programs take it: if its rows are a NumPy array, they stay on the host."""
    return tape._replace(words=HostWords(tape.words)) if isinstance(tape.words, np.ndarray) else tape


def for_storage(tape: Tape) -> Tape:
    """The inverse of `for_programs`."""
    return tape._replace(words=tape.words.array) if isinstance(tape.words, HostWords) else tape


def write(tape: Tape, block: Step) -> Tape:
    """Put a block of `[time, member, env]` rows of the reading members at the head. The capacity must be a multiple of
    the block's length, and the reading members must be neighbours.

    Rows on the host are written in place, by all members, and not in a compiled program.
    """
    written = tape.written + block.reward.shape[0]
    if isinstance(tape.words, HostWords):
        tape.words.write(int(tape.written) % tape.capacity, np.asarray(pack(block)))
        return tape._replace(written=written)
    words, new = jnp.asarray(tape.words), pack(block)
    member = tape.member[0] if new.shape[1] < words.shape[1] else 0
    words = jax.lax.dynamic_update_slice(words, new, (tape.written % tape.capacity, member, 0, 0))
    return tape._replace(words=words, written=written)


def cut(tape: Tape, member: Int[AnyArray, "lost"], env: Int[AnyArray, "lost"]) -> Tape:
    """Mark the newest row of these envs as `last`, because the step that followed it was lost."""
    row = (tape.written - 1) % tape.capacity
    if isinstance(tape.words, np.ndarray):
        tape.words[int(row), member, env, ENDING] = 2
        return tape
    return tape._replace(words=jnp.asarray(tape.words).at[row, member, env, ENDING].set(jnp.uint32(2)))


def pack(step: Step) -> UInt32[Array, "*rows words"]:
    """Rows as 32-bit words: the bytes of each part, padded to whole words."""
    rows = step.reward.shape
    ending = jnp.asarray(step.terminated, jnp.uint32) + jnp.uint32(2) * jnp.asarray(step.last, jnp.uint32)
    parts = [ending[..., None], _as(jnp.uint32, jnp.asarray(step.reward)[..., None])]
    for leaf in _others(step):
        values = jnp.asarray(leaf).reshape(*rows, -1)
        if values.dtype.itemsize == 1:
            filled = jnp.pad(values.astype(jnp.uint8), [(0, 0)] * len(rows) + [(0, -values.shape[-1] % 4)])
            values = filled.reshape(*rows, -1, 4)
        parts.append(_as(jnp.uint32, values))
    return jnp.concatenate(parts, axis=-1)


def unpack(words: UInt32[AnyArray, "*rows words"], like: Step) -> Step:
    """The rows that `pack` stored in these words."""
    words = jnp.asarray(words)
    rows, used = words.shape[:-1], 2
    found = []
    for leaf in _others(like):
        numbers = math.prod(leaf.shape[1:])
        end = used + math.ceil(numbers * leaf.dtype.itemsize / 4)
        part, used = words[..., used:end], end
        if leaf.dtype.itemsize == 1:
            part = _as(jnp.uint8, part).reshape(*rows, -1)[..., :numbers].astype(leaf.dtype)
        found.append(_as(leaf.dtype, part).reshape(*rows, *leaf.shape[1:]))
    structure = jax.tree.structure((like.action, like.observation, like.memory))
    action, observation, memory = jax.tree.unflatten(structure, found)
    ending = words[..., ENDING]
    return Step(
        observation=observation,
        action=action,
        reward=_as(jnp.float32, words[..., REWARD]),
        terminated=ending % 2 == 1,
        last=ending >= 2,
        memory=memory,
    )


def _as(dtype: Any, values: Array) -> Array:
    return values if values.dtype == dtype else jax.lax.bitcast_convert_type(values, dtype)


def newest(tape: Tape, age: Int[Array, "*ages"]) -> Int[Array, "*ages"]:
    """Position in the ring of the row written `age` rows before the newest row (age 0)."""
    return (tape.written - 1 - age) % tape.capacity


def is_last(tape: Tape, row: Int[Array, "*at"], env: Int[Array, "*at"]) -> Bool[Array, "*at"]:
    """Whether these rows of the reading member are `last`, without reading more of them."""
    return _read(tape, row, env, ENDING + 1)[..., ENDING] >= 2


def endings(
    tape: Tape, row: Int[Array, "*at"], env: Int[Array, "*at"]
) -> tuple[Float[Array, "*at"], Bool[Array, "*at"], Bool[Array, "*at"]]:
    """Rewards of these rows of the reading member, and whether they are `terminated` and `last`, without reading more
    of them."""
    words = _read(tape, row, env, REWARD + 1)
    ending = words[..., ENDING]
    return _as(jnp.float32, words[..., REWARD]), ending % 2 == 1, ending >= 2


def take(tape: Tape, row: Int[Array, "*at"], env: Int[Array, "*at"]) -> Step:
    """Rows of `tape.member` at these positions in the ring and envs."""
    return unpack(_read(tape, row, env, tape.words.shape[-1]), tape.like)


def _read(tape: Tape, row: Int[Array, "*at"], env: Int[Array, "*at"], words: int) -> UInt32[Array, "*at words"]:
    """The first `words` words of these rows of the reading member."""
    if isinstance(tape.words, HostWords):
        return tape.words.fetched(row, tape.member, env, words)
    return jnp.asarray(tape.words).at[row, tape.member, env, :words].get(mode="promise_in_bounds")
