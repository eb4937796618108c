"""The MinAtar games (Young and Tian, 2019) in JAX, by the ids of the package `minatar`. Importing this table does not
import jax; looking up a game does.

Version 0 of an id has all six actions, version 1 only those that do something in the game.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qdojo.envs.contract import NativeEnvironment

NAMESPACE = "MinAtar"
MODULES = {
    "Asterix": "asterix",
    "Breakout": "breakout",
    "Freeway": "freeway",
    "Seaquest": "seaquest",
    "SpaceInvaders": "space_invaders",
}
"""Name of a game in its id -> its module, whose `GAME` has its rules."""
MINATAR = {
    f"{NAMESPACE}/{name}-v{version}": (module, bool(version)) for name, module in MODULES.items() for version in (0, 1)
}
"""Id -> module, and whether only the minimal actions exist."""


def minatar(env_id: str) -> NativeEnvironment:
    """Return the game with this id, one of `MINATAR`."""
    from qdojo.envs.native.minatar.game import environment

    module, minimal = MINATAR[env_id]
    game = importlib.import_module(f"{__name__}.{module}").GAME
    return environment(env_id, game, tuple(range(6)) if not minimal else game.minimal_actions)
