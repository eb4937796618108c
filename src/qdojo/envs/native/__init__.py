"""The tasks that qdojo has in JAX, found by their Gymnasium id. Not for Gymnasium's own: see `../gymnasium.py`.

Importing this table imports no jax; looking up a task does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qdojo.envs.contract import NativeEnvironment


def _cartpole() -> NativeEnvironment:
    from qdojo.envs.native.cartpole import CARTPOLE

    return CARTPOLE


def _acrobot() -> NativeEnvironment:
    from qdojo.envs.native.acrobot import ACROBOT

    return ACROBOT


def _mountain_car() -> NativeEnvironment:
    from qdojo.envs.native.mountain_car import MOUNTAIN_CAR

    return MOUNTAIN_CAR


NATIVE: dict[str, Callable[[], NativeEnvironment]] = {
    "CartPole-v1": _cartpole,
    "Acrobot-v1": _acrobot,
    "MountainCar-v0": _mountain_car,
}
"""Gymnasium id -> how to import the task that equals it step for step."""


def native(env_id: str) -> NativeEnvironment | None:
    """The JAX version of a Gymnasium id, or None where there is none."""
    load = NATIVE.get(env_id)
    return load() if load is not None else None
