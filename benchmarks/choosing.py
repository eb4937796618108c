"""Measures presets on environments that nothing was tuned for. `python -m benchmarks.choosing [ENV ...]`

Each line has the greedy score of unseen episodes: interquartile mean over seeds, with its 95 % bootstrap interval, next
to random play and, where it can be computed, to the optimum. docs/choosing.md explains the result.
"""

import argparse
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

import qdojo
from benchmarks.worlds import SinePrice, Snake, TicTacToe
from qdojo.statistics import bootstrap_interval, interquartile_mean

EPISODES = 200
"""Episodes of random play, and of the best play in hindsight."""
TOY_LIMITS = {"FrozenLake-v1": 100, "CliffWalking-v1": 200}


def toy(name: str) -> gym.Env[Any, Any]:
    """Make one of Gymnasium's toy environments; CliffWalking gets the time limit that it lacks."""
    return gym.make(name, max_episode_steps=TOY_LIMITS.get(name))


def scaled_cartpole(factor: float) -> gym.Env[Any, Any]:
    """Make CartPole with its rewards multiplied."""
    return gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda reward: factor * float(reward))


def by_value_iteration(name: str, steps: int) -> float:
    """Best expected return within `steps` steps of a toy environment, from its own transition table."""
    env: Any = gym.make(name).unwrapped
    values = np.zeros(env.observation_space.n)
    for _ in range(steps):
        values = np.array(
            [
                max(
                    sum(p * (r + (0.0 if over else values[s])) for p, s, r, over in outcomes)
                    for outcomes in row.values()
                )
                for row in env.P.values()
            ]
        )
    return float(np.dot(env.initial_state_distrib, values))


def in_hindsight() -> float:
    """Mean return of an agent that knows the next price change, and ignores fees in its choice."""
    returns = []
    for seed in range(EPISODES):
        env = SinePrice()
        env.reset(seed=seed)
        returns.append(sum(env.step(int(change > 0.0))[1] for change in env.changes[env.SEEN :]))
    return float(np.mean(returns))


def best_against_random() -> float:
    """Expected return of the best play of tic-tac-toe against a random player who begins half of the games."""

    def won(stones: frozenset[int]) -> bool:
        return any(stones.issuperset(line) for line in TicTacToe.LINES.tolist())

    @functools.cache
    def value(own: frozenset[int], other: frozenset[int], is_own_turn: bool) -> float:
        if won(own) or won(other):
            return float(won(own)) - float(won(other))
        free = set(range(9)) - own - other
        if not free:
            return 0.0
        after = [value(own | {i}, other, False) if is_own_turn else value(own, other | {i}, True) for i in free]
        return max(after) if is_own_turn else sum(after) / len(after)

    return 0.5 * (value(frozenset(), frozenset(), True) + value(frozenset(), frozenset(), False))


def best_at_blackjack() -> float:
    """Expected return of the best play of `Blackjack-v1`, whose cards are drawn with replacement."""
    chances = dict.fromkeys(range(1, 10), 1 / 13) | {10: 4 / 13}

    def worth(hand: int, ace: bool) -> int:
        return hand + 10 if ace and hand <= 11 else hand

    @functools.cache
    def dealt(hand: int, ace: bool) -> dict[int, float]:
        """Chances of the dealer's last sum, 0 for more than 21."""
        if worth(hand, ace) >= 17:
            return {worth(hand, ace) if hand <= 21 else 0: 1.0}
        sums: dict[int, float] = {}
        for card, chance in chances.items():
            for last, share in dealt(hand + card, ace or card == 1).items():
                sums[last] = sums.get(last, 0.0) + chance * share
        return sums

    @functools.cache
    def value(hand: int, ace: bool, shown: int) -> float:
        if hand > 21:
            return -1.0
        own = worth(hand, ace)
        stick = sum(share * ((own > last) - (own < last)) for last, share in dealt(shown, shown == 1).items())
        return max(stick, sum(chance * value(hand + c, ace or c == 1, shown) for c, chance in chances.items()))

    return sum(
        chances[a] * chances[b] * chances[shown] * value(a + b, 1 in (a, b), shown)
        for a in chances
        for b in chances
        for shown in chances
    )


