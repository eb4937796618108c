"""The tutorial's agent: a replay equals a literal NumPy transcription; its memory, order and schedule are right."""

import functools
import itertools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdojo.agents.tutorial import TutorialState, capacity_rows, distinct, memories, tutorial_agent
from qdojo.envs.native.cartpole import CARTPOLE
from qdojo.loops.device import DeviceLoop
from qdojo.loops.learning import Rhythm
from qdojo.networks.inputs import Design
from qdojo.networks.mlp import MLP, mlp
from qdojo.tape import ring
from qdojo.tape.ring import READERS, Tape
from qdojo.types import Agent, Clock, Step

NETWORK = mlp(Design((4,), 2, (24, 24), layer_norm=False))
CLOCK = Clock(jnp.int32(0), jnp.int32(0))
OBSERVATION = jax.ShapeDtypeStruct((4,), jnp.float32)
TUTORIAL = tutorial_agent(NETWORK, 2)
SMALL = tutorial_agent(NETWORK, 2, batch_size=4, memory_steps=16)
Row = tuple[np.ndarray, int, float, bool, bool]
write = jax.jit(ring.write)
recalled = jax.jit(memories, static_argnums=(2, 3))


def episodes(lengths: list[int], ends: str = "terminated", seed: int = 0) -> list[Row]:
    """Rows (observation, action, reward, terminated, last) of whole episodes of the given lengths."""
    draw, rows = np.random.default_rng(seed), []
    for length in lengths:
        for step in range(length):
            terminated = ends == "terminated" and step == length - 1
            observation = draw.normal(size=4).astype(np.float32)
            rows.append((observation, int(draw.integers(2)), float(draw.normal()), terminated, False))
        rows.append((draw.normal(size=4).astype(np.float32), 0, 0.0, False, True))
    return rows


def block(members: list[Row]) -> Step:
    observation, action, reward, terminated, last = zip(*members, strict=True)
    kinds = (jnp.float32, jnp.int32, jnp.float32, bool, bool)
    fields = (np.stack(observation), action, reward, terminated, last)
    return Step(*(jnp.asarray(np.asarray(f)[None, :, None], k) for f, k in zip(fields, kinds, strict=True)))


def tape_of(*members: list[Row], capacity: int) -> Tape:
    tape = ring.empty(capacity, len(members), 1, OBSERVATION)
    for rows in zip(*members, strict=True):
        tape = write(tape, block(list(rows)))
    return tape


def seen_by(tape: Tape, member: int) -> Tape:
    return tape._replace(member=jnp.int32(member))


@functools.cache
def jitted_update(agent: Agent) -> Any:
    return jax.jit(agent.update)


def words(count: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(2**32, size=count, dtype=np.uint32))


@functools.cache
def new(agent: Agent) -> TutorialState:
    return jax.jit(agent.init)(jax.random.key(0))


def transitions(rows: list[Row]) -> list[tuple[np.ndarray, int, float, np.ndarray, bool]]:
    """What the tutorial would have remembered: (state, action, reward, next_state, done)."""
    return [(row[0], row[1], row[2], after[0], after[4]) for row, after in itertools.pairwise(rows) if not row[4]]


# The tutorial in NumPy, line by line. ---------------------------------------------------------------------------------


