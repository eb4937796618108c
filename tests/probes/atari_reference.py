"""Atari by the book: a loop over `ALEInterface`, written for reading. What `qdojo.envs.atari` does is held against it.

Nothing of qdojo is used. A game is loaded anew for each episode, chance comes from `default_rng(seed)`: the number of
no-ops, where there are any, then for each action one number a frame, below which the frame repeats the one before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import ale_py
import numpy as np
from ale_py import roms


@dataclass(frozen=True)
class Rules:
    sticky: float = 0.25
    skip: int = 4
    pooled: bool = True
    noop_max: int = 0
    life_loss: bool = False
    max_frames: int = 108_000
    size: int = 84


MACHADO2018 = Rules()
DQN2015 = Rules(sticky=0.0, noop_max=30, life_loss=True)


class Seen(NamedTuple):
    frame: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    life_lost: bool


def episode(game: str, rules: Rules, seed: int, actions: Iterator[int]) -> Iterator[Seen]:
    """One episode: its first frame, then what each of `actions`, which count the game's minimal actions, led to."""
    ale = loaded(game, rules.max_frames)
    chance = np.random.default_rng(seed)
    if rules.noop_max:
        for _ in range(chance.integers(1, rules.noop_max + 1)):
            ale.act(0)
    yield Seen(resized(ale.getScreenGrayscale(), rules.size), 0.0, False, False, False)
    meaning = [action.value for action in ale.getMinimalActionSet()]
    executed, lives = 0, ale.lives()
    for chosen in actions:
        numbers = chance.random(rules.skip) if rules.sticky else np.ones(rules.skip)
        screens, reward = [], 0
        for number in numbers:
            if number >= rules.sticky:
                executed = meaning[chosen]
            reward += ale.act(executed)
            screens.append(ale.getScreenGrayscale())
            if ale.game_over():
                break
        # The brighter of the last two of all frames; of an action that the end cut short, the last one.
        whole = rules.pooled and len(screens) == rules.skip > 1
        shown = np.maximum(screens[-2], screens[-1]) if whole else screens[-1]
        lost = ale.lives() < lives
        lives = ale.lives()
        terminated = ale.game_over(with_truncation=False)
        truncated = ale.game_truncated() and not terminated
        yield Seen(resized(shown, rules.size), float(reward), terminated, truncated, rules.life_loss and lost)
        if terminated or truncated:
            return


def loaded(game: str, max_frames: int, sticky: float = 0.0) -> Any:
    """A game at the start of its first episode."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", sticky)
    ale.setInt("max_num_frames_per_episode", max_frames)
    ale.setInt("random_seed", 1)
    ale.loadROM(roms.get_rom_path(game))
    ale.reset_game()
    return ale


def resized(screen: np.ndarray, size: int) -> np.ndarray:
    """Each pixel the mean of the area it covers, halves rounded up."""
    rows, columns = overlaps(screen.shape[0], size), overlaps(screen.shape[1], size)
    total = int(rows[0].sum() * columns[0].sum())
    summed = (rows @ screen @ columns.T).astype(np.int64)
    return ((2 * summed + total) // (2 * total)).astype(np.uint8)


@cache
def overlaps(size: int, to_size: int) -> np.ndarray:
    """[to_size, size]: how much of each pixel lies under each new one, in whole shares, which float64 holds exactly."""
    step = Fraction(size, to_size)
    rows = []
    for new in range(to_size):
        begin, end = new * step, (new + 1) * step
        rows.append([max(Fraction(0), min(end, old + 1) - max(begin, old)) * to_size for old in range(size)])
    return np.array([[int(share) for share in row] for row in rows], np.float64)
