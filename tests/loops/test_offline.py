"""The offline loop: what it learns and counts, that it can be gone on with, and that its rows are there once."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes.environments import DISCOUNT, EVERYTHING
from probes.training import HYPER, device_loop, host_loop, sharing, small_agent, small_network

from qdojo import snapshot
from qdojo.agents.dqn import Rule, dqn_loss
from qdojo.agents.explore import Choosing, Exploration
from qdojo.agents.learner import Structure, replay_agent
from qdojo.dataset import streams
from qdojo.envs.native.cartpole import CARTPOLE
from qdojo.errors import UsageError
from qdojo.loops.learning import Rhythm
from qdojo.loops.offline import OfflineLoop
from qdojo.loops.state import TrainState
from qdojo.tape.sampling import prioritized
from qdojo.tape.windows import transitions
from qdojo.types import Agent, Report, Step

CAPACITY = 128
RHYTHM = Rhythm(rows=2, updates=3, warmup_rows=2)
UPDATES = 1_000
QUICK = HYPER._replace(learning_rate_start=1e-2, learning_rate_end=1e-5, discount=DISCOUNT)


def logged(rows: int = 100) -> Step:
    """Episodes of 10 rows that look like CartPole's."""
    at = np.arange(rows)
    observation = np.stack([np.sin(at * k) for k in (1, 2, 3, 4)], axis=1).astype(np.float32)
    reward, terminated, last = np.ones(rows, np.float32), at % 10 == 8, at % 10 == 9
    return Step(observation, (at % 2).astype(np.int32), reward, terminated, last)


def offline(inner: Any = device_loop, rows: Step | None = None, agent: Agent | None = None, **settings: Any) -> Any:
    agent = agent or small_agent(small_network(4), num_envs=1)
    defaults = {"envs": 1, "capacity_rows": CAPACITY, "cycles": 5, "rhythm": RHYTHM}
    env = "CartPole-v1" if inner is host_loop else CARTPOLE
    data = logged() if rows is None else rows
    return OfflineLoop(inner(env, agent, **defaults | settings), lambda: data)


def run(loop: OfflineLoop, chunks: int = 2) -> tuple[TrainState, list[Report]]:
    made = list(itertools.islice(loop.run(loop.init()), chunks))
    return as_numpy(made[-1][0]), [report for _, report in made]


def as_numpy(state: TrainState) -> TrainState:
    return jax.tree.map(np.array, state)


