"""Turns an environment object into a factory that makes copies of it. For names and callables, see `resolve.py`.

Training steps many fresh copies, so the given object itself is never stepped.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.envs import registration
from gymnasium.vector import VectorEnv

from qdojo.errors import UsageError
from qdojo.ids import GIVEN

_OF_VECTORS = ("num_envs", "vectorization_mode", "vector_kwargs", "wrappers")
"""Arguments of `gymnasium.make_vec` that it stores among the environment's own arguments."""


class Again(NamedTuple):
    """How to make an environment object again."""

    env: str | Callable[..., Any]
    """The id, if the object equals a registered environment; else a callable that makes a fresh copy."""
    num_envs: int | None
    """Number of copies in a vector; None for a single environment."""


class MadeAgain:
    """Makes fresh copies of an environment from its spec."""

    def __init__(self, spec: registration.EnvSpec) -> None:
        self._spec = spec
        self.name = spec.id + GIVEN

    @classmethod
    def from_json(cls, told: str) -> "MadeAgain":
        """Read a spec written by `spec_json`."""
        return cls(registration.EnvSpec.from_json(told))

    def __call__(self, **kwargs: Any) -> gym.Env[Any, Any]:
        """Make a fresh copy. `kwargs`, such as `render_mode`, override those of the spec."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return gym.make(copy.deepcopy(self._spec), disable_env_checker=True, **kwargs)


def again(env: gym.Env[Any, Any] | VectorEnv) -> Again:
    """Return how to make an environment, or a single copy of a vector, again. The object itself is left untouched.

    Raises UsageError, in one sentence, if there is no spec, or if a wrapper has not recorded its arguments or was given
    a function.
    """
    if not isinstance(env, VectorEnv):
        return Again(_of_spec(env, env.spec), None)
    spec, copies = env.spec, getattr(env, "envs", None)
    if spec is None and copies:
        return Again(_of_spec(copies[0], copies[0].spec), env.num_envs)
    if spec is None or "wrappers" in spec.kwargs:
        raise UsageError(
            f"env is a {type(env).__name__} whose spec does not say how to make one of its copies; pass an id, or a "
            "function that returns a single environment, and num_envs."
        )
    single = copy.copy(spec)
    single.kwargs = {name: value for name, value in spec.kwargs.items() if name not in _OF_VECTORS}
    # An environment registered as a vector keeps its time limit in `kwargs`.
    single.max_episode_steps = single.kwargs.pop("max_episode_steps", spec.max_episode_steps)
    return Again(_of_spec(env, single), env.num_envs)


def spec_json(spec: Any) -> str | None:
    """Return a spec as JSON from which Gymnasium can make the environment and its wrappers again; None if it cannot."""
    try:
        told: str = spec.to_json()
        registration.EnvSpec.from_json(told)
    except Exception:  # arguments that JSON cannot hold, or wrappers that do not record theirs
        return None
    return told


def _of_spec(env: Any, spec: registration.EnvSpec | None) -> str | MadeAgain:
    if spec is None:
        raise UsageError(
            f"env is a {type(env.unwrapped).__name__} without a spec, so no copies of it can be made; pass a function "
            "that returns one, as in `qdojo.train(make_env)`, or make it with gymnasium.make."
        )
    for wrapper in spec.additional_wrappers:
        if wrapper.kwargs is None:
            why = f"does not record its arguments ({wrapper.name} is not a RecordConstructorArgs)"
            raise _not_recorded(why, wrapper)
        given = next((name for name, value in wrapper.kwargs.items() if callable(value)), None)
        if given is not None:
            raise _not_recorded(f"was given a function ({given}), which no run can store", wrapper)
    plain = copy.copy(spec)
    # The render mode is chosen each time the environment is watched.
    plain.kwargs = {name: value for name, value in spec.kwargs.items() if name != "render_mode"}
    registered = registration.registry.get(spec.id)
    return spec.id if registered is not None and _means(plain) == _means(registered) else MadeAgain(plain)


def _not_recorded(why: str, wrapper: Any) -> UsageError:
    return UsageError(
        f"env cannot be made again, because its wrapper {wrapper.name} {why}; pass a function that returns the "
        "environment, as in `qdojo.train(make_env)`."
    )


def _means(spec: registration.EnvSpec) -> tuple[Any, ...]:
    """Return the parts of a spec that make a difference to an agent."""
    return spec.entry_point, spec.kwargs, spec.max_episode_steps, spec.additional_wrappers
