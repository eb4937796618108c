"""The interface that the loops require of an environment written in JAX. `native/own.py` checks and adapts users'
environments to it. For Gymnasium environments, see `gymnasium.py`."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt8, UInt32

from qdojo.types import Observation

EnvState: TypeAlias = PyTree[Any]


class Transition(NamedTuple):
    """The result of one step of one environment. At the end of an episode, `observation` is the final one."""

    observation: Observation
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]


class NativeEnvironment(NamedTuple):
    """An environment as pure functions, written for a single copy; the caller `vmap`s them."""

    name: str
    """Includes the version, as in `Grid-v0`: an agent trained on another version may not fit."""
    observation_shape: tuple[int, ...]
    num_actions: int
    noise_words: int
    """Number of random uint32 words that one `reset` or one `step` consumes."""
    max_episode_steps: int | None
    """Time limit: `step` must set `truncated` after this many steps, so no episode is longer; None for no limit."""
    reset: Callable[[UInt32[Array, "words"]], tuple[EnvState, Observation]]
    step: Callable[[EnvState, Int[Array, ""], UInt32[Array, "words"]], tuple[EnvState, Transition]]
    """(state, action, noise) -> (next state, `Transition`); each leaf of the state keeps its shape from `reset`."""
    observation_dtype: Literal["float32", "uint8", "int32"] = "float32"
    """uint8 for images; agents receive int32 observations as float32."""
    observation_high: int = 255
    """Largest value in a uint8 observation; networks divide observations by it."""
    masked: bool = False
    """Whether observations are `qdojo.types.Masked`: an observation and a bool [num_actions] mask of the legal actions.
    The episode must end in a state that has no legal action."""
    reward_threshold: float | None = None
    """Mean return at which the environment counts as solved, if one is defined."""
    render: Callable[[EnvState], UInt8[Array, "height width 3"]] | None = None
    """state -> RGB image; None if the environment cannot be rendered."""
    one_hot: bool = False
    """Whether at most one number of an observation is ever not zero, which makes large observations cheap."""


class Running(NamedTuple):
    """One environment inside a loop: its state, its current observation, and whether its episode is over."""

    state: EnvState
    observation: Observation
    over: Bool[Array, ""]


def start(env: NativeEnvironment, noise: UInt32[Array, "words"]) -> Running:
    """Start the first episode of one environment."""
    state, observation = env.reset(noise)
    return Running(state, observation, jnp.asarray(False))


def advance(
    env: NativeEnvironment, running: Running, action: Int[Array, ""], noise: UInt32[Array, "words"]
) -> tuple[Running, Transition]:
    """Take one step under Gymnasium's NEXT_STEP autoreset rule.

    The step after the end of an episode ignores the action, gives a reward of 0 and starts the next episode.
    """
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
