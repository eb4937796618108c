"""The host loop: the same rows, counts and reports as the device loop makes, with Gymnasium's environments."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from probes.environments import NEVER, constantly, pays_at_the_second_step, probe, shows_time
from probes.training import HYPER, STILL, ZERO, device_loop, host_loop, sharing, small_agent, small_network

from qdojo.agents.explore import Exploration
from qdojo.envs.copies import episode_seed
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.resolve import resolve
from qdojo.envs.straying import StrayingVector
from qdojo.errors import UsageError
from qdojo.loops.host import HostLoop
from qdojo.loops.host_evaluation import evaluation_seed
from qdojo.loops.learning import Rhythm
from qdojo.loops.state import Programs, TrainState
from qdojo.types import Agent, Report

ROWS = 2 * 40


def cartpole_loop(**settings: Any) -> HostLoop:
    agent = small_agent(small_network(4))
    defaults = {"capacity_rows": ROWS, "cycles": 40, "rhythm": Rhythm(rows=1, updates=1, warmup_rows=8)}
    return host_loop("CartPole-v1", agent, **defaults | settings)


PLAIN, COUNTING, CARTPOLE = Programs(), Programs(), Programs()
"""Of the loops below, whichever environment they step."""


def plain_loop(env: Any) -> HostLoop:
    return sharing(PLAIN, host_loop(env, small_agent(small_network(1))))


def again() -> HostLoop:
    """What `alone` has trained, from the start."""
    return sharing(CARTPOLE, cartpole_loop(seed=2))


def run(loop: Any, chunks: int = 2) -> tuple[TrainState, list[Report]]:
    try:
        made = list(itertools.islice(loop.run(loop.init()), chunks))
    finally:
        loop.close()
    return made[-1][0], [report for _, report in made]


def as_numpy(tree: Any) -> Any:
    return jax.tree.map(np.array, tree)


def assert_equal(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


class Timed(gym.Env[np.ndarray, int]):
    """Shows the steps since the reset, in float32; ends as the probes do."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, pay: Callable[[int], float], terminate_after: int, truncate_after: int) -> None:
        self.pay, self.terminate_after, self.truncate_after = pay, terminate_after, truncate_after

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.elapsed = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = self.pay(self.elapsed)
        self.elapsed += 1
        over = self.elapsed >= self.terminate_after, self.elapsed >= self.truncate_after
        return np.full(1, self.elapsed, np.float32), reward, *over, {}


class RandomLength(Timed):
    """Episodes of 1 to 9 steps that pay 1 each; the length follows from the seed of the reset."""

    def __init__(self) -> None:
        super().__init__(lambda elapsed: 1.0, NEVER, NEVER)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        shown = super().reset(seed=seed)
        self.terminate_after = int(self.np_random.integers(1, 10))
        return shown


class TwoLanes(Timed):
    """Action 1 pays 1, action 0 takes 1, for three steps."""

    def __init__(self) -> None:
        super().__init__(lambda elapsed: 0.0, 3, NEVER)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, _, *rest = super().step(action)
        return observation, 1.0 if action == 1 else -1.0, *rest


@pytest.fixture(scope="module")
def trained() -> tuple[TrainState, list[Report]]:
    state, reports = run(cartpole_loop(members=3))
    return as_numpy(state), reports


@pytest.fixture(scope="module")
def alone() -> list[TrainState]:
    """After each of two chunks; the last of the three."""
    loop = again()
    states = [as_numpy(state) for state, _ in itertools.islice(loop.run(loop.init()), 2)]
    loop.close()
    return states


