"""Checks a user's JAX environment before anything is compiled, and adapts it to what the loops expect."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

from qdojo.envs.contract import EnvState, NativeEnvironment, Transition
from qdojo.errors import UsageError
from qdojo.types import Masked, Observation

_DTYPES = ("float32", "uint8", "int32")


def adapted(env: NativeEnvironment, name: str) -> NativeEnvironment:
    """Return the same environment with these guarantees: each leaf of the state keeps its dtype from `reset`,
    observations are uint8 or float32, and a mask that allows no action, as at the end of an episode, allows all.

    `reset` and `step` are traced, not run. Raises UsageError, one sentence that names the field and the fix, if they
    do not match the record's fields.
    """
    _check_fields(env, name)
    noise = jax.ShapeDtypeStruct((env.noise_words,), jnp.uint32)
    began = _traced(name, "reset", env.reset, noise)
    if not (isinstance(began, tuple) and len(began) == 2):
        raise UsageError(f"{name}: reset returned {_kind(began)}; return (state, observation).")
    like, first = began
    _check_observation(env, first, name, "reset")
    if any(jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended) for leaf in jax.tree.leaves(like)):
        raise UsageError(
            f"{name}: the state holds a random key, which cannot be stored in a file; keep its jax.random.key_data."
        )
    moved = _traced(name, "step", env.step, like, jax.ShapeDtypeStruct((), jnp.int32), noise)
    if not (isinstance(moved, tuple) and len(moved) == 2 and isinstance(moved[1], Transition)):
        raise UsageError(f"{name}: step returned {_kind(moved)}; return (state, Transition).")
    _check_state(like, moved[0], name)
    _check_transition(env, moved[1], name)

    def reset(noise: UInt32[Array, "words"]) -> tuple[EnvState, Observation]:
        state, observation = env.reset(noise)
        return jax.tree.map(_strongly_typed, state), _seen(env, observation)

    def step(state: EnvState, action: Int[Array, ""], noise: UInt32[Array, "words"]) -> tuple[EnvState, Transition]:
        after, moved = env.step(state, action, noise)
        after = jax.tree.map(lambda leaf, old: jnp.asarray(leaf).astype(old.dtype), after, state)
        return after, Transition(
            observation=_seen(env, moved.observation),
            reward=jnp.asarray(moved.reward, jnp.float32),
            terminated=jnp.asarray(moved.terminated, bool),
            truncated=jnp.asarray(moved.truncated, bool),
        )

    return env._replace(reset=reset, step=step)


def _strongly_typed(leaf: Any) -> Array:
    """Return the leaf as an array without a weak dtype, so that its dtype stays the same through all steps."""
    return jnp.asarray(leaf, jnp.result_type(leaf))


def _seen(env: NativeEnvironment, observation: Any) -> Observation:
    """Convert an observation to what agents see."""
    dtype = jnp.uint8 if env.observation_dtype == "uint8" else jnp.float32
    if not env.masked:
        return jnp.asarray(observation, dtype)
    shown, mask = observation
    legal: Bool[Array, actions] = jnp.asarray(mask).astype(bool)
    return Masked(jnp.asarray(shown, dtype), legal | ~legal.any())


def _traced(name: str, call: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the shapes and dtypes of a function's results."""
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0].rstrip(". ")
        raise UsageError(
            f"{name}: tracing its {call} raised {type(error).__name__}: {first}; write it in jax.numpy, for one copy."
        ) from error


def _check_fields(env: NativeEnvironment, name: str) -> None:
    for field, least in (("num_actions", 1), ("noise_words", 0), ("max_episode_steps", 1)):
        value = getattr(env, field)
        if field == "max_episode_steps" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{name}: {field} is {value!r}, but it must be an int of at least {least}.")
    if env.observation_dtype not in _DTYPES:
        raise UsageError(f"{name}: observation_dtype is {env.observation_dtype!r}; use one of {', '.join(_DTYPES)}.")


def _check_observation(env: NativeEnvironment, given: Any, name: str, call: str) -> None:
    if env.masked != isinstance(given, Masked):
        is_one, fix = ("is not a Masked", "return one") if env.masked else ("is a Masked", "set masked=True")
        raise UsageError(f"{name}: the observation of {call} {is_one}, but masked is {env.masked}; {fix}.")
    if env.masked:
        given, mask = given
        shape = getattr(mask, "shape", None)
        if shape != (env.num_actions,):
            raise UsageError(f"{name}: the mask of {call} has shape {shape}, but num_actions is {env.num_actions}.")
    needed = f"{env.observation_dtype}{list(env.observation_shape)}"
    found = f"{given.dtype}{list(given.shape)}" if hasattr(given, "shape") else _kind(given)
    if found != needed:
        raise UsageError(
            f"{name}: the observation of {call} is {found}, but observation_dtype and observation_shape say {needed}; "
            "make them equal."
        )


def _check_state(before: Any, after: Any, name: str) -> None:
    structures: list[Any] = [jax.tree.structure(before), jax.tree.structure(after)]
    if structures[0] != structures[1]:
        raise UsageError(f"{name}: step returns a state of a different structure than reset; make them the same.")
    for (path, old), new in zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True):
        if old.shape != new.shape:
            where = jax.tree_util.keystr(path) or "the state"
            raise UsageError(
                f"{name}: {where} has shape {old.shape} after reset, but {new.shape} after step; make them equal."
            )


def _check_transition(env: NativeEnvironment, moved: Transition, name: str) -> None:
    _check_observation(env, moved.observation, name, "step")
    for field in ("reward", "terminated", "truncated"):
        shape = getattr(getattr(moved, field), "shape", None)
        if shape != ():
            raise UsageError(f"{name}: {field} has shape {shape}, but step handles one copy; return a scalar.")


def _kind(given: Any) -> str:
    kind = "one array" if isinstance(given, jax.ShapeDtypeStruct) else f"a {type(given).__name__}"
    return f"a tuple of {len(given)}" if type(given) is tuple else kind
