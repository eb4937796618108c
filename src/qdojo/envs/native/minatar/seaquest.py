"""MinAtar's Seaquest: shoot fish and submarines, save divers, and come up for air before the oxygen runs out.

Source: Young and Tian (2019), appendix; `game.py` says how it equals their package. Each hit pays 1. Surfacing needs a
diver on board and costs one; with six divers it pays up to 10, by the oxygen that is left. Each time the enemies come
more often, and every second time they move faster. In the package, and so here, surfacing with six divers leaves -1,
and a negative count is enough to surface.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from qdojo.envs.native.minatar.game import (
    DOWN,
    FIRE,
    LEFT,
    NOTHING,
    PLACES,
    RIGHT,
    SIDE,
    UP,
    Game,
    Marks,
    Moved,
    Number,
    Words,
    Yes,
    direction,
    half,
    inside,
    marked,
    sideways,
    third,
)
from qdojo.noise import integer

ENEMIES = 30
"""Most enemies at once: at the highest difficulty one appears in each step and stays for 29."""
DIVERS = 2
"""Most divers at once: one appears every 30 steps and stays for 59."""
BULLETS = 2
"""Most bullets of the player at once: one every 5 steps, each for at most 9."""
OXYGEN_STEPS = 200
CREW = 6
START_COLUMN = 5
COOL_DOWN_STEPS = 5
SPAWN_STEPS = 20
DIVER_SPAWN_STEPS = 30
MOVE_STEPS = 5
FASTEST_MOVE_STEPS = 2
SHOT_STEPS = 10
FRONT, BACK, BULLET, TRAIL, SHOT, FISH, SUBMARINE, OXYGEN, RESCUED, DIVER = range(10)
CHANNELS = 10

Flags = Bool[Array, "things"]
Numbers = Int[Array, "things"]


class Things(NamedTuple):
    """What swims: enemies, divers or bullets, in the order in which they appeared, the newest last."""

    there: Flags
    y: Numbers
    x: Numbers
    to_right: Flags
    wait: Numbers
    """Steps until it moves; bullets move in every step."""
    armed: Flags
    """Whether an enemy is a submarine, which shoots; False for all others."""
    until_shot: Numbers


class Seaquest(NamedTuple):
    """State of one game."""

    y: Number
    x: Number
    to_right: Yes
    oxygen: Number
    divers_on_board: Number
    at_surface: Yes
    """Whether the player has been at the surface since its last step below."""
    cool_down: Number
    spawn_steps: Number
    """Steps between two enemies."""
    until_enemy: Number
    until_diver: Number
    move_steps: Number
    """Steps between two moves of an enemy, less 1."""
    ramps: Number
    """How often the difficulty has risen."""
    bullets: Things
    enemies: Things
    divers: Things
    shots: Bool[Array, "2 10 10"]
    """The submarines' bullets: those to the left, and those to the right."""


def start(words: Words) -> Seaquest:
    """The player starts at the surface of an empty sea."""
    zero, one = jnp.int32(0), jnp.asarray(True)
    return Seaquest(
        y=zero,
        x=jnp.int32(START_COLUMN),
        to_right=~one,
        oxygen=jnp.int32(OXYGEN_STEPS),
        divers_on_board=zero,
        at_surface=one,
        cool_down=zero,
        spawn_steps=jnp.int32(SPAWN_STEPS),
        until_enemy=jnp.int32(SPAWN_STEPS),
        until_diver=jnp.int32(DIVER_SPAWN_STEPS),
        move_steps=jnp.int32(MOVE_STEPS),
        ramps=zero,
        bullets=_nothing(BULLETS),
        enemies=_nothing(ENEMIES),
        divers=_nothing(DIVERS),
        shots=jnp.zeros((2, SIDE, SIDE), bool),
    )


def _nothing(size: int) -> Things:
    no, zero = jnp.zeros(size, bool), jnp.zeros(size, jnp.int32)
    return Things(no, zero, zero, no, zero, no, zero)


def _with(things: Things, new: Yes, **fields: Array) -> Things:
    """`things` and, if `new`, one more; the oldest, which has left by then, makes room."""
    one = Things(*(jnp.asarray(fields.get(name, 0), column.dtype) for name, column in things._asdict().items()))
    one = one._replace(there=new)
    return Things(
        *(jnp.where(new, jnp.append(column[1:], last), column) for column, last in zip(things, one, strict=True))
    )


