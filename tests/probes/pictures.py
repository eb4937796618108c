"""Catch: a ball falls, and a paddle has to be below it at the end. A picture is all that is seen of both.

After the game of that name in `bsuite` (Osband et al., 2020), on a square.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from qdojo.envs.contract import NativeEnvironment, Transition
from qdojo.noise import integer

SIDE = 8


class Court(NamedTuple):
    """The ball's column and row, and the column of the paddle, which is in the last row."""

    ball: Array
    row: Array
    paddle: Array


def show(court: Court) -> Array:
    """A uint8 picture [8, 8, 1], black but for the ball and the paddle."""
    black = jnp.zeros((SIDE, SIDE, 1), jnp.uint8)
    return black.at[court.row, court.ball].set(255).at[SIDE - 1, court.paddle].set(255)


def catch() -> NativeEnvironment:
    """Left, stay, right, seven times; then 1 where the ball is caught, else -1."""

    def reset(noise: Array) -> tuple[Court, Array]:
        court = Court(integer(noise[0], SIDE), jnp.int32(0), jnp.int32(SIDE // 2))
        return court, show(court)

    def step(court: Court, action: Array, noise: Array) -> tuple[Court, Transition]:
        after = Court(court.ball, court.row + 1, jnp.clip(court.paddle + action - 1, 0, SIDE - 1))
        ends = after.row == SIDE - 1
        paid = jnp.where(ends, jnp.where(after.paddle == after.ball, 1.0, -1.0), 0.0)
        return after, Transition(show(after), paid, ends, jnp.asarray(False))

    return NativeEnvironment("catch", (SIDE, SIDE, 1), 3, 1, SIDE, reset, step)
