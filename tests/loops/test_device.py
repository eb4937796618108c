"""The device loop: what it writes, counts and reports, that members are independent, that evaluation is greedy."""

import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes.environments import NEVER, PROBES, constantly, probe
from probes.training import HYPER, STILL, ZERO, device_loop, small_agent, small_network

from qdojo.agents.explore import Exploration
from qdojo.envs.contract import NativeEnvironment, Transition
from qdojo.envs.native.cartpole import CARTPOLE, CartPoleState
from qdojo.loops.device import DeviceLoop
from qdojo.loops.learning import Rhythm
from qdojo.loops.state import TrainState
from qdojo.noise import integer
from qdojo.types import Report

ROWS = 2 * 40
"""Of two chunks: 40 cycles of a row each."""


def cartpole_loop(**settings: Any) -> DeviceLoop:
    agent = small_agent(small_network(4))
    defaults = {"capacity_rows": ROWS, "cycles": 40, "rhythm": Rhythm(rows=1, updates=1, warmup_rows=8)}
    return device_loop(CARTPOLE, agent, **defaults | settings)


def run(loop: DeviceLoop, chunks: int = 2) -> tuple[TrainState, list[Report]]:
    made = list(itertools.islice(loop.run(loop.init()), chunks))
    return made[-1][0], [report for _, report in made]


def as_numpy(tree: Any) -> Any:
    return jax.tree.map(np.array, tree)


def assert_equal(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def trained() -> tuple[TrainState, list[Report]]:
    state, reports = run(cartpole_loop(members=3))
    return as_numpy(state), reports


def test_each_row_is_followed_by_what_the_environment_made_of_it(trained: tuple[TrainState, list[Report]]) -> None:
    rows = trained[0].tape.rows
    assert rows.last.any()
    state = CartPoleState(jnp.asarray(rows.observation[:-1]), jnp.zeros(rows.action[:-1].shape, jnp.int32))
    step = jax.vmap(jax.vmap(jax.vmap(CARTPOLE.step)))
    _, moved = step(state, jnp.asarray(rows.action[:-1]), jnp.zeros((*rows.action[:-1].shape, 4), jnp.uint32))
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


def test_episodes_and_steps_are_those_of_the_tape(trained: tuple[TrainState, list[Report]]) -> None:
    state, reports = trained
    rows = state.tape.rows
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


def test_updates_begin_after_the_warm_up_and_then_keep_the_ratio(trained: tuple[TrainState, list[Report]]) -> None:
    """8 rows first: the cycle that writes the eighth is the first to learn, so 33 of the first 40."""
    assert [report.updates for report in trained[1]] == [33, 73]


def test_metrics_are_of_each_member(trained: tuple[TrainState, list[Report]]) -> None:
    for report in trained[1]:
        assert set(report.metrics) == {"loss", "q_mean", "epsilon"}
        assert all(np.shape(values) == (3,) for values in report.metrics.values())
    # 160 of 200 steps from 1 to 0.1
    np.testing.assert_allclose(trained[1][-1].metrics["epsilon"], 0.28, rtol=1e-6)


def endless(truncate_after: int = NEVER) -> NativeEnvironment:
    return probe("endless", constantly(1.0), constantly(1.0), terminate_after=NEVER, truncate_after=truncate_after)


def test_mean_metrics_are_over_the_updates_that_were_made() -> None:
    """Q-values that stay 0 and a reward of 1 have a loss of 1, in the first chunk too, where some cycles wait."""
    _, (first, second) = run(device_loop(endless(), small_agent(ZERO, hyper=STILL), rhythm=Rhythm(1, 2, 4)))
    assert (first.updates, second.updates) == (10, 26)
    assert first.metrics["loss"] == second.metrics["loss"] == 1.0


def test_a_chunk_without_an_update_reports_only_its_exploration() -> None:
    _, (report,) = run(cartpole_loop(rhythm=Rhythm(1, 1, 1000)), chunks=1)
    assert report.updates == 0
    assert report.metrics.keys() == {"epsilon"}


def test_member_k_of_a_population_is_the_same_seed_alone(trained: tuple[TrainState, list[Report]]) -> None:
    """To rounding: a product over members may add in another order than one alone, at some sizes.

    At this size both are bit by bit equal on the machines seen. Where they are not, training goes on to differ
    altogether once the rounding turns a greedy action.
    """
    together = trained[0]
    for k in (0, 2):
        alone, _ = run(cartpole_loop(seed=k))
        for ours, theirs in zip(jax.tree.leaves(together.agents), jax.tree.leaves(alone.agents), strict=True):
            np.testing.assert_allclose(ours[k], theirs[0], rtol=1e-4, atol=1e-6)
        for ours, theirs in zip(jax.tree.leaves(together.tape.rows), jax.tree.leaves(alone.tape.rows), strict=True):
            np.testing.assert_array_equal(ours[:, k], theirs[:, 0])


def test_two_seeds_differ_in_weights_starts_and_actions(trained: tuple[TrainState, list[Report]]) -> None:
    state = trained[0]
    for leaf in (*jax.tree.leaves(state.agents.params), state.tape.rows.observation.swapaxes(0, 1)):
        assert not np.array_equal(leaf[0], leaf[1])
        assert not np.array_equal(leaf[1], leaf[2])
    actions = state.tape.rows.action
    assert (actions[:, 0] != actions[:, 1]).mean() > 0.2
    assert (actions[:, :, 0] != actions[:, :, 1]).mean() > 0.2, "two envs of a member act alike"


def test_the_same_seed_gives_the_same_bits() -> None:
    a, _ = run(cartpole_loop())
    b, _ = run(cartpole_loop())
    assert_equal(as_numpy(a), as_numpy(b))


def test_the_length_of_a_chunk_is_part_of_what_a_seed_means() -> None:
    """The words of a chunk are drawn in one call, so another length is another run: that is why a resume keeps it."""
    long, _ = run(cartpole_loop(cycles=40), chunks=1)
    short, _ = run(cartpole_loop(cycles=20), chunks=2)
    assert int(long.clock.rows) == int(short.clock.rows) == 40
    assert not np.array_equal(long.tape.rows.observation, short.tape.rows.observation)


def test_a_state_that_was_read_back_goes_on_to_the_same_bits() -> None:
    loop = cartpole_loop()
    once = next(loop.run(loop.init()))[0]
    saved = as_numpy(once)
    on_device = jax.tree.map(jnp.asarray, saved._replace(tally=None))._replace(tally=saved.tally)
    assert_equal(as_numpy(next(loop.run(once))[0]), as_numpy(next(loop.run(on_device))[0]))


@pytest.mark.parametrize("members", [1, 4])
def test_no_step_copies_the_tape(members: int) -> None:
    """What a row costs must not grow with the memory, so the program may hold the tape and write into it, no more."""
    capacity = 7919 - 7919 % 2
    loop = cartpole_loop(members=members, capacity_rows=capacity, rhythm=Rhythm(2, 2, 8))
    arrays = loop.init()._replace(tally=None)
    arguments = (arrays, loop._blank_log(), np.int32(0), np.int32(1))
    program = loop.programs.compiled("chunk", loop._chunk, *arguments, donate=(0, 1)).as_text()
    made = re.findall(rf"= (\w+\[{capacity},[\d,]*\])\S* ([\w-]+)\(", program)
    assert {operation for _, operation in made} >= {"parameter", "dynamic-update-slice"}
    # A fusion of this shape is looked into: its root is among the rest of the findings.
    harmless = {"parameter", "get-tuple-element", "bitcast", "fusion", "dynamic-update-slice", "call"}
    assert {(shape, operation) for shape, operation in made if operation not in harmless} == set()


def values_only(first: float, second: float, members: int = 1) -> Any:
    """Parameters whose Q-values are these two numbers everywhere."""
    params = jax.vmap(small_network(1).init)(jax.random.split(jax.random.key(0), members))
    zeros = jax.tree.map(jnp.zeros_like, params)
    bias = jnp.tile(jnp.array([[first, second]]), (members, 1))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: bias if jax.tree_util.keystr(path) == ".head.bias" else leaf, zeros
    )


