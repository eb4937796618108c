"""PQN's learning phase against plain Python and NumPy, and what it learns, through the device loop."""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes.environments import DISCOUNT, EVERYTHING, PROBES, Probe
from probes.training import device_loop
from probes.weights import words

from qdojo.agents.explore import Choosing, Exploration
from qdojo.agents.pqn import PqnHyper, PqnState, PqnStructure, capacity_rows, pqn_agent, read
from qdojo.envs.contract import NativeEnvironment, Transition
from qdojo.loops.learning import Rhythm
from qdojo.networks.inputs import Design
from qdojo.networks.mlp import mlp
from qdojo.networks.network import Network
from qdojo.networks.noisy import noisy
from qdojo.noise import integer
from qdojo.tape.ring import READERS, Tape, empty, write
from qdojo.types import Agent, Clock, Step

HYPER = PqnHyper(
    learning_rate_start=0.1,
    learning_rate_end=0.1,
    learning_rate_decay_steps=100.0,
    discount=0.5,
    lambda_=0.5,
    exploration=Exploration(1.0, 0.1, 100.0),
)
STRUCTURE = PqnStructure(choosing=Choosing(2), rollout=4, epochs=1, minibatches=1, max_grad_norm=10.0)
LINEAR = Network(
    init=lambda key: jax.random.normal(key, (2, 3)), apply=lambda params, observation: jnp.dot(params, observation)
)
SHOWN = Network(init=lambda key: jnp.zeros(2), apply=lambda params, observation: params + observation)
"""Q-values that are the observation, until something is learned."""


def agent(network: Network = SHOWN, hyper: PqnHyper = HYPER, **structure: Any) -> Agent:
    choosing = Choosing(2, num_envs=structure.pop("num_envs", 1))
    return pqn_agent(network, hyper, STRUCTURE._replace(choosing=choosing, **structure))


def clock(rows: int = 0) -> Clock:
    return Clock(jnp.int32(rows), jnp.int32(0))


def bits(learner: Agent, seed: int = 0) -> jax.Array:
    return words(learner.update_words, seed=seed)


jitted_read = jax.jit(read, static_argnums=(0, 3))
jitted_write = jax.jit(write)


Row = tuple[list[float], int, float, bool, bool]


def tape_of(rows: list[Row], rollout: int) -> Tape:
    """One env's (observation, action, reward, terminated, last) rows, written in blocks as the loop does."""
    observation, action, reward, terminated, last = (np.array(column) for column in zip(*rows, strict=True))
    block = Step(observation.astype(np.float32), action.astype(np.int32), reward.astype(np.float32), terminated, last)
    return tape_with(jax.tree.map(lambda x: x[:, None, None], block), rollout)._replace(member=np.int32(0))


T, F = True, False
# Q-values are shown; gamma and lambda are 0.5, rollout is 4. Oldest first:
TERMINATED: list[Row] = [
    ([1.0, 2.0], 0, 1.0, F, F),
    ([4.0, 8.0], 1, 2.0, T, F),
    ([64.0, 0.0], 0, 0.0, F, T),
    ([6.0, 2.0], 0, 8.0, F, F),
]
TRUNCATED = [row if row[1] == 0 else (*row[:3], F, F) for row in TERMINATED]


def targets(rows: list[Row], hyper: PqnHyper = HYPER, rollout: int = 4) -> tuple[np.ndarray, np.ndarray]:
    found = jitted_read(SHOWN, np.zeros(2, np.float32), tape_of(rows, rollout), rollout, hyper)
    return np.asarray(found.target), np.asarray(found.weight)


