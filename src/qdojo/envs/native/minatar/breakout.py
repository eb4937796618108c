"""MinAtar's Breakout: bounce a ball off the paddle to break bricks; a brick pays 1, a missed ball ends the episode.

Source: Young and Tian (2019), appendix; `game.py` says how it equals their package. The ball moves one cell along a
diagonal in each step. When no brick is left as the ball reaches the bottom row, three new rows appear.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, UInt8

from qdojo.envs.native.minatar.game import (
    LEFT,
    NOTHING,
    PLACES,
    RIGHT,
    SIDE,
    Board,
    Game,
    Moved,
    Number,
    Words,
    Yes,
    cell,
    channels,
    sideways,
)

BOTTOM = SIDE - 1
START_ROW = 3
START_COLUMN = 4
BRICKS = jnp.broadcast_to(((PLACES >= 1) & (PLACES <= 3))[:, None], (SIDE, SIDE))


class Breakout(NamedTuple):
    """State of one game."""

    paddle: Number
    ball_y: Number
    ball_x: Number
    down: Number
    """Rows that the ball moves in a step: 1 or -1."""
    right: Number
    """Columns that the ball moves in a step: 1 or -1."""
    trail_y: Number
    trail_x: Number
    bricks: Board
    was_brick: Yes
    """Whether the ball met a brick in the previous step. It passes through the one it meets then."""


def start(words: Words) -> Breakout:
    """The ball starts at the left or right end of the lowest row of bricks and falls inwards."""
    left = words[0] % 2 == 0
    y, x = jnp.int32(START_ROW), jnp.where(left, 0, SIDE - 1)
    return Breakout(
        paddle=jnp.int32(START_COLUMN),
        ball_y=y,
        ball_x=x,
        down=jnp.int32(1),
        right=jnp.where(left, 1, -1),
        trail_y=y,
        trail_x=x,
        bricks=BRICKS,
        was_brick=jnp.asarray(False),
    )


def play(state: Breakout, action: Number, words: Words) -> Moved:
    """Move the paddle, then the ball."""
    paddle = sideways(state.paddle, action)
    x, y = state.ball_x + state.right, state.ball_y + state.down
    at_wall, at_ceiling = (x < 0) | (x > SIDE - 1), y < 0
    x = jnp.clip(x, 0, SIDE - 1)

    here = cell(y, x)
    at_brick = ~at_ceiling & jnp.any(state.bricks & here)
    breaks = at_brick & ~state.was_brick
    bricks = state.bricks & ~(here & breaks)

    at_bottom = ~at_brick & (y == BOTTOM)
    bricks = jnp.where(at_bottom & ~jnp.any(bricks), BRICKS, bricks)
    # A ball that comes from straight above the paddle is reflected; one that the paddle meets halfway goes back.
    above = at_bottom & (state.ball_x == paddle)
    beside = at_bottom & ~above & (x == paddle)
    bounces = breaks | above | beside

    after = Breakout(
        paddle=paddle,
        ball_y=jnp.where(at_ceiling, 0, jnp.where(bounces, state.ball_y, y)),
        ball_x=x,
        down=jnp.where(at_ceiling | bounces, -state.down, state.down),
        right=jnp.where(at_wall ^ beside, -state.right, state.right),
        trail_y=state.ball_y,
        trail_x=state.ball_x,
        bricks=bricks,
        was_brick=at_brick,
    )
    return Moved(after, breaks.astype(jnp.int32), at_bottom & ~bounces)


def show(state: Breakout) -> UInt8[Array, "10 10 4"]:
    """The paddle, the ball, its previous cell, and the bricks."""
    paddle, ball = cell(jnp.int32(BOTTOM), state.paddle), cell(state.ball_y, state.ball_x)
    return channels(paddle, ball, cell(state.trail_y, state.trail_x), state.bricks)


GAME = Game(
    channels=("paddle", "ball", "trail", "brick"),
    minimal_actions=(NOTHING, LEFT, RIGHT),
    words=1,
    start=start,
    play=play,
    show=show,
)
