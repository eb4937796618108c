"""Records games of the package `minatar` with its random choices, for `tests/envs/test_minatar.py`. Run it by hand:

    pip install --no-deps minatar==1.0.15
    python tests/probes/minatar_reference.py [GAME ...]

Half of the steps are random and half are good play, so that the games' late stages are on record. Good play of Asterix,
Seaquest and Space Invaders is searched for: copies of the game with its random generator play a few continuations.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent.parent / "fixtures" / "minatar"
STEPS = {"asterix": 2500, "breakout": 2000, "freeway": 5200, "seaquest": 2600, "space_invaders": 2000}
"""Steps of each game and each kind of play."""
CONTINUATIONS, DEPTH = 5, 12

Policy = Callable[[Any, np.random.Generator], int]


class Draws:
    """A `RandomState` that keeps what it returned, one byte a draw: an integer less the lower bound, or 0 and 255 for a
    real number below its threshold and not. `thresholds` are those of the draws to come."""

    def __init__(self, seed: int) -> None:
        self.inner = np.random.RandomState(seed)
        self.kept: list[int] = []
        self.thresholds: list[float] = []

    def rand(self, *size: int) -> Any:
        drawn = self.inner.rand(*size)
        for number in np.atleast_1d(drawn):
            threshold = self.thresholds.pop(0) if self.thresholds else 0.5
            self.kept.append(0 if number < threshold else 255)
        return drawn

    def randint(self, low: int, high: int | None = None, size: int | None = None) -> Any:
        drawn = self.inner.randint(low, high, size)
        self.kept += [int(number) - (0 if high is None else low) for number in np.atleast_1d(drawn)]
        return drawn


WORDS = {"asterix": 3, "breakout": 1, "freeway": 16, "seaquest": 5, "space_invaders": 0}
REAL = {"asterix": [0, 1], "breakout": [], "freeway": list(range(8, 16)), "seaquest": [0, 1, 3], "space_invaders": []}
"""Which of a game's words are real numbers."""


def columns(game: str, kept: list[int]) -> list[int]:
    """The draws of one step, without that of the sticky action, in the places of the words that they equal."""
    if game == "seaquest" and len(kept) == 2:
        kept = [0, 0, 0, *kept]
    return kept + [0] * (WORDS[game] - len(kept))


def thresholds(game: str, inner: Any) -> list[float]:
    """Those of the real numbers that a step may draw."""
    if game == "seaquest":
        return [0.1] + ([0.5, 1 / 3] if inner.e_spawn_timer == 0 else []) + [0.5]
    return [0.1, 0.5, 1 / 3] if game == "asterix" else [0.1]


def random_play(env: Any, rng: np.random.Generator) -> int:
    return int(rng.integers(6))


def good_play(env: Any, rng: np.random.Generator) -> int:
    """Up in Freeway; where the ball will land, or next to that, in Breakout; else searched for."""
    inner = env.env
    if env.env_name == "freeway":
        return 2 if rng.random() < 0.95 else int(rng.integers(6))
    if env.env_name == "breakout":
        if inner.ball_dir in (0, 1):
            inner.beside = rng.random() < 0.5
        target = landing(inner, getattr(inner, "beside", False))
        return 1 if target < inner.pos else 3 if target > inner.pos else 0
    return searched(env, rng)


def landing(inner: Any, beside: bool) -> int:
    """The column in which the ball of Breakout will be above the bottom row, or the one that it goes to from there."""
    ahead = copy.deepcopy(inner)
    for _ in range(40):
        if ahead.ball_y == 8 and ahead.ball_dir in (2, 3):
            break
        ahead.act(0)
    x = ahead.ball_x + (1 if ahead.ball_dir == 2 else -1)
    return min(max(x, 0), 9) if beside else ahead.ball_x


def searched(env: Any, rng: np.random.Generator) -> int:
    """The first action of the best of a few random continuations of the same game."""
    best, chosen = -np.inf, 0
    for first in rng.permutation(6):
        for _ in range(CONTINUATIONS):
            other, paid, held = copy.deepcopy(env), 0.0, int(rng.integers(6))
            for depth in range(DEPTH):
                if rng.random() < 0.4:
                    held = int(rng.integers(6))
                reward, over = other.act(int(first) if depth == 0 else held)
                paid += reward * 0.97**depth
                if over:
                    paid -= 20 - depth
                    break
            paid += aim(other)
            if paid > best:
                best, chosen = paid, int(first)
    return chosen


def aim(env: Any) -> float:
    """What a position is worth beyond the rewards on the way to it."""
    inner = env.env
    if env.env_name == "seaquest":
        deep = inner.oxygen < 60 or inner.diver_count == 6
        if deep:
            return -0.5 * inner.sub_y if inner.diver_count else -0.1 * min_distance(inner)
        return 1.5 * inner.diver_count + 0.01 * inner.oxygen - 0.1 * min_distance(inner)
    return 0.0


def min_distance(inner: Any) -> int:
    return min((abs(d[0] - inner.sub_x) + abs(d[1] - inner.sub_y) for d in inner.divers), default=8)


def rows(game: str, policy: Policy, steps: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """(whether an episode starts, action, draws, observation after it, reward, terminated), one a step."""
    import minatar

    rng, over, episode = np.random.default_rng(seed), True, 0
    for _ in range(steps):
        if over:
            episode += 1
            env = minatar.Environment(game)
            env.random = env.env.random = draws = Draws(1000 * seed + episode)
            env.reset()
            over = False
            yield True, 0, [255, *columns(game, draws.kept)], env.state(), 0, False
            continue
        action = policy(env, rng)
        draws.kept, draws.thresholds = [], thresholds(game, env.env)
        reward, over = env.act(action)
        yield False, action, [draws.kept[0], *columns(game, draws.kept[1:])], env.state(), int(reward), bool(over)


def packed(game: str, policy: Policy, steps: int, seed: int) -> dict[str, np.ndarray]:
    starts, actions, draws, shown, rewards, over = zip(*rows(game, policy, steps, seed), strict=True)
    bits = np.packbits(np.stack(shown).reshape(len(shown), -1), axis=1)
    return {
        "starts": np.array(starts),
        "actions": np.array(actions, np.uint8),
        "draws": np.array(draws, np.uint8).T,
        # Each observation as the bits that differ from the one before, which compresses well.
        "changes": bits ^ np.concatenate([np.zeros_like(bits[:1]), bits[:-1]]),
        "rewards": np.array(rewards, np.uint8),
        "terminated": np.array(over),
    }


def main() -> None:
    """Record the named games, or all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for game in sys.argv[1:] or STEPS:
        steps = STEPS[game]
        for seed, policy in enumerate((random_play, good_play)):
            recorded = packed(game, policy, steps, seed)
            path = FOLDER / f"{game}_{policy.__name__.removesuffix('_play')}.npz"
            np.savez_compressed(path, **recorded)
            lengths = np.diff(np.append(np.flatnonzero(recorded["starts"]), steps))
            print(
                f"{path.name:28} {path.stat().st_size:7} bytes  episodes {len(lengths):4}  longest {max(lengths):5}  "
                f"reward {recorded['rewards'].sum()}",
                flush=True,
            )


if __name__ == "__main__":
    main()
