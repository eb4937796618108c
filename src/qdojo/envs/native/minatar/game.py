"""What the MinAtar games share: the record of a game's rules, and the environment that is made of them.

Source: Young and Tian (2019), "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible Reinforcement Learning
Experiments", section 2. In each game every step equals one of the package `minatar` 1.0.15 that gets the same random
choices, which come as words: uniform(word) for a real number, word % n for a choice among n.

There is one deviation: the action that is repeated on the first step of an episode is `NOTHING`, while the package
repeats the last action of the episode before.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8, UInt32

from qdojo.envs.contract import NativeEnvironment, Transition
from qdojo.envs.native.minatar.drawing import drawn
from qdojo.noise import bernoulli

SIDE = 10
NOTHING, LEFT, UP, RIGHT, DOWN, FIRE = range(6)
STICKY = 0.1
"""Probability that the previous action is repeated instead of the one that was chosen."""
PLACES = jnp.arange(SIDE)

Board = Bool[Array, "10 10"]
"""Row, column."""
Number = Int[Array, ""]
Yes = Bool[Array, ""]
Words = UInt32[Array, "words"]


class Moved(NamedTuple):
    """The result of one step of a game."""

    state: Any
    reward: Number
    terminated: Yes


class Game(NamedTuple):
    """The rules of one game, as pure functions."""

    channels: tuple[str, ...]
    """What each channel of an observation shows."""
    minimal_actions: tuple[int, ...]
    """The actions that do something in this game."""
    words: int
    """Number of random words for one `start` or `play`."""
    start: Callable[[Words], Any]
    """(words) -> state at the start of an episode."""
    play: Callable[[Any, Number, Words], Moved]
    """(state, one of the six actions, words) -> result."""
    show: Callable[[Any], UInt8[Array, "10 10 channels"]]
    """(state) -> observation."""


class Playing(NamedTuple):
    """State of an environment."""

    game: Any
    last_action: Number
    """Action of the previous step, one of six."""


def environment(name: str, game: Game, actions: tuple[int, ...]) -> NativeEnvironment:
    """The environment of a game, with some of the six actions. Episodes have no time limit, as in the package."""
    shape = (SIDE, SIDE, len(game.channels))
    numbers = jnp.array(actions)

    def reset(noise: UInt32[Array, "words"]) -> tuple[Playing, UInt8[Array, "10 10 channels"]]:
        state = game.start(noise[1:])
        return Playing(state, jnp.int32(NOTHING)), game.show(state)

    def step(state: Playing, action: Number, noise: UInt32[Array, "words"]) -> tuple[Playing, Transition]:
        taken = jnp.where(bernoulli(noise[0], STICKY), state.last_action, numbers[action])
        after, reward, terminated = game.play(state.game, taken, noise[1:])
        moved = Transition(game.show(after), reward.astype(jnp.float32), terminated, jnp.asarray(False))
        return Playing(after, taken), moved

    return NativeEnvironment(
        name=name,
        observation_shape=shape,
        num_actions=len(actions),
        noise_words=1 + game.words,
        max_episode_steps=None,
        reset=reset,
        step=step,
        observation_dtype="uint8",
        observation_high=1,
        render=lambda state: drawn(game.show(state.game)),
    )


def cell(y: Number, x: Number) -> Board:
    """A board with one cell marked; none if y or x lies outside."""
    return (y == PLACES)[:, None] & (x == PLACES)


def channels(*boards: Board) -> UInt8[Array, "10 10 channels"]:
    """An observation of one board per channel."""
    return jnp.stack(boards, axis=-1).astype(jnp.uint8)


class Marks(NamedTuple):
    """Things to show in an observation; those that are not there, or outside the board, are not shown."""

    there: Bool[Array, "*things"] | bool
    y: Int[Array, "*things"]
    x: Int[Array, "*things"]
    channel: Int[Array, "*things"] | int


def marked(channels: int, *marks: Marks) -> UInt8[Array, "10 10 channels"]:
    """An observation with these things. For few of them this is much faster on CPUs than `channels`."""
    size = SIDE * SIDE * channels
    cells = [jnp.where(m.there & inside(m.x), (m.y * SIDE + m.x) * channels + m.channel, size) for m in marks]
    places = jnp.concatenate([jnp.ravel(cell) for cell in cells])
    return jnp.zeros(size, jnp.uint8).at[places].set(1, mode="drop").reshape(SIDE, SIDE, channels)


def sideways(at: Number, action: Number) -> Number:
    """The column after the action."""
    return jnp.clip(at + (action == RIGHT) - (action == LEFT), 0, SIDE - 1)


def direction(to_right: Bool[Array, "*shape"]) -> Int[Array, "*shape"]:
    """1 to the right, -1 to the left."""
    return jnp.where(to_right, 1, -1)


def inside(x: Int[Array, "*shape"]) -> Bool[Array, "*shape"]:
    """Whether a row or column lies on the board."""
    return (x >= 0) & (x < SIDE)


def half(words: UInt32[Array, "*shape"]) -> Bool[Array, "*shape"]:
    """True with probability 1/2."""
    return bernoulli(words, 0.5)


def third(words: UInt32[Array, "*shape"]) -> Bool[Array, "*shape"]:
    """True with probability 1/3."""
    return bernoulli(words, 1 / 3)
