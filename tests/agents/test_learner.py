"""The shared update against numbers worked out by hand: sampling weights, gradient, clipping, Adam, target sync.

The network is a table of two parameters, Q(s, a) = w[a], and the tape holds known rows, so that every number of an
update follows with pencil and paper.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdojo.agents.dqn import dqn_loss
from qdojo.agents.learner import Hyper, LearnerState, Structure, learning_rate, replay_agent
from qdojo.tape.ring import READERS, Tape, empty, write
from qdojo.types import Agent, Clock, Network, Step

TABLE = Network(init=lambda key: jnp.array([2.0, 5.0]), apply=lambda params, observation: params)
NOISE = jax.random.bits(jax.random.key(0), (8,), jnp.uint32)


def hyper(**changes: float) -> Hyper:
    numbers = Hyper(
        learning_rate_start=0.1,
        learning_rate_end=0.1,
        learning_rate_decay_steps=100.0,
        discount=0.5,
        epsilon_start=1.0,
        epsilon_end=0.1,
        epsilon_decay_steps=100.0,
        target_tau=1.0,
    )
    return numbers._replace(**changes)


def agent(numbers: Hyper | None = None, **changes: Any) -> Agent:
    structure = Structure(
        num_actions=2, num_envs=1, batch_size=8, n_step=1, target_sync_updates=1, max_grad_norm=None
    )._replace(**changes)
    return replay_agent(TABLE, dqn_loss(TABLE, False, "mse"), numbers or hyper(), structure)


def tape_of(*rows: tuple[int, float, bool, bool], members: int = 1) -> Tape:
    """A tape that holds (action, reward, terminated, last) rows, the same for each member."""
    action, reward, terminated, last = (
        jnp.tile(jnp.array(column).reshape(-1, 1, 1), (1, members, 1)) for column in zip(*rows, strict=True)
    )
    tape = empty(len(rows), members, 1, jax.ShapeDtypeStruct((1,), jnp.float32))
    block = Step(tape.rows.observation, action.astype(jnp.int32), reward.astype(jnp.float32), terminated, last)
    return write(tape, block)


def one_member(tape: Tape) -> Tape:
    return tape._replace(member=jnp.int32(0))


def clock(rows: int = 0, updates: int = 0) -> Clock:
    return Clock(jnp.int32(rows), jnp.int32(updates))


# Action 0 pays 1 and goes on: the target is 1 + 0.5 * max(2, 5) = 3.5, the error 1.5, the gradient -2 * 1.5 = -3.
ONE_STEP = one_member(tape_of((0, 1.0, False, False), (0, 0.0, False, False)))


def test_a_new_member_is_as_the_network_makes_it() -> None:
    state = agent().init(jax.random.key(0))
    np.testing.assert_array_equal(state.params, [2.0, 5.0])
    np.testing.assert_array_equal(state.target_params, [2.0, 5.0])
    assert all(number.dtype == jnp.float32 and number.shape == () for number in state.hyper)
    given = replay_agent(
        TABLE,
        dqn_loss(TABLE, False, "mse"),
        hyper(),
        Structure(2, 1, 8, 1, 1, None),
        initial_params=jnp.array([7.0, 8.0]),
    )
    np.testing.assert_array_equal(given.init(jax.random.key(0)).params, [7.0, 8.0])


def test_adams_first_two_steps_by_hand() -> None:
    learner = agent(hyper(target_tau=0.5))
    update = jax.jit(learner.update)
    state, metrics = update(learner.init(jax.random.key(0)), ONE_STEP, NOISE, clock())
    assert metrics["loss"] == pytest.approx(2.25)
    assert metrics["q_mean"] == pytest.approx(2.0)
    # Gradient -3: moments -0.3 and 0.009, corrected -3 and 9, so the step is 0.1 * -3 / 3.
    np.testing.assert_allclose(state.optimizer.mu, [-0.3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(state.optimizer.nu, [0.009, 0.0], rtol=1e-5)
    np.testing.assert_allclose(state.params, [2.1, 5.0], rtol=1e-6)
    # The target goes half the way from 2 to 2.1.
    np.testing.assert_allclose(state.target_params, [2.05, 5.0], rtol=1e-6)
    # Again: the error is 3.5 - 2.1 = 1.4, the gradient -2.8.
    state, metrics = update(state, ONE_STEP, NOISE, clock(1, 1))
    assert metrics["loss"] == pytest.approx(1.96)
    mu, nu = 0.9 * -0.3 + 0.1 * -2.8, 0.999 * 0.009 + 0.001 * 2.8**2
    step = 0.1 * (mu / (1 - 0.9**2)) / (np.sqrt(nu / (1 - 0.999**2)) + 1e-8)
    np.testing.assert_allclose(state.params, [2.1 - step, 5.0], rtol=1e-6)
    assert int(state.optimizer.count) == 2


def test_the_target_network_and_not_the_online_one_gives_the_target() -> None:
    learner = agent()
    state = learner.init(jax.random.key(0))._replace(target_params=jnp.array([0.0, 3.0]))
    _, metrics = jax.jit(learner.update)(state, ONE_STEP, NOISE, clock())
    # 1 + 0.5 * 3 - 2 = 0.5
    assert metrics["loss"] == pytest.approx(0.25)


def test_rows_that_start_no_transition_weigh_nothing() -> None:
    """Of the two rows that have a successor one is an end; the mean is over all samples, so the loss is its share."""
    tape = one_member(tape_of((0, 1.0, False, False), (1, 99.0, False, True), (0, 0.0, False, False)))
    learner = agent()
    state, metrics = jax.jit(learner.update)(learner.init(jax.random.key(0)), tape, NOISE, clock())
    starts = np.asarray(NOISE) % 2
    share = (starts == 1).mean()  # age 2, the step; age 1 is the end
    assert 0.0 < share < 1.0
    assert metrics["loss"] == pytest.approx(2.25 * share)
    np.testing.assert_allclose(state.optimizer.mu, [-0.3 * share, 0.0], rtol=1e-6)


@pytest.mark.parametrize("limit", [None, 1.0, 2.5, 100.0])
def test_clipping_is_of_the_whole_gradients_norm(limit: float | None) -> None:
    """Two transitions, one sample each: errors 1.5 and 2 give the gradient (-3, -4) / 2, whose norm is 2.5."""
    # Action 1 pays 4.5: 4.5 + 0.5 * 5 - 5 = 2.
    tape = one_member(tape_of((0, 1.0, False, False), (1, 4.5, False, False), (0, 0.0, False, False)))
    noise = jnp.arange(8, dtype=jnp.uint32)
    learner = agent(max_grad_norm=limit)
    state, _ = jax.jit(learner.update)(learner.init(jax.random.key(0)), tape, noise, clock())
    scale = 0.4 if limit == 1.0 else 1.0
    np.testing.assert_allclose(state.optimizer.mu, 0.1 * scale * np.array([-1.5, -2.0]), rtol=1e-5)
    np.testing.assert_allclose(state.optimizer.nu, 0.001 * (scale * np.array([-1.5, -2.0])) ** 2, rtol=1e-4)


def test_clipping_leaves_a_gradient_of_zero_alone() -> None:
    tape = one_member(tape_of((0, 2.0, True, False), (0, 0.0, False, True)))
    learner = agent(max_grad_norm=1.0)
    state, _ = jax.jit(learner.update)(learner.init(jax.random.key(0)), tape, NOISE, clock())
    np.testing.assert_array_equal(state.params, [2.0, 5.0])


def test_a_hard_sync_copies_exactly_every_so_many_updates_whatever_the_rows() -> None:
    """Every third update: after the 3rd, the 6th, the 9th. Between them the target stays."""
    learner = agent(target_sync_updates=3)
    state = learner.init(jax.random.key(0))
    # Parameters of very different sizes, where `old + (new - old)` is not `new`.
    state = state._replace(target_params=jnp.array([1e8, 3.0]))
    update = jax.jit(learner.update)
    for updates in range(9):
        before = state.target_params
        state, _ = update(state, ONE_STEP, NOISE, clock(rows=1000 * updates, updates=updates))
        expected = state.params if (updates + 1) % 3 == 0 else before
        np.testing.assert_array_equal(state.target_params, expected)


def test_a_soft_sync_moves_by_tau_each_time() -> None:
    learner = agent(hyper(target_tau=0.25, learning_rate_start=1e-6, learning_rate_end=1e-6), target_sync_updates=2)
    state = learner.init(jax.random.key(0))._replace(target_params=jnp.array([10.0, 13.0]))
    state, _ = jax.jit(learner.update)(state, ONE_STEP, NOISE, clock(updates=0))
    np.testing.assert_allclose(state.target_params, [10.0, 13.0])
    state, _ = jax.jit(learner.update)(state, ONE_STEP, NOISE, clock(updates=1))
    np.testing.assert_allclose(state.target_params, [8.0, 11.0], rtol=1e-5)


def test_schedules_count_env_steps_and_not_rows_or_updates() -> None:
    learner = agent(num_envs=10)
    state = learner.init(jax.random.key(0))
    # 5 rows of 10 envs are 50 of 100 steps: half way from 1 to 0.1.
    assert learner.exploration(state, clock(rows=5, updates=999)) == pytest.approx(0.55)
    # 2^28 rows of 10 envs are more steps than 32 bits hold.
    assert learner.exploration(state, clock(rows=2**28)) == pytest.approx(0.1)
    numbers = Hyper(*map(jnp.float32, hyper(learning_rate_end=0.02)))
    assert learning_rate(numbers, jnp.float32(25.0)) == pytest.approx(0.08)


def test_the_step_size_falls_with_the_schedule() -> None:
    learner = agent(hyper(learning_rate_end=0.0))
    start = learner.init(jax.random.key(0))
    for rows, rate in ((0, 0.1), (50, 0.05), (100, 0.0)):
        state, _ = jax.jit(learner.update)(start, ONE_STEP, NOISE, clock(rows=rows))
        np.testing.assert_allclose(state.params[0] - 2.0, rate, atol=1e-6)


def test_members_may_differ_in_every_number() -> None:
    """Two members in one program, each as it is alone."""
    numbers = [hyper(), hyper(learning_rate_start=0.2, learning_rate_end=0.2, discount=0.9, target_tau=0.5)]
    states = [agent(n).init(jax.random.key(k)) for k, n in enumerate(numbers)]
    together: LearnerState = jax.tree.map(lambda *x: jnp.stack(x), *states)
    tape = tape_of((0, 1.0, False, False), (0, 0.0, False, False), members=2)
    noise = jnp.stack([NOISE, NOISE + jnp.uint32(1)])
    update = jax.jit(jax.vmap(agent().update, in_axes=(0, READERS, 0, None)))
    found, metrics = update(together, tape, noise, clock())
    for k, state in enumerate(states):
        alone, own = jax.jit(agent().update)(state, tape._replace(member=jnp.int32(k)), noise[k], clock())
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[k], b, rtol=1e-6), found, alone)  # noqa: B023
        assert metrics["loss"][k] == pytest.approx(float(own["loss"]))
    # 1 + 0.5 * 5 - 2 and 1 + 0.9 * 5 - 2
    np.testing.assert_allclose(metrics["loss"], [2.25, 12.25], rtol=1e-6)


def test_acting_is_greedy_but_for_exploration() -> None:
    learner = agent(hyper(epsilon_start=0.0, epsilon_end=0.0))
    state = learner.init(jax.random.key(0))
    observation = jnp.zeros(1)
    assert learner.greedy(state.params, observation, learner.memory()) == (1, ())
    for word in (0, 2**32 - 1):
        action, memory = learner.act(state, observation, (), jnp.full(2, word, jnp.uint32), clock())
        assert (int(action), memory) == (1, ())