def test_the_tape_holds_the_seeded_episodes_as_gymnasium_plays_them(trained: tuple[TrainState, list[Report]]) -> None:
    """Every row, reward and end, the score and length of each episode, and the count of real steps, played again."""
    state, reports = trained
    rows = state.tape.rows
    env = gym.make("CartPole-v1", disable_env_checker=True)
    expected, real = [], np.zeros(3, int)
    for member, copy in np.ndindex(3, 2):
        number, row = -1, 0
        while row < ROWS:
            number += 1
            shown, _ = env.reset(seed=episode_seed(member, copy, number))
            score, over = 0.0, False
            while row < ROWS and not over:
                at = row, member, copy
                np.testing.assert_array_equal(rows.observation[at], shown)
                assert not rows.last[at]
                shown, reward, terminated, truncated, _ = env.step(int(rows.action[at]))
                assert (rows.reward[at], rows.terminated[at]) == (reward, terminated)
                score, over, row = score + reward, terminated or truncated, row + 1
                real[member] += 1
            if over:
                expected.append((member, 2 * row, score, int(score)))
                if row < ROWS:
                    np.testing.assert_array_equal(rows.observation[row, member, copy], shown)
                    assert rows.last[row, member, copy]
                    assert rows.reward[row, member, copy] == 0.0
                    row += 1
    env.close()
    found = [episode for report in reports for episode in report.episodes]
    assert sorted((e.member, e.steps, e.score, e.length) for e in found) == sorted(expected)
    for member in range(3):
        assert [e.episode for e in found if e.member == member] == list(
            range(1, 1 + sum(e[0] == member for e in expected))
        )
    assert reports[-1].env_steps.tolist() == real.tolist()
    assert [report.steps for report in reports] == [ROWS, 2 * ROWS], "rows times 2 envs"
    assert [report.updates for report in reports] == [33, 73]


@pytest.mark.parametrize(
    "ends",
    [{"terminate_after": NEVER, "truncate_after": 3}, {"terminate_after": 4, "truncate_after": 4}],
    ids=["truncated", "both at once"],
)
def test_both_loops_put_the_same_rows_on_the_tape(ends: dict[str, int]) -> None:
    """The same task, in Gymnasium and in JAX: all but the actions, which neither rewards nor ends depend on."""
    environment = probe("timed", shows_time, pays_at_the_second_step, **ends)
    on_host, host_reports = run(plain_loop(functools.partial(Timed, lambda elapsed: float(elapsed == 1), **ends)))
    on_device, device_reports = run(device_loop(environment, small_agent(small_network(1))))
    length = ends["truncate_after"]
    for report in host_reports:
        assert {(episode.score, episode.length) for episode in report.episodes} == {(1.0, length)}
    # An episode has as many rows as steps, and one that restarts.
    assert sum(len(report.episodes) for report in host_reports) == 2 * (32 // (length + 1))
    assert np.any(on_host.tape.rows.terminated) == (ends["terminate_after"] != NEVER)
    for name in ("observation", "reward", "terminated", "last"):
        found = getattr(on_host.tape.rows, name), getattr(on_device.tape.rows, name)
        np.testing.assert_array_equal(*found, err_msg=name)
        assert found[0].dtype == found[1].dtype
    for host, device in zip(host_reports, device_reports, strict=True):
        assert (host.steps, host.updates, host.episodes) == (device.steps, device.updates, device.episodes)
        assert host.env_steps.tolist() == device.env_steps.tolist()
        assert host.metrics.keys() == device.metrics.keys()
        np.testing.assert_array_equal(host.metrics["epsilon"], device.metrics["epsilon"])


def endless() -> Timed:
    return Timed(lambda elapsed: 1.0, NEVER, NEVER)


def test_mean_metrics_are_over_the_updates_that_were_made() -> None:
    """Q-values that stay 0 and a reward of 1 have a loss of 1, in the first chunk too, where some cycles wait."""
    _, (first, second) = run(host_loop(endless, small_agent(ZERO, hyper=STILL), rhythm=Rhythm(1, 2, 4)))
    assert (first.updates, second.updates) == (10, 26)
    assert first.metrics["loss"] == second.metrics["loss"] == 1.0


def test_member_k_of_a_population_is_the_same_seed_alone(
    trained: tuple[TrainState, list[Report]], alone: list[TrainState]
) -> None:
    together, single = trained[0], alone[-1]
    for ours, theirs in zip(jax.tree.leaves(together.agents), jax.tree.leaves(single.agents), strict=True):
        np.testing.assert_allclose(ours[2], theirs[0], rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(together.tape.rows), jax.tree.leaves(single.tape.rows), strict=True):
        np.testing.assert_array_equal(ours[:, 2], theirs[:, 0])


def test_members_and_envs_differ(trained: tuple[TrainState, list[Report]]) -> None:
    rows = trained[0].tape.rows
    starts = {row.tobytes() for row in rows.observation[0].reshape(6, 4)}
    assert len(starts) == 6
    assert (rows.action[:, 0] != rows.action[:, 1]).mean() > 0.2
    assert (rows.action[:, :, 0] != rows.action[:, :, 1]).mean() > 0.2


def counting() -> Agent:
    """An agent that counts its acts since the episode began twice, plays action 1 from the third on by the first
    count, and stores the second alone."""
    agent = small_agent(small_network(1))

    def counted(memory: Any) -> Any:
        return {"first": memory["first"] + 1, "second": memory["second"] + jnp.ones(2)}

    def act(state: Any, observation: Any, memory: Any, noise: Any, clock: Any, env: Any) -> Any:
        return jnp.where(memory["first"] >= 2, 1, 0), counted(memory)

    def values(params: Any, observation: Any, memory: Any) -> Any:
        return jnp.where(memory["first"] >= 2, jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])), counted(memory)

    return agent._replace(
        act=act,
        values=values,
        memory=lambda: {"first": jnp.int32(0), "second": jnp.zeros(2)},
        stored=lambda memory: memory["second"],
    )