def test_the_targets_of_the_first_phase_by_hand() -> None:
    """Three rows have a successor, one more is not written yet, and the final observation starts nothing.

    Terminated: 2, whatever 64 says, and 1 + 0.5 * (0.5 * 8 + 0.5 * 2) = 3.5.
    """
    target, weight = targets(TERMINATED)
    np.testing.assert_array_equal(weight, [0.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(target[1:3], [3.5, 2.0])


def test_the_twin_that_is_truncated_bootstraps_from_its_final_observation() -> None:
    """2 + 0.5 * 64 = 34, and 1 + 0.5 * (0.5 * 8 + 0.5 * 34) = 11.5."""
    target, weight = targets(TRUNCATED)
    np.testing.assert_array_equal(weight, [0.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(target[1:3], [11.5, 34.0])


def test_the_newest_row_waits_for_the_next_phase() -> None:
    """8 + 0.5 * 10 = 13 for the row that waited; then 0.5 * (0.5 * 20 + 0.5 * G) from the newest: 5, 8.75, 16.25."""
    more: list[Row] = [([10.0, 0.0], 0, 0.0, F, F)] + [([20.0, 0.0], 0, 0.0, F, F)] * 3
    target, weight = targets(TERMINATED + more)
    np.testing.assert_array_equal(weight, np.ones(4))
    last = 0.5 * 20.0
    third = 0.5 * (10.0 + 0.5 * last)
    second = 0.5 * (10.0 + 0.5 * third)
    first = 8.0 + 0.5 * (5.0 + 0.5 * second)
    np.testing.assert_allclose(target, [first, second, third, last])


class Played(NamedTuple):
    """Random episodes in blocks of rows, `[time, member, env]`, and what the network said of each observation."""

    block: Step
    q: np.ndarray


def played(generator: np.random.Generator, rows: int, members: int, envs: int) -> Played:
    """Episodes of random length, each with a final row, half of them terminated."""
    shape = (rows, members, envs)
    last, terminated = np.zeros(shape, bool), np.zeros(shape, bool)
    for member in range(members):
        for env in range(envs):
            for t in range(1, rows):
                if not last[t - 1, member, env] and generator.random() < 0.25:
                    last[t, member, env] = True
                    terminated[t - 1, member, env] = generator.random() < 0.5
    observation = generator.normal(size=(*shape, 3)).astype(np.float32)
    action = generator.integers(0, 2, shape).astype(np.int32)
    reward = generator.normal(size=shape).astype(np.float32)
    return Played(Step(observation, action, reward, terminated, last), observation)


def tape_with(block: Step, rollout: int) -> Tape:
    rows, members, envs = block.action.shape
    tape = empty(capacity_rows(rollout), members, envs, jax.ShapeDtypeStruct(block.observation.shape[3:], jnp.float32))
    for start in range(0, rows, rollout):
        tape = jitted_write(tape, jax.tree.map(lambda x: x[start : start + rollout], block))  # noqa: B023
    return tape


def by_recursion(block: Step, q: np.ndarray, t: int, env: int, gamma: float, lambda_: float) -> float:
    """The return of row t, forward in time, from its definition."""
    reward, value = float(block.reward[t, 0, env]), float(q[t + 1, env].max())
    if block.terminated[t, 0, env]:
        return reward
    if block.last[t + 1, 0, env] or t + 2 == len(block.reward):
        return reward + gamma * value
    following = by_recursion(block, q, t + 1, env, gamma, lambda_)
    return reward + gamma * (lambda_ * following + (1.0 - lambda_) * value)


@pytest.mark.parametrize("lambda_", [0.0, 0.65, 1.0])
@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_the_targets_of_random_episodes_are_those_of_a_plain_loop(blocks: int, lambda_: float) -> None:
    rollout, envs = 6, 3
    block = played(np.random.default_rng(blocks), blocks * rollout, 1, envs).block
    params = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    tape = tape_with(block, rollout)._replace(member=np.int32(0))
    hyper = HYPER._replace(discount=0.9, lambda_=lambda_)
    found = jax.tree.map(np.asarray, jitted_read(LINEAR, params, tape, rollout, hyper))
    q = block.observation[:, 0] @ params.T
    first = len(q) - 1 - rollout
    for i in range(rollout):
        for env in range(envs):
            at, t = i * envs + env, first + i
            starts = t >= 0 and not block.last[t, 0, env]
            assert found.weight[at] == float(starts)
            if starts:
                expected = by_recursion(block, q, t, env, 0.9, lambda_)
                assert float(found.target[at]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
                np.testing.assert_array_equal(found.observation[at], block.observation[t, 0, env])
                assert found.action[at] == block.action[t, 0, env]


def radam(gradients: list[np.ndarray]) -> list[np.ndarray]:
    """Liu et al. (2020), algorithm 2, written out; the variance is rectified where its length is 5 or more."""
    mean, square, directions = 0.0, 0.0, []
    longest = 2.0 / (1.0 - 0.999) - 1.0
    for t, gradient in enumerate(gradients, 1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        length = longest - 2.0 * t * 0.999**t / (1.0 - 0.999**t)
        direction = mean / (1.0 - 0.9**t)
        if length >= 5.0:
            top, bottom = (length - 4.0) * (length - 2.0) * longest, (longest - 4.0) * (longest - 2.0) * length
            direction = direction * np.sqrt(top / bottom) / (np.sqrt(square / (1.0 - 0.999**t)) + 1e-8)
        directions.append(direction)
    return directions


@pytest.mark.parametrize("limit", [0.5, 100.0], ids=["clipped", "not clipped"])
def test_a_whole_phase_written_out(limit: float) -> None:
    """4 epochs of 3 minibatches over 12 transitions: more than the five steps that RAdam does not rectify."""
    rollout, envs, epochs, minibatches, rate = 6, 2, 4, 3, 0.05
    block = played(np.random.default_rng(7), 2 * rollout, 1, envs).block
    tape = tape_with(block, rollout)._replace(member=np.int32(0))
    hyper = HYPER._replace(learning_rate_start=rate, learning_rate_end=rate, discount=0.9)
    learner = agent(
        LINEAR, hyper, num_envs=envs, rollout=rollout, epochs=epochs, minibatches=minibatches, max_grad_norm=limit
    )
    state, noise = learner.init(jax.random.key(2)), bits(learner)
    found, metrics = jax.jit(learner.update)(state, tape, noise, clock(2 * rollout))

    start = np.asarray(state.params, np.float64)
    q = block.observation[:, 0] @ start.T
    times = [(t, env) for t in range(rollout - 1, 2 * rollout - 1) for env in range(envs)]
    gradients, losses, chosen_values = [], [], []
    weights = start
    for order in np.argsort(np.asarray(noise).reshape(epochs, -1), axis=1):
        for batch in np.split(order, minibatches):
            gradient, loss, values = np.zeros_like(weights), 0.0, []
            for t, env in (times[at] for at in batch):
                observation, action = block.observation[t, 0, env], block.action[t, 0, env]
                values.append(weights[action] @ observation)
                if not block.last[t, 0, env]:
                    error = by_recursion(block, q, t, env, 0.9, 0.5) - values[-1]
                    gradient[action] -= error * observation / len(batch)
                    loss += 0.5 * error**2 / len(batch)
            norm = np.linalg.norm(gradient)
            gradients.append(gradient * min(1.0, limit / norm))
            weights = start - rate * np.sum(radam(gradients), axis=0)
            losses.append(loss)
            chosen_values.append(np.mean(values))
    # float32 keeps few digits of the variance's length, the difference of two numbers near 2,000.
    np.testing.assert_allclose(found.params, weights, atol=5e-4)
    assert np.abs(weights - start).max() > 0.05
    assert float(metrics["loss"]) == pytest.approx(np.mean(losses), rel=1e-3)
    assert float(metrics["q_mean"]) == pytest.approx(np.mean(chosen_values), rel=1e-3, abs=1e-3)


def test_what_is_fixed_does_not_move() -> None:
    network = Network(
        init=lambda key: (jnp.ones(2), jnp.full(2, 3.0)),
        apply=lambda params, observation: params[0] * params[1] + observation,
        partition=lambda params: eqx.partition(params, (True, False)),
    )
    learner = agent(network)
    tape = tape_of([([1.0, 2.0], 1, 1.0, False, False)] * 8, 4)
    state, _ = jax.jit(learner.update)(learner.init(jax.random.key(0)), tape, bits(learner), clock(8))
    learned, fixed = state.params
    np.testing.assert_array_equal(fixed, [3.0, 3.0])
    assert learned[1] != 1.0


def test_every_epoch_takes_every_transition_once_in_another_order() -> None:
    """With a learning rate of 0 the mean over an epoch's minibatches is that of all transitions, in any order."""
    block = played(np.random.default_rng(3), 12, 1, 2).block
    tape = tape_with(block, 6)._replace(member=np.int32(0))
    still = HYPER._replace(learning_rate_start=0.0, learning_rate_end=0.0)
    found = []
    for minibatches in (1, 4):
        learner = agent(LINEAR, still, num_envs=2, rollout=6, epochs=2, minibatches=minibatches)
        state = learner.init(jax.random.key(0))
        after, metrics = jax.jit(learner.update)(state, tape, bits(learner, minibatches), clock())
        np.testing.assert_array_equal(after.params, state.params)
        found.append([float(metrics["loss"]), float(metrics["q_mean"])])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_minibatches_must_divide_the_transitions() -> None:
    with pytest.raises(ValueError, match=r"minibatches=3 must divide rollout \* num_envs = 8"):
        agent(rollout=4, num_envs=2, minibatches=3)


def test_schedules_count_env_steps() -> None:
    """5 rows of 10 envs are 50 of 100 steps: half way. The first step of RAdam is the gradient itself."""
    rows: list[Row] = [([0.0, 0.0], 0, 1.0, F, F)] * 10
    learner = agent(SHOWN, HYPER._replace(learning_rate_end=0.0), num_envs=1, rollout=1)
    state = learner.init(jax.random.key(0))
    assert learner.exploration(state, clock(50)) == pytest.approx(0.55)
    tape, update = tape_of(rows, 1), jax.jit(learner.update)
    for at, rate in ((0, 0.1), (50, 0.05), (100, 0.0)):
        after, _ = update(state, tape, bits(learner), clock(at))
        np.testing.assert_allclose(after.params, [rate, 0.0], atol=1e-7)


def test_a_member_starts_from_given_parameters_and_acts_greedily_but_for_exploration() -> None:
    never = HYPER._replace(exploration=Exploration(0.0, 0.0, 1.0))
    learner = pqn_agent(SHOWN, never, STRUCTURE, initial_params=jnp.array([1.0, 0.0]))
    state = learner.init(jax.random.key(0))
    np.testing.assert_array_equal(state.params, [1.0, 0.0])
    act = jax.jit(jax.vmap(learner.act, in_axes=(None, None, None, 0, None, None)))
    for shown, best in (([0.0, 0.5], 0), ([0.0, 1.5], 1)):
        seen = np.array(shown, np.float32)
        action, memory = act(state, seen, learner.memory(), np.zeros((100, learner.act_words), np.uint32), clock(), 0)
        assert (set(np.asarray(action).tolist()), memory) == ({best}, ())
        assert np.argmax(learner.values(state.params, seen, ())[0]) == best
    always = state._replace(hyper=state.hyper._replace(exploration=Exploration(*np.float32([1.0, 0.1, 100.0]))))
    action, _ = act(always, np.zeros(2, np.float32), (), words(100, learner.act_words), clock(), 0)
    assert 0.3 < np.mean(action) < 0.7


def test_a_population_of_two_is_each_as_alone() -> None:
    """Members that differ in learning rate, discount and lambda, and in what they saw."""
    block = played(np.random.default_rng(5), 12, 2, 2).block
    tape = tape_with(block, 6)
    numbers = [HYPER, HYPER._replace(learning_rate_start=0.01, learning_rate_end=0.01, discount=0.9, lambda_=0.0)]
    changes: dict[str, Any] = {"num_envs": 2, "rollout": 6, "epochs": 2, "minibatches": 3}
    network = noisy(mlp(Design((3,), 2, (4,), True)))
    learners = [agent(network, number, **changes) for number in numbers]
    states = [jax.jit(learner.init)(jax.random.key(k)) for k, learner in enumerate(learners)]
    noise = np.stack([bits(learners[0], k) for k in range(2)])
    together: PqnState = jax.tree.map(lambda *x: np.stack(x), *states)
    update = jax.jit(jax.vmap(learners[0].update, in_axes=(0, READERS, 0, None)))
    found, metrics = update(together, tape, noise, clock(12))
    alone = jax.jit(learners[0].update)
    for k, state in enumerate(states):
        own, own_metrics = alone(state, tape._replace(member=np.int32(k)), noise[k], clock(12))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[k], b, rtol=1e-4, atol=1e-5), found, own)  # noqa: B023
        assert float(metrics["loss"][k]) == pytest.approx(float(own_metrics["loss"]), rel=1e-4)
    assert not np.allclose(found.params.mean.head.weight[0], found.params.mean.head.weight[1])


def phase_loop(environment: NativeEnvironment, learner: Agent, rollout: int, **settings: Any) -> Any:
    return device_loop(
        environment, learner, rhythm=Rhythm(rollout, 1, 0), capacity_rows=capacity_rows(rollout), **settings
    )


PROBE_STEPS = 16_000


LATER = PROBES["truncated later"]


@pytest.mark.parametrize("probe", [EVERYTHING, LATER], ids=["all lessons", "truncated later"])
def test_the_known_values_are_learned(probe: Probe) -> None:
    network = mlp(Design(probe.environment.observation_shape, 2, (16,), layer_norm=False))
    hyper = PqnHyper(
        learning_rate_start=1e-2,
        learning_rate_end=1e-5,
        learning_rate_decay_steps=float(PROBE_STEPS),
        discount=DISCOUNT,
        lambda_=0.65,
        exploration=Exploration(1.0, 1.0, 1.0),
    )
    learner = agent(network, hyper, num_envs=4, rollout=8, epochs=2, minibatches=2)
    loop = phase_loop(probe.environment, learner, 8, envs=4, cycles=PROBE_STEPS // 32)
    state, report = next(loop.run(loop.init()))
    assert (report.steps, report.updates) == (PROBE_STEPS, PROBE_STEPS // 32)
    params = jax.tree.map(lambda leaf: leaf[0], state.agents.params)
    found = jax.jit(jax.vmap(network.apply, in_axes=(None, 0)))(params, np.float32(probe.observations))
    np.testing.assert_allclose(found, probe.values, atol=1e-2)


STAR = jnp.array([[2.0 * (i == j) for j in range(7)] + [1.0] for i in range(6)] + [[0.0] * 6 + [1.0, 2.0]])
"""Baird's features: 2 w_i + w_8 for six places, w_7 + 2 w_8 for the seventh. All rewards and values are 0."""
STAR_DISCOUNT = 0.99


def star() -> NativeEnvironment:
    """Baird (1995), the counterexample: action 1 leads to the seventh place, action 0 to any of the others.

    Every episode is one step from a place drawn evenly, cut short by the time limit, so that all transitions are
    learned from equally often.
    """

    def reset(noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        place = integer(noise[0], 7)
        return place, STAR[place]

    def step(place: jax.Array, action: jax.Array, noise: jax.Array) -> tuple[jax.Array, Transition]:
        after = jnp.where(action == 1, 6, integer(noise[0], 6))
        return after, Transition(STAR[after], jnp.float32(0.0), jnp.asarray(False), jnp.asarray(True))

    return NativeEnvironment("star", (8,), 2, 1, 1, reset, step)


@functools.partial(jax.jit, static_argnums=0)
def largest(network: Network, params: Any) -> jax.Array:
    """Of the absolute values of all places."""
    return jnp.abs(jax.vmap(network.apply, in_axes=(None, 0))(params, STAR)).max()


def swept(network: Network, sweeps: int) -> jax.Array:
    """The largest value after plain semi-gradient Q-learning from all transitions at once."""

    def loss(params: Any) -> jax.Array:
        q = jax.vmap(network.apply, in_axes=(None, 0))(params, STAR)
        value = jax.lax.stop_gradient(jnp.max(q, axis=1))
        target = STAR_DISCOUNT * jnp.array([jnp.mean(value[:6]), value[6]])
        return 0.5 * jnp.mean(jnp.square(target - q))

    def sweep(_: int, params: Any) -> Any:
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, jax.grad(loss)(params))

    return largest(
        network, jax.jit(lambda key: jax.lax.fori_loop(0, sweeps, sweep, network.init(key)))(jax.random.key(0))
    )


def test_q_learning_from_the_star_diverges_without_layer_norm() -> None:
    assert not swept(mlp(Design((8,), 2, (16,), False)), 3000) < 1e6


def test_q_learning_from_the_star_converges_with_layer_norm() -> None:
    assert swept(mlp(Design((8,), 2, (16,), True)), 3000) < 0.5


def test_pqn_stays_bounded_on_the_star() -> None:
    network = mlp(Design((8,), 2, (16,), True))
    hyper = HYPER._replace(
        learning_rate_start=1e-2,
        learning_rate_end=1e-2,
        discount=STAR_DISCOUNT,
        exploration=Exploration(1.0, 1.0, 1.0),
        lambda_=0.0,
    )
    learner = agent(network, hyper, num_envs=8, rollout=8)
    loop = phase_loop(star(), learner, 8, envs=8, cycles=500)
    state, reports = loop.init(), []
    chunks = loop.run(state)
    for _ in range(6):
        state, report = next(chunks)
        reports.append(float(largest(network, jax.tree.map(lambda leaf: leaf[0], state.agents.params))))
        assert np.isfinite(report.metrics["loss"]).all()
    # Far from 0 only in passing: a constant learning rate over a vanishing gradient has RAdam jump now and then.
    assert max(reports) < 10.0, reports


def test_statistics_of_observations_are_of_rows_that_were_written() -> None:
    """In the first phase the oldest of four rows is not there; the one after it is counted twice."""
    network = mlp(Design((2,), 2, (4,), layer_norm=False, normalized=True))
    learner = agent(network)
    rows = TERMINATED
    state, _ = jax.jit(learner.update)(learner.init(jax.random.key(0)), tape_of(rows, 4), bits(learner), clock(4))
    seen = np.array([rows[0][0], *(row[0] for row in rows[:3])])
    np.testing.assert_allclose(state.params.inputs.statistics.mean, seen.mean(axis=0), rtol=1e-6)
