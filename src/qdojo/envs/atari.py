"""Atari games on ale-py's emulator, under the rules of Machado et al. (2018) or Mnih et al. (2015). Frame stacking and
reward clipping belong to the agent; environment ids are resolved in `resolve.py`.

The emulator itself is deterministic. Sticky actions and no-op starts are drawn from each episode's own seed, so the
seed and the actions fully determine an episode.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from jaxtyping import UInt8

from qdojo.envs.pictures import AreaResize

FRAMES_PER_SECOND = 60
NOOP = 0
LIFE_LOST = "qdojo_life_lost"
"""Key in `info` that reports a lost life: learning treats it as the end of the episode, but the game continues."""


@dataclass(frozen=True)
class AtariRules:
    """Rules of a game. The defaults follow Machado et al. (2018), but with the game's minimal action set."""

    game: str
    """Name of the ROM, such as `space_invaders`."""
    sticky_actions: float = 0.25
    """Probability, per frame, of repeating the previous frame's action instead of the chosen one."""
    frame_skip: int = 4
    """Frames for which each action is repeated."""
    max_pooling: bool = True
    """Whether the observation is the pixel-wise maximum of the action's last two frames instead of the last frame."""
    noop_max: int = 0
    """An episode starts with a random number of no-op frames, 1 to `noop_max`; 0 disables them."""
    terminal_on_life_loss: bool = False
    """Whether to set `info[LIFE_LOST]` when a life is lost."""
    full_action_space: bool = False
    """All 18 actions instead of the game's minimal action set."""
    max_frames: int = 108_000
    """Frames after which an episode is truncated; the default is 30 minutes of play."""
    grayscale: bool = True
    resize: int = 84
    """Side length of the square observations, in pixels."""

    @property
    def max_steps(self) -> int:
        """Largest number of actions before an episode is truncated."""
        return math.ceil(self.max_frames / self.frame_skip)


def rules_of(game: str, settings: Mapping[str, Any]) -> AtariRules:
    """Return the rules with the values of the settings of the same names."""
    return AtariRules(game, **{name: value for name, value in settings.items() if name in _RULES})


def settings_of(rules: AtariRules) -> dict[str, Any]:
    """Return all rules as settings."""
    return {name: getattr(rules, name) for name in _RULES}


_RULES = tuple(field.name for field in fields(AtariRules) if field.name != "game")


class _Emulator(NamedTuple):
    """An emulator with a loaded game, and the state in which each episode starts."""

    ale: Any
    start: Any
    """Emulator state after the first reset. In some games, later resets leave traces of the previous episode."""
    grey: UInt8[np.ndarray, "height width"]
    colour: UInt8[np.ndarray, "height width 3"]


_IDLE: dict[str, list[_Emulator]] = {}
"""Emulators of closed environments, by game, for reuse: loading one takes longer than 300 steps."""


def _emulator(game: str, in_window: bool = False) -> _Emulator:
    if not in_window and _IDLE.get(game):
        return _IDLE[game].pop()
    ale_py, roms = importlib.import_module("ale_py"), importlib.import_module("ale_py.roms")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    # `step` implements sticky actions: the emulator would only apply a new seed when the game is reloaded.
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", 0)
    if in_window:
        ale.setBool("display_screen", True)
        ale.setBool("sound", True)
    ale.loadROM(roms.get_rom_path(game))
    ale.reset_game()
    return _Emulator(ale, ale.cloneState(), ale.getScreenGrayscale(), ale.getScreenRGB())


