"""How an agent acts during training: epsilon-greedy or Boltzmann exploration over Q-values, and their schedules."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from qdojo.networks.network import Network
from qdojo.noise import gumbel, integer, uniform
from qdojo.types import Actor, Clock, Masked, Memory, Observation, Params, Words

Scalar: TypeAlias = Float[Array, ""] | float


class Exploration(NamedTuple):
    """Numeric settings of exploration. They are part of the state, so members may differ in them."""

    epsilon_start: Scalar
    epsilon_end: Scalar
    decay_steps: Scalar
    """Env steps in which epsilon and the temperature go from their start to their end values."""
    ladder: Scalar = 0.0
    """Env i of N uses epsilon**(1 + ladder * i / (N - 1)); Horgan et al. (2018), section 4.1, use 7."""
    temperature_start: Scalar = 1.0
    temperature_end: Scalar = 1.0


class Choosing(NamedTuple):
    """Options of action selection that are compiled in."""

    num_actions: int
    action_shape: tuple[int, ...] = ()
    """() for a Discrete action, (branches,) for a MultiDiscrete one."""
    num_envs: int = 1
    exponential: bool = False
    """Whether epsilon and the temperature decay exponentially instead of linearly."""
    boltzmann: bool = False
    """Whether to draw actions in proportion to exp(Q / temperature) instead of taking the best one."""

    @property
    def words(self) -> int:
        """Random words that `choose` consumes: one to decide whether to explore, and the rest to draw actions."""
        branches = self.action_shape[0] if self.action_shape else 1
        return 1 + branches * (1 + self.num_actions * self.boltzmann)


class Acting(NamedTuple):
    """The acting functions of an `Agent`. The agent's state must have `params` and `hyper.exploration`."""

    act: Callable[[Any, Observation, Memory, Words, Clock, Int[Array, ""]], tuple[Int[Array, "*branches"], Memory]]
    exploration: Callable[[Any, Clock], Float[Array, ""]]
    words: int


def acting(actor: Actor, choosing: Choosing) -> Acting:
    """Epsilon-greedy or Boltzmann acting, in addition to the actor's own exploration."""

    def act(
        state: Any, observation: Observation, memory: Memory, noise: Words, clock: Clock, env: Int[Array, ""]
    ) -> tuple[Int[Array, "*branches"], Memory]:
        noise, own = noise[: choosing.words], noise[choosing.words :]
        q, memory = actor.exploring(state.params, observation, memory, own)
        epsilon = epsilon_of(state.hyper.exploration, env, clock)
        heat = temperature(state.hyper.exploration, clock)
        return choose(choosing, q, legal_actions(observation), epsilon, heat, noise), memory

    def epsilon_of(numbers: Exploration, env: Int[Array, "*envs"], clock: Clock) -> Float[Array, "*envs"]:
        shared = schedule(numbers.epsilon_start, numbers.epsilon_end, numbers.decay_steps, clock)
        rung = jnp.asarray(env, jnp.float32) / max(1, choosing.num_envs - 1)
        return shared ** (1.0 + numbers.ladder * rung)

    def temperature(numbers: Exploration, clock: Clock) -> Float[Array, ""]:
        return schedule(numbers.temperature_start, numbers.temperature_end, numbers.decay_steps, clock)

    def schedule(start: Scalar, end: Scalar, duration: Scalar, clock: Clock) -> Float[Array, ""]:
        fall = exponential if choosing.exponential else linear
        return fall(start, end, duration, position(clock, choosing.num_envs))

    def exploration(state: Any, clock: Clock) -> Float[Array, ""]:
        return jnp.mean(epsilon_of(state.hyper.exploration, jnp.arange(choosing.num_envs), clock))

    return Acting(act, exploration, actor.words + choosing.words)


def actor_of(network: Network) -> Actor:
    """The actor of a network that returns Q-values. `exploring` adds the noise of a noisy network."""

    def values(params: Params, observation: Observation, memory: Memory) -> tuple[Float[Array, "*q"], Memory]:
        seen, memory = network.features(params, observation, memory)
        return network.apply(params, seen), memory

    def exploring(
        params: Params, observation: Observation, memory: Memory, noise: Words
    ) -> tuple[Float[Array, "*q"], Memory]:
        return values(network.perturb(params, noise), observation, memory)

    return Actor(values, exploring, network.memory, network.words)


def position(clock: Clock, num_envs: int) -> Float[Array, ""]:
    """The position of all schedules, in env steps."""
    return clock.rows.astype(jnp.float32) * num_envs


def linear(start: Scalar, end: Scalar, duration: Scalar, position: Scalar) -> Float[Array, ""]:
    """Linear interpolation from `start` at 0 to `end` at `duration`, and `end` from there on, in absolute env steps."""
    return start + (end - start) * jnp.clip(position / duration, 0.0, 1.0)


def exponential(start: Scalar, end: Scalar, duration: Scalar, position: Scalar) -> Float[Array, ""]:
    """Exponential interpolation, otherwise like `linear`. `start` and `end` are both above 0, or both 0."""
    start = jnp.asarray(start, jnp.float32)
    factor = end / jnp.where(start > 0.0, start, 1.0)
    return start * jnp.power(factor, jnp.clip(position / duration, 0.0, 1.0))


def legal_actions(observation: Observation) -> Bool[Array, "*branches actions"] | None:
    """The action mask of an observation; None if it has none."""
    return jnp.asarray(observation.action_mask) if isinstance(observation, Masked) else None


def choose(
    choosing: Choosing,
    q: Float[Array, "*branches actions"],
    legal: Bool[Array, "*branches actions"] | None,
    epsilon: Scalar,
    temperature: Scalar,
    noise: Words,
) -> Int[Array, "*branches"]:
    """With probability `epsilon` a random legal action, else the best one or one drawn by exp(Q / temperature).

    It chooses for a single env. All branches of a MultiDiscrete action explore at once, and each draws its own action.
    """
    coin, noise = noise[0], noise[1:]
    branches = choosing.action_shape
    drawing, noise = noise[: q[..., 0].size].reshape(branches), noise[q[..., 0].size :]
    preferred = q
    if choosing.boltzmann:
        # The argmax of Q / temperature + Gumbel noise is such a draw (Maddison et al., 2014, section 2).
        preferred = q / temperature + gumbel(noise.reshape(q.shape))
    if legal is not None:
        # Illegal actions already have very low Q-values, but a high temperature would raise them.
        preferred = jnp.where(legal, preferred, -jnp.inf)
    best = jnp.argmax(preferred, axis=-1).astype(jnp.int32)
    return jnp.where(uniform(coin) < epsilon, any_action(drawing, choosing.num_actions, legal), best)


def any_action(
    noise: UInt32[Array, "*branches"], num_actions: int, legal: Bool[Array, "*branches actions"] | None
) -> Int[Array, "*branches"]:
    """A legal action drawn uniformly, with one random word per branch."""
    if legal is None:
        return integer(noise, num_actions)
    nth = integer(noise, jnp.sum(legal, axis=-1))
    return jnp.argmax(jnp.cumsum(legal, axis=-1) > nth[..., None], axis=-1).astype(jnp.int32)