def test_evaluation_is_greedy_even_where_training_explores() -> None:
    agent = small_agent(small_network(1), hyper=HYPER._replace(exploration=Exploration(1.0, 1.0, 1.0)))
    loop = device_loop(PROBES["action"].environment, agent)
    assert loop.evaluate(values_only(0.0, 1.0), seed=0, episodes=20).returns.tolist() == [[1.0] * 20]
    assert loop.evaluate(values_only(1.0, 0.0), seed=0, episodes=20).returns.tolist() == [[-1.0] * 20]


def of_random_length() -> NativeEnvironment:
    """Episodes of 1 to 9 steps that pay 1 each."""

    def reset(noise: jax.Array) -> tuple[Any, jax.Array]:
        return (1 + integer(noise[0], 9), jnp.int32(0)), jnp.zeros(1)

    def step(state: Any, action: jax.Array, noise: jax.Array) -> tuple[Any, Transition]:
        length, elapsed = state
        over = elapsed + 1 >= length
        return (length, elapsed + 1), Transition(jnp.zeros(1), jnp.float32(1.0), over, jnp.asarray(False))

    return NativeEnvironment("random length", (1,), 2, 1, 9, reset, step)


def test_evaluation_plays_each_episode_to_its_end_once() -> None:
    """Long episodes are as likely among the scores as among the starts, and none is counted twice."""
    loop = device_loop(of_random_length(), small_agent(small_network(1)), members=2)
    scores = loop.evaluate(values_only(0.0, 1.0, members=2), seed=3, episodes=2000).returns
    assert scores.shape == (2, 2000)
    for member in scores:
        lengths, counts = np.unique(member, return_counts=True)
        assert lengths.tolist() == list(range(1, 10))
        assert (np.abs(counts / 2000 - 1 / 9) < 0.03).all()
    assert not np.array_equal(scores[0], scores[1])


def test_evaluations_of_one_seed_agree_and_of_two_seeds_differ() -> None:
    loop = device_loop(of_random_length(), small_agent(small_network(1)))
    params = values_only(0.0, 1.0)
    first = loop.evaluate(params, seed=1, episodes=50).returns
    np.testing.assert_array_equal(first, loop.evaluate(params, seed=1, episodes=50).returns)
    assert not np.array_equal(first, loop.evaluate(params, seed=2**31, episodes=50).returns)


def test_evaluation_changes_nothing_of_the_training() -> None:
    plain, _ = run(cartpole_loop())
    loop = cartpole_loop()
    for after, _ in itertools.islice(loop.run(loop.init()), 2):
        state = after
        before = as_numpy(state)
        loop.evaluate(state.agents.params, seed=0, episodes=3)
        assert_equal(before, as_numpy(state))
    assert_equal(as_numpy(plain), as_numpy(state))


def test_truncated_episodes_are_counted_and_not_terminated() -> None:
    state, reports = run(device_loop(endless(truncate_after=3), small_agent(small_network(1))), chunks=1)
    assert not np.asarray(state.tape.rows.terminated).any()
    episodes = reports[0].episodes
    assert {(episode.score, episode.length) for episode in episodes} == {(3.0, 3)}
    # 16 rows hold 4 whole episodes of 3 steps and their final row.
    assert len(episodes) == 2 * 4