class AtariGame(gym.Env[Any, Any]):
    """One game under `rules`; observations are uint8 `[resize, resize]`, or `[resize, resize, 3]` in colour.

    `render_mode` may be `rgb_array`, `rgb_array_list` (all frames since the last `render`, at 60 a second) or `human`.
    As in ale-py's own environment, `ale` is the emulator, an `ALEInterface`; it is None after `close`.
    """

    def __init__(self, rules: AtariRules, render_mode: str | None = None) -> None:
        self.rules, self.render_mode = rules, render_mode
        is_list = render_mode == "rgb_array_list"
        self.metadata = {
            "render_modes": ["human", "rgb_array", "rgb_array_list"],
            "render_fps": FRAMES_PER_SECOND if is_list else FRAMES_PER_SECOND / rules.frame_skip,
        }
        self._emulator: _Emulator | None = _emulator(rules.game, render_mode == "human")
        self.ale: Any = self._emulator.ale
        ale = self.ale
        actions = ale.getLegalActionSet() if rules.full_action_space else ale.getMinimalActionSet()
        self._actions = [action.value for action in actions]
        self._meanings = [str(action.name) for action in actions]
        height, width = ale.getScreenDims()
        colours = () if rules.grayscale else (3,)
        self._two = np.zeros((2, height, width, *colours), np.uint8)
        self._look: Callable[[Any], Any] = ale.getScreenGrayscale if rules.grayscale else ale.getScreenRGB
        self._smaller = AreaResize(height, width, rules.resize, rules.resize)
        self._film: list[UInt8[np.ndarray, "height width 3"]] | None = [] if is_list else None
        self._stuck = rules.sticky_actions > 0.0
        self._no_repeats = [False] * rules.frame_skip
        self._executed, self._frames, self._lives = NOOP, 0, 0
        self.action_space = gym.spaces.Discrete(len(self._actions))
        self.observation_space = gym.spaces.Box(0, 255, (rules.resize, rules.resize, *colours), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a new episode, which `seed` and the actions fully determine."""
        super().reset(seed=seed)
        assert self._emulator is not None, "the environment is closed"
        ale, rules = self.ale, self.rules
        ale.restoreState(self._emulator.start)
        # A restored state does not include the screen: the emulator would still show the last frame it played.
        shown = self._emulator.grey if rules.grayscale else self._emulator.colour
        self._executed, self._frames = NOOP, 0
        if self._film is not None:
            self._film[:] = [self._emulator.colour]
        if rules.noop_max:
            for _ in range(int(self.np_random.integers(1, rules.noop_max + 1))):
                ale.act(NOOP)
                self._frames += 1
                self._keep_frame()
            self._look(self._two[1])
            shown = self._two[1]
        self._lives = ale.lives()
        return self._smaller(shown), {"lives": self._lives}

    def get_action_meanings(self) -> list[str]:
        """Return the name of each action, as Gymnasium's own Atari environments do."""
        return self._meanings

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Repeat the action with this index for `frame_skip` frames, or until the game is over."""
        ale, rules, film = self.ale, self.rules, self._film
        act, is_over = ale.act, ale.game_over
        chosen, executed = self._actions[int(action)], self._executed
        repeats = self._no_repeats
        if self._stuck:
            repeats = (self.np_random.random(rules.frame_skip) < rules.sticky_actions).tolist()
        before_last = rules.frame_skip - 2 if rules.max_pooling else -1
        reward, over, truncated, frame = 0, False, False, 0
        for frame, repeated in enumerate(repeats):
            if not repeated:
                executed = chosen
            reward += act(executed)
            self._frames += 1
            if film is not None:
                self._keep_frame()
            over, truncated = is_over(), self._frames >= rules.max_frames
            if over or truncated:
                break
            if frame == before_last:
                self._look(self._two[0])
        self._executed = executed
        first, last = self._two
        self._look(last)
        # If the game ended early, the second-to-last frame was not kept, so the last one is used alone.
        if 0 <= before_last < frame:
            np.maximum(first, last, out=last)
        lives, before = ale.lives(), self._lives
        self._lives = lives
        info: dict[str, Any] = {"lives": lives}
        if rules.terminal_on_life_loss and lives < before:
            info[LIFE_LOST] = True
        return self._smaller(last), float(reward), over, truncated and not over, info

    def render(self) -> Any:
        """Return the current frame, or for `rgb_array_list` all frames since the last call."""
        if self._film is not None:
            taken, self._film[:] = list(self._film), []
            return taken
        return self.ale.getScreenRGB() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Release the emulator for reuse by the next environment of the same game."""
        if self._emulator is not None and self.render_mode != "human":
            _IDLE.setdefault(self.rules.game, []).append(self._emulator)
        self._emulator = self.ale = None

    def _keep_frame(self) -> None:
        if self._film is not None:
            self._film.append(self.ale.getScreenRGB())
