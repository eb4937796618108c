"""The shared update against numbers worked out by hand: weights, priorities, gradient, clipping, Adam, target, noise.

The network is a table of two parameters, Q(s, a) = w[a], and the tape holds known rows, so that every number of an
update follows with pencil and paper.
"""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdojo.agents.dqn import Rule, dqn_loss
from qdojo.agents.explore import Choosing, Exploration
from qdojo.agents.learner import Adam, Hyper, LearnerState, Loss, Structure, learning_rate, replay_agent
from qdojo.loops.learning import Rhythm, improve
from qdojo.networks.inputs import Design
from qdojo.networks.mlp import mlp
from qdojo.networks.network import Network
from qdojo.networks.noisy import noisy
from qdojo.noise import uniform
from qdojo.tape import priority
from qdojo.tape.ring import READERS, Tape, empty, write
from qdojo.tape.sampling import UNIFORM, Sampler, prioritized
from qdojo.tape.windows import transitions
from qdojo.types import Agent, Batch, Clock, Params, Step, Words

TABLE = Network(init=lambda key: jnp.array([2.0, 5.0]), apply=lambda params, observation: params)
KEY = jax.random.key(0)
NOISE = jax.random.bits(KEY, (8,), jnp.uint32)


def hyper(**changes: float) -> Hyper:
    numbers = Hyper(
        learning_rate_start=0.1,
        learning_rate_end=0.1,
        learning_rate_decay_steps=100.0,
        discount=0.5,
        exploration=Exploration(1.0, 0.1, 100.0),
        target_tau=1.0,
    )
    return numbers._replace(**changes)


STRUCTURE = Structure(Choosing(2), batch_size=8, window=transitions(1), target_sync_updates=1, max_grad_norm=None)


update = functools.cache(lambda error="mse", **changes: jax.jit(agent(None, error, **changes).update))
"""The compiled update of an agent; the numbers are in its state, so one program serves all of them."""


def agent(numbers: Hyper | None = None, error: str = "mse", **changes: Any) -> Agent:
    return replay_agent(
        TABLE, lambda own: dqn_loss(TABLE, Rule(False, error)), numbers or hyper(), STRUCTURE._replace(**changes)
    )


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


ENV = jnp.int32(0)


def best(learner: Agent, params: Any, observation: Any) -> int:
    return int(jnp.argmax(learner.values(params, observation, learner.memory())[0]))


def clock(rows: int = 0, updates: int = 0) -> Clock:
    return Clock(jnp.int32(rows), jnp.int32(updates))


# Action 0 pays 1 and goes on: the target is 1 + 0.5 * max(2, 5) = 3.5, the error 1.5, the gradient -2 * 1.5 = -3.
ONE_STEP = one_member(tape_of((0, 1.0, False, False), (0, 0.0, False, False)))


def test_a_new_member_is_as_the_network_makes_it() -> None:
    state = agent().init(KEY)
    np.testing.assert_array_equal(state.params, [2.0, 5.0])
    np.testing.assert_array_equal(state.target_params, [2.0, 5.0])
    assert all(number.dtype == jnp.float32 and number.shape == () for number in jax.tree.leaves(state.hyper))
    given = replay_agent(
        TABLE,
        lambda own: dqn_loss(TABLE, Rule(False, "mse")),
        hyper(),
        STRUCTURE,
        initial_params=jnp.array([7.0, 8.0]),
    )
    np.testing.assert_array_equal(given.init(KEY).params, [7.0, 8.0])


