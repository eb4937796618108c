"""What was seen eleven steps ago is acted on by a network with a memory, and cannot be by one without."""

from typing import Any

import numpy as np
import pytest
from probes.memory import t_maze

from qdojo.agents.dqn import Rule, dqn_loss
from qdojo.agents.explore import Choosing, Exploration
from qdojo.agents.learner import Hyper, Structure, replay_agent
from qdojo.agents.recurrent import reading, recurrent_loss
from qdojo.loops.device import DeviceLoop
from qdojo.loops.learning import Rhythm
from qdojo.networks.inputs import Design
from qdojo.networks.mlp import mlp
from qdojo.networks.recurrent import head_design, recurrent
from qdojo.tape import windows
from qdojo.tape.sampling import prioritized
from qdojo.types import Agent

CORRIDOR, MEMBERS, ENVS, ROWS, CAPACITY_ROWS = 10, 3, 8, 4, 1000
UPDATES = 300
DESIGN = Design(observation_shape=(3,), num_actions=2, hidden=(32,), layer_norm=False)
HYPER = Hyper(
    learning_rate_start=3e-3,
    learning_rate_end=3e-3,
    learning_rate_decay_steps=1.0,
    discount=0.99,
    exploration=Exploration(epsilon_start=0.2, epsilon_end=0.2, decay_steps=1.0),
    target_tau=0.05,
    priority_alpha=0.9,
    priority_beta=0.6,
)
UNIFORM = Structure(
    choosing=Choosing(num_actions=2, num_envs=ENVS),
    batch_size=16,
    window=windows.transitions(3),
    target_sync_updates=1,
    max_grad_norm=None,
)
PRIORITIZED = UNIFORM._replace(sampler=prioritized(CAPACITY_ROWS, ENVS, ROWS))


def greedy_returns(agent: Agent, updates: int) -> np.ndarray:
    """Mean returns of each member after so many updates, on episodes that training never saw."""
    loop = DeviceLoop(
        t_maze(CORRIDOR),
        agent,
        Rhythm(rows=ROWS, updates=1, warmup_rows=60),
        seed=0,
        members=MEMBERS,
        envs=ENVS,
        capacity_rows=CAPACITY_ROWS,
        cycles=updates,
    )
    state, report = next(loop.run(loop.init()))
    assert report.updates >= updates - 60 // ROWS
    return loop.evaluate(state.agents.params, seed=1, episodes=100).returns.mean(axis=1)


def agent_with_memory(
    rule: Rule,
    burn_in: int,
    length: int,
    n: int,
    stored_state: bool,
    structure: Structure,
) -> Agent:
    network = recurrent(DESIGN, "lstm", mlp(head_design(DESIGN, implicit=False)))
    loss = recurrent_loss(dqn_loss(reading(network), rule), network, length, burn_in, stored_state)
    structure = structure._replace(window=windows.sequences(burn_in, length, n))
    return replay_agent(network, lambda own: loss, HYPER, structure)


R2D2: dict[str, Any] = {
    "rule": Rule(double=True, error="mse", rescaled=True),
    "burn_in": 5,
    "length": 15,
    "n": 3,
    "stored_state": True,
    "structure": PRIORITIZED,
}
DRQN: dict[str, Any] = {
    "rule": Rule(double=False, error="mse"),
    "burn_in": 0,
    "length": 16,
    "n": 1,
    "stored_state": False,
    "structure": UNIFORM,
}


@pytest.mark.parametrize("settings", [R2D2, DRQN], ids=["r2d2", "drqn"])
def test_a_memory_solves_the_maze(settings: dict[str, Any]) -> None:
    assert (greedy_returns(agent_with_memory(**settings), UPDATES) >= 0.95).all()


def test_without_a_memory_it_is_a_coin_flip() -> None:
    network = mlp(DESIGN)
    rule = Rule(double=True, error="mse", rescaled=True)
    assert (
        greedy_returns(replay_agent(network, lambda own: dqn_loss(network, rule), HYPER, PRIORITIZED), UPDATES) <= 0.5
    ).all()
