"""What the loops ask of an environment written in JAX. Not for Gymnasium environments: see `gymnasium.py`."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped, UInt32

Observation = Shaped[Array, "*observation"]
EnvState: TypeAlias = PyTree[Any]


class Transition(NamedTuple):
    """What one step of one environment gives back."""

    observation: Observation
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]


class NativeEnvironment(NamedTuple):
    """An environment as pure functions, written for one copy and `vmap`ped by the caller."""

    name: str
    observation_shape: tuple[int, ...]
    num_actions: int
    noise_words: int
    """uint32 words that one `reset` or one `step` consumes."""
    max_episode_steps: int
    """Steps after which `truncated` is true; no episode is longer."""
    reset: Callable[[UInt32[Array, "words"]], tuple[EnvState, Observation]]
    step: Callable[[EnvState, Int[Array, ""], UInt32[Array, "words"]], tuple[EnvState, Transition]]


class Running(NamedTuple):
    """One environment inside a loop: its own state, what it shows, and whether its episode is over."""

    state: EnvState
    observation: Observation
    over: Bool[Array, ""]


def start(env: NativeEnvironment, noise: UInt32[Array, "words"]) -> Running:
    """The first episode of one environment."""
    state, observation = env.reset(noise)
    return Running(state, observation, jnp.asarray(False))


def advance(
    env: NativeEnvironment, running: Running, action: Int[Array, ""], noise: UInt32[Array, "words"]
) -> tuple[Running, Transition]:
    """One step under Gymnasium's NEXT_STEP rule: the step after an end ignores the action, pays 0 and restarts."""
    fresh_state, fresh_observation = env.reset(noise)
    next_state, moved = env.step(running.state, action, noise)
    state, observation = jax.tree.map(
        lambda fresh, old: jnp.where(running.over, fresh, old),
        (fresh_state, fresh_observation),
        (next_state, moved.observation),
    )
    transition = Transition(
        observation=observation,
        reward=jnp.where(running.over, 0.0, moved.reward),
        terminated=moved.terminated & ~running.over,
        truncated=moved.truncated & ~running.over,
    )
    return Running(state, observation, transition.terminated | transition.truncated), transition