def test_adams_first_two_steps_by_hand() -> None:
    learner = agent(hyper(target_tau=0.5))
    state, metrics = update()(learner.init(KEY), ONE_STEP, NOISE, clock())
    assert metrics["loss"] == pytest.approx(2.25)
    assert metrics["q_mean"] == pytest.approx(2.0)
    # Gradient -3: moments -0.3 and 0.009, corrected -3 and 9, so the step is 0.1 * -3 / 3.
    np.testing.assert_allclose(state.optimizer.mu, [-0.3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(state.optimizer.nu, [0.009, 0.0], rtol=1e-5)
    np.testing.assert_allclose(state.params, [2.1, 5.0], rtol=1e-6)
    # The target goes half the way from 2 to 2.1.
    np.testing.assert_allclose(state.target_params, [2.05, 5.0], rtol=1e-6)
    # Again: the error is 3.5 - 2.1 = 1.4, the gradient -2.8.
    state, metrics = update()(state, ONE_STEP, NOISE, clock(1, 1))
    assert metrics["loss"] == pytest.approx(1.96)
    mu, nu = 0.9 * -0.3 + 0.1 * -2.8, 0.999 * 0.009 + 0.001 * 2.8**2
    step = 0.1 * (mu / (1 - 0.9**2)) / (np.sqrt(nu / (1 - 0.999**2)) + 1e-8)
    np.testing.assert_allclose(state.params, [2.1 - step, 5.0], rtol=1e-6)
    assert int(state.optimizer.count) == 2


def test_adams_constants_are_those_that_are_asked_for() -> None:
    """Without memory of gradients (both rates 0) a step is learning rate * g / (|g| + epsilon), and g is -3."""
    learner = agent(adam=Adam(beta1=0.0, beta2=0.0, epsilon=2.0))
    state, _ = jax.jit(learner.update)(learner.init(KEY), ONE_STEP, NOISE, clock())
    np.testing.assert_allclose(state.params, [2.0 + 0.1 * 3.0 / 5.0, 5.0], rtol=1e-6)


def test_the_target_network_and_not_the_online_one_gives_the_target() -> None:
    learner = agent()
    state = learner.init(KEY)._replace(target_params=jnp.array([0.0, 3.0]))
    _, metrics = update()(state, ONE_STEP, NOISE, clock())
    # 1 + 0.5 * 3 - 2 = 0.5
    assert metrics["loss"] == pytest.approx(0.25)


def test_rows_that_start_no_transition_weigh_nothing() -> None:
    """Of the two rows that have a successor one is an end; the mean is over all samples, so the loss is its share."""
    tape = one_member(tape_of((0, 1.0, False, False), (1, 99.0, False, True), (0, 0.0, False, False)))
    learner = agent()
    state, metrics = update()(learner.init(KEY), tape, NOISE, clock())
    starts = np.asarray(NOISE) % 2
    share = (starts == 1).mean()  # age 2, the step; age 1 is the end
    assert 0.0 < share < 1.0
    assert metrics["loss"] == pytest.approx(2.25 * share)
    np.testing.assert_allclose(state.optimizer.mu, [-0.3 * share, 0.0], rtol=1e-6)


@pytest.mark.parametrize("limit", [None, 1.0, 100.0])
def test_clipping_is_of_the_whole_gradients_norm(limit: float | None) -> None:
    """Two transitions, one sample each: errors 1.5 and 2 give the gradient (-3, -4) / 2, whose norm is 2.5."""
    # Action 1 pays 4.5: 4.5 + 0.5 * 5 - 5 = 2.
    tape = one_member(tape_of((0, 1.0, False, False), (1, 4.5, False, False), (0, 0.0, False, False)))
    noise = jnp.arange(8, dtype=jnp.uint32)
    learner = agent(max_grad_norm=limit)
    state, _ = update(max_grad_norm=limit)(learner.init(KEY), tape, noise, clock())
    scale = 0.4 if limit == 1.0 else 1.0
    np.testing.assert_allclose(state.optimizer.mu, 0.1 * scale * np.array([-1.5, -2.0]), rtol=1e-5)
    np.testing.assert_allclose(state.optimizer.nu, 0.001 * (scale * np.array([-1.5, -2.0])) ** 2, rtol=1e-4)


def test_clipping_leaves_a_gradient_of_zero_alone() -> None:
    """Both transitions end and pay what the values are."""
    tape = one_member(tape_of((0, 2.0, True, False), (0, 0.0, False, True), (0, 0.0, False, False)))
    state, _ = update(max_grad_norm=1.0)(agent(max_grad_norm=1.0).init(KEY), tape, NOISE, clock())
    np.testing.assert_array_equal(state.params, [2.0, 5.0])


def test_a_hard_sync_copies_exactly_every_so_many_updates_whatever_the_rows() -> None:
    """Every third update: after the 3rd, the 6th, the 9th. Between them the target stays."""
    learner = agent(target_sync_updates=3)
    state = learner.init(KEY)
    # Parameters of very different sizes, where `old + (new - old)` is not `new`.
    state = state._replace(target_params=jnp.array([1e8, 3.0]))
    every_third = update(target_sync_updates=3)
    for updates in range(9):
        before = state.target_params
        state, _ = every_third(state, ONE_STEP, NOISE, clock(rows=1000 * updates, updates=updates))
        expected = state.params if (updates + 1) % 3 == 0 else before
        np.testing.assert_array_equal(state.target_params, expected)


def test_a_soft_sync_moves_by_tau_each_time() -> None:
    learner = agent(hyper(target_tau=0.25, learning_rate_start=1e-6, learning_rate_end=1e-6), target_sync_updates=3)
    state = learner.init(KEY)._replace(target_params=jnp.array([10.0, 13.0]))
    state, _ = update(target_sync_updates=3)(state, ONE_STEP, NOISE, clock(updates=1))
    np.testing.assert_allclose(state.target_params, [10.0, 13.0])
    state, _ = update(target_sync_updates=3)(state, ONE_STEP, NOISE, clock(updates=2))
    np.testing.assert_allclose(state.target_params, [8.0, 11.0], rtol=1e-5)


def test_schedules_count_env_steps_and_not_rows_or_updates() -> None:
    learner = agent(choosing=Choosing(2, num_envs=10))
    state = learner.init(KEY)
    # 5 rows of 10 envs are 50 of 100 steps: half way from 1 to 0.1.
    assert learner.exploration(state, clock(rows=5, updates=999)) == pytest.approx(0.55)
    # 2^28 rows of 10 envs are more steps than 32 bits hold.
    assert learner.exploration(state, clock(rows=2**28)) == pytest.approx(0.1)
    numbers = jax.tree.map(jnp.float32, hyper(learning_rate_end=0.02))
    assert learning_rate(numbers, jnp.float32(25.0)) == pytest.approx(0.08)


def test_the_step_size_falls_with_the_schedule() -> None:
    learner = agent(hyper(learning_rate_end=0.0))
    start = learner.init(KEY)
    for rows, rate in ((0, 0.1), (50, 0.05), (100, 0.0)):
        state, _ = update()(start, ONE_STEP, NOISE, clock(rows=rows))
        np.testing.assert_allclose(state.params[0] - 2.0, rate, atol=1e-6)


@pytest.mark.parametrize("sampler", [UNIFORM, prioritized(2, 1, 2)], ids=["uniform", "prioritized"])
def test_members_may_differ_in_every_number(sampler: Sampler) -> None:
    """Two members in one program, each as it is alone."""
    numbers = [hyper(), hyper(learning_rate_start=0.2, learning_rate_end=0.2, discount=0.9, target_tau=0.5)]
    learner = agent(sampler=sampler)
    states = [agent(n, sampler=sampler).init(KEY) for n in numbers]
    together: LearnerState = jax.tree.map(lambda *x: np.stack(x), *states)
    tape = tape_of((0, 1.0, False, False), (0, 0.0, False, False), members=2)
    noise = np.stack([NOISE, np.asarray(NOISE) + np.uint32(1)])
    both = jax.jit(jax.vmap(learner.update, in_axes=(0, READERS, 0, None)))
    found, metrics = both(together, tape, noise, clock())
    for k, state in enumerate(states):
        alone, own = update(sampler=sampler)(state, tape._replace(member=jnp.int32(k)), noise[k], clock())
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[k], b, rtol=1e-6), found, alone)  # noqa: B023
        assert metrics["loss"][k] == pytest.approx(float(own["loss"]))
    # 1 + 0.5 * 5 - 2 and 1 + 0.9 * 5 - 2
    np.testing.assert_allclose(metrics["loss"], [2.25, 12.25], rtol=1e-6)