def play(state: Seaquest, action: Number, words: Words) -> Moved:
    """Spawn, act, then move bullets, divers and enemies in this order, and breathe."""
    state = _spawned(state, words)
    x, y = sideways(state.x, action), jnp.clip(state.y + (action == DOWN) - (action == UP), 0, SIDE - 2)
    fires = (action == FIRE) & (state.cool_down == 0)
    bullets = _with(state.bullets, fires, y=state.y, x=state.x, to_right=state.to_right)

    bullets, enemies, hits = _bullets_moved(bullets, state.enemies)
    divers, on_board = _divers_moved(state.divers, state.divers_on_board, y, x)
    touched = jnp.any(_at(enemies, y, x))
    bullets, enemies, shooting, more_hits = _enemies_moved(bullets, enemies, state.move_steps, y, x)
    touched |= jnp.any(_at(enemies, y, x))
    shots, shot = _shots_moved(state.shots | shooting, y, x)

    after = state._replace(
        y=y,
        x=x,
        to_right=jnp.where(action == RIGHT, True, jnp.where(action == LEFT, False, state.to_right)),
        divers_on_board=on_board,
        cool_down=jnp.maximum(jnp.where(fires, COOL_DOWN_STEPS, state.cool_down) - 1, 0),
        until_enemy=jnp.maximum(state.until_enemy - 1, 0),
        until_diver=jnp.maximum(state.until_diver - 1, 0),
        bullets=bullets,
        enemies=enemies,
        divers=divers,
        shots=shots,
    )
    after, paid, drowned = _breathed(after)
    return Moved(after, hits + more_hits + paid, touched | shot | drowned)


def _spawned(state: Seaquest, words: Words) -> Seaquest:
    """The state after an enemy and a diver have appeared, if they are due; no enemy appears in a row in which another
    swims the other way."""
    enemy_due, diver_due = state.until_enemy == 0, state.until_diver == 0
    to_right, armed, row = half(words[0]), third(words[1]), 1 + integer(words[2], SIDE - 2)
    enemies = state.enemies
    blocked = jnp.any(enemies.there & (enemies.y == row) & (enemies.to_right != to_right))
    diver_right, diver_row = half(words[3]), 1 + integer(words[4], SIDE - 2)
    return state._replace(
        enemies=_with(
            enemies,
            enemy_due & ~blocked,
            y=row,
            x=jnp.where(to_right, 0, SIDE - 1),
            to_right=to_right,
            wait=state.move_steps,
            armed=armed,
            until_shot=jnp.int32(SHOT_STEPS),
        ),
        divers=_with(
            state.divers,
            diver_due,
            y=diver_row,
            x=jnp.where(diver_right, 0, SIDE - 1),
            to_right=diver_right,
            wait=jnp.int32(MOVE_STEPS),
        ),
        until_enemy=jnp.where(enemy_due, state.spawn_steps, state.until_enemy),
        until_diver=jnp.where(diver_due, DIVER_SPAWN_STEPS, state.until_diver),
    )


def _at(things: Things, y: Number, x: Number) -> Flags:
    """Which of them are in this cell."""
    return things.there & (things.y == y) & (things.x == x)


def _first(among: Flags) -> Flags:
    """Only the first of those marked."""
    return among & (jnp.arange(among.size) == jnp.argmax(among))


def _last(among: Flags) -> Flags:
    """Only the last of those marked."""
    return among & (jnp.arange(among.size) == jnp.max(jnp.where(among, jnp.arange(among.size), -1)))


def _preferred(among: Flags, kind: Flags) -> Flags:
    """Those marked that are of the kind, or all if none is."""
    return jnp.where(jnp.any(among & kind), among & kind, among)


def _bullets_moved(bullets: Things, enemies: Things) -> tuple[Things, Things, Number]:
    """Each bullet, the newest first, moves and destroys the oldest fish in its cell, or else the oldest submarine."""
    x = bullets.x + direction(bullets.to_right)
    there, hits = bullets.there & inside(x), jnp.int32(0)
    for bullet in reversed(range(BULLETS)):
        met = _at(enemies, bullets.y[bullet], x[bullet]) & there[bullet]
        hit = _first(_preferred(met, ~enemies.armed))
        enemies = enemies._replace(there=enemies.there & ~hit)
        there = there.at[bullet].set(there[bullet] & ~jnp.any(hit))
        hits += jnp.any(hit)
    return bullets._replace(x=x, there=there), enemies, hits


def _divers_moved(divers: Things, on_board: Number, y: Number, x: Number) -> tuple[Things, Number]:
    """The player takes on board a diver that it meets before or after the diver moves, while there is room. The newest
    goes first."""
    there, wait, at = divers.there, divers.wait, divers.x
    for diver in reversed(range(DIVERS)):
        now = there[diver]
        in_row, column = now & (divers.y[diver] == y), at[diver]
        taken = in_row & (column == x) & (on_board < CREW)
        moves = ~taken & (wait[diver] == 0)
        moved = jnp.where(moves, column + direction(divers.to_right[diver]), column)
        taken |= moves & in_row & (moved == x) & (on_board < CREW)
        on_board += taken
        there = there.at[diver].set(now & ~taken & inside(moved))
        wait = wait.at[diver].set(jnp.where(moves, MOVE_STEPS, wait[diver] - 1))
        at = at.at[diver].set(moved)
    return divers._replace(there=there, wait=wait, x=at), on_board