def predict(weights: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    w1, b1, w2, b2, w3, b3 = weights
    h1 = np.maximum(x @ w1 + b1, 0)
    h2 = np.maximum(h1 @ w2 + b2, 0)
    return h2 @ w3 + b3


def fit(weights: list[np.ndarray], x: np.ndarray, y: np.ndarray, adam: dict[str, Any]) -> list[np.ndarray]:
    """`model.fit(x, y, batch_size=1, epochs=1)` with loss="mse" and optimizer=Adam(0.001)."""
    w1, b1, w2, b2, w3, b3 = weights
    z1 = x @ w1 + b1
    h1 = np.maximum(z1, 0)
    z2 = h1 @ w2 + b2
    h2 = np.maximum(z2, 0)
    output = h2 @ w3 + b3
    d_output = 2 * (output - y) / output.size  # the mean over the outputs
    d_z2 = (d_output @ w3.T) * (z2 > 0)
    d_z1 = (d_z2 @ w2.T) * (z1 > 0)
    gradients = [x.T @ d_z1, d_z1[0], h1.T @ d_z2, d_z2[0], h2.T @ d_output, d_output[0]]

    adam["t"] += 1
    alpha = 0.001 * np.sqrt(1 - 0.999 ** adam["t"]) / (1 - 0.9 ** adam["t"])
    new = []
    for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        adam["m"][i] = 0.9 * adam["m"][i] + 0.1 * gradient
        adam["v"][i] = 0.999 * adam["v"][i] + 0.001 * gradient**2
        new.append(weight - alpha * adam["m"][i] / (np.sqrt(adam["v"][i]) + 1e-7))
    return new


def replay(weights: list[np.ndarray], minibatch: list[Any], adam: dict[str, Any]) -> list[np.ndarray]:
    for state, action, reward, next_state, done in minibatch:
        target = reward
        if not done:
            target = reward + 0.95 * np.amax(predict(weights, next_state[None])[0])
        target_f = predict(weights, state[None])
        target_f[0][action] = target
        weights = fit(weights, state[None].astype(np.float64), target_f, adam)
    return weights


def leaves(params: MLP) -> list[np.ndarray]:
    linears = (*(layer.linear for layer in params.hidden), params.head)
    return [np.asarray(leaf, np.float64) for linear in linears for leaf in (linear.weight.T, linear.bias)]


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
def test_two_replays_equal_the_tutorial(ends: str) -> None:
    agent = TUTORIAL
    rows = episodes([9, 14, 12, 16], ends)
    tape = seen_by(tape_of(rows, capacity=64), 0)
    state = new(agent)
    weights = leaves(state.params)
    adam: dict[str, Any] = {"t": 0, "m": [np.zeros_like(w) for w in weights], "v": [np.zeros_like(w) for w in weights]}
    memory = transitions(rows)
    assert sum(done for *_, done in memory) == 4

    update = jitted_update(agent)
    for turn in range(2):  # the second with the moments of the first
        chosen = recalled(tape, words(32, turn), 2000, 0.95)
        minibatch = [next(m for m in memory if np.array_equal(m[0], x)) for x in np.asarray(chosen.obs_tm1)]
        assert any(done for *_, done in minibatch)
        weights = replay(weights, minibatch, adam)
        state, _ = update(state, tape, words(32, turn), CLOCK)
        for found, expected in zip(leaves(state.params), weights, strict=True):
            np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-6)
    assert int(state.adam.updates) == adam["t"] == 64


def test_adam_is_keras_own() -> None:
    from qdojo.agents.tutorial import Adam, adam_step
    from qdojo.networks.keras import import_keras, keras_settings

    keras = import_keras()
    gradients = [np.float32([[1e-6, -2.0], [0.3, 0.0]]), np.float32([[1e-3, 5.0], [-0.3, 1e-8]])]
    params = jnp.float32([[0.1, 0.2], [0.3, 0.4]])
    adam = Adam(jnp.zeros((2, 2)), jnp.zeros((2, 2)), jnp.int32(0))
    with keras_settings():
        optimizer, variable = keras.optimizers.Adam(0.001), keras.Variable(params)
        for gradient in gradients:
            optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    for gradient in gradients:
        params, adam = adam_step(params, adam, jnp.asarray(gradient), 0.001)
    np.testing.assert_allclose(params, variable.value, rtol=1e-6)


# When it replays. -----------------------------------------------------------------------------------------------------


def play(agent: Agent, rows: list[Row], capacity: int, state: TutorialState) -> list[TutorialState]:
    """The state after each row."""
    tape, states = ring.empty(capacity, 1, 1, OBSERVATION), []
    update = jitted_update(agent)
    for i, row in enumerate(rows):
        tape = write(tape, block([row]))
        state, _ = update(state, seen_by(tape, 0), words(agent.update_words, i), CLOCK)
        states.append(state)
    return states