def test_acting_is_greedy_but_for_exploration() -> None:
    learner = agent(hyper(exploration=Exploration(0.0, 0.0, 1.0)))
    state = learner.init(KEY)
    observation = jnp.zeros(1)
    assert best(learner, state.params, observation) == 1
    for word in (0, 2**32 - 1):
        action, memory = learner.act(state, observation, (), jnp.full(2, word, jnp.uint32), clock(), ENV)
        assert (int(action), memory) == (1, ())


# Action 0 pays 1, an error of 1.5 as above; action 1 pays 4.5, an error of 4.5 + 0.5 * 5 - 5 = 2. The newest row waits.
TWO_ERRORS = one_member(tape_of((0, 1.0, False, False), (1, 4.5, False, False), (0, 0.0, False, False)))


PRIORITIZED = prioritized(3, 1, 3)


def leaves(state: LearnerState, rows: int) -> np.ndarray:
    return np.asarray(state.priorities.levels[0])[..., 0, :rows]


def test_priorities_after_an_update_are_those_of_its_errors() -> None:
    """Both rows enter with 1, so each gets half of the 8 examples; 1.5**0.5 and 2**0.5 are their leaves after it."""
    start = agent(hyper(priority_alpha=0.5), sampler=PRIORITIZED).init(KEY)
    assert leaves(start, 3).tolist() == [1.0, 1.0, 1.0]
    state, metrics = update(sampler=PRIORITIZED)(start, TWO_ERRORS, NOISE, clock())
    assert metrics["loss"] == pytest.approx((1.5**2 + 2.0**2) / 2)
    np.testing.assert_allclose(leaves(state, 4), [(1.5 + 1e-6) ** 0.5, (2.0 + 1e-6) ** 0.5, 0.0, 0.0], rtol=1e-6)
    assert float(state.priorities.highest) == pytest.approx(math.sqrt(2.0))