def test_memory_is_carried_through_an_episode_renewed_at_its_end_and_stored_as_the_agent_says() -> None:
    """Actions 0, 0, 1, 1, ... by the count in memory, which is that of the steps shown."""
    ends = {"terminate_after": 5, "truncate_after": NEVER}
    on_host = run(sharing(COUNTING, host_loop(functools.partial(Timed, lambda elapsed: 1.0, **ends), counting())))[0]
    on_device = run(device_loop(probe("timed", shows_time, constantly(1.0), **ends), counting()))[0]
    for state in (on_host, on_device):
        rows = jax.tree.map(lambda leaf: np.asarray(leaf)[:32], state.tape.rows)
        np.testing.assert_array_equal(rows.action, rows.observation[..., 0] >= 2)
        np.testing.assert_array_equal(rows.memory, np.repeat(rows.observation, 2, axis=-1))
        assert state.tape.words.shape[-1] == 6, "two of the ending and the reward, action, observation, two counters"
    # Greedy play of three steps: actions 0, 0, 1 pay -1 - 1 + 1.
    loop = host_loop(TwoLanes, counting())
    assert loop.evaluate(np.zeros((1, 2), np.float32), seed=0, episodes=4).returns.tolist() == [[-1.0] * 4]


def test_evaluation_is_greedy_even_where_training_explores() -> None:
    loop = host_loop(TwoLanes, small_agent(ZERO, hyper=HYPER._replace(exploration=Exploration(1.0, 1.0, 1.0))))
    assert loop.evaluate(np.array([[0.0, 1.0]], np.float32), seed=0, episodes=7).returns.tolist() == [[3.0] * 7]
    assert loop.evaluate(np.array([[1.0, 0.0]], np.float32), seed=0, episodes=7).returns.tolist() == [[-3.0] * 7]


@pytest.mark.parametrize("episodes", [1, 2, 10])
def test_evaluation_does_not_favour_short_episodes(episodes: int) -> None:
    """Each copy plays its share whatever the others do: episode j of copy c is score c + j * copies."""
    loop = host_loop(RandomLength, small_agent(ZERO), members=2, evaluation_envs=3)
    found = loop.evaluate(np.zeros((2, 2), np.float32), seed=5, episodes=episodes).returns
    assert found.shape == (2, episodes)
    env = RandomLength()
    for member in range(2):
        for i in range(episodes):
            copy, number = i % 3, i // 3
            env.reset(seed=episode_seed(evaluation_seed(member, 5), copy, number))
            assert found[member, i] == env.terminate_after


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_a_copy_that_has_played_its_share_rests(epsilon: float) -> None:
    """Otherwise all would play on until the longest share is played."""
    made = []

    class Counted(RandomLength):
        def __init__(self) -> None:
            super().__init__()
            self.calls = {"reset": 0, "step": 0}
            made.append(self)

        def reset(self, **options: Any) -> Any:
            self.calls["reset"] += 1
            return super().reset(**options)

        def step(self, action: Any) -> Any:
            self.calls["step"] += 1
            return super().step(action)

    loop, spec = host_loop(Counted, small_agent(ZERO)), resolve(Counted)
    loop.evaluator.open_vector = lambda seeds, envs: StrayingVector(HostEnvironment(spec, seeds, envs), epsilon, seeds)
    made.clear()
    found = loop.evaluate(np.zeros((1, 2), np.float32), seed=5, episodes=5).returns[0]
    assert [env.calls for env in made] == [
        {"reset": len(share), "step": sum(share)} for share in (found[0::3], found[1::3], found[2::3])
    ]
    assert len(set(found)) > 1


