"""An agent learns from pictures alone, as `build` makes it: uint8 on the tape, convolutions, the device loop."""

from types import SimpleNamespace

import numpy as np
from gymnasium.spaces import Box, Discrete
from probes.pictures import SIDE, catch
from probes.training import device_loop

from qdojo import build as building
from qdojo.config import make_config
from qdojo.envs.spaces import check_spaces
from qdojo.loops.learning import Rhythm

CATCH = check_spaces(
    SimpleNamespace(action_space=Discrete(3), observation_space=Box(0, 255, (SIDE, SIDE, 1), np.uint8)), "catch"
)


def test_the_ball_is_caught() -> None:
    config = make_config(
        "catch",
        steps=6_400,
        hidden=(64,),
        batch_size=32,
        num_envs=8,
        collect_steps=16,
        updates_per_step=0.125,
        capacity_steps=8_000,
        learning_rate_end=1e-4,
        target_tau=0.05,
        epsilon_decay_steps=3_200,
    )
    variant = building._variant(config, CATCH, None)
    agent = building._agent(config, CATCH, variant)
    loop = device_loop(
        catch(),
        agent,
        rhythm=Rhythm(config.rows_per_cycle, config.updates_per_cycle, 25),
        envs=config.num_envs,
        capacity_rows=building._capacity_rows(config),
        cycles=config.steps // config.collect_steps,
    )
    state = loop.init()
    assert loop.evaluate(state.agents.params, seed=1, episodes=200).mean() < 0.0
    state, report = next(loop.run(state))
    assert state.tape.rows.observation.dtype == np.uint8
    assert state.tape.rows.observation.max() == 255
    assert np.mean([episode.score for episode in report.episodes[:100]]) < 0.0, "at random, few balls are caught"
    assert loop.evaluate(state.agents.params, seed=1, episodes=200).mean() >= 0.9
