"""Settings of the Atari protocols, and checks of settings for the screen. `envs/atari.py` has the games."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qdojo.ids import is_atari

if TYPE_CHECKING:
    from qdojo.config.settings import Config

_MACHADO2018 = {
    "frame_stack": 4,
    "frame_skip": 4,
    "max_pooling": True,
    "grayscale": True,
    "resize": 84,
    "clip_rewards": True,
    "sticky_actions": 0.25,
    "noop_max": 0,
    "terminal_on_life_loss": False,
    "full_action_space": False,
    "max_frames": 108_000,
    "eval_epsilon": 0.001,
}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "machado2018": _MACHADO2018,
    "dqn2015": _MACHADO2018
    | {"sticky_actions": 0.0, "noop_max": 30, "terminal_on_life_loss": True, "eval_epsilon": 0.05},
}
"""Settings of each protocol. Given settings take precedence, and those of a preset if no protocol is given."""
_ATARI_ONLY = ("max_pooling", "sticky_actions", "noop_max", "terminal_on_life_loss", "full_action_space", "max_frames")


def by_protocol(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an Atari game's protocol; empty for other environments and unknown protocols."""
    if not is_atari(str(given.get("env", ""))):
        return {}
    return PROTOCOLS.get(str(given.get("atari_protocol", "machado2018")), {})


def check_screen(config: "Config") -> None:
    """Raises ValueError, one clause, for screen settings that do not fit the environment."""
    if is_atari(config.env):
        if config.from_pixels:
            raise ValueError("from_pixels is set, but Atari games are always played from the screen; leave it out")
        return
    chosen = [name for name in _ATARI_ONLY if getattr(config, name) is not None]
    if config.atari_protocol != "machado2018":
        chosen.insert(0, "atari_protocol")
    if chosen:
        raise ValueError(f"{chosen[0]} is set, but {config.env} is not an Atari game such as ALE/Pong-v5; leave it out")
