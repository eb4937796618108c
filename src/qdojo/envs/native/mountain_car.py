"""MountainCar-v0 in JAX, equal to Gymnasium's step for step in float32, without rendering.

Source: Gymnasium 1.4 `classic_control/mountain_car.py`, with its default goal velocity of 0; the task is Moore
(1990), "Efficient memory-based learning for robot control".
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from qdojo.envs.contract import NativeEnvironment, Transition
from qdojo.noise import uniform

FORCE = 0.001
GRAVITY = 0.0025
MIN_POSITION = -1.2
MAX_POSITION = 0.6
MAX_SPEED = 0.07
GOAL_POSITION = 0.5
START_LOW = -0.6
START_HIGH = -0.4
MAX_EPISODE_STEPS = 200


class MountainCarState(NamedTuple):
    """State of one car."""

    body: Float[Array, "2"]
    """Position along the track, velocity per step."""
    elapsed: Int[Array, ""]
    """Steps since the reset."""


def reset(noise: UInt32[Array, "1"]) -> tuple[MountainCarState, Float[Array, "2"]]:
    """Start with the car at rest near the valley's floor: its position is uniform in [-0.6, -0.4)."""
    position = START_LOW + (START_HIGH - START_LOW) * uniform(noise[0])
    body = jnp.stack([position, jnp.zeros_like(position)])
    return MountainCarState(body, jnp.int32(0)), body


def step(
    state: MountainCarState, action: Int[Array, ""], noise: UInt32[Array, "1"]
) -> tuple[MountainCarState, Transition]:
    """Push left (0), not at all (1) or right (2). Every step gives a reward of -1, even the one at the goal."""
    position, velocity = state.body
    velocity = velocity + (action - 1).astype(jnp.float32) * FORCE - jnp.cos(3.0 * position) * GRAVITY
    velocity = jnp.clip(velocity, -MAX_SPEED, MAX_SPEED)
    position = jnp.clip(position + velocity, MIN_POSITION, MAX_POSITION)
    at_wall = (position <= MIN_POSITION) & (velocity < 0.0)
    velocity = jnp.where(at_wall, 0.0, velocity)

    body = jnp.stack([position, velocity])
    elapsed = state.elapsed + 1
    transition = Transition(
        observation=body,
        reward=jnp.float32(-1.0),
        terminated=(position >= GOAL_POSITION) & (velocity >= 0.0),
        truncated=elapsed >= MAX_EPISODE_STEPS,
    )
    return MountainCarState(body, elapsed), transition


MOUNTAIN_CAR = NativeEnvironment(
    name="MountainCar-v0",
    observation_shape=(2,),
    num_actions=3,
    noise_words=1,
    max_episode_steps=MAX_EPISODE_STEPS,
    reset=reset,
    step=step,
)
