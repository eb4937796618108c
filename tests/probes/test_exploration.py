"""The corridor of 20: heads with priors cross it, and what dithers never does (Osband et al., 2016, section 5)."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from probes.exploration import SMALL_REWARD, corridor
from probes.training import HYPER, device_loop

import qdojo
from qdojo.agents.bootstrapped import bootstrapped, bootstrapped_actor, bootstrapped_loss
from qdojo.agents.dqn import Rule, dqn_loss
from qdojo.agents.explore import Choosing, Exploration
from qdojo.agents.learner import Structure, replay_agent
from qdojo.loops.learning import Rhythm
from qdojo.networks.inputs import Design
from qdojo.networks.mlp import mlp
from qdojo.networks.prior import with_prior
from qdojo.tape.windows import transitions
from qdojo.types import Agent

LENGTH, STEPS, MEMBERS, HEADS = 20, 16_000, 2, 10
NETWORK = mlp(Design((LENGTH,), 2, (32,), layer_norm=False))
RULE = Rule(double=True, error="mse")
STRUCTURE = Structure(Choosing(2), 32, transitions(1), 1, None)
GREEDY = Exploration(0.0, 0.0, 1.0)
NUMBERS = HYPER._replace(
    learning_rate_start=3e-3,
    learning_rate_end=1e-4,
    learning_rate_decay_steps=float(STEPS),
    discount=0.99,
    target_tau=0.1,
)


def epsilon_greedy(start: float) -> Agent:
    """Epsilon falls from `start` to 0.05 in a quarter of the steps."""
    hyper = NUMBERS._replace(exploration=Exploration(start, 0.05, STEPS / 4))
    return replay_agent(NETWORK, lambda own: dqn_loss(NETWORK, RULE), hyper, STRUCTURE)


def deep() -> Agent:
    head = with_prior(NETWORK, 3.0)
    loss, actor = bootstrapped_loss(dqn_loss(head, RULE), HEADS), bootstrapped_actor(head, HEADS)
    hyper = NUMBERS._replace(exploration=GREEDY)
    return replay_agent(bootstrapped(head, HEADS), lambda own: loss, hyper, STRUCTURE, None, actor)


def played(agent: Agent) -> tuple[Float[np.ndarray, "member"], Float[np.ndarray, "member"]]:
    """The best score of each member's training episodes, and what it gets when it is greedy at the end."""
    loop = device_loop(
        corridor(LENGTH),
        agent,
        members=MEMBERS,
        envs=1,
        capacity_rows=STEPS // 2,
        cycles=STEPS // 4,
        rhythm=Rhythm(rows=4, updates=1, warmup_rows=64),
    )
    state, report = next(loop.run(loop.init()))
    assert report.steps == STEPS
    best = [max(episode.score for episode in report.episodes if episode.member == k) for k in range(MEMBERS)]
    return np.array(best), loop.evaluate(state.agents.params, 0, 1).returns[:, 0]


def test_heads_with_priors_cross_the_corridor() -> None:
    best, greedy = played(deep())
    np.testing.assert_array_equal(best, 1.0)
    assert greedy.min() >= 0.95


def test_a_small_epsilon_never_does() -> None:
    best, greedy = played(epsilon_greedy(0.05))
    assert best.max() <= LENGTH * SMALL_REWARD + 1e-6
    assert greedy.max() < 0.95


def test_neither_does_one_that_falls_from_one() -> None:
    best, greedy = played(epsilon_greedy(1.0))
    assert best.max() <= LENGTH * SMALL_REWARD + 1e-6
    assert greedy.max() < 0.95


def test_priors_do_not_make_values_run_away(tmp_path: Path) -> None:
    """Taxi has 500 states, and at first hardly anything but costs. With a scale of 10, values would exceed 100."""
    run = qdojo.train("Taxi-v4", preset="bootdqn", seed=2, steps=2_000, root=tmp_path, progress=False)
    assert run.history.of("q_mean").value.max() < 0.0
