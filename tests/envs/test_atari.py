"""Atari games as qdojo plays them, frame for frame what the plain loop of `atari_reference.py` gives."""

import itertools
import os
from collections.abc import Iterator

import numpy as np
import pytest
from probes import atari_reference as book
from probes.atari_reference import DQN2015, MACHADO2018, Rules

from qdojo.envs.atari import LIFE_LOST, AtariGame, AtariRules

GAMES = ("pong", "breakout", "seaquest", "freeway", "montezuma_revenge")
STEPS = int(os.environ.get("QDOJO_ATARI_STEPS", "250"))
"""Of each game; 10,000 take some minutes."""


def ours(game: str, rules: Rules) -> AtariGame:
    return AtariGame(
        AtariRules(game, rules.sticky, rules.skip, rules.noop_max, rules.life_loss, max_frames=rules.max_frames)
    )


def actions(seed: int, number: int) -> Iterator[int]:
    """Random actions, each held for a while, which gets further than trembling."""
    chance = np.random.default_rng(seed)
    while True:
        yield from [int(chance.integers(number))] * int(chance.integers(1, 12))


def played(env: AtariGame, seed: int, chosen: Iterator[int]) -> Iterator[book.Seen]:
    """What the reference yields, of an environment."""
    frame, _ = env.reset(seed=seed)
    yield book.Seen(frame, 0.0, False, False, False)
    for action in chosen:
        frame, reward, terminated, truncated, info = env.step(action)
        yield book.Seen(frame, reward, terminated, truncated, LIFE_LOST in info)
        if terminated or truncated:
            return


def differences(game: str, rules: Rules, steps: int, seed: int = 0) -> tuple[int, dict[str, int]]:
    """Steps that differ, over episodes one after the other, and how often things happened in them."""
    env, wrong, done = ours(game, rules), 0, 0
    seen = {"rewards": 0, "terminated": 0, "truncated": 0, "lives lost": 0}
    while done < steps:
        number = int(env.action_space.n)  # type: ignore[attr-defined]
        one = played(env, seed, actions(seed, number))
        two = book.episode(game, rules, seed, actions(seed, number))
        for mine, theirs in itertools.islice(zip(one, two, strict=True), steps - done):
            wrong += not np.array_equal(mine.frame, theirs.frame) or mine[1:] != theirs[1:]
            done += 1
            happened = theirs.reward != 0.0, theirs.terminated, theirs.truncated, theirs.life_lost
            seen = {name: count + is_so for (name, count), is_so in zip(seen.items(), happened, strict=True)}
        seed += 1
    env.close()
    return wrong, seen


@pytest.mark.parametrize("rules", [MACHADO2018, DQN2015], ids=["machado2018", "dqn2015"])
@pytest.mark.parametrize("game", GAMES)
def test_each_frame_reward_and_end_is_that_of_the_plain_loop(game: str, rules: Rules) -> None:
    wrong, _ = differences(game, rules, STEPS)
    assert wrong == 0


@pytest.mark.parametrize("max_frames", [37, 38, 40])
def test_the_cap_counts_frames_and_shows_the_last_of_them(max_frames: int) -> None:
    """No-ops count, and an action is cut short in the middle."""
    rules = Rules(max_frames=max_frames, noop_max=5)
    wrong, seen = differences("pong", rules, 60)
    assert wrong == 0
    assert seen["truncated"] >= 5


def test_lives_end_nothing_but_are_told_and_games_end() -> None:
    wrong, seen = differences("breakout", DQN2015, 300)
    assert wrong == 0
    assert seen["lives lost"] > 5 * seen["terminated"] >= 5