class World(NamedTuple):
    """An environment, and what is known about it."""

    make: Callable[[], gym.Env[Any, Any]]
    optimum: Callable[[], float] | None = None
    episodes: int = 100
    """Episodes that each seed plays at the end: more where their returns hardly depend on the play."""
    unit: Callable[[np.ndarray], np.ndarray] = lambda returns: returns
    """Turns mean returns into the score to show."""
    settings: Mapping[str, Any] = MappingProxyType({})
    """What is set besides the preset."""


def snake(apple: float, death: float) -> World:
    """The snake with these rewards; the score is the number of apples, if each episode ends in death."""
    return World(functools.partial(Snake, apple=apple, death=death), unit=lambda returns: (returns - death) / apple)


def cartpole(factor: float, **settings: Any) -> World:
    """CartPole with its rewards multiplied; the score is the number of steps."""
    return World(functools.partial(scaled_cartpole, factor), unit=lambda returns: returns / factor, settings=settings)


WORLDS = {
    "FrozenLake-v1": World(
        functools.partial(toy, "FrozenLake-v1"), functools.partial(by_value_iteration, "FrozenLake-v1", 100)
    ),
    "Taxi-v4": World(functools.partial(toy, "Taxi-v4"), functools.partial(by_value_iteration, "Taxi-v4", 200)),
    "CliffWalking-v1": World(
        functools.partial(toy, "CliffWalking-v1"), functools.partial(by_value_iteration, "CliffWalking-v1", 200)
    ),
    "Blackjack-v1": World(functools.partial(toy, "Blackjack-v1"), best_at_blackjack, episodes=10_000),
    "snake, 1 and -1": snake(1.0, -1.0),
    "snake, 50 and -500": snake(50.0, -500.0),
    "tic-tac-toe": World(TicTacToe, best_against_random),
    "sine price": World(SinePrice, in_hindsight),
    **{f"CartPole, rewards x {factor:g}": cartpole(factor) for factor in (0.001, 1.0, 100.0, 1_000.0)},
    **{
        f"CartPole, rewards x {factor:g}, value_rescaling": cartpole(factor, value_rescaling=True)
        for factor in (1.0, 1_000.0)
    },
}


def random_play(make: Callable[[], gym.Env[Any, Any]]) -> float:
    """Mean return of uniformly random legal actions."""
    env, random = make(), np.random.default_rng(0)
    returns = []
    for episode in range(EPISODES):
        _, info = env.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            legal = np.flatnonzero(info.get("action_mask", np.ones(env.action_space.n)))  # type: ignore[attr-defined]
            _, reward, terminated, truncated, info = env.step(int(random.choice(legal)))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return float(np.mean(returns))


def main() -> None:
    """Train each preset on each environment and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", nargs="*", metavar="ENV", help=f"by default all: {'; '.join(WORLDS)}")
    parser.add_argument("--presets", default="default", help="names of presets, separated by commas")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="by default the preset's own budget")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the run directories")
    arguments = parser.parse_args()
    if unknown := set(arguments.worlds) - set(WORLDS):
        parser.error(f"there is no environment {', '.join(sorted(unknown))}; --help lists all")
    presets = arguments.presets.split(",")
    print("| environment | random | optimum | " + " | ".join(presets) + " |\n|---|---|---|" + "---|" * len(presets))
    budget = {} if arguments.steps is None else {"steps": arguments.steps}
    for name in arguments.worlds or WORLDS:
        world = WORLDS[name]
        floor = float(world.unit(np.array(random_play(world.make))))
        best = "" if world.optimum is None else f"{world.optimum():.3g}"
        cells = []
        for preset in presets:
            run = qdojo.train(
                world.make,
                preset=preset,
                seeds=arguments.seeds,
                root=arguments.runs,
                progress=False,
                final_eval_episodes=world.episodes,
                **budget,
                **world.settings,
            )
            means = world.unit(np.array(run.result["eval"]["mean"]))
            low, high = bootstrap_interval(means)
            cells.append(f"{interquartile_mean(means):.3g} [{low:.3g}, {high:.3g}]")
        print(f"| {name} | {floor:.3g} | {best} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
