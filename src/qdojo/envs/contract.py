"""What the loops ask of an environment written in JAX. Not for Gymnasium environments: see `gymnasium.py`. A user's own
is brought to this by `native/own.py`, which also checks it."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt8, UInt32

from qdojo.types import Observation

EnvState: TypeAlias = PyTree[Any]


class Transition(NamedTuple):
    """What one step of one environment gives back. `observation` is of an ended episode the final one."""

    observation: Observation
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]


class NativeEnvironment(NamedTuple):
    """An environment as pure functions, written for one copy and `vmap`ped by the caller."""

    name: str
    """With its version, as in `Grid-v0`: an agent that was trained on another may not fit."""
    observation_shape: tuple[int, ...]
    num_actions: int
    noise_words: int
    """uint32 words that one `reset` or one `step` consumes."""
    max_episode_steps: int
    """Steps after which `truncated` is true; no episode is longer."""
    reset: Callable[[UInt32[Array, "words"]], tuple[EnvState, Observation]]
    step: Callable[[EnvState, Int[Array, ""], UInt32[Array, "words"]], tuple[EnvState, Transition]]
    """(state, action, noise) -> the state after it, whose leaves have the shapes of those of a reset, and what came."""
    observation_dtype: Literal["float32", "uint8", "int32"] = "float32"
    """uint8 for pictures; int32 is shown to agents as float32."""
    observation_high: int = 255
    """The largest number of uint8 observations, by which networks divide them."""
    masked: bool = False
    """Whether observations are `qdojo.types.Masked`: an observation, and a bool [num_actions] of what is legal there.
    Where nothing is, the episode has to end."""
    reward_threshold: float | None = None
    """The mean return at which it counts as solved, if there is one."""
    render: Callable[[EnvState], UInt8[Array, "height width 3"]] | None = None
    """A state as a picture; None where it cannot be drawn."""


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