def test_an_agent_without_priorities_carries_none() -> None:
    state = agent().init(KEY)
    assert state.priorities == ()
    after, _ = update()(state, ONE_STEP, NOISE, clock())
    assert after.priorities == ()


@pytest.mark.parametrize("error", ["mse", "huber"])
@pytest.mark.parametrize(("rows", "beta"), [(0, 0.4), (5, 0.7), (10, 1.0), (99, 1.0)])
def test_importance_weights_count_once_and_beta_rises_to_one(error: str, rows: int, beta: float) -> None:
    """Leaves 3 and 1 of 4: 6 of the 8 parts of the mass lie on the first row, whose weight is (3/4 / 1/4)**-beta.

    Beta starts at 0.4 and needs 100 steps, which are 10 rows of 10 envs.
    """
    numbers = hyper(priority_alpha=1.0, priority_beta=0.4, priority_beta_steps=100.0)
    structure: dict[str, Any] = {"choosing": Choosing(2, num_envs=10), "sampler": PRIORITIZED}
    learner = agent(numbers, error, **structure)
    tree = priority.put(priority.full(3, 1), jnp.arange(3), jnp.array([3.0, 1.0, 0.0]))
    # The second update of a cycle takes the priorities as they are.
    state = learner.init(KEY)._replace(priorities=tree._replace(seen=TWO_ERRORS.written))
    state, metrics = update(error, **structure)(state, TWO_ERRORS, NOISE, clock(rows, updates=1))
    counts = np.array([6 * 3.0**-beta, 2.0]) / 8
    losses, slopes = ([2.25, 4.0], [-3.0, -4.0]) if error == "mse" else ([1.0, 1.5], [-1.0, -1.0])
    assert metrics["loss"] == pytest.approx(float(counts @ losses), rel=1e-5)
    np.testing.assert_allclose(state.optimizer.mu, 0.1 * counts * slopes, rtol=1e-5)
    # The weight is no part of the priority.
    np.testing.assert_allclose(leaves(state, 3), [1.5, 2.0, 0.0], rtol=1e-5)


