"""The device loop: what it writes, counts and reports, that members are independent, that evaluation is greedy."""

import itertools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes.environments import NEVER, constantly, probe
from probes.training import HYPER, STILL, ZERO, device_loop, small_agent, small_network

from qdojo.agents.explore import Exploration
from qdojo.envs.contract import NativeEnvironment, Transition
from qdojo.envs.native.cartpole import CARTPOLE, CartPoleState
from qdojo.loops.device import DeviceLoop
from qdojo.loops.learning import Rhythm
from qdojo.loops.state import TrainState
from qdojo.noise import integer
from qdojo.types import Report, Step

ROWS, CHUNKS = 80, 2
"""What is played, and in how many chunks: 20 cycles of two rows each."""
CAPACITY = 7918
"""No other array is as long."""


def cartpole_loop(**settings: Any) -> DeviceLoop:
    agent = small_agent(small_network(4))
    defaults = {"capacity_rows": CAPACITY, "cycles": 20, "rhythm": Rhythm(rows=2, updates=2, warmup_rows=8)}
    return device_loop(CARTPOLE, agent, **defaults | settings)


def run(loop: DeviceLoop, chunks: int = CHUNKS) -> tuple[TrainState, list[Report]]:
    made = list(itertools.islice(loop.run(loop.init()), chunks))
    return made[-1][0], [report for _, report in made]


def as_numpy(tree: Any) -> Any:
    return jax.tree.map(np.array, tree)


def assert_equal(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


class Played(NamedTuple):
    loop: DeviceLoop
    states: list[TrainState]
    reports: list[Report]
    rows: Step
    """All that were written."""


def played(loop: DeviceLoop) -> Played:
    made = [(as_numpy(state), report) for state, report in itertools.islice(loop.run(loop.init()), CHUNKS)]
    states, reports = map(list, zip(*made, strict=True))
    return Played(loop, states, reports, jax.tree.map(lambda leaf: np.asarray(leaf)[:ROWS], states[-1].tape.rows))


@pytest.fixture(scope="module")
def trained() -> Played:
    return played(cartpole_loop(members=3))


@pytest.fixture(scope="module")
def alone() -> Played:
    """The last of the three."""
    return played(cartpole_loop(seed=2))


def test_each_row_is_followed_by_what_the_environment_made_of_it(trained: Played) -> None:
    rows = trained.rows
    assert rows.last.any()
    shape = rows.action[:-1].shape
    state = CartPoleState(rows.observation[:-1], np.zeros(shape, np.int32))
    step = jax.jit(jax.vmap(jax.vmap(jax.vmap(CARTPOLE.step))))
    _, moved = step(state, rows.action[:-1], np.zeros((*shape, 4), np.uint32))
    real = ~rows.last[:-1]
    np.testing.assert_allclose(rows.observation[1:][real], np.asarray(moved.observation)[real], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rows.terminated[:-1][real], np.asarray(moved.terminated)[real])
    assert (rows.reward[:-1][real] == 1.0).all()
    # The row of an ended episode pays nothing, and is followed by a fresh start.
    assert (rows.reward[rows.last] == 0.0).all()
    assert not rows.terminated[rows.last].any()
    assert (np.abs(rows.observation[1:][rows.last[:-1]]) <= 0.05).all()
    # An end is followed by exactly one such row.
    np.testing.assert_array_equal(rows.last[1:], rows.terminated[:-1])


def test_episodes_and_steps_are_those_of_the_tape(trained: Played) -> None:
    rows, reports = trained.rows, trained.reports
    assert [report.steps for report in reports] == [ROWS, 2 * ROWS], "rows times 2 envs"
    assert reports[-1].env_steps.tolist() == (~rows.last).sum(axis=(0, 2)).tolist()
    assert (reports[-1].env_steps < 2 * ROWS).all(), "restarts were counted as steps"
    expected = []
    for member in range(3):
        number, begun = 0, [0, 0]
        for row, env in np.ndindex(ROWS, 2):
            if rows.last[row, member, env]:
                begun[env] = row + 1
            elif rows.terminated[row, member, env]:
                number += 1
                length = row + 1 - begun[env]
                expected.append((member, number, 2 * (row + 1), float(length), length))
    found = [tuple(episode) for report in reports for episode in report.episodes]
    assert sorted(found) == sorted(expected)
    assert [episode[2] for episode in found] == sorted(episode[2] for episode in found), "in order of time"


def test_updates_begin_after_the_warm_up_and_then_keep_the_ratio(trained: Played) -> None:
    """8 rows first: the cycle that writes the eighth is the first to learn, so 17 of the first 20."""
    assert [report.updates for report in trained.reports] == [2 * 17, 2 * 37]


def test_metrics_are_of_each_member(trained: Played) -> None:
    for report in trained.reports:
        assert set(report.metrics) == {"loss", "q_mean", "epsilon"}
        assert all(np.shape(values) == (3,) for values in report.metrics.values())
    # 160 of 200 steps from 1 to 0.1
    np.testing.assert_allclose(trained.reports[-1].metrics["epsilon"], 0.28, rtol=1e-6)


def test_mean_metrics_are_over_the_updates_that_were_made() -> None:
    """Q-values that stay 0 and a reward of 1 have a loss of 1, also where some cycles of a chunk wait; or all do."""
    endless = probe("endless", constantly(1.0), constantly(1.0), terminate_after=NEVER, truncate_after=NEVER)
    loop = device_loop(endless, small_agent(ZERO, hyper=STILL), rhythm=Rhythm(1, 2, 5), cycles=3)
    _, (none, some, every) = run(loop, chunks=3)
    assert (none.updates, some.updates, every.updates) == (0, 4, 10)
    assert none.metrics.keys() == {"epsilon"}
    assert some.metrics["loss"] == every.metrics["loss"] == 1.0


def test_member_k_of_a_population_is_the_same_seed_alone(trained: Played, alone: Played) -> None:
    """To rounding: a product over members may add in another order than one alone, at some sizes.

    At this size both are bit by bit equal on the machines seen. Where they are not, training goes on to differ
    altogether once the rounding turns a greedy action.
    """
    for ours, theirs in zip(
        jax.tree.leaves(trained.states[-1].agents), jax.tree.leaves(alone.states[-1].agents), strict=True
    ):
        np.testing.assert_allclose(ours[2], theirs[0], rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(trained.rows), jax.tree.leaves(alone.rows), strict=True):
        np.testing.assert_array_equal(ours[:, 2], theirs[:, 0])


def test_two_seeds_differ_in_weights_starts_and_actions(trained: Played) -> None:
    for leaf in (*jax.tree.leaves(trained.states[-1].agents.params), trained.rows.observation.swapaxes(0, 1)):
        assert not np.array_equal(leaf[0], leaf[1])
        assert not np.array_equal(leaf[1], leaf[2])
    actions = trained.rows.action
    assert (actions[:, 0] != actions[:, 1]).mean() > 0.2
    assert (actions[:, :, 0] != actions[:, :, 1]).mean() > 0.2, "two envs of a member act alike"


def test_the_length_of_a_chunk_is_part_of_what_a_seed_means(alone: Played) -> None:
    """The words of a chunk are drawn in one call, so another length is another run: that is why a resume keeps it."""
    long, (short, _) = alone.states[0], run(cartpole_loop(seed=2, cycles=10))
    assert int(long.clock.rows) == int(short.clock.rows) == 40
    assert not np.array_equal(long.tape.rows.observation, short.tape.rows.observation)


def test_a_state_that_was_read_back_goes_on_to_the_same_bits(alone: Played) -> None:
    saved, after = alone.states
    on_device = jax.tree.map(jnp.asarray, saved._replace(tally=None))._replace(tally=saved.tally)
    assert_equal(after, as_numpy(next(alone.loop.run(on_device))[0]))


@pytest.mark.parametrize("members", ["alone", "trained"])
def test_no_step_copies_the_tape(members: str, request: pytest.FixtureRequest) -> None:
    """What a row costs must not grow with the memory, so the program may hold the tape and write into it, no more."""
    loop = request.getfixturevalue(members).loop
    program = loop.programs.compiled("chunk", loop.run).as_text()
    made = re.findall(rf"= (\w+\[{CAPACITY},[\d,]*\])\S* ([\w-]+)\(", program)
    assert {operation for _, operation in made} >= {"parameter", "dynamic-update-slice"}
    # A fusion of this shape is looked into: its root is among the rest of the findings.
    harmless = {"parameter", "get-tuple-element", "bitcast", "fusion", "dynamic-update-slice", "call"}
    assert {(shape, operation) for shape, operation in made if operation not in harmless} == set()


def test_one_seed_gives_the_same_bits_whatever_is_evaluated_meanwhile(alone: Played) -> None:
    loop = cartpole_loop(seed=2)
    for expected, (state, _) in zip(alone.states, loop.run(loop.init()), strict=False):
        loop.evaluate(state.agents.params, seed=0, episodes=3)
        assert_equal(expected, as_numpy(state))


def values_only(*values: tuple[float, float]) -> Any:
    """Parameters of each member whose Q-values are these two numbers everywhere."""
    params = jax.eval_shape(small_network(1).init, jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros((len(values), *leaf.shape), leaf.dtype), params)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.float32(values) if jax.tree_util.keystr(path) == ".head.bias" else leaf, zeros
    )


