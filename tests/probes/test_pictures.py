"""An agent learns from pictures alone, as `build` makes it: uint8 on the tape, convolutions, the device loop."""

from types import SimpleNamespace

import numpy as np
from gymnasium.spaces import Box, Discrete
from probes.pictures import SIDE, catch
from probes.training import device_loop

from qdojo.build.memory import capacity_rows
from qdojo.build.player import build_player
from qdojo.build.training import build_agent
from qdojo.config import make_config
from qdojo.envs.spaces import check_spaces
from qdojo.loops.device import DeviceLoop
from qdojo.loops.learning import Rhythm

CONFIG = make_config(
    "catch",
    steps=8_000,
    hidden=(64,),
    torso_width=0.5,
    batch_size=16,
    num_envs=8,
    collect_steps=16,
    updates_per_step=0.125,
    capacity_steps=8_000,
    n_step=3,
    learning_rate=2e-3,
    learning_rate_end=1e-4,
    target_tau=0.05,
    epsilon_end=0.1,
    epsilon_decay_steps=4_000,
)


def loop_of_catch() -> DeviceLoop:
    picture = Box(0, 255, (SIDE, SIDE, 1), np.uint8)
    spaces = check_spaces(SimpleNamespace(action_space=Discrete(3), observation_space=picture), "catch")
    agent = build_agent(CONFIG, spaces, build_player(CONFIG, spaces, None))
    return device_loop(
        catch(),
        agent,
        rhythm=Rhythm(CONFIG.rows_per_cycle, CONFIG.updates_per_cycle, warmup_rows=25),
        envs=CONFIG.num_envs,
        capacity_rows=capacity_rows(CONFIG),
        cycles=CONFIG.steps // CONFIG.collect_steps,
    )


def test_the_ball_is_caught() -> None:
    loop = loop_of_catch()
    state, report = next(loop.run(loop.init()))
    scores = [episode.score for episode in report.episodes]
    greedy = loop.evaluate(state.agents.params, seed=1, episodes=200).returns
    assert np.unique(state.tape.rows.observation).tolist() == [0, 255]
    assert np.mean(scores[:50]) < -0.5
    assert greedy.mean() >= 0.9


def test_the_tape_keeps_bytes() -> None:
    tape = loop_of_catch().template().tape
    assert tape.like.observation.dtype == np.uint8
    # 64 bytes are 16 words; the others are the ending, the reward and the action.
    assert tape.words.shape == (1_000, 1, 8, 19)
