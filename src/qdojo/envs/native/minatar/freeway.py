"""MinAtar's Freeway: cross eight lanes of cars; reaching the top pays 1, and the episode ends after 2,501 steps.

Source: Young and Tian (2019), appendix; `game.py` says how it equals their package. The player moves at most every
third step and returns to the bottom when a car hits it. Each crossing draws new speeds for all cars.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int, UInt8

from qdojo.envs.native.minatar.game import (
    DOWN,
    NOTHING,
    SIDE,
    UP,
    Game,
    Marks,
    Moved,
    Number,
    Words,
    half,
    marked,
)
from qdojo.noise import integer

LANES = 8
ROWS = jnp.arange(1, LANES + 1)
"""Row of each lane."""
PLAYER, CAR = range(2)
"""Channels; those after `CAR` show the trails, by speed."""
COLUMN = 4
"""Column of the player."""
BOTTOM = SIDE - 1
REST_STEPS = 3
STEPS = 2500
SLOWEST = 5
"""A car with speed v moves once in |v| + 1 steps."""


class Freeway(NamedTuple):
    """State of one game."""

    row: Number
    rest: Number
    """Steps until the player may move."""
    left: Number
    """Steps until the end."""
    x: Int[Array, "lanes"]
    wait: Int[Array, "lanes"]
    """Steps until a car moves."""
    speed: Int[Array, "lanes"]
    """Steps between the moves of a car, 1 to 5; negative for cars that drive to the left."""


def _speeds(words: Words) -> Int[Array, "lanes"]:
    speed = 1 + integer(words[:LANES], SLOWEST)
    return jnp.where(half(words[LANES:]), -speed, speed)


def _wrapped(x: Int[Array, "lanes"]) -> Int[Array, "lanes"]:
    """A column at most one beyond an edge, as the column at the other edge."""
    return jnp.where(x < 0, SIDE - 1, jnp.where(x == SIDE, 0, x))


def start(words: Words) -> Freeway:
    """All cars start on the left, the player at the bottom."""
    speed = _speeds(words)
    x = jnp.zeros(LANES, jnp.int32)
    return Freeway(jnp.int32(BOTTOM), jnp.int32(REST_STEPS), jnp.int32(STEPS), x, jnp.abs(speed), speed)


def play(state: Freeway, action: Number, words: Words) -> Moved:
    """Move the player, then the cars."""
    moves = (state.rest == 0) & ((action == UP) | (action == DOWN))
    row = jnp.where(moves, jnp.clip(state.row + jnp.where(action == UP, -1, 1), 0, BOTTOM), state.row)
    rest = jnp.where(moves, REST_STEPS, state.rest)

    crossed = row == 0
    drawn = _speeds(words)
    speed = jnp.where(crossed, drawn, state.speed)
    wait = jnp.where(crossed, jnp.abs(drawn), state.wait)
    row = jnp.where(crossed, BOTTOM, row)

    drives = wait == 0
    x = jnp.where(drives, _wrapped(state.x + jnp.sign(speed)), state.x)
    hit = jnp.any((row == ROWS) & ((state.x == COLUMN) | (x == COLUMN)))
    after = Freeway(
        row=jnp.where(hit, BOTTOM, row),
        rest=jnp.maximum(rest - 1, 0),
        left=state.left - 1,
        x=x,
        wait=jnp.where(drives, jnp.abs(speed), wait - 1),
        speed=speed,
    )
    return Moved(after, crossed.astype(jnp.int32), after.left < 0)


def show(state: Freeway) -> UInt8[Array, "10 10 7"]:
    """The player, the cars, and behind each car a trail in the channel of its speed."""
    return marked(
        len(GAME.channels),
        Marks(True, state.row, jnp.int32(COLUMN), PLAYER),
        Marks(True, ROWS, state.x, CAR),
        Marks(True, ROWS, _wrapped(state.x - jnp.sign(state.speed)), CAR + jnp.abs(state.speed)),
    )


GAME = Game(
    channels=("chicken", "car", "speed 1", "speed 2", "speed 3", "speed 4", "speed 5"),
    minimal_actions=(NOTHING, UP, DOWN),
    words=2 * LANES,
    start=start,
    play=play,
    show=show,
)
