"""MinAtar's Space Invaders: shoot the aliens, each of which pays 1; a bullet or alien that meets the cannon ends it.

Source: Young and Tian (2019), appendix; `game.py` says how it equals their package. The fewer aliens are left, the
faster they move, and each new wave is faster than the last.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, UInt8

from qdojo.envs.native.minatar.game import (
    FIRE,
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
    cell,
    channels,
    sideways,
)

BOTTOM = SIDE - 1
START_COLUMN = 5
COOL_DOWN_STEPS = 5
MOVE_STEPS = 12
FASTEST_MOVE_STEPS = 6
SHOT_STEPS = 10
WAVE = (PLACES < 4)[:, None] & (PLACES >= 2) & (PLACES < 8)


class SpaceInvaders(NamedTuple):
    """State of one game."""

    x: Number
    aliens: Board
    to_right: Number
    """1 if the aliens move to the right, -1 if to the left."""
    bullets: Board
    shots: Board
    """The aliens' bullets."""
    cool_down: Number
    """Steps until the cannon may fire."""
    move_steps: Number
    """Most steps between two moves of this wave."""
    until_move: Number
    until_shot: Number


def start(words: Words) -> SpaceInvaders:
    """A wave of four rows of six moves to the left."""
    empty, move = jnp.zeros((SIDE, SIDE), bool), jnp.int32(MOVE_STEPS)
    return SpaceInvaders(
        jnp.int32(START_COLUMN), WAVE, jnp.int32(-1), empty, empty, jnp.int32(0), move, move, jnp.int32(SHOT_STEPS)
    )


def play(state: SpaceInvaders, action: Number, words: Words) -> Moved:
    """Act, move the bullets, then the aliens; an alien may shoot; then aliens that a bullet meets vanish."""
    x = sideways(state.x, action)
    here = cell(jnp.int32(BOTTOM), x)
    fires = (action == FIRE) & (state.cool_down == 0)
    bullets = _shifted(state.bullets | (here & fires), -1)
    shots = _shifted(state.shots, 1)
    hit = jnp.any((shots | state.aliens) & here)

    moves = state.until_move == 0
    at_edge = jnp.any(jnp.where(state.to_right > 0, state.aliens[:, -1], state.aliens[:, 0]))
    descends, lands = moves & at_edge, jnp.any(state.aliens[-1])
    along = jnp.where(state.to_right > 0, jnp.roll(state.aliens, 1, axis=1), jnp.roll(state.aliens, -1, axis=1))
    moved = jnp.where(at_edge, jnp.roll(state.aliens, 1, axis=0), along)
    aliens = jnp.where(moves, moved, state.aliens)
    hit |= (descends & lands) | jnp.any(aliens & here)

    shoots = state.until_shot == 0
    shots |= _nearest(aliens, x) & shoots
    killed = aliens & bullets
    aliens, bullets = aliens & ~killed, bullets & ~killed
    cleared = ~jnp.any(aliens)

    fewest = jnp.minimum(jnp.sum(state.aliens), state.move_steps)
    after = SpaceInvaders(
        x=x,
        aliens=jnp.where(cleared, WAVE, aliens),
        to_right=jnp.where(descends, -state.to_right, state.to_right),
        bullets=bullets,
        shots=shots,
        cool_down=jnp.maximum(jnp.where(fires, COOL_DOWN_STEPS, state.cool_down) - 1, 0),
        move_steps=state.move_steps - (cleared & (state.move_steps > FASTEST_MOVE_STEPS)),
        until_move=jnp.where(moves, fewest, state.until_move) - 1,
        until_shot=jnp.where(shoots, SHOT_STEPS, state.until_shot) - 1,
    )
    return Moved(after, jnp.sum(killed), hit)


def _shifted(board: Board, rows: int) -> Board:
    """A board whose contents moved down by one row, or up; what leaves it vanishes."""
    empty = jnp.zeros((1, SIDE), bool)
    return jnp.concatenate([empty, board[:-1]]) if rows > 0 else jnp.concatenate([board[1:], empty])


def _nearest(aliens: Board, x: Number) -> Board:
    """The lowest alien of the column that is nearest to the cannon; of two such columns, the left one."""
    distance = jnp.where(jnp.any(aliens, axis=0), jnp.abs(PLACES - x), SIDE)
    column = jnp.argmin(distance)
    row = jnp.max(jnp.where(aliens[:, column], PLACES, -1))
    return cell(row, column)


def show(state: SpaceInvaders) -> UInt8[Array, "10 10 6"]:
    """The cannon, the aliens, again by direction, and both kinds of bullets."""
    rightwards = state.to_right > 0
    return channels(
        cell(jnp.int32(BOTTOM), state.x),
        state.aliens,
        state.aliens & ~rightwards,
        state.aliens & rightwards,
        state.bullets,
        state.shots,
    )


GAME = Game(
    channels=("cannon", "alien", "alien, left", "alien, right", "friendly bullet", "enemy bullet"),
    minimal_actions=(NOTHING, LEFT, RIGHT, FIRE),
    words=0,
    start=start,
    play=play,
    show=show,
)
