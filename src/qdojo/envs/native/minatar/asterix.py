"""MinAtar's Asterix: collect gold and avoid enemies, which cross eight rows; gold pays 1, an enemy ends it.

Source: Young and Tian (2019), appendix; `game.py` says how it equals their package. Difficulty ramps up: enemies and
gold appear more often and move faster.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from qdojo.envs.native.minatar.game import (
    DOWN,
    LEFT,
    NOTHING,
    RIGHT,
    SIDE,
    UP,
    Game,
    Marks,
    Moved,
    Number,
    Words,
    direction,
    half,
    inside,
    marked,
    sideways,
    third,
)
from qdojo.noise import integer

ROWS = jnp.arange(1, SIDE - 1)
"""Row of each slot; a slot holds at most one enemy or piece of gold."""
SLOTS = SIDE - 2
EARLIER = jnp.arange(SLOTS) < jnp.arange(SLOTS)[:, None]
RAMP_STEPS = 100
SPAWN_STEPS = 10
MOVE_STEPS = 5
MIDDLE = 5
PLAYER, ENEMY, TRAIL, GOLD = range(4)


class Asterix(NamedTuple):
    """State of one game."""

    y: Number
    x: Number
    there: Bool[Array, "slots"]
    gold: Bool[Array, "slots"]
    """Gold, or an enemy."""
    at: Int[Array, "slots"]
    to_right: Bool[Array, "slots"]
    spawn_steps: Number
    """Steps between two spawns."""
    until_spawn: Number
    move_steps: Number
    """Steps between two moves of all that crosses the board."""
    until_move: Number
    until_ramp: Number
    ramps: Number
    """How often the difficulty has risen."""


def start(words: Words) -> Asterix:
    """The player starts in the middle of an empty board."""
    none = jnp.zeros(SLOTS, bool)
    middle, spawn, move = jnp.int32(MIDDLE), jnp.int32(SPAWN_STEPS), jnp.int32(MOVE_STEPS)
    at = jnp.zeros(SLOTS, jnp.int32)
    return Asterix(middle, middle, none, none, at, none, spawn, spawn, move, move, jnp.int32(RAMP_STEPS), jnp.int32(0))


def _spawned(state: Asterix, words: Words) -> Asterix:
    """The state after a spawn in a free slot, if one is due; in a full board nothing appears."""
    due = state.until_spawn == 0
    to_right, gold = half(words[0]), third(words[1])
    free = ~state.there
    count = jnp.sum(free)
    # A cumulative sum would be a slow operation on CPUs.
    before = jnp.sum(free & EARLIER, axis=1)
    new = due & free & (before == integer(words[2], jnp.maximum(count, 1)))
    return state._replace(
        there=state.there | new,
        gold=jnp.where(new, gold, state.gold),
        at=jnp.where(new, jnp.where(to_right, 0, SIDE - 1), state.at),
        to_right=jnp.where(new, to_right, state.to_right),
        until_spawn=jnp.where(due, state.spawn_steps, state.until_spawn),
    )


def play(state: Asterix, action: Number, words: Words) -> Moved:
    """Spawn, move the player, then all else."""
    state = _spawned(state, words)
    x = sideways(state.x, action)
    y = jnp.clip(state.y + (action == DOWN) - (action == UP), 1, SIDE - 2)

    met = state.there & (y == ROWS) & (state.at == x)
    there = state.there & ~(met & state.gold)
    moves = state.until_move == 0
    at = jnp.where(moves, state.at + direction(state.to_right), state.at)
    there &= inside(at)
    met_after = moves & there & (y == ROWS) & (at == x)
    there &= ~(met_after & state.gold)

    after = state._replace(
        y=y,
        x=x,
        there=there,
        at=at,
        until_spawn=state.until_spawn - 1,
        until_move=jnp.where(moves, state.move_steps, state.until_move) - 1,
    )
    reward = jnp.sum((met & state.gold).astype(jnp.int32) + (met_after & state.gold))
    return Moved(_ramped(after), reward, jnp.any((met | met_after) & ~state.gold))


def _ramped(state: Asterix) -> Asterix:
    """The state after the difficulty has risen, if it is time: every second time all moves faster too."""
    rising = (state.spawn_steps > 1) | (state.move_steps > 1)
    due = rising & (state.until_ramp < 0)
    faster = due & (state.move_steps > 1) & (state.ramps % 2 == 1)
    return state._replace(
        move_steps=state.move_steps - faster,
        spawn_steps=state.spawn_steps - (due & (state.spawn_steps > 1)),
        ramps=state.ramps + due,
        until_ramp=jnp.where(due, RAMP_STEPS, state.until_ramp - rising),
    )


def show(state: Asterix) -> UInt8[Array, "10 10 4"]:
    """The player, the enemies, the previous cell of each enemy or piece of gold, and the gold."""
    return marked(
        len(GAME.channels),
        Marks(True, state.y, state.x, PLAYER),
        Marks(state.there, ROWS, state.at, jnp.where(state.gold, GOLD, ENEMY)),
        Marks(state.there, ROWS, state.at - direction(state.to_right), TRAIL),
    )


GAME = Game(
    channels=("player", "enemy", "trail", "gold"),
    minimal_actions=(NOTHING, LEFT, UP, RIGHT, DOWN),
    words=3,
    start=start,
    play=play,
    show=show,
)