def replays(states: list[TutorialState]) -> list[int]:
    """How many replays of 4 samples there were after each row."""
    return [int(state.adam.updates) // 4 for state in states]


def test_replays_at_the_end_of_an_episode_once_enough_is_held() -> None:
    agent = SMALL
    rows = episodes([3, 1, 2, 5])  # held at their ends: 3, 4, 6, 11
    states = play(agent, rows, capacity_rows(16), new(agent))
    assert replays(states) == [0] * 4 + [0, 1] + [1, 1, 2] + [2] * 5 + [3]
    epsilon = [float(state.epsilon) for state in states]
    assert epsilon == pytest.approx([0.995**n for n in replays(states)])
    assert [int(state.episodes) for state in states] == [0] * 3 + [1] * 2 + [2] * 3 + [3] * 6 + [4]


def test_the_tutorials_32() -> None:
    agent = TUTORIAL
    fresh = new(agent)
    for steps, fits in ((31, 0), (32, 32)):
        tape = seen_by(tape_of(episodes([steps]), capacity=64), 0)
        state, metrics = jitted_update(agent)(fresh, tape, words(32), CLOCK)
        assert int(state.adam.updates) == fits
        assert float(state.epsilon) == pytest.approx(0.995 ** (fits // 32))
        assert (float(metrics["loss"]) > 0) == (fits > 0)


@pytest.mark.parametrize(("lengths", "fits"), [((10, 21), 0), ((10, 22), 32)])
def test_episodes_that_end_in_the_warm_up_are_no_steps(lengths: tuple[int, int], fits: int) -> None:
    """Updates begin at row 32, as the loops begin, and the second episode ends at row 33 or 34: of 31 steps no 32 can
    be drawn, and of 32 every one is."""
    rows = episodes(list(lengths))
    tape, state = seen_by(tape_of(rows[:31], capacity=64), 0), new(TUTORIAL)
    for row in rows[31:]:
        tape = seen_by(write(tape._replace(member=jnp.arange(1)), block([row])), 0)
        state, _ = jitted_update(TUTORIAL)(state, tape, words(32), CLOCK)
    assert int(state.adam.updates) == fits


def test_exploration_stops_falling_at_the_minimum() -> None:
    agent = tutorial_agent(NETWORK, 2, batch_size=4, memory_steps=16, epsilon_decay=0.1)
    states = play(agent, episodes([4] * 4), capacity_rows(16), new(agent))
    # Like the tutorial's: multiplied while it is above 0.01, so float32's 0.01 may still be.
    at_ends = [float(state.epsilon) for state in states[4::5]]
    assert at_ends[:2] == pytest.approx([0.1, 0.01])
    assert at_ends[3] == at_ends[2] <= 0.0100001
    assert float(agent.exploration(states[-1], CLOCK)) == at_ends[3]


def test_the_original_falls_just_below_its_minimum() -> None:
    epsilon, count = 1.0, 0
    while epsilon > 0.01:
        epsilon, count = epsilon * 0.995, count + 1
    agent = SMALL
    state = new(agent)._replace(epsilon=jnp.float32(0.995 ** (count - 1)))
    states = play(agent, episodes([4] * 3), capacity_rows(16), state)
    assert float(states[-1].epsilon) == pytest.approx(epsilon, rel=1e-5)
    assert epsilon < 0.01


def test_learns_no_more_after_the_last_episode() -> None:
    agent = tutorial_agent(NETWORK, 2, batch_size=4, memory_steps=16, max_episodes=2)
    states = play(agent, episodes([4] * 4), capacity_rows(16), new(agent))
    assert replays(states)[4::5] == [1, 2, 2, 2]
    assert int(states[-1].episodes) == 4


def test_starts_from_given_weights_and_hardly_explores() -> None:
    params = NETWORK.init(jax.random.key(9))
    agent = tutorial_agent(NETWORK, 2, initial_params=params)
    states = jax.jit(jax.vmap(agent.init))(jax.vmap(jax.random.key)(jnp.arange(2, dtype=jnp.uint32)))
    np.testing.assert_allclose(states.epsilon, [0.01, 0.01])
    jax.tree.map(lambda all_, one: np.testing.assert_array_equal(all_[1], one), states.params, params)


# What it remembers. ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_memory_is_the_last_true_steps(seed: int) -> None:
    lengths = [int(n) for n in np.random.default_rng(seed).integers(1, 7, size=30)]
    lengths += [1] * (12 if seed == 0 else 0)  # the hardest for the capacity: every other row starts no transition
    rows = episodes(lengths, seed=seed)
    tape = seen_by(tape_of(rows, capacity=capacity_rows(12)), 0)
    held = transitions(rows)[-12:]

    everything = recalled(tape, words(12), 12, 0.95)
    found = {float(x[0]): i for i, x in enumerate(np.asarray(everything.obs_tm1))}
    assert set(found) == {float(state[0]) for state, *_ in held}
    for state, action, reward, next_state, done in held:
        i = found[float(state[0])]
        assert int(everything.action_tm1[i]) == action
        assert float(everything.reward_t[i]) == pytest.approx(reward)
        assert float(everything.discount_t[i]) == pytest.approx(0.0 if done else 0.95)
        np.testing.assert_array_equal(everything.obs_t[i], next_state)
    np.testing.assert_array_equal(everything.weight, np.ones(12))


def test_draws_are_distinct_uniform_and_in_random_order() -> None:
    noise = jax.random.bits(jax.random.key(0), (60_000, 3), jnp.uint32)
    drawn = np.asarray(jax.jit(jax.vmap(distinct, in_axes=(0, None)))(noise, jnp.int32(5)))
    assert drawn.min() == 0
    assert drawn.max() == 4
    _, counts = np.unique(drawn @ np.array([25, 5, 1]), return_counts=True)
    assert len(counts) == 5 * 4 * 3  # every ordered choice without repetition, and no other
    np.testing.assert_allclose(counts / 1000, 1.0, atol=0.15)


def test_draws_may_be_all_there_is() -> None:
    drawn = distinct(words(32), jnp.int32(32))
    assert sorted(np.asarray(drawn).tolist()) == list(range(32))


# A population, and a loop. --------------------------------------------------------------------------------------------


def test_a_population_equals_its_members_alone() -> None:
    agent = SMALL
    # Rows of the same length in time, with ends in different places: at 6, at 4, and never.
    members = [episodes([5, 9], seed=1)[:12], episodes([3, 7], seed=2), episodes([20], seed=3)[:12]]
    keys = jax.vmap(jax.random.key)(jnp.arange(3, dtype=jnp.uint32))
    start = together = jax.jit(jax.vmap(agent.init))(keys)
    tape = ring.empty(capacity_rows(16), 3, 1, OBSERVATION)
    update = jax.jit(jax.vmap(agent.update, in_axes=(0, READERS, 0, None)))
    for i, rows in enumerate(zip(*members, strict=True)):
        tape = write(tape, block(list(rows)))
        noise = jnp.stack([words(4, i)] * 3)
        together, _ = update(together, tape, noise, CLOCK)
    for k in range(3):
        one = jax.tree.map(lambda leaf, k=k: leaf[k], start)
        alone = play(agent, members[k], capacity_rows(16), one)[-1]
        here = jax.tree.map(lambda leaf, k=k: leaf[k], together)
        assert int(here.adam.updates) == [4, 4, 0][k]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), here, alone)


def test_learns_on_cartpole_with_a_keras_network() -> None:
    from qdojo.networks.keras import keras_network, tutorial_network

    network = keras_network(tutorial_network((4,), 2), (4,), 2)
    agent = tutorial_agent(network, 2)
    loop = DeviceLoop(
        CARTPOLE, agent, Rhythm(1, 1, 0), seed=0, members=1, envs=1, capacity_rows=capacity_rows(2000), cycles=20_000
    )
    _, first = next(steps := loop.run(loop.init()))
    _, second = next(steps)
    scores = [episode.score for episode in first.episodes + second.episodes]
    assert np.mean(scores[:20]) < 40  # random play makes about 22
    assert np.mean(scores[-20:]) > 80
    assert np.all(np.isfinite(second.metrics["loss"]))
    assert np.all(second.metrics["epsilon"] < 0.4)


def test_what_is_not_trained_does_not_move() -> None:
    class Frozen(NamedTuple):
        inner: Any
        scale: Any

    network = NETWORK._replace(
        init=lambda key: Frozen(NETWORK.init(key), jnp.float32(3.0)),
        apply=lambda params, observation: params.scale * NETWORK.apply(params.inner, observation),
        partition=lambda params: eqx.partition(params, Frozen(True, False)),
    )
    agent = tutorial_agent(network, 2, batch_size=4, memory_steps=16)
    states = play(agent, episodes([4]), capacity_rows(16), new(agent))
    assert replays(states)[-1] == 1
    assert float(states[-1].params.scale) == 3.0
