"""Which Gymnasium spaces qdojo plays, and how observations and masks become arrays. Not for names: see `resolve.py`."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Int, Int32, Shaped, UInt8

from qdojo.errors import UsageError

if TYPE_CHECKING:
    from qdojo.types import Observation
else:
    # `types` imports JAX, which no worker process needs.
    Observation = Shaped[np.ndarray, "*observation"] | tuple[Any, Any]

OBSERVATION, MASK = "observation", "action_mask"
"""Keys of an observation space that carries masks; the second also of an `info` that does. Other keys beside the mask
are one observation together."""

Encode = Callable[[Any], np.ndarray]
Array = Shaped[np.ndarray, "..."]


class BadValueError(ValueError):
    """What an environment gave does not fit its spaces; the text fits after 'it gave '."""


@dataclass(frozen=True, eq=False)
class Spaces:
    """What an agent needs to know of an environment's two spaces.

    Everywhere in qdojo actions count from 0 and have shape `action_shape`; Q-values have `[*action_shape,
    num_actions]`. Only `decode` knows how the environment itself counts.
    """

    action_shape: tuple[int, ...]
    """() for Discrete, (branches,) for MultiDiscrete."""
    num_actions: int
    """Of the largest branch."""
    action_start: int | Int[np.ndarray, "branches"]
    """What the environment calls action 0; an array for MultiDiscrete."""
    legal: Bool[np.ndarray, "*branches actions"]
    """Which actions exist at all: False only where a branch has fewer than the largest."""
    mask_source: Literal["info", "observation"] | None
    """Where the environment puts its action masks, if it gives any."""
    masked: bool
    """Whether observations are `Masked`: masks are given, or branches differ in size."""
    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype[Any]
    observation_scale: int
    """The largest number of a uint8 Box, by which qdojo's own networks divide what it shows; else 1."""
    categories: tuple[int, ...]
    """How many categories each element of an observation has, where it holds indices for an embedding; else ()."""
    encoder: Encode
    """One raw observation, without its mask, as an array; it may share memory with what it is given."""

    def decode(self, choice: Any) -> Any:
        """An action, counted from 0, as the environment's own `step` takes it: an int, or int64 [branches]."""
        if self.action_shape:
            return np.asarray(choice, np.int64) + self.action_start
        return self.action_start + int(choice)

    def encode(self, observation: Any, info: Any = None, terminated: bool = False) -> Observation:
        """One raw observation as the agent sees it: an array, or a `Masked` of two where `masked`.

        Raises BadValueError, in words that fit into a sentence, where shape, dtype, category or mask do not fit.
        """
        return seen(self.show(observation, info, terminated))

    def show(self, observation: Any, info: Any, terminated: bool = False) -> Array | dict[str, Array]:
        """What `encode` gives, as Gymnasium has it: an array, or a dict of observation and mask."""
        shown = self.encoder(observation)
        if not self.masked and (info is None or MASK not in info):
            return shown
        return {OBSERVATION: shown, MASK: self.mask(observation, info, terminated)}

    def mask(self, observation: Any, info: Any, terminated: bool = False) -> Bool[np.ndarray, "*branches actions"]:
        """The legal actions at one raw observation. Not to be written to.

        After a termination nothing is chosen any more, so a mask that is missing or allows nothing is taken as all
        legal. Raises BadValueError for any other mask that leaves no choice or does not fit.
        """
        if self.mask_source is None:
            if info is not None and MASK in info:
                raise BadValueError("an action mask, although its first reset gave none; give one at every observation")
            return self.legal
        source = info if self.mask_source == "info" else observation
        given = None if source is None else source.get(MASK)
        if given is None and terminated:
            return self.legal
        if given is None:
            promise = "its first reset gave one" if self.mask_source == "info" else "its observation space has one"
            raise BadValueError(f"no action mask, although {promise}")
        mask = np.zeros_like(self.legal)
        mask[self.legal] = self._flat_mask(given)
        free = mask.any(axis=-1)
        if free.all():
            return mask
        if terminated:
            return self.legal
        where = f" in branch {int(np.argmin(free))}" if self.action_shape else ""
        raise BadValueError(f"an action mask that allows no action{where}")

    def _flat_mask(self, given: Any) -> Shaped[np.ndarray, "all_actions"]:
        """The mask of every branch, one after the other, of zeros and ones."""
        if self.action_shape and isinstance(given, tuple | list | np.ndarray) and any(np.ndim(part) for part in given):
            parts = [np.asarray(part) for part in given]
            shapes, needed = [part.shape for part in parts], [(int(n),) for n in self.legal.sum(axis=-1)]
            if shapes != needed:
                raise BadValueError(f"action masks of shapes {shapes} where {needed} are needed")
            flat = np.concatenate(parts)
        else:
            flat = np.asarray(given)
            if flat.shape != (self.legal.sum(),):
                raise BadValueError(f"an action mask of shape {flat.shape} where ({self.legal.sum()},) is needed")
        if flat.dtype.kind not in "biuf":
            raise BadValueError(f"an action mask of dtype {flat.dtype} where bool or numbers are needed")
        if flat.dtype.kind != "b" and ((flat != 0) & (flat != 1)).any():
            raise BadValueError("an action mask that holds other numbers than 0 and 1")
        return flat


