"""Atari games in runs: ids, protocols, descriptions, resuming, and learned rewards as opposed to scores."""

import json
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from qdojo.build.training import build
from qdojo.config import make_config
from qdojo.config.screen import PROTOCOLS
from qdojo.envs.atari import LIFE_LOST, AtariGame, AtariRules
from qdojo.envs.atari_names import human_clause, human_normalized, scores
from qdojo.envs.describe import described, from_description
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.prepare import Preparation
from qdojo.envs.resolve import resolve
from qdojo.errors import UsageError

DQN2015 = Preparation.of(make_config("ALE/Breakout-v5", "dqn", atari_protocol="dqn2015"))


def test_importing_qdojo_imports_no_emulator() -> None:
    code = "import sys, qdojo, qdojo.api, qdojo.envs.doctor; assert 'ale_py' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_id_is_played_by_the_protocol_and_each_part_may_be_another() -> None:
    config = make_config("ALE/Breakout-v5", "dqn")
    assert {name: getattr(config, name) for name in PROTOCOLS["machado2018"]} == PROTOCOLS["machado2018"]
    rules = AtariRules("breakout")
    assert resolve("ALE/Breakout-v5", Preparation.of(config)).make().rules == rules
    config = make_config("ALE/Breakout-v5", atari_protocol="dqn2015", sticky_actions=0.1, resize=42, clip_rewards=False)
    assert (config.sticky_actions, config.noop_max, config.terminal_on_life_loss) == (0.1, 30, True)
    assert (config.resize, config.clip_rewards, config.frame_skip) == (42, False, 4)
    assert make_config("CartPole-v1").frame_skip is None


@pytest.mark.parametrize("env", ["ALE/Pong-v5", "ALE/Breakout-v5"])
def test_the_default_halves_the_images_and_keeps_the_rest_of_the_protocol(env: str) -> None:
    protocol = PROTOCOLS["machado2018"] | {"resize": 42}
    config = make_config(env)
    assert {name: getattr(config, name) for name in protocol} == protocol
    assert make_config(env, resize=84).resize == 84


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_that_is_asked_for_is_played_as_a_whole(protocol: str) -> None:
    config = make_config("ALE/Pong-v5", atari_protocol=protocol)
    assert {name: getattr(config, name) for name in PROTOCOLS[protocol]} == PROTOCOLS[protocol]
    assert make_config("ALE/Pong-v5", atari_protocol=protocol, resize=42).resize == 42


def test_a_spec_says_all_of_it_and_makes_it_again() -> None:
    spec = resolve("ALE/Breakout-v5", DQN2015)
    assert (spec.name, spec.max_episode_steps, spec.native_id) == ("ALE/Breakout-v5", 27_000, None)
    again = from_description(json.loads(json.dumps(described(spec))))
    env = again.make(render_mode="rgb_array_list")
    assert env.rules == AtariRules("breakout", sticky_actions=0.0, noop_max=30, terminal_on_life_loss=True)
    assert env.render_mode == "rgb_array_list"
    env.close()
    assert resolve("ALE/Breakout-v5").make().rules == AtariRules("breakout")


def test_a_run_of_before_has_the_environment_that_it_had() -> None:
    """Without a preparation in its description, the game is Gymnasium's own."""
    plain = described(resolve("ALE/Pong-v5", Preparation()))
    del plain["preparation"]
    env = from_description(plain).make()
    assert not isinstance(env, AtariGame)
    assert env.observation_space.shape == (210, 160, 3)
    env.close()


@pytest.mark.parametrize("off", ["grayscale", "max_pooling"])
def test_what_is_switched_off_stays_off_also_when_the_game_is_made_again(off: str) -> None:
    spec = resolve("ALE/Breakout-v5", Preparation.of(make_config("ALE/Breakout-v5", "dqn", **{off: False})))
    again = from_description(json.loads(json.dumps(described(spec))))
    for made in (spec, again):
        env = made.make()
        assert env.rules == AtariRules("breakout", **{off: False})
        env.close()


def test_a_setting_that_is_off_leaves_other_environments_as_they_are() -> None:
    spec = resolve("CartPole-v1", Preparation.of(make_config("CartPole-v1", grayscale=False)))
    assert spec.preparation is None


