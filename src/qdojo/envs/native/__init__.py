"""The JAX environments that ship with qdojo, by id. For Gymnasium's own versions, see `../gymnasium.py`.

Importing this table does not import jax; looking up an environment does.
"""

from __future__ import annotations

import re
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


SIZES = range(2, 101)
"""Sizes of deep seas and lengths of memory chains."""


def _deep_sea(size: int) -> NativeEnvironment:
    from qdojo.envs.native.deep_sea import deep_sea

    return deep_sea(size)


def _memory_chain(length: int) -> NativeEnvironment:
    from qdojo.envs.native.memory_chain import memory_chain

    return memory_chain(length)


def _catch() -> NativeEnvironment:
    from qdojo.envs.native.catch import CATCH

    return CATCH


CATCH_ID = "qdojo/Catch-v0"

SIZED: dict[str, Callable[[int], NativeEnvironment]] = {"DeepSea": _deep_sea, "MemoryChain": _memory_chain}
"""Name in an id of the form `qdojo/DeepSea10-v0` -> function that returns the environment of that size."""


def shipped(env_id: str) -> NativeEnvironment | None:
    """Return the JAX environment with this id that needs no Gymnasium environment, or None if there is none."""
    if env_id in MINATAR:
        return minatar(env_id)
    if env_id == CATCH_ID:
        return _catch()
    found = sized(env_id)
    return SIZED[found[0]](found[1]) if found else None


def sized(env_id: str) -> tuple[str, int] | None:
    """Return the name and the size in an id of the form of `SIZED`; None for other ids."""
    found = re.fullmatch(rf"qdojo/({'|'.join(SIZED)})([1-9]\d{{0,2}})-v0", env_id)
    return (found[1], int(found[2])) if found and int(found[2]) in SIZES else None


def native(env_id: str) -> NativeEnvironment | None:
    """Return the JAX version of a Gymnasium id, or None if there is none."""
    load = NATIVE.get(env_id)
    return load() if load is not None else shipped(env_id)