def block_of(*rows: tuple[int, float]) -> Step:
    """(action, reward) rows of one member and env, in which nothing ends."""
    action, reward = (jnp.array(column).reshape(-1, 1, 1) for column in zip(*rows, strict=True))
    nothing = jnp.zeros(action.shape, bool)
    return Step(jnp.zeros((*action.shape, 1)), action.astype(jnp.int32), reward.astype(jnp.float32), nothing, nothing)


def learn(learner: Agent, rhythm: Rhythm, agents: Any, tape: Tape, now: Clock, block: Step, noise: Any) -> Any:
    """What a loop does once its rows are collected."""
    tape = write(tape, block)
    agents, now, _, _ = improve(learner, rhythm, agents, tape, now, noise)
    return agents, tape, now


def test_rows_enter_at_the_highest_priority_at_the_first_update_of_a_cycle_alone() -> None:
    """Three rows a cycle, two updates of one example, and nothing is learned, so errors stay 2 and 1.5 for ever."""
    still = hyper(learning_rate_start=0.0, learning_rate_end=0.0, priority_alpha=1.0)
    learner = agent(still, batch_size=1, sampler=prioritized(6, 1, 3))
    rhythm = Rhythm(rows=3, updates=2, warmup_rows=2)
    agents = jax.tree.map(lambda leaf: leaf[None], learner.init(KEY))
    cycle = jax.jit(functools.partial(learn, learner, rhythm))
    tape = empty(6, 1, 1, jax.ShapeDtypeStruct((1,), jnp.float32))
    first, last = jnp.zeros((2, 1, 1), jnp.uint32), jnp.full((2, 1, 1), 2**32 - 1, jnp.uint32)

    # The last row with mass is drawn twice: row 1, whose error is 1.5. Row 0 enters with 1 and is not raised to 1.5
    # by the second update; row 2 waits for its successor.
    block = block_of((1, 4.5), (0, 1.0), (0, 1.0))
    agents, tape, now = cycle(agents, tape, clock(), block, last)
    np.testing.assert_allclose(leaves(agents, 6)[0], [1, 1.5, 0, 1, 1, 1], rtol=1e-5)
    # Rows 2 to 4 enter with 1.5, row 5 waits. The first row is drawn twice, and its error of 2 is the highest now:
    # the second update raises none of the others to it.
    block = block_of((0, 1.0), (1, 4.5), (0, 1.0))
    agents, tape, now = cycle(agents, tape, now, block, first)
    np.testing.assert_allclose(leaves(agents, 6)[0], [2, 1.5, 1.5, 1.5, 1.5, 0], rtol=1e-5)
    # Rows 0 to 2 are overwritten; row 5, which waited, and rows 0 and 1 enter with 2. The last with mass is row 5.
    agents, tape, now = cycle(agents, tape, now, block, last)
    np.testing.assert_allclose(leaves(agents, 6)[0], [2, 2, 0, 1.5, 1.5, 1.5], rtol=1e-5)
    assert (int(now.rows), int(now.updates)) == (9, 6)


