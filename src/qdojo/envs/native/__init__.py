"""The JAX environments that ship with qdojo, by id. For Gymnasium's own versions, see `../gymnasium.py`.

Importing this table does not import jax; looking up an environment does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qdojo.envs.native.minatar import MINATAR, minatar

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
"""Gymnasium id -> function that imports the JAX environment that equals it step for step."""


def own(env_id: str) -> NativeEnvironment | None:
    """Return the JAX environment with this id that needs no Gymnasium environment, or None if there is none."""
    return minatar(env_id) if env_id in MINATAR else None


def native(env_id: str) -> NativeEnvironment | None:
    """Return the JAX version of a Gymnasium id, or None if there is none."""
    load = NATIVE.get(env_id)
    return load() if load is not None else own(env_id)