def _enemies_moved(
    bullets: Things, enemies: Things, move_steps: Number, y: Number, x: Number
) -> tuple[Things, Things, Bool[Array, "2 10 10"], Number]:
    """Enemies move; one that moves into a bullet is destroyed with it, submarines before fish and the newest first.

    A submarine shoots where it is after its move, also as it is destroyed. Returns bullets, enemies, the new shots, and
    the number of enemies destroyed.
    """
    moves = enemies.there & (enemies.wait == 0)
    at = jnp.where(moves, enemies.x + direction(enemies.to_right), enemies.x)
    moved = enemies._replace(x=at, wait=jnp.where(moves, move_steps, enemies.wait - 1))
    shoots = moved.there & moved.armed & (moved.until_shot == 0)
    until_shot = jnp.where(moved.until_shot == 0, SHOT_STEPS, moved.until_shot - 1)

    remain, alive, hits = moved.there & inside(at), bullets.there, jnp.int32(0)
    can_hit = moves & ~((moved.y == y) & (at == x))
    for bullet in range(BULLETS):
        met = remain & can_hit & alive[bullet] & (moved.y == bullets.y[bullet]) & (at == bullets.x[bullet])
        hit = _last(_preferred(met, moved.armed))
        remain &= ~hit
        alive = alive.at[bullet].set(alive[bullet] & ~jnp.any(hit))
        hits += jnp.any(hit)

    cells = jnp.where(shoots & inside(at), (moved.to_right * SIDE + moved.y) * SIDE + at, 2 * SIDE * SIDE)
    shooting = jnp.zeros(2 * SIDE * SIDE, bool).at[cells].set(True, mode="drop").reshape(2, SIDE, SIDE)
    return bullets._replace(there=alive), moved._replace(there=remain, until_shot=until_shot), shooting, hits


def _shots_moved(shots: Bool[Array, "2 10 10"], y: Number, x: Number) -> tuple[Bool[Array, "2 10 10"], Yes]:
    """The submarines' bullets after they moved, and whether one hit the player before or after that."""
    nothing = jnp.zeros((SIDE, 1), bool)
    to_left = jnp.concatenate([shots[0, :, 1:], nothing], axis=1)
    to_right = jnp.concatenate([nothing, shots[1, :, :-1]], axis=1)
    after = jnp.stack([to_left, to_right])
    return after, jnp.any((shots | after)[:, y, x])


def _breathed(state: Seaquest) -> tuple[Seaquest, Number, Yes]:
    """The state after breathing, the reward for surfacing, and whether oxygen or divers on board were missing."""
    below = state.y > 0
    arrives = ~below & ~state.at_surface
    surfaces = arrives & (state.divers_on_board != 0)
    full = surfaces & (state.divers_on_board == CREW)
    rising = surfaces & ((state.spawn_steps > 1) | (state.move_steps > FASTEST_MOVE_STEPS))
    faster = rising & (state.move_steps > FASTEST_MOVE_STEPS) & (state.ramps % 2 == 1)
    after = state._replace(
        oxygen=jnp.where(surfaces, OXYGEN_STEPS, state.oxygen - below),
        at_surface=~below & (state.at_surface | surfaces),
        divers_on_board=jnp.where(full, 0, state.divers_on_board) - surfaces,
        spawn_steps=state.spawn_steps - (rising & (state.spawn_steps > 1)),
        move_steps=state.move_steps - faster,
        ramps=state.ramps + rising,
    )
    paid = jnp.where(full, state.oxygen * 10 // OXYGEN_STEPS, 0)
    return after, paid, (state.oxygen <= 0) | (arrives & ~surfaces)


def show(state: Seaquest) -> UInt8[Array, "10 10 10"]:
    """The ten channels in the order of `GAME.channels`."""
    enemies, divers, bullets = state.enemies, state.divers, state.bullets
    back = state.x - direction(state.to_right)
    board = marked(
        CHANNELS,
        Marks(True, state.y, state.x, FRONT),
        Marks(True, state.y, back, BACK),
        Marks(enemies.there, enemies.y, enemies.x, jnp.where(enemies.armed, SUBMARINE, FISH)),
        Marks(divers.there, divers.y, divers.x, DIVER),
        Marks(bullets.there, bullets.y, bullets.x, BULLET),
        *(Marks(some.there, some.y, some.x - direction(some.to_right), TRAIL) for some in (enemies, divers)),
    )
    oxygen = jnp.maximum(state.oxygen, 0) * 10 // OXYGEN_STEPS > PLACES
    rescued = (SIDE - 1 - state.divers_on_board <= PLACES) & (SIDE - 1 > PLACES)
    numbers = jnp.arange(CHANNELS)
    gauges = (oxygen[:, None] & (numbers == OXYGEN)) | (rescued[:, None] & (numbers == RESCUED))
    at_bottom = (PLACES == SIDE - 1)[:, None, None] & gauges
    shots = jnp.any(state.shots, axis=0)[..., None] & (numbers == SHOT)
    return board | (at_bottom | shots).astype(jnp.uint8)


GAME = Game(
    channels=(
        "submarine, front",
        "submarine, back",
        "friendly bullet",
        "trail",
        "enemy bullet",
        "enemy fish",
        "enemy submarine",
        "oxygen gauge",
        "diver gauge",
        "diver",
    ),
    minimal_actions=(NOTHING, LEFT, UP, RIGHT, DOWN, FIRE),
    words=5,
    start=start,
    play=play,
    show=show,
)