@pytest.mark.parametrize("game", ["ALE/Pong-v5", "ALE/Breakout-v5"])
def test_a_resume_in_mid_game_is_exact(game: str) -> None:
    preparation = Preparation(sticky_actions=0.25, noop_max=30, terminal_on_life_loss=True)
    spec = resolve(game, preparation)
    chosen = np.random.default_rng(0).integers(0, spec.action_space.n, (160, 2))  # type: ignore[attr-defined]
    one, two = (HostEnvironment(spec, [3], 2) for _ in range(2))
    one.reset()
    for actions in chosen[:80]:
        one.step(actions)
    assert two.restore(one.state()) == []
    for actions in chosen[80:]:
        for ours, theirs in zip(one.step(actions), two.step(actions), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    one.close()
    two.close()


def test_workers_show_what_this_process_shows_and_tell_of_lives() -> None:
    spec = resolve("ALE/Breakout-v5", DQN2015)
    here, there = HostEnvironment(spec, [0], 2), HostEnvironment(spec, [0], 2, "async")
    np.testing.assert_array_equal(here.reset(), there.reset())
    lost = 0
    for actions in np.random.default_rng(0).integers(0, 4, (150, 2)):
        one, two = here.step(actions), there.step(actions)
        for ours, theirs in zip(one, two, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        lost += int((one.final & ~one.terminated).sum())
    here.close()
    there.close()
    assert lost > 2


class Lives(gym.Env[Any, Any]):
    """Pays 7, -3, 0.5 and 4 in four steps; a life is lost in the second."""

    observation_space = gym.spaces.Box(-1, 10, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward, self.at = (7.0, -3.0, 0.5, 4.0)[self.at], self.at + 1
        info = {LIFE_LOST: True} if self.at == 2 else {}
        return np.full(1, self.at, np.float32), reward, self.at == 4, False, info


@pytest.mark.parametrize("clip", [False, True])
def test_rewards_are_clipped_and_lives_end_on_the_tape_alone(clip: bool) -> None:
    settings: dict[str, Any] = {"clip_rewards": clip, "hidden": [4], "report_every_steps": 50, "steps": 50}
    loop = build(make_config("lives", capacity_steps=100, **settings), env=Lives).loop
    state, report = next(loop.run(loop.init()))
    loop.close()
    rows = state.tape.rows
    paid = [1.0, -1.0, 0.5, 1.0, 0.0] if clip else [7.0, -3.0, 0.5, 4.0, 0.0]
    assert np.asarray(rows.reward)[:10, 0, 0].tolist() == 2 * paid
    assert np.asarray(rows.terminated)[:5, 0, 0].tolist() == [False, True, False, True, False]
    assert np.asarray(rows.last)[:5, 0, 0].tolist() == [False, False, False, False, True]
    assert report is not None
    assert {(episode.score, episode.length) for episode in report.episodes} == {(8.5, 4)}


@pytest.mark.parametrize(
    ("env", "settings", "words"),
    [
        ("CartPole-v1", {"sticky_actions": 0.1}, "sticky_actions is set, but CartPole-v1 is not an Atari game"),
        ("CartPole-v1", {"atari_protocol": "dqn2015"}, "atari_protocol is set, but CartPole-v1 is not an Atari game"),
        ("ALE/Pong-v5", {"from_pixels": True}, "Atari games are always played from the screen"),
        ("ALE/Pong-v5", {"frame_skip": 0}, "frame_skip is 0: input should be greater than or equal to 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(env: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as error:
        make_config(env, **settings)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("Pong-v0", "Pong-v0 is a legacy Gym id; use ALE/Pong-v5 with sticky_actions=0.25 and frame_skip=4"),
        ("Pong-v4", "use ALE/Pong-v5 with sticky_actions=0 and frame_skip=4 (the legacy id held each action for"),
        (
            "PongNoFrameskip-v4",
            "frame_skip=1, or atari_protocol='dqn2015' for the usual DQN wrappers.",
        ),
        ("BreakoutDeterministic-v4", "use ALE/Breakout-v5 with sticky_actions=0 and frame_skip=4."),
        ("SpaceInvadersDeterministic-v0", "use ALE/SpaceInvaders-v5 with sticky_actions=0.25 and frame_skip=3."),
        ("Breakout-ram-v0", "pass gymnasium.make('ALE/Breakout-v5', obs_type='ram', repeat_action_probability=0.25)"),
        ("Breakout-ramNoFrameskip-v4", "observes the RAM of an Atari game"),
        ("pong", "There is no environment called 'pong'; did you mean ALE/Pong-v5?"),
        ("ALE/pong", "did you mean ALE/Pong-v5?"),
        ("ALE/Pongg-v5", "There is no environment called 'ALE/Pongg-v5'; did you mean ALE/Pong-v5"),
        ("ALE/Pong-v4", "ALE/Pong-v4 is deprecated: the current version is ALE/Pong-v5."),
    ],
)
def test_a_wrong_name_of_a_game_gets_the_right_one(env: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(env)
    assert words in str(error.value)


def test_the_table_of_human_scores_has_games_that_exist_and_scales_them() -> None:
    assert len(scores()) == 57
    resolve("ALE/Pong-v5")
    assert all(f"ALE/{game}-v5" in gym.registry for game in scores())
    assert human_normalized("ALE/Pong-v5", -20.7) == 0.0
    assert human_normalized("ALE/Breakout-v5", 30.5) == 1.0
    assert human_normalized("CartPole-v1", 500.0) is None
    assert human_clause("ALE/Pong-v5", 20.0) == ", human-normalised 1.15"
    assert human_clause("CartPole-v1", 20.0) == ""