def assert_equal(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


LARGE = 100_000
INNER = {"device": device_loop, "host": host_loop}


class Learned(NamedTuple):
    """Two members after each of three chunks."""

    loop: OfflineLoop
    states: list[TrainState]
    reports: list[Report]


@functools.cache
def learned(inner: str) -> Learned:
    """By the loop that is evaluated as that name says."""
    loop = offline(INNER[inner], members=2, seed=5, capacity_rows=LARGE)
    made = [(as_numpy(state), report) for state, report in itertools.islice(loop.run(loop.init()), 3)]
    return Learned(loop, [state for state, _ in made], [report for _, report in made])


def test_updates_and_the_schedules_place_are_counted_and_nothing_is_played() -> None:
    _, states, reports = learned("device")
    assert [(report.steps, report.updates) for report in reports] == [(10, 15), (20, 30), (30, 45)]
    assert all(report.episodes == [] and report.env_steps.tolist() == [0, 0] for report in reports)
    assert "epsilon" not in reports[1].metrics, "what plays no step does not explore"
    assert reports[0].metrics["loss"].shape == (2,)
    # The rows stay as they were read, and are there once.
    tape = states[-1].tape
    assert (int(tape.written), tape.words.shape[:3]) == (100, (LARGE, 1, 1))
    assert tape.member.tolist() == [0, 0]
    assert_equal(jax.tree.map(lambda leaf: np.asarray(leaf)[:100, 0, 0], tape.rows), logged())


def test_the_metrics_are_means_over_all_updates() -> None:
    """Of losses that learning does not change: each is the square of the reward, 1, or 0 where a row plays nothing."""
    hyper = HYPER._replace(learning_rate_start=0.0, learning_rate_end=0.0, discount=0.0)
    network = small_network(4)._replace(apply=lambda params, observation: jnp.zeros(2))
    rows = logged()._replace(last=np.zeros(100, bool))
    _, reports = run(offline(agent=small_agent(network, hyper=hyper, num_envs=1), rows=rows), 1)
    np.testing.assert_allclose(reports[0].metrics["loss"], [0.5 * 2.0], rtol=1e-6)


def test_a_seed_says_it_all_and_members_differ_by_theirs() -> None:
    together = learned("device").states[-1]
    # Which loop evaluates changes nothing.
    assert_equal(together, learned("host").states[-1])
    alone, _ = run(offline(seed=6), 3)
    first, second = jax.tree.leaves(together.agents.params)[0]
    np.testing.assert_allclose(second, jax.tree.leaves(alone.agents.params)[0][0], rtol=1e-5, atol=1e-6)
    assert (first != second).any()


@pytest.mark.parametrize("inner", INNER)
def test_a_saved_state_goes_on_to_the_same_bits_without_the_data(inner: str) -> None:
    before, states, _ = learned(inner)

    def gone() -> Step:
        raise AssertionError("the data were read again")

    arrays = snapshot.to_arrays(states[0])
    later = OfflineLoop(offline(INNER[inner], members=2, seed=5, capacity_rows=LARGE).inner, gone)
    sharing(before.programs, later)
    # Whatever is None here the trainer would have to fill in.
    assert later.template().environment is not None
    reopened, warning = later.reopened(snapshot.from_arrays(later.template(), arrays))
    assert warning is None
    found = list(itertools.islice(later.run(reopened), 2))[-1][0]
    assert_equal(as_numpy(found), states[-1])


@pytest.mark.parametrize("inner", INNER)
def test_the_inner_loop_evaluates(inner: str) -> None:
    loop, states, _ = learned(inner)
    scores = loop.evaluate(states[-1].agents.params, seed=1, episodes=4).returns
    assert_equal(scores, loop.inner.evaluate(states[-1].agents.params, seed=1, episodes=4).returns)
    assert scores.shape == (2, 4)
    assert (scores >= 1.0).all()
    loop.close()


def test_the_template_is_of_the_state() -> None:
    loop = learned("host").loop
    template, state = loop.template(), loop.init()
    assert jax.tree.structure(template) == jax.tree.structure(state)
    shapes, found = (jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (template, state))
    assert shapes == found


def test_a_chunk_copies_no_tape() -> None:
    loop = learned("device").loop
    program = loop.programs.compiled("offline chunk", loop.run)
    assert program.memory_analysis().temp_size_in_bytes < LARGE


def test_data_that_are_too_few_or_too_many_are_refused() -> None:
    with pytest.raises(UsageError, match="holds 3 rows, but learning needs 4; use a larger one"):
        offline(rows=logged(3), rhythm=RHYTHM._replace(warmup_rows=4)).init()
    with pytest.raises(UsageError, match="holds 129 rows, but at most 128 fit; set capacity_steps=129"):
        offline(rows=logged(CAPACITY + 1)).init()
    assert int(offline(rows=logged(CAPACITY)).init().tape.written) == CAPACITY


def prioritized_agent(network: Any, hyper: Any, capacity: int) -> Agent:
    sampler = prioritized(capacity, num_envs=1, rows_per_cycle=2)
    structure = Structure(Choosing(2, num_envs=1), 32, transitions(1), 1, None, sampler)
    hyper = hyper._replace(priority_alpha=0.6, priority_beta=0.4, priority_beta_steps=2_000.0)
    return replay_agent(network, lambda own: dqn_loss(network, Rule(True, "mse")), hyper, structure)


def test_prioritised_replay_draws_only_rows_that_were_logged() -> None:
    loop = offline(agent=prioritized_agent(small_network(4), HYPER, CAPACITY))
    state, _ = run(loop, 20)
    assert state.agents.priorities.seen.tolist() == [100]
    leaves = state.agents.priorities.levels[0][0].ravel()
    last = np.append(logged().last[:-1], True)
    # The newest row, and each of those that start no transition once it was drawn, can be drawn no more.
    assert (leaves[:100][last] == 0.0).all()
    assert (leaves[:100][~last] > 0.0).all()
    assert (leaves[100:CAPACITY] == 1.0).all(), "a row that was never written was drawn"


PLAYED = 400


@functools.cache
def random_play() -> Step:
    """Four copies that act at random, as one stream."""
    hyper = HYPER._replace(exploration=Exploration(1.0, 1.0, 1.0))
    agent = small_agent(small_network(6), hyper=hyper, num_envs=4)
    rhythm = Rhythm(rows=1, updates=1, warmup_rows=10_000)
    loop = device_loop(EVERYTHING.environment, agent, envs=4, capacity_rows=100, cycles=130, rhythm=rhythm)
    state, _ = next(loop.run(loop.init()))
    return streams(jax.tree.map(np.asarray, state.tape.rows), int(state.tape.written))


@pytest.mark.parametrize("ranked", [False, True])
def test_the_known_values_are_learned_from_random_play(ranked: bool) -> None:
    network = small_network(6, (16,))
    hyper = QUICK._replace(learning_rate_decay_steps=float(UPDATES))
    if ranked:
        agent = prioritized_agent(network, hyper, PLAYED)
    else:
        agent = small_agent(network, hyper=hyper, batch_size=32, num_envs=1)
    inner = device_loop(
        EVERYTHING.environment, agent, envs=1, capacity_rows=PLAYED, cycles=UPDATES, rhythm=Rhythm(1, 1, 2)
    )
    loop = OfflineLoop(inner, random_play)
    state, report = next(loop.run(loop.init()))
    assert report.updates == UPDATES
    params = jax.tree.map(lambda leaf: leaf[0], state.agents.params)
    found = jax.jit(jax.vmap(network.apply, in_axes=(None, 0)))(params, np.float32(EVERYTHING.observations))
    np.testing.assert_allclose(found, EVERYTHING.values, atol=1e-2)