def seen(shown: Any) -> Observation:
    """What `Spaces.show` gave, of one copy or of many, as an array or a `Masked`."""
    if not isinstance(shown, dict):
        return shown
    from qdojo.types import Masked

    return Masked(shown[OBSERVATION], shown[MASK])


def check_spaces(env: Any, name: str | None = None, embedded: bool = False) -> Spaces:
    """The `Spaces` of an environment, of a vector environment's single copy, or of an `EnvSpec`.

    Only an `EnvSpec` knows whether masks come in `info`. With `embedded` the observations are category indices,
    int32 [k], instead of one-hot vectors. Raises UsageError, naming the space and what to do, where qdojo cannot
    play it.
    """
    action = getattr(env, "single_action_space", env.action_space)
    observation = getattr(env, "single_observation_space", env.observation_space)
    name = name or getattr(env, "name", None) or (env.spec.id if env.spec else type(env).__name__)
    counts, start = _check_action(action, name)
    legal = np.arange(np.max(counts)) < counts[..., None]
    source: Literal["info", "observation"] | None = "info" if getattr(env, "masks_in_info", False) else None
    beside_mask: Callable[[Encode, Any], np.ndarray] | None = None
    if isinstance(observation, spaces.Dict) and MASK in observation.spaces:
        source, parts = "observation", {key: part for key, part in observation.spaces.items() if key != MASK}
        plain = set(parts) == {OBSERVATION}
        observation = parts[OBSERVATION] if plain else spaces.Dict(parts)
        beside_mask = _encode_inner if plain else _encode_others
    shape, dtype, encode = _top_encoder(observation, name, embedded)
    return Spaces(
        action_shape=counts.shape,
        num_actions=int(np.max(counts)),
        action_start=start,
        legal=legal,
        mask_source=source,
        masked=source is not None or not legal.all(),
        observation_shape=shape,
        observation_dtype=dtype,
        observation_scale=_scale(observation),
        categories=tuple(_counts(observation).ravel().tolist()) if embedded else (),
        encoder=encode if beside_mask is None else functools.partial(beside_mask, encode),
    )


def _check_action(action: spaces.Space[Any], name: str) -> tuple[Int[np.ndarray, "*branches"], Any]:
    """How many actions there are, a number a branch, and where the environment begins to count."""
    if isinstance(action, spaces.Discrete):
        return _counts(action), int(action.start)
    if isinstance(action, spaces.MultiDiscrete) and action.nvec.ndim == 1 and action.nvec.size:
        return _counts(action), np.asarray(action.start, np.int64)
    if isinstance(action, spaces.MultiDiscrete):
        raise UsageError(
            f"{name}: the action space MultiDiscrete has nvec of shape {action.nvec.shape}, which is not supported; "
            "wrap it in a gymnasium.ActionWrapper with a flat nvec."
        )
    if isinstance(action, spaces.Box):
        raise UsageError(
            f"{name}: the action space is continuous ({action}), which needs a policy-gradient or actor-critic method "
            "(e.g. SAC, PPO) that qdojo does not do; choose an environment with Discrete actions."
        )
    raise UsageError(
        f"{name}: the action space {type(action).__name__} is not supported (Discrete and MultiDiscrete are); "
        "wrap it in a gymnasium.ActionWrapper with one of these action spaces."
    )