def of_random_length() -> NativeEnvironment:
    """Episodes of 1 to 9 steps; action 1 pays 1, action 0 takes 1."""

    def reset(noise: jax.Array) -> tuple[Any, jax.Array]:
        return (1 + integer(noise[0], 9), jnp.int32(0)), jnp.zeros(1)

    def step(state: Any, action: jax.Array, noise: jax.Array) -> tuple[Any, Transition]:
        length, elapsed = state
        over = elapsed + 1 >= length
        return (length, elapsed + 1), Transition(jnp.zeros(1), 2.0 * action - 1.0, over, jnp.asarray(False))

    return NativeEnvironment("random length", (1,), 2, 1, 9, reset, step)


def test_evaluation_is_greedy_and_plays_each_episode_to_its_end_once() -> None:
    """Long episodes are as likely among the scores as among the starts, and none is counted twice.

    Training explores all the time. Evaluations of one seed agree, and of two seeds differ.
    """
    agent = small_agent(small_network(1), hyper=HYPER._replace(exploration=Exploration(1.0, 1.0, 1.0)))
    loop = device_loop(of_random_length(), agent, members=2)
    params = values_only((0.0, 1.0), (1.0, 0.0))
    scores = loop.evaluate(params, seed=3, episodes=2000).returns
    assert scores.shape == (2, 2000)
    for sign, member in zip((1, -1), scores, strict=True):
        lengths, counts = np.unique(sign * member, return_counts=True)
        assert lengths.tolist() == list(range(1, 10))
        assert (np.abs(counts / 2000 - 1 / 9) < 0.03).all()
    assert not np.array_equal(scores[0], -scores[1])
    np.testing.assert_array_equal(scores, loop.evaluate(params, seed=3, episodes=2000).returns)
    other = loop.evaluate(params, seed=2**31, episodes=2000).returns
    assert (scores[0] != other[0]).any()
    assert (scores[1] != other[1]).any()