def test_evaluation_changes_nothing_of_the_training_and_closes_its_environments(alone: list[TrainState]) -> None:
    loop = again()
    opened = []
    open_vector = loop.open_vector

    def spied(seeds: list[int], envs: int) -> Any:
        opened.append(open_vector(seeds, envs))
        return opened[-1]

    loop.open_vector = loop.evaluator.open_vector = spied
    for expected, (state, _) in zip(alone, loop.run(loop.init()), strict=False):
        loop.evaluate(state.agents.params, seed=0, episodes=1)
        assert_equal(expected, as_numpy(state))
    loop.close()
    # One vector for training, and for each evaluation one with no more copies than it has episodes.
    assert [vector.size for vector in opened] == [loop.envs, 1, 1]


def same_step_vector(envs: int) -> SyncVectorEnv:
    lengths = (3, 5)
    makers = [functools.partial(Timed, lambda elapsed: 1.0, lengths[i % 2], NEVER) for i in range(envs)]
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


def test_a_pause_starts_no_transition_and_hides_no_final_observation() -> None:
    """Copies of 3 and 5 steps under SAME_STEP: where one ends both wait a row, and each row's next is the one below."""
    state, reports = run(plain_loop(functools.partial(same_step_vector, 2)), chunks=1)
    rows = jax.tree.map(lambda field: np.asarray(field)[:9, 0], state.tape.rows)
    assert rows.observation[:, 0, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 2, 3]
    assert rows.observation[:, 1, 0].tolist() == [0, 1, 2, 3, 3, 4, 5, 0, 1]
    assert rows.last[:, 0].tolist() == rows.last[:, 1].tolist() == [0, 0, 0, 1, 0, 0, 1, 0, 1]
    assert rows.terminated[:, 0].tolist() == [0, 0, 1, 0, 0, 0, 0, 1, 0]
    assert rows.terminated[:, 1].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert {(e.score, e.length) for e in reports[0].episodes} == {(3.0, 3), (5.0, 5)}


@pytest.mark.parametrize("episodes", [1, 5])
def test_a_ready_made_vector_is_evaluated_with_the_copies_it_has(episodes: int) -> None:
    loop = host_loop(functools.partial(same_step_vector, 2), small_agent(ZERO), evaluation_envs=2)
    scores = loop.evaluate(np.zeros((1, 2), np.float32), seed=0, episodes=episodes).returns
    assert scores.tolist() == [([3.0, 5.0] * 3)[:episodes]]


def test_a_vector_that_cannot_be_rebuilt_resumes_with_a_warning_and_an_open_row() -> None:
    """Its copies begin anew, so the last row written starts no transition, and what was half played is not counted."""
    make = functools.partial(same_step_vector, 2)
    state, _ = run(plain_loop(make), chunks=1)
    assert state.tally.length.tolist() == [[2, 1]]
    assert not state.tape.rows.last[15, 0].any()
    again = plain_loop(make)
    reopened, warning = again.reopened(state)
    assert warning is not None
    assert "statistical" in warning
    assert reopened.tape.rows.last[15, 0].all()
    assert reopened.tally.length.tolist() == [[0, 0]]
    after, _ = next(again.run(reopened))
    again.close()
    assert after.tape.rows.observation[16, 0, :, 0].tolist() == [0, 0]


def test_a_state_reopened_in_mid_episode_goes_on_to_the_same_bits(alone: list[TrainState]) -> None:
    half, whole = alone
    assert half.tally.length.min() > 0, "no episode is under way"
    assert max(half.environment["length"]) > 1
    other = again()
    state, warning = other.reopened(half)
    assert warning is None
    after, _ = next(other.run(state))
    other.close()
    assert_equal(whole, as_numpy(after))


def test_a_vector_of_another_size_is_refused() -> None:
    loop = host_loop(functools.partial(same_step_vector, 3), small_agent(ZERO))
    with pytest.raises(UsageError, match="vector of 3 environments, but 2 are needed"):
        loop.init()


def test_a_pause_takes_no_memory_from_the_copies_that_wait() -> None:
    """Copies of 3 and 5 steps: each counts the steps of its own episode, whatever the other does."""
    spec = resolve(lambda: same_step_vector(2))
    assert spec.pauses
    rows = run(sharing(COUNTING, host_loop(lambda: same_step_vector(2), counting())))[0].tape.rows
    memory, shown = np.asarray(rows.memory)[:, 0, :, 0], np.asarray(rows.observation)[:, 0, :, 0]
    np.testing.assert_array_equal(memory[:16], shown[:16])
    assert memory.max() >= 3