class Encoder(NamedTuple):
    """How the values of one space become arrays."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    encode: Encode


_UINT8, _FLOAT32, _INT32 = np.dtype(np.uint8), np.dtype(np.float32), np.dtype(np.int32)


def _top_encoder(space: spaces.Space[Any], name: str, embedded: bool) -> Encoder:
    """The encoder of a whole observation: there a Discrete space gives float32, or indices where `embedded`."""
    if embedded and isinstance(space, spaces.Discrete):
        return Encoder((1,), _INT32, functools.partial(_encode_index, int(space.n), int(space.start)))
    if embedded and isinstance(space, spaces.MultiDiscrete):
        encode = functools.partial(_encode_indices, _counts(space), space.start.astype(np.int64))
        return Encoder((space.nvec.size,), _INT32, encode)
    if embedded:
        raise UsageError(
            f"embedding is set, but the observations of {name} are no Discrete or MultiDiscrete; leave it out."
        )
    return _one_hot_encoder(space, _FLOAT32) if isinstance(space, spaces.Discrete) else _encoder(space, name)


def _encoder(space: spaces.Space[Any], name: str, path: tuple[str | int, ...] = ()) -> Encoder:
    """The encoder of an observation space, or of the part of one that `path` leads to."""
    if isinstance(space, spaces.Box):
        shape, dtype = tuple(space.shape), _UINT8 if space.dtype == _UINT8 else _FLOAT32
        return Encoder(shape, dtype, functools.partial(_encode_box, shape, dtype))
    if isinstance(space, spaces.Discrete):
        return _one_hot_encoder(space, _UINT8)
    if isinstance(space, spaces.MultiBinary):
        shape = tuple(space.shape)
        return Encoder((int(np.prod(shape)),), _UINT8, functools.partial(_encode_binary, shape))
    if isinstance(space, spaces.MultiDiscrete):
        counts = _counts(space)
        encode = functools.partial(_encode_one_hots, counts, space.start.astype(np.int64))
        return Encoder((int(counts.sum()),), _UINT8, encode)
    if isinstance(space, spaces.Dict | spaces.Tuple) and len(space):
        items = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        parts = {key: _encoder(part, name, (*path, key)) for key, part in items}
        size = sum(int(np.prod(part.shape)) for part in parts.values())
        dtype = _UINT8 if all(part.dtype == _UINT8 for part in parts.values()) else _FLOAT32
        encoders = {key: part.encode for key, part in parts.items()}
        join = _encode_dict if isinstance(space, spaces.Dict) else _encode_tuple
        return Encoder((size,), dtype, functools.partial(join, encoders, dtype))
    where = f" of its part {'/'.join(map(str, path))!r}" if path else ""
    raise UsageError(
        f"{name}: the observation space {type(space).__name__}{where} is not supported (Box, Discrete, MultiBinary, "
        "MultiDiscrete, and a Dict or Tuple of some of these, are); "
        "wrap it in a gymnasium.ObservationWrapper that returns a Box."
    )


def _counts(space: Any) -> Int[np.ndarray, "*shape"]:
    """How many categories a Discrete space has, or each element of a MultiDiscrete one."""
    return np.array(space.n if isinstance(space, spaces.Discrete) else space.nvec, np.int64)


def _scale(space: spaces.Space[Any]) -> int:
    """255 for pictures. Zeros and ones stay as they are, and so do the parts of a Dict or Tuple, side by side."""
    return int(space.high.max(initial=1)) if isinstance(space, spaces.Box) and space.dtype == _UINT8 else 1


def _one_hot_encoder(space: spaces.Discrete, dtype: np.dtype[Any]) -> Encoder:
    number = int(space.n)
    return Encoder((number,), dtype, functools.partial(_encode_one_hot, number, int(space.start), dtype))


def _encode_box(shape: tuple[int, ...], dtype: np.dtype[Any], value: Any) -> Shaped[np.ndarray, "*observation"]:
    array = np.asarray(value)
    if array.shape != shape:
        raise BadValueError(f"an observation of shape {array.shape} where its space has {shape}")
    # The same object nearly always, and this runs at every step.
    if array.dtype is dtype or array.dtype == dtype:
        return array
    if array.dtype.kind not in "fiub" or dtype == np.uint8:
        raise BadValueError(f"an observation of dtype {array.dtype} where {dtype} is needed")
    # A float64 beyond float32's range becomes inf here, and the caller's check for finite values reports it.
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _index(number: int, start: int, value: Any) -> int:
    """A value of a Discrete space, counted from 0."""
    array = np.asarray(value)
    if array.shape != () or array.dtype.kind not in "iu":
        raise BadValueError(f"the observation {array.tolist()!r} where its Discrete space needs one integer")
    index = int(array) - start
    if not 0 <= index < number:
        raise BadValueError(f"the observation {int(array)}, which is outside its Discrete space")
    return index


def _indices(
    counts: Int[np.ndarray, "*shape"], start: Int[np.ndarray, "*shape"], value: Any
) -> Int[np.ndarray, "elements"]:
    """A value of a MultiDiscrete space, counted from 0."""
    array = np.asarray(value)
    if array.shape != counts.shape or array.dtype.kind not in "iu":
        raise BadValueError(
            f"an observation of shape {array.shape} and dtype {array.dtype} where its MultiDiscrete space needs "
            f"integers of shape {counts.shape}"
        )
    outside = (array < start) | (array >= start + counts)
    if outside.any():
        first = int(np.argmax(outside))
        raise BadValueError(f"an observation whose element {first} is {array.flat[first]}, outside its MultiDiscrete")
    return (array.astype(np.int64) - start).ravel()


def _encode_one_hot(number: int, start: int, dtype: np.dtype[Any], value: Any) -> Shaped[np.ndarray, "categories"]:
    vector = np.zeros(number, dtype)
    vector[_index(number, start, value)] = 1
    return vector


def _encode_one_hots(
    counts: Int[np.ndarray, "*shape"], start: Int[np.ndarray, "*shape"], value: Any
) -> UInt8[np.ndarray, "categories"]:
    ends = np.cumsum(counts)
    vector = np.zeros(ends[-1], np.uint8)
    vector[ends - counts.ravel() + _indices(counts, start, value)] = 1
    return vector


def _encode_index(number: int, start: int, value: Any) -> Int32[np.ndarray, "1"]:
    return np.array([_index(number, start, value)], np.int32)


def _encode_indices(
    counts: Int[np.ndarray, "*shape"], start: Int[np.ndarray, "*shape"], value: Any
) -> Int32[np.ndarray, "elements"]:
    return _indices(counts, start, value).astype(np.int32)


def _encode_binary(shape: tuple[int, ...], value: Any) -> UInt8[np.ndarray, "elements"]:
    array = np.asarray(value)
    if array.shape != shape or array.dtype.kind not in "biu":
        raise BadValueError(
            f"an observation of shape {array.shape} and dtype {array.dtype} where its MultiBinary space needs "
            f"zeros and ones of shape {shape}"
        )
    if ((array != 0) & (array != 1)).any():
        raise BadValueError("an observation that holds other numbers than the 0 and 1 of its MultiBinary space")
    return array.astype(np.uint8).ravel()


def _encode_dict(encoders: Mapping[Any, Encode], dtype: np.dtype[Any], value: Any) -> Shaped[np.ndarray, "elements"]:
    if not isinstance(value, Mapping) or value.keys() != encoders.keys():
        given = sorted(value, key=str) if isinstance(value, Mapping) else type(value).__name__
        raise BadValueError(f"the observation {given} where its Dict space has the keys {list(encoders)}")
    return _join({key: (encode, value[key]) for key, encode in encoders.items()}, dtype)


def _encode_tuple(encoders: Mapping[Any, Encode], dtype: np.dtype[Any], value: Any) -> Shaped[np.ndarray, "elements"]:
    if not isinstance(value, tuple | list) or len(value) != len(encoders):
        given = f"of {len(value)} parts" if isinstance(value, tuple | list) else f"of type {type(value).__name__}"
        raise BadValueError(f"an observation {given} where its Tuple space has {len(encoders)} parts")
    return _join({key: (encode, value[key]) for key, encode in encoders.items()}, dtype)


def _join(parts: Mapping[Any, tuple[Encode, Any]], dtype: np.dtype[Any]) -> Shaped[np.ndarray, "elements"]:
    """Parts side by side in one vector."""
    vectors = []
    for key, (encode, value) in parts.items():
        try:
            vectors.append(encode(value).ravel())
        except BadValueError as error:
            raise BadValueError(f"{error}, in its part {key!r}") from error
    return np.concatenate(vectors, dtype=dtype)


def _encode_inner(encode: Encode, value: Any) -> Shaped[np.ndarray, "*observation"]:
    """The observation of a Dict that holds its mask beside it."""
    if not isinstance(value, Mapping) or OBSERVATION not in value:
        raise BadValueError(f"an observation without {OBSERVATION!r}, which its Dict space has")
    return encode(value[OBSERVATION])


def _encode_others(encode: Encode, value: Any) -> Shaped[np.ndarray, "*observation"]:
    """The parts of a Dict beside its mask."""
    if not isinstance(value, Mapping):
        raise BadValueError(f"an observation of type {type(value).__name__} where its space is a Dict")
    return encode({key: part for key, part in value.items() if key != MASK})