def test_learning_copies_neither_the_tape_nor_the_priorities() -> None:
    """What an update costs must not grow with the memory: the program may hold them and write into them, no more."""
    capacity, members = 79_190, 4
    network = mlp(Design((4,), 2, (8,), layer_norm=False))
    structure = STRUCTURE._replace(
        choosing=Choosing(2, num_envs=2), window=transitions(3), sampler=prioritized(capacity, 2, 2)
    )
    learner = replay_agent(
        network, lambda own: dqn_loss(network, Rule(True, "huber")), hyper(priority_alpha=0.6), structure
    )
    keys = jax.ShapeDtypeStruct((members,), KEY.dtype)
    agents = jax.eval_shape(jax.vmap(learner.init), keys)
    tape = jax.eval_shape(lambda: empty(capacity, members, 2, jax.ShapeDtypeStruct((4,), jnp.float32)))
    flags, noise = np.zeros((2, members, 2), bool), jnp.zeros((2, members, learner.update_words), jnp.uint32)
    shown = np.zeros((2, members, 2, 4), np.float32)
    block = Step(shown, flags.astype(np.int32), flags.astype(np.float32), flags, flags)

    def cycles(agents: LearnerState, tape: Tape, now: Clock) -> Any:
        """Several, as in a chunk: what goes round must not be copied either."""

        def cycle(carry: Any, _: None) -> Any:
            return learn(learner, Rhythm(2, 2, 8), *carry, block, noise), None

        return jax.lax.scan(cycle, (agents, tape, now), length=3)

    program = jax.jit(cycles, donate_argnums=(0, 1)).lower(agents, tape, clock()).compile().as_text()
    made = re.findall(r"= \w+\[([\d,]+)\]\S* ([\w-]+)\(", program)
    large = {operation for shape, operation in made if math.prod(map(int, shape.split(","))) >= capacity}
    assert large >= {"parameter", "dynamic-update-slice"}
    # A fusion of this shape is looked into: its root is among the rest of the findings.
    assert large <= {"parameter", "get-tuple-element", "bitcast", "fusion", "dynamic-update-slice", "call", "scatter"}


def marked(params: Params, noise: Words) -> Params:
    """Parameters that show the words which they were perturbed with."""
    return params + uniform(noise)


MARKED = TABLE._replace(perturb=marked, words=2)


def shows_noise(params: Params, target: Params, batch: Batch, noise: Words) -> Any:
    """A loss without a gradient, whose metrics are all the noise that reached it."""
    seen = {"online": params, "target": target, "example": uniform(noise)}
    metrics = {f"{name}_{i}": jax.lax.stop_gradient(x[i]) for name, x in seen.items() for i in range(2)}
    one, two = uniform(noise)
    return 0.0 * params[0], jnp.abs(params[0]), metrics | {"product": one * two}


def test_each_network_and_each_example_has_words_of_its_own() -> None:
    """Words: 8 to draw the batch, 2 for the online and 2 for the target network, then 2 for each of 8 examples."""
    learner = replay_agent(MARKED, lambda own: Loss(shows_noise, words=2), hyper(), STRUCTURE)
    assert learner.update_words == 8 + 2 + 2 + 8 * 2
    assert learner.act_words == 2 + 2
    noise = jax.random.bits(jax.random.key(1), (learner.update_words,), jnp.uint32)
    state, metrics = jax.jit(learner.update)(learner.init(KEY), ONE_STEP, noise, clock())
    u = np.asarray(uniform(noise))
    np.testing.assert_allclose([metrics["online_0"], metrics["online_1"]], np.array([2.0, 5.0]) + u[8:10], rtol=1e-6)
    np.testing.assert_allclose([metrics["target_0"], metrics["target_1"]], np.array([2.0, 5.0]) + u[10:12], rtol=1e-6)
    examples = u[12:].reshape(8, 2)
    np.testing.assert_allclose([metrics["example_0"], metrics["example_1"]], examples.mean(axis=0), rtol=1e-5)
    # The mean of the products is that of the pairs, so no word was seen by two examples.
    assert metrics["product"] == pytest.approx(float(np.mean(examples[:, 0] * examples[:, 1])), rel=1e-5)
    # The noise is in what the loss sees, never in what is kept.
    np.testing.assert_array_equal(state.params, [2.0, 5.0])
    np.testing.assert_array_equal(state.target_params, [2.0, 5.0])


def test_without_noise_no_word_is_asked_for() -> None:
    assert (agent().update_words, agent().act_words) == (8, 2)
    words_of_its_own = replay_agent(TABLE, lambda own: Loss(shows_noise, words=5), hyper(), STRUCTURE)
    assert (words_of_its_own.update_words, words_of_its_own.act_words) == (8 + 8 * 5, 2)


