"""Converts an `EnvSpec` to JSON and back, so that a trained agent can be loaded without building the environment."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Shaped

from qdojo.envs.again import MadeAgain
from qdojo.envs.prepare import Preparation, prepared
from qdojo.envs.resolve import EnvSpec, asked_for, resolve
from qdojo.errors import DamagedFile, UsageError

MOST_BOUNDS = 10_000
"""Largest number of elements of a Box for which every bound is stored; a larger Box stores its minimum and maximum."""
_SPACES = ("action_space", "observation_space")
_PLAIN = (bool, int, float, str, type(None))


def described(spec: EnvSpec) -> dict[str, Any]:
    """Return an `EnvSpec` as JSON data: its spaces, time limit, masks, and how to make it again."""
    plain = {
        field.name: getattr(spec, field.name)
        for field in dataclasses.fields(spec)
        if isinstance(getattr(spec, field.name), _PLAIN)
    }
    return plain | {name: space_to_data(getattr(spec, name)) for name in _SPACES}


def from_description(data: Mapping[str, Any], given: Any = None) -> EnvSpec:
    """Return the `EnvSpec` that `described` wrote. No environment is built until its `make` is called.

    `given` is the object that the environment came from, if it is available. Raises `DamagedFile` for data that
    describe no environment, and UsageError if `given` has different spaces.
    """
    try:
        known = {field.name for field in dataclasses.fields(EnvSpec)}
        fields: dict[str, Any] = {
            name: value for name, value in data.items() if name in known and isinstance(value, _PLAIN)
        }
        fields |= {name: space_from_data(data[name]) for name in _SPACES}
        preparation = Preparation.from_json(data.get("preparation"))
        made_again = functools.partial(_make_again, str(data["name"]), data.get("registered"), preparation)
        spec = EnvSpec(**fields, make=made_again)
    except (KeyError, TypeError, ValueError, AssertionError, RecursionError) as error:
        raise DamagedFile(f"the description of the environment cannot be read: {error!r}.") from error
    if given is None:
        return spec
    found = resolve(given, preparation)
    for name in _SPACES:
        if space_to_data(getattr(found, name)) != data[name]:
            raise UsageError(
                f"env is {found.name}, whose {name.replace('_', ' ')} is {getattr(found, name)}, but this run's agent "
                f"was trained with {getattr(spec, name)}; pass the environment that it was trained on."
            )
    return dataclasses.replace(spec, make=found.make, native=found.native)


def _make_again(name: str, registered: str | None, preparation: Preparation, **kwargs: Any) -> Any:
    """Build a fresh copy of an environment that was given by name, or as a callable that can be imported or whose
    environment Gymnasium can make from its spec."""
    try:
        make = _resolved(name, preparation)
    except UsageError as error:
        if registered is None:
            raise asked_for(name, error) from error
        plain = MadeAgain.from_json(registered)
        return prepared(plain, name, preparation, **kwargs) if preparation else plain(**kwargs)
    return make(**kwargs)


@functools.cache
def _resolved(name: str, preparation: Preparation) -> Callable[..., Any]:
    return resolve(name, preparation).make


def space_to_data(space: spaces.Space[Any]) -> dict[str, Any]:
    """Convert a space to JSON data; of a space that qdojo does not support, only the name is kept."""
    if isinstance(space, spaces.Box):
        bounds = {"low": _bound(space.low, np.min), "high": _bound(space.high, np.max)}
        return {"kind": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "MultiBinary", "shape": list(space.shape)}
    if isinstance(space, spaces.Dict):
        return {"kind": "Dict", "parts": [[key, space_to_data(part)] for key, part in space.spaces.items()]}
    if isinstance(space, spaces.Tuple):
        return {"kind": "Tuple", "parts": [space_to_data(part) for part in space.spaces]}
    return {"kind": type(space).__name__}


def space_from_data(data: Mapping[str, Any]) -> spaces.Space[Any]:
    """Invert `space_to_data`; a space of which only the name was kept becomes a plain `gymnasium.Space`."""
    kind = data["kind"]
    if kind == "Box":
        shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
        low, high = (np.broadcast_to(_numbers(data[name], dtype), shape) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(int(data["n"]), start=int(data["start"]))
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.array(data["nvec"], np.int64), start=np.array(data["start"], np.int64))
    if kind == "MultiBinary":
        return spaces.MultiBinary(data["shape"] if len(data["shape"]) > 1 else int(data["shape"][0]))
    if kind == "Dict":
        # Gymnasium sorts the keys of a plain dict, but keeps the order of a sequence of pairs.
        return spaces.Dict([(key, space_from_data(part)) for key, part in data["parts"]])
    if kind == "Tuple":
        return spaces.Tuple([space_from_data(part) for part in data["parts"]])
    return spaces.Space()


def _bound(bound: Shaped[np.ndarray, "..."], extreme: Callable[[Any], Any]) -> Any:
    """Return one number if all are equal or there are too many, else all of them; inf and nan become text for JSON."""
    uniform = bound.size and (bound == bound.flat[0]).all()
    if uniform or bound.size > MOST_BOUNDS:
        return _as_json(extreme(bound).item())
    return _nested(bound.tolist())


def _nested(value: Any) -> Any:
    return [_nested(entry) for entry in value] if isinstance(value, list) else _as_json(value)


def _as_json(number: int | float) -> int | float | str:
    return number if math.isfinite(number) else str(number)


def _numbers(value: Any, dtype: np.dtype[Any]) -> Shaped[np.ndarray, "..."]:
    """Convert bounds back to an array. Integer bounds do not pass through float64, which cannot hold all of them."""
    return np.array(value, np.float64).astype(dtype) if dtype.kind == "f" else np.array(value, dtype)
