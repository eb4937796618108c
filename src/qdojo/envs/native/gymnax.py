"""Adapts environments with the interface of gymnax (1.0 or later) to `NativeEnvironment`. gymnax itself is optional:
only `made` imports it."""

import difflib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt32

from qdojo.envs.contract import EnvState, NativeEnvironment, Transition
from qdojo.errors import UsageError

PREFIX = "gymnax"


def made(name: str) -> NativeEnvironment:
    """Return the gymnax environment of that name, with its default parameters."""
    try:
        import gymnax
    except ImportError as error:
        raise UsageError(f"{PREFIX}:{name} needs gymnax: pip install 'qdojo[gymnax]'") from error
    if name not in gymnax.registered_envs:
        near = difflib.get_close_matches(name, gymnax.registered_envs, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(gymnax.registered_envs)}."
        raise UsageError(f"gymnax has no environment called {name!r}; {hint}")
    try:
        env, params = gymnax.make(name)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise UsageError(f"{PREFIX}:{name} could not be built: it raised {type(error).__name__}: {first}.") from error
    return from_gymnax(env, params, f"{PREFIX}:{name}")


def from_gymnax(env: Any, params: Any = None, name: str | None = None) -> NativeEnvironment:
    """Adapt an environment with gymnax's interface: `reset_env`, `step_env`, `is_truncated` and spaces.

    `params` default to the environment's own.

    Discrete observations become one-hot vectors, all others float32. Raises UsageError for actions that are not
    Discrete, and for the interface of gymnax before 1.0.
    """
    params = env.default_params if params is None else params
    name = name or f"{env.name}"
    if not hasattr(env, "is_truncated"):
        raise UsageError(f"{name} has no is_truncated(state, params), which gymnax has since 1.0; use that or later.")
    actions, observations = env.action_space(params), env.observation_space(params)
    if not hasattr(actions, "n"):
        raise UsageError(f"{name}: its actions are a {type(actions).__name__}, but they must be Discrete.")
    categories = getattr(observations, "n", None)
    if categories is None and not hasattr(observations, "shape"):
        raise UsageError(f"{name}: its observations are a {type(observations).__name__}; convert them to a Box.")

    def seen(observation: Any) -> Array:
        if categories is not None:
            return jax.nn.one_hot(observation, categories, dtype=jnp.float32)
        return jnp.asarray(observation, jnp.float32)

    def reset(noise: UInt32[Array, "2"]) -> tuple[EnvState, Array]:
        observation, state = env.reset_env(_key(noise), params)
        return state, seen(observation)

    def step(state: EnvState, action: Int[Array, ""], noise: UInt32[Array, "2"]) -> tuple[EnvState, Transition]:
        observation, after, reward, terminated, _ = env.step_env(_key(noise), state, action, params)
        return after, Transition(seen(observation), reward, terminated, env.is_truncated(after, params))

    return NativeEnvironment(
        name=name,
        observation_shape=(int(categories),) if categories is not None else tuple(observations.shape),
        num_actions=int(actions.n),
        one_hot=categories is not None,
        noise_words=2,
        max_episode_steps=int(params.max_steps_in_episode),
        reset=reset,
        step=step,
    )


def _key(noise: UInt32[Array, "2"]) -> Array:
    return jax.random.wrap_key_data(noise, impl="threefry2x32")
