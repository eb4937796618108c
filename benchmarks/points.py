"""Where an agent wins and loses its points at Pong, and what it expected: for a run of `ALE/Pong-v5`, by its rules but
without random actions.

    python -m benchmarks.points RUN --episodes 20     # two minutes; needs '.[atari]'

Each row takes the steps since the last point. First come the points that end in it: how many, and the part that the
agent wins. Then all its states: the mean of the greatest Q-value, and of the discounted return that follows.
"""

import argparse
import itertools
import statistics
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

import qdojo
from qdojo.envs.atari import AtariGame, rules_of
from qdojo.errors import QdojoError
from qdojo.policy import Policy

BOUNDS = (0, 40, 60, 70, 80, 100, 130, 10_000)
"""Steps since the last point at which the rows begin. A serve and its return take 35, a whole exchange 60."""
FIRST_SEED = 30_000


class Game(NamedTuple):
    """One game, step by step."""

    rewards: Float[np.ndarray, "time"]
    expected: Float[np.ndarray, "time"]
    """The greatest Q-value before each step."""
    returns: Float[np.ndarray, "time"]
    """Discounted sum of the rewards from each step on."""
    since: Int[np.ndarray, "time"]
    """Steps since the last point, or the beginning."""


def played(policy: Policy, game: AtariGame, seed: int) -> Game:
    """Play one greedy game."""
    observation, _ = game.reset(seed=seed)
    policy.reset()
    rewards, expected, over = [], [], False
    while not over:
        expected.append(policy.q_values(observation).max())
        observation, reward, terminated, truncated, _ = game.step(policy.act(observation))
        rewards.append(reward)
        over = terminated or truncated
    returns, following = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        returns[t] = following = rewards[t] + policy.config.discount * following
    since = np.zeros(len(rewards), int)
    for t in range(1, len(rewards)):
        since[t] = 0 if rewards[t - 1] else since[t - 1] + 1
    return Game(np.array(rewards), np.array(expected), returns, since)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.points", description=__doc__.partition(":")[0])
    parser.add_argument("run", help="the run's directory")
    parser.add_argument("--episodes", type=int, default=20, help="games to play (default: 20)")
    chosen = parser.parse_args()
    if chosen.episodes < 2:
        parser.error("--episodes must be at least 2")
    try:
        policy = qdojo.load(chosen.run)
    except QdojoError as error:
        parser.error(str(error))
    if policy.config.env != "ALE/Pong-v5":
        parser.error(f"{chosen.run} is a run of {policy.config.env}; give one of ALE/Pong-v5")
    game = AtariGame(rules_of("pong", policy.config.model_dump()))
    games = [played(policy, game, FIRST_SEED + i) for i in range(chosen.episodes)]
    scores = [float(each.rewards.sum()) for each in games]
    uncertain = statistics.stdev(scores) / len(scores) ** 0.5
    print(f"greedy mean {statistics.mean(scores):.2f}, standard error {uncertain:.2f}, {len(scores)} games")
    rewards, expected, returns, since = map(np.concatenate, zip(*games, strict=True))
    print("steps since the last point   points    won   states   greatest Q   return")
    for first, end in itertools.pairwise(BOUNDS):
        here = (since >= first) & (since < end)
        if here.any():
            points = rewards[here & (rewards != 0)]
            name = f"{first} to {end - 1}" if end < BOUNDS[-1] else f"{first} or more"
            won = f"{np.mean(points > 0):6.0%}" if len(points) else "     -"
            means = f"{expected[here].mean():12.2f} {returns[here].mean():8.2f}"
            print(f"{name:26} {len(points):8} {won} {here.sum():8,} {means}")


if __name__ == "__main__":
    main()
