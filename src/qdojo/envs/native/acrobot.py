"""Acrobot-v1 in JAX, equal to Gymnasium's step for step in float32, without rendering.

Source: Gymnasium 1.4 `classic_control/acrobot.py` with its defaults: no torque noise, and the equations of Sutton
and Barto's book (1998, section 11.3), which differ from Sutton (1996) in one term.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from qdojo.envs.contract import NativeEnvironment, Transition
from qdojo.noise import uniform

GRAVITY = 9.8  # m/s^2
TIME_STEP = 0.2  # s
MAX_SPIN_1 = 4 * math.pi  # rad/s
MAX_SPIN_2 = 9 * math.pi  # rad/s
START_RANGE = 0.1
MAX_EPISODE_STEPS = 500


class AcrobotState(NamedTuple):
    """State of two links; the upper one hangs from a fixed point."""

    body: Float[Array, "4"]
    """Angle of the first link from straight down, angle of the second from the first (rad, in [-pi, pi]), and
    their velocities (rad/s)."""
    elapsed: Int[Array, ""]
    """Steps since the reset."""


def observe(body: Float[Array, "4"]) -> Float[Array, "6"]:
    """Return the cosine and sine of both angles, then both velocities (rad/s)."""
    cos, sin = jnp.cos(body[:2]), jnp.sin(body[:2])
    return jnp.stack([cos[0], sin[0], cos[1], sin[1], body[2], body[3]])


def reset(noise: UInt32[Array, "4"]) -> tuple[AcrobotState, Float[Array, "6"]]:
    """Start with both links hanging, almost at rest: each number is uniform in [-0.1, 0.1)."""
    body = (2.0 * uniform(noise) - 1.0) * START_RANGE
    return AcrobotState(body, jnp.int32(0)), observe(body)


def derivative(body: Float[Array, "4"], torque: Float[Array, ""]) -> Float[Array, "4"]:
    """Return the time derivative of `body` under a torque (N m) on the middle joint.

    Both links weigh 1 kg, are 1 m long, have their centre of mass in the middle and an inertia of 1 kg m^2, so
    d1 = m1 lc1^2 + m2 (l1^2 + lc2^2 + 2 l1 lc2 cos) + I1 + I2 and the other terms reduce to the constants below.
    """
    angle_1, angle_2, spin_1, spin_2 = body
    cos_2, sin_2 = jnp.cos(angle_2), jnp.sin(angle_2)
    d1 = 3.5 + cos_2
    d2 = 1.25 + 0.5 * cos_2
    phi2 = 0.5 * GRAVITY * jnp.sin(angle_1 + angle_2)
    phi1 = -0.5 * spin_2**2 * sin_2 - spin_2 * spin_1 * sin_2 + 1.5 * GRAVITY * jnp.sin(angle_1) + phi2
    ratio = d2 / d1
    rate_2 = (torque + ratio * phi1 - 0.5 * spin_1**2 * sin_2 - phi2) / (1.25 - d2 * ratio)
    rate_1 = -(d2 * rate_2 + phi1) / d1
    return jnp.stack([spin_1, spin_2, rate_1, rate_2])


def integrate(body: Float[Array, "4"], torque: Float[Array, ""]) -> Float[Array, "4"]:
    """Return `body` after 0.2 s, by one fourth-order Runge-Kutta step, with angles wrapped and velocities clipped."""
    k1 = derivative(body, torque)
    k2 = derivative(body + TIME_STEP / 2 * k1, torque)
    k3 = derivative(body + TIME_STEP / 2 * k2, torque)
    k4 = derivative(body + TIME_STEP * k3, torque)
    body = body + TIME_STEP / 6 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
    angles = body[:2] - 2 * math.pi * jnp.round(body[:2] / (2 * math.pi))
    limits = jnp.array([MAX_SPIN_1, MAX_SPIN_2], jnp.float32)
    return jnp.concatenate([angles, jnp.clip(body[2:], -limits, limits)])


def step(state: AcrobotState, action: Int[Array, ""], noise: UInt32[Array, "4"]) -> tuple[AcrobotState, Transition]:
    """Apply a torque of -1 (action 0), 0 (1) or 1 N m (2) for 0.2 s. The reward is -1, and 0 on reaching the goal."""
    body = integrate(state.body, (action - 1).astype(jnp.float32))
    terminated = -jnp.cos(body[0]) - jnp.cos(body[0] + body[1]) > 1.0
    elapsed = state.elapsed + 1
    transition = Transition(
        observation=observe(body),
        reward=jnp.where(terminated, jnp.float32(0.0), jnp.float32(-1.0)),
        terminated=terminated,
        truncated=elapsed >= MAX_EPISODE_STEPS,
    )
    return AcrobotState(body, elapsed), transition


ACROBOT = NativeEnvironment(
    name="Acrobot-v1",
    observation_shape=(6,),
    num_actions=3,
    noise_words=4,
    max_episode_steps=MAX_EPISODE_STEPS,
    reset=reset,
    step=step,
)
