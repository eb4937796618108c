"""CartPole-v1 in JAX, equal to Gymnasium's step for step in float32, without rendering.

Source: Gymnasium 1.4 `classic_control/cartpole.py`, explicit Euler; the equations are Florian (2007), "Correct
equations for the dynamics of the cart-pole system", without friction. Only `sutton_barto_reward=False`.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from qdojo.envs.contract import NativeEnvironment, Transition
from qdojo.noise import uniform

GRAVITY = 9.8  # m/s^2
POLE_MASS = 0.1  # kg
TOTAL_MASS = 1.1  # kg, the cart weighs 1.0
HALF_LENGTH = 0.5  # m
FORCE = 10.0  # N
TIME_STEP = 0.02  # s
MAX_POSITION = 2.4  # m
MAX_ANGLE = 12 * 2 * math.pi / 360  # rad
START_RANGE = 0.05
MAX_EPISODE_STEPS = 500


class CartPoleState(NamedTuple):
    """State of one cart with its pole.

    The four numbers are one array because it is also the observation: inside a scan over 10 environments this took
    three quarters of the time that four scalars took.
    """

    body: Float[Array, "4"]
    """Position (m), velocity (m/s), angle from upright (rad), angular velocity (rad/s)."""
    elapsed: Int[Array, ""]
    """Steps since the reset."""


def reset(noise: UInt32[Array, "4"]) -> tuple[CartPoleState, Float[Array, "4"]]:
    """Start with the cart near the middle and the pole nearly upright: each number is uniform in [-0.05, 0.05)."""
    body = (2.0 * uniform(noise) - 1.0) * START_RANGE
    return CartPoleState(body, jnp.int32(0)), body


def step(state: CartPoleState, action: Int[Array, ""], noise: UInt32[Array, "4"]) -> tuple[CartPoleState, Transition]:
    """Push left (0) or right (1) for 0.02 s. Every step gives a reward of 1, even the one on which the pole falls."""
    _, velocity, angle, spin = state.body
    force = jnp.where(action == 1, FORCE, -FORCE)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    push = (force + POLE_MASS * HALF_LENGTH * spin**2 * sin) / TOTAL_MASS
    spin_rate = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cos**2 / TOTAL_MASS))
    acceleration = push - POLE_MASS * HALF_LENGTH * spin_rate * cos / TOTAL_MASS

    body = state.body + TIME_STEP * jnp.stack([velocity, acceleration, spin, spin_rate])
    elapsed = state.elapsed + 1
    transition = Transition(
        observation=body,
        reward=jnp.float32(1.0),
        terminated=(jnp.abs(body[0]) > MAX_POSITION) | (jnp.abs(body[2]) > MAX_ANGLE),
        truncated=elapsed >= MAX_EPISODE_STEPS,
    )
    return CartPoleState(body, elapsed), transition


CARTPOLE = NativeEnvironment(
    name="CartPole-v1",
    observation_shape=(4,),
    num_actions=2,
    noise_words=4,
    max_episode_steps=MAX_EPISODE_STEPS,
    reset=reset,
    step=step,
)
