"""Converts the values of each supported Gymnasium space to arrays. For masks and actions, see `spaces.py`."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from jaxtyping import Int, Int32, Shaped, UInt8

from qdojo.errors import UsageError

Encode = Callable[[Any], np.ndarray]


class BadValueError(ValueError):
    """An environment returned a value that does not fit its spaces; the text fits after 'it returned '."""


class Encoder(NamedTuple):
    """Converts the values of one space to arrays of one shape and dtype."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    encode: Encode


_UINT8, _FLOAT32, _INT32 = np.dtype(np.uint8), np.dtype(np.float32), np.dtype(np.int32)


def top_encoder(space: spaces.Space[Any], name: str, embedded: bool) -> Encoder:
    """Return the encoder of a whole observation.

    A Discrete space gives a float32 one-hot vector, or an index if `embedded`.
    """
    if embedded and isinstance(space, spaces.Discrete):
        return Encoder((1,), _INT32, functools.partial(_encode_index, int(space.n), int(space.start)))
    if embedded and isinstance(space, spaces.MultiDiscrete):
        encode = functools.partial(_encode_indices, counts_of(space), space.start.astype(np.int64))
        return Encoder((space.nvec.size,), _INT32, encode)
    if embedded:
        raise UsageError(
            f"embedding is set, but the observations of {name} are not Discrete or MultiDiscrete; leave it out."
        )
    return _one_hot_encoder(space, _FLOAT32) if isinstance(space, spaces.Discrete) else _encoder(space)


def unsupported(space: spaces.Space[Any], path: tuple[str | int, ...] = ()) -> tuple[str, tuple[str | int, ...]] | None:
    """Return the type of the first part of an observation space without an encoder, and the path of keys to it."""
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiBinary | spaces.MultiDiscrete):
        return None
    if not (isinstance(space, spaces.Dict | spaces.Tuple) and len(space)):
        return type(space).__name__, path
    found = (unsupported(part, (*path, key)) for key, part in _items(space))
    return next((part for part in found if part is not None), None)


def _items(space: Any) -> Iterable[tuple[Any, spaces.Space[Any]]]:
    return space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)


def _encoder(space: Any) -> Encoder:
    """Return the encoder of a supported observation space or of one of its parts."""
    if isinstance(space, spaces.Box):
        shape, dtype = tuple(space.shape), _UINT8 if space.dtype == _UINT8 else _FLOAT32
        return Encoder(shape, dtype, functools.partial(_encode_box, shape, dtype))
    if isinstance(space, spaces.Discrete):
        return _one_hot_encoder(space, _UINT8)
    if isinstance(space, spaces.MultiBinary):
        shape = tuple(space.shape)
        return Encoder((int(np.prod(shape)),), _UINT8, functools.partial(_encode_binary, shape))
    if isinstance(space, spaces.MultiDiscrete):
        counts = counts_of(space)
        encode = functools.partial(_encode_one_hots, counts, space.start.astype(np.int64))
        return Encoder((int(counts.sum()),), _UINT8, encode)
    parts = {key: _encoder(part) for key, part in _items(space)}
    size = sum(int(np.prod(part.shape)) for part in parts.values())
    dtype = _UINT8 if all(part.dtype == _UINT8 for part in parts.values()) else _FLOAT32
    encoders = {key: part.encode for key, part in parts.items()}
    join = _encode_dict if isinstance(space, spaces.Dict) else _encode_tuple
    return Encoder((size,), dtype, functools.partial(join, encoders, dtype))


def counts_of(space: Any) -> Int[np.ndarray, "*shape"]:
    """Return the number of categories of a Discrete space, or of each element of a MultiDiscrete space."""
    return np.array(space.n if isinstance(space, spaces.Discrete) else space.nvec, np.int64)