def test_training_acts_with_noise_and_play_without() -> None:
    """A word of noise is added to each value: 2 + 0.9 and 5 + 0 stay in order; scaled by 10 they do not."""
    loud = MARKED._replace(perturb=lambda params, noise: params + 10.0 * uniform(noise))
    learner = replay_agent(
        loud, lambda own: Loss(shows_noise, words=2), hyper(exploration=Exploration(0.0, 0.0, 1.0)), STRUCTURE
    )
    state = learner.init(KEY)
    observation, high = jnp.zeros(1), 2**32 - 1
    for first, second, greedy in ((0, 0, 1), (high, 0, 0), (0, high, 1), (high, high, 1)):
        noise = jnp.array([high, high, first, second], jnp.uint32)
        assert int(learner.act(state, observation, (), noise, clock(), ENV)[0]) == greedy
    assert best(learner, state.params, observation) == 1


def test_a_noisy_network_explores_in_training_only_and_learns_its_spread() -> None:
    network = noisy(mlp(Design((1,), 2, (8,), layer_norm=False)))
    numbers = hyper(exploration=Exploration(0.0, 0.0, 1.0))
    learner = replay_agent(network, lambda own: dqn_loss(network, Rule(True, "mse")), numbers, STRUCTURE)
    # A hidden layer of 1 + 8 words and a head of 8 + 2, for each of the two networks.
    assert (learner.update_words, learner.act_words) == (8 + 2 * 19, 2 + 19)
    state = jax.jit(learner.init)(KEY)
    words = jax.random.bits(jax.random.key(1), (200, learner.act_words), jnp.uint32)
    act = jax.jit(jax.vmap(learner.act, in_axes=(None, None, None, 0, None, None)))
    actions = np.asarray(act(state, jnp.ones(1), (), words, clock(), ENV)[0])
    greedy = best(learner, state.params, jnp.ones(1))
    assert greedy == int(jnp.argmax(state.params.mean(jnp.ones(1))))
    assert 0 < (actions != greedy).sum() < 200
    noise = jax.random.bits(jax.random.key(2), (learner.update_words,), jnp.uint32)
    after, _ = jax.jit(learner.update)(state, ONE_STEP, noise, clock())
    assert not np.array_equal(after.params.spread.head.weight, state.params.spread.head.weight)
    assert not np.array_equal(after.params.mean.head.weight, state.params.mean.head.weight)
    # The target network has spreads too, and goes where the online ones went (tau is 1).
    np.testing.assert_array_equal(after.target_params.spread.head.weight, after.params.spread.head.weight)


def test_both_networks_have_the_same_statistics_of_observations() -> None:
    """However seldom and however slowly the weights are synced."""
    network = mlp(Design((1,), 2, (4,), layer_norm=False, normalized=True))
    structure = STRUCTURE._replace(target_sync_updates=100)
    learner = replay_agent(
        network, lambda own: dqn_loss(network, Rule(False, "mse")), hyper(target_tau=0.01), structure
    )
    tape = tape_of(*[(0, 1.0, False, False)] * 6)
    tape = one_member(tape)
    state = jax.jit(learner.init)(KEY)
    noise = jax.random.bits(jax.random.key(1), (learner.update_words,), jnp.uint32)
    learned = jax.jit(learner.update)
    for i in range(3):
        state, _ = learned(state, tape, noise, Clock(jnp.int32(10 + i), jnp.int32(i)))
    ours, target = state.params.inputs.statistics, state.target_params.inputs.statistics
    assert float(ours.count) == 3 * structure.batch_size
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, target)
    assert not np.array_equal(state.params.head.weight, state.target_params.head.weight)


def test_metrics_are_of_rows_that_start_a_transition() -> None:
    """Q is 2 for action 0 and 5 for action 1; the rows with action 1 are final observations."""
    learner = agent(hyper(learning_rate_start=0.0, learning_rate_end=0.0))
    tape = tape_of((0, 1.0, True, False), (1, 0.0, False, True), (0, 1.0, True, False), (1, 0.0, False, True))
    words = jax.random.bits(jax.random.key(3), (learner.update_words,), jnp.uint32)
    _, metrics = update()(learner.init(KEY), one_member(tape), words, clock(4))
    assert float(metrics["q_mean"]) == pytest.approx(2.0)
