"""Atari games as agents play them: the rules of Machado et al. (2018) and of Mnih et al. (2015) over ale-py's emulator.
Not for frame stacks and clipped rewards, which are the agent's, nor for names: see `resolve.py`.

The emulator itself runs without chance. What the rules leave to chance, each episode draws from its own seed, so an
episode follows from its seed and its actions alone.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from jaxtyping import UInt8

from qdojo.envs.again import GIVEN
from qdojo.envs.pictures import AreaResize

PREFIX = "ALE/"
FRAMES_PER_SECOND = 60
NOOP = 0
LIFE_LOST = "qdojo_life_lost"
"""Key of an `info` that says that a life was lost, after which nothing counts for learning; the game goes on."""


@dataclass(frozen=True)
class AtariRules:
    """How a game is played. The defaults are those of Machado et al. (2018), with the game's own actions."""

    game: str
    """The name of its ROM, as in `space_invaders`."""
    sticky_actions: float = 0.25
    """Probability that a frame repeats the action of the frame before it, whatever was chosen."""
    frame_skip: int = 4
    """Frames that each action is held; the last two of them are shown, the brighter one at each pixel."""
    noop_max: int = 0
    """An episode begins with 1 to so many frames without action; 0: with none."""
    terminal_on_life_loss: bool = False
    """Whether `info[LIFE_LOST]` says where a life was lost."""
    full_action_space: bool = False
    """All 18 actions instead of those that do something in the game."""
    max_frames: int = 108_000
    """Frames after which an episode is truncated, 30 minutes."""
    grayscale: bool = True
    resize: int = 84
    """Sides of what is shown, in pixels."""

    @property
    def max_steps(self) -> int:
        """Actions after which an episode is truncated at the latest."""
        return math.ceil(self.max_frames / self.frame_skip)


def is_game(env: str) -> bool:
    """Return whether `env` is the id of an Atari game."""
    return env.startswith(PREFIX) and not env.endswith(GIVEN)


def rules_of(game: str, settings: Mapping[str, Any]) -> AtariRules:
    """Return the rules that settings of the same names make."""
    return AtariRules(game, **{name: value for name, value in settings.items() if name in _RULES})


def settings_of(rules: AtariRules) -> dict[str, Any]:
    """Return all rules as settings."""
    return {name: getattr(rules, name) for name in _RULES}


_RULES = tuple(field.name for field in fields(AtariRules) if field.name != "game")


class _Emulator(NamedTuple):
    """An emulator with a game in it, and where each episode starts."""

    ale: Any
    start: Any
    """Its state after the first reset. A later one would leave traces of what was played before it in some games."""
    grey: UInt8[np.ndarray, "height width"]
    colour: UInt8[np.ndarray, "height width 3"]


_IDLE: dict[str, list[_Emulator]] = {}
"""Emulators of closed environments, by game: to load one takes longer than 300 steps."""


def _emulator(game: str, in_window: bool = False) -> _Emulator:
    if not in_window and _IDLE.get(game):
        return _IDLE[game].pop()
    ale_py, roms = importlib.import_module("ale_py"), importlib.import_module("ale_py.roms")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    # Sticky actions are drawn here: a seed of the emulator's own is only heard where the game is loaded anew.
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", 0)
    if in_window:
        ale.setBool("display_screen", True)
        ale.setBool("sound", True)
    ale.loadROM(roms.get_rom_path(game))
    ale.reset_game()
    return _Emulator(ale, ale.cloneState(), ale.getScreenGrayscale(), ale.getScreenRGB())


class AtariGame(gym.Env[Any, Any]):
    """One game under `rules`; observations are uint8 `[resize, resize]`, in colour with a third axis of 3.

    `render_mode` may be `rgb_array`, `rgb_array_list` (all frames since the last `render`, at 60 a second) or `human`.
    """

    def __init__(self, rules: AtariRules, render_mode: str | None = None) -> None:
        self.rules, self.render_mode = rules, render_mode
        is_list = render_mode == "rgb_array_list"
        self.metadata = {
            "render_modes": ["human", "rgb_array", "rgb_array_list"],
            "render_fps": FRAMES_PER_SECOND if is_list else FRAMES_PER_SECOND / rules.frame_skip,
        }
        self._emulator: _Emulator | None = _emulator(rules.game, render_mode == "human")
        self._ale = ale = self._emulator.ale
        actions = ale.getLegalActionSet() if rules.full_action_space else ale.getMinimalActionSet()
        self._actions = [action.value for action in actions]
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
        """A new episode, which follows from `seed` and the actions alone."""
        super().reset(seed=seed)
        assert self._emulator is not None, "it is closed"
        ale, rules = self._ale, self.rules
        ale.restoreState(self._emulator.start)
        # A state has no screen, so the emulator would show that of the last frame played.
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

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Hold an action, counted from 0, for `frame_skip` frames, or until the game is over."""
        ale, rules, film = self._ale, self.rules, self._film
        act, is_over = ale.act, ale.game_over
        chosen, executed = self._actions[int(action)], self._executed
        repeats = self._no_repeats
        if self._stuck:
            repeats = (self.np_random.random(rules.frame_skip) < rules.sticky_actions).tolist()
        before_last = rules.frame_skip - 2
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
        # Where the game ended early the frame before the last was not kept: the last is shown alone.
        if 0 <= before_last < frame:
            np.maximum(first, last, out=last)
        lives, before = ale.lives(), self._lives
        self._lives = lives
        info: dict[str, Any] = {"lives": lives}
        if rules.terminal_on_life_loss and lives < before:
            info[LIFE_LOST] = True
        return self._smaller(last), float(reward), over, truncated and not over, info

    def render(self) -> Any:
        """The frame of now, or all since the last call."""
        if self._film is not None:
            taken, self._film[:] = list(self._film), []
            return taken
        return self._ale.getScreenRGB() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Leave the emulator to the next environment of the same game."""
        if self._emulator is not None and self.render_mode != "human":
            _IDLE.setdefault(self.rules.game, []).append(self._emulator)
        self._emulator = self._ale = None

    def _keep_frame(self) -> None:
        if self._film is not None:
            self._film.append(self._ale.getScreenRGB())