def scale_of(space: spaces.Space[Any]) -> int:
    """Return the largest value of a uint8 Box (255 for images), by which observations are divided; 1 for all others,
    including a Dict or Tuple of several parts."""
    return int(space.high.max(initial=1)) if isinstance(space, spaces.Box) and space.dtype == _UINT8 else 1


def _one_hot_encoder(space: spaces.Discrete, dtype: np.dtype[Any]) -> Encoder:
    number = int(space.n)
    return Encoder((number,), dtype, functools.partial(_encode_one_hot, number, int(space.start), dtype))


def _encode_box(shape: tuple[int, ...], dtype: np.dtype[Any], value: Any) -> Shaped[np.ndarray, "*observation"]:
    array = np.asarray(value)
    if array.shape != shape:
        raise BadValueError(f"an observation of shape {array.shape}, but its space has {shape}")
    # Fast path: this runs at every step, and the dtype is nearly always the same object.
    if array.dtype is dtype or array.dtype == dtype:
        return array
    if array.dtype.kind not in "fiub" or dtype == np.uint8:
        raise BadValueError(f"an observation of dtype {array.dtype}, but {dtype} is needed")
    # A float64 beyond float32's range becomes inf here, and the caller's check for finite values reports it.
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _index(number: int, start: int, value: Any) -> int:
    """Return a value of a Discrete space as an index that counts from 0."""
    array = np.asarray(value)
    if array.shape != () or array.dtype.kind not in "iu":
        raise BadValueError(f"the observation {array.tolist()!r}, but its Discrete space needs one integer")
    index = int(array) - start
    if not 0 <= index < number:
        raise BadValueError(f"the observation {int(array)}, which is outside its Discrete space")
    return index


def _indices(
    counts: Int[np.ndarray, "*shape"], start: Int[np.ndarray, "*shape"], value: Any
) -> Int[np.ndarray, "elements"]:
    """Return a value of a MultiDiscrete space as indices that count from 0."""
    array = np.asarray(value)
    if array.shape != counts.shape or array.dtype.kind not in "iu":
        raise BadValueError(
            f"an observation of shape {array.shape} and dtype {array.dtype}, but its MultiDiscrete space needs "
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
            f"an observation of shape {array.shape} and dtype {array.dtype}, but its MultiBinary space needs "
            f"zeros and ones of shape {shape}"
        )
    if ((array != 0) & (array != 1)).any():
        raise BadValueError("an observation that holds numbers other than the 0 and 1 of its MultiBinary space")
    return array.astype(np.uint8).ravel()


def _encode_dict(encoders: Mapping[Any, Encode], dtype: np.dtype[Any], value: Any) -> Shaped[np.ndarray, "elements"]:
    if not isinstance(value, Mapping) or value.keys() != encoders.keys():
        given = sorted(value, key=str) if isinstance(value, Mapping) else type(value).__name__
        raise BadValueError(f"the observation {given}, but its Dict space has the keys {list(encoders)}")
    return _join({key: (encode, value[key]) for key, encode in encoders.items()}, dtype)


def _encode_tuple(encoders: Mapping[Any, Encode], dtype: np.dtype[Any], value: Any) -> Shaped[np.ndarray, "elements"]:
    if not isinstance(value, tuple | list) or len(value) != len(encoders):
        given = f"of {len(value)} parts" if isinstance(value, tuple | list) else f"of type {type(value).__name__}"
        raise BadValueError(f"an observation {given}, but its Tuple space has {len(encoders)} parts")
    return _join({key: (encode, value[key]) for key, encode in encoders.items()}, dtype)


def _join(parts: Mapping[Any, tuple[Encode, Any]], dtype: np.dtype[Any]) -> Shaped[np.ndarray, "elements"]:
    """Concatenate the encoded parts into one vector."""
    vectors = []
    for key, (encode, value) in parts.items():
        try:
            vectors.append(encode(value).ravel())
        except BadValueError as error:
            raise BadValueError(f"{error}, in its part {key!r}") from error
    return np.concatenate(vectors, dtype=dtype)
