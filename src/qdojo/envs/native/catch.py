"""Catch: move a paddle under a falling ball. It tests credit: only the last of nine steps pays.

Source: Osband et al. (2020), "Behaviour Suite for Reinforcement Learning", appendix A, experiment `catch`.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from qdojo.envs.contract import NativeEnvironment, Transition
from qdojo.noise import integer

ROWS, COLUMNS = 10, 5


class Catch(NamedTuple):
    """Positions of the ball and of the paddle, which is in the last row."""

    ball_row: Int[Array, ""]
    ball_column: Int[Array, ""]
    paddle: Int[Array, ""]


def show(state: Catch) -> Float[Array, "10 5"]:
    """The board, with a 1 at the ball and at the paddle."""
    rows, columns = jnp.arange(ROWS)[:, None], jnp.arange(COLUMNS)
    ball = (rows == state.ball_row) & (columns == state.ball_column)
    paddle = (rows == ROWS - 1) & (columns == state.paddle)
    return (ball | paddle).astype(jnp.float32)


def reset(noise: UInt32[Array, "1"]) -> tuple[Catch, Float[Array, "10 5"]]:
    """The ball starts in a random column of the first row, the paddle in the middle."""
    state = Catch(jnp.int32(0), integer(noise[0], COLUMNS), jnp.int32(COLUMNS // 2))
    return state, show(state)


def step(state: Catch, action: Int[Array, ""], noise: UInt32[Array, "1"]) -> tuple[Catch, Transition]:
    """Move left (0), stay (1) or move right (2); the ball falls by one row. In the last row it pays 1 if the paddle is
    under it, else -1."""
    paddle = jnp.clip(state.paddle + action - 1, 0, COLUMNS - 1)
    after = Catch(state.ball_row + 1, state.ball_column, paddle)
    over = after.ball_row == ROWS - 1
    reward = jnp.where(over, jnp.where(paddle == state.ball_column, 1.0, -1.0), 0.0)
    return after, Transition(show(after), reward, over, jnp.asarray(False))


CATCH = NativeEnvironment(
    name="qdojo/Catch-v0",
    observation_shape=(ROWS, COLUMNS),
    num_actions=3,
    noise_words=1,
    max_episode_steps=ROWS - 1,
    reset=reset,
    step=step,
    reward_threshold=1.0,
)
