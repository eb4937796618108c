"""Atari games match the plain loop of `atari_reference.py` frame by frame."""

import itertools
import os
from collections.abc import Iterator

import numpy as np
import pytest
from probes import atari_reference as book
from probes.atari_reference import DQN2015, MACHADO2018, Rules

from qdojo.envs.atari import LIFE_LOST, AtariGame, AtariRules

GAMES = ("pong", "breakout", "seaquest", "freeway", "montezuma_revenge")
STEPS = int(os.environ.get("QDOJO_ATARI_STEPS", "150"))
"""Of each game; 10,000 take some minutes."""


def ours(game: str, rules: Rules) -> AtariGame:
    return AtariGame(
        AtariRules(
            game,
            sticky_actions=rules.sticky,
            frame_skip=rules.skip,
            max_pooling=rules.pooled,
            noop_max=rules.noop_max,
            terminal_on_life_loss=rules.life_loss,
            max_frames=rules.max_frames,
        )
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


def test_without_pooling_the_last_frame_is_shown() -> None:
    wrong, _ = differences("space_invaders", Rules(pooled=False), 60)
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


def test_the_emulators_own_vector_shows_the_same_but_for_rounding_and_the_last_frame() -> None:
    """ale-py's C++ vector rounds halves its way, and shows an old frame where a game ends in mid-action."""
    from ale_py.vector_env import AtariVectorEnv

    vector = AtariVectorEnv("breakout", 1, stack_num=1, noop_max=0, use_fire_reset=False, reward_clipping=False)
    env = AtariGame(AtariRules("breakout", sticky_actions=0.0))
    shown, _ = vector.reset(seed=3)
    frame, _ = env.reset(seed=3)
    apart, changed = [np.abs(frame.astype(int) - shown[0, 0])], []
    for action in np.random.default_rng(1).integers(0, 4, 400):
        shown, reward, terminated, truncated, _ = vector.step(np.array([action]))
        frame, mine, over, cut, _ = env.step(action)
        assert (reward[0], terminated[0], truncated[0]) == (mine, over, cut)
        apart.append(np.abs(frame.astype(int) - shown[0, 0]))
        changed.append((apart[-1] > 0).mean())
        if over:
            break
    assert over
    assert max(each.max() for each in apart[:-1]) <= 1
    assert np.mean(changed[:-1]) < 1e-3
    assert apart[-1].max() > 1, "the vector's final frame is fresh now: use it?"
    vector.close()
    env.close()


def test_rewards_are_those_of_the_game_and_a_lost_life_resets_nothing() -> None:
    env = AtariGame(AtariRules("seaquest", sticky_actions=0.0, terminal_on_life_loss=True))
    env.reset(seed=0)
    rewards, lives = set(), []
    for action in actions(0, 18):
        _, reward, over, _, info = env.step(action)
        rewards.add(reward)
        if LIFE_LOST in info:
            lives.append(info["lives"])
        if over:
            break
    assert 20.0 in rewards
    assert lives == sorted(lives, reverse=True) == list(range(len(lives) - 1, -1, -1))
    env.close()


def test_an_episode_follows_from_its_seed_whatever_was_played_before() -> None:
    """A reset of the emulator itself leaves traces in the game of tennis; an emulator that was used before leaves
    none here."""
    first, chosen = AtariGame(AtariRules("tennis")), [action % 18 for action in range(60)]

    def end(env: AtariGame, seed: int) -> np.ndarray:
        env.reset(seed=seed)
        return np.stack([env.step(action)[0] for action in chosen])

    fresh = end(first, 5)
    assert not np.array_equal(end(first, 6), fresh)
    np.testing.assert_array_equal(end(first, 5), fresh)
    first.close()
    again = AtariGame(AtariRules("tennis"))
    np.testing.assert_array_equal(end(again, 5), fresh)
    again.close()


def test_sticky_actions_hold_the_action_before_a_quarter_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    env = AtariGame(AtariRules("pong"))
    env.reset(seed=0)
    acted: list[int] = []
    real = env.ale

    class Spy:
        def act(self, action: int) -> int:
            acted.append(action)
            return int(real.act(action))

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    monkeypatch.setattr(env, "ale", Spy())
    for step in range(400):
        env.step(2 + step % 2)
    wanted = [env._actions[2 + step % 2] for step in range(400) for _ in range(4)]
    # Of the first frames of an action a quarter go on with that before it, of the second frames a quarter of those.
    old = np.array([one != other for one, other in zip(acted, wanted, strict=True)]).reshape(400, 4).mean(axis=0)
    np.testing.assert_allclose(old, [0.25, 0.25**2, 0.25**3, 0.25**4], atol=0.05)
    env.close()


def test_films_have_every_frame_in_colour() -> None:
    env = AtariGame(AtariRules("pong"), render_mode="rgb_array_list")
    env.reset(seed=0)
    assert env.metadata["render_fps"] == 60
    assert len(env.render()) == 1
    env.step(0)
    env.step(2)
    frames = env.render()
    assert [frame.shape for frame in frames] == [(210, 160, 3)] * 8
    assert np.ptp(frames[-1].astype(int), axis=-1).max() > 50, "there are colours"
    env.close()


@pytest.mark.parametrize(
    ("changes", "shape"),
    [({"grayscale": False}, (84, 84, 3)), ({"resize": 42}, (42, 42)), ({"full_action_space": True}, (84, 84))],
)
def test_each_part_is_a_rule_of_its_own(changes: dict[str, object], shape: tuple[int, ...]) -> None:
    env = AtariGame(AtariRules("pong", **changes))  # type: ignore[arg-type]
    frame, _ = env.reset(seed=0)
    assert frame.shape == env.observation_space.shape == shape
    assert env.action_space.n == (18 if "full_action_space" in changes else 6)  # type: ignore[attr-defined]
    assert env.step(3)[0].shape == shape
    env.close()
