"""The loss on sequences against numbers worked out by hand, and against what the agent does when it acts."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from probes.weights import drawn, weights, words

from qdojo.agents.categorical import c51_loss
from qdojo.agents.dqn import Rule, dqn_loss
from qdojo.agents.explore import actor_of
from qdojo.agents.learner import Loss
from qdojo.agents.quantile import fqf_loss, iqn_loss
from qdojo.agents.recurrent import Target, reading, recurrent_loss, unrolled
from qdojo.bellman.targets import Munchausen, rescaled, unrescaled
from qdojo.networks.implicit import implicit
from qdojo.networks.inputs import Design, legal_only
from qdojo.networks.mlp import mlp
from qdojo.networks.network import Network
from qdojo.networks.noisy import noisy
from qdojo.networks.recurrent import head_design, recurrent
from qdojo.observations import in_place, plain
from qdojo.types import Batch, Masked, Observation, Sequence

pytestmark = pytest.mark.usefixtures("strict_promotion")

NO_NOISE = np.zeros(0, np.uint32)
DESIGN = Design(observation_shape=(3,), num_actions=2, hidden=(6, 4), layer_norm=False)
Cell = Literal["gru", "lstm"]
BOTH = pytest.mark.parametrize("cell", ["gru", "lstm"])
PLAIN = Rule(double=False, error="mse")


def add(weight: Array, observation: Observation, memory: Array) -> tuple[Observation, Array]:
    total = plain(observation) + memory
    return in_place(observation, total), total


ADDING = Network(
    init=lambda key: jnp.ones(2),
    apply=lambda weight, total: weight * total,
    features=add,
    memory=lambda: jnp.zeros(()),
)
"""Q(a) = w_a * (sum of what was seen in the episode): all by hand."""


def with_q(design: Design, cell: Cell) -> Network:
    """A network of plain Q-values."""
    return recurrent(design, cell, mlp(head_design(design, implicit=False)))


def q_loss(network: Network, rule: Rule, burn_in: int, stored_state: bool, length: int = 2) -> Loss:
    """The DQN loss on sequences."""
    return recurrent_loss(dqn_loss(reading(network), rule), network, length, burn_in, stored_state)


def found(rule: Rule, sequence: Sequence, stored_state: bool = True, of: Network | None = None) -> list[float]:
    """Value, priority and mean Q-value by the loss on sequences with one row to burn in, compiled."""
    value, priority, metrics = by_hand(rule, stored_state, of or ADDING)(ONLINE, TARGET, sequence, NO_NOISE)
    return [float(value), float(priority), float(metrics["q_mean"])]


@functools.cache
def by_hand(rule: Rule, stored_state: bool, network: Network) -> Any:
    return jax.jit(q_loss(network, rule, 1, stored_state).of)


def members(network: Network) -> tuple[Any, Any]:
    """Parameters, and those of a target network."""
    return weights(network, 0), weights(network, 1)


def without_memory(network: Network) -> Network:
    """The same parameters, as they are in an episode of one observation."""

    def alone(function: Any) -> Any:
        return lambda params, x, *rest: function(params, network.features(params, x, network.memory())[0], *rest)

    return Network(network.init, alone(network.apply), network.proposal and alone(network.proposal))


def hand_made(**changed: Any) -> Sequence:
    """One row to burn in and two learned transitions of one step; 2 was carried into the first row.

    The memory makes of 1, 3, -2, 5 the sums 3, 6, 4, 9; without what was carried 1, 4, 2, 7.
    """
    sequence = Sequence(
        obs_tm1=np.float32([1.0, 3.0, -2.0, 5.0]),
        last=np.zeros(4, bool),
        memory=np.float32(2.0),
        action_tm1=np.int32([0, 1]),
        reward_t=np.float32([10.0, 20.0]),
        discount_t=np.float32([0.5, 0.5]),
        after_t=np.int32([2, 3]),
        starts=np.array([True, True]),
        weight=np.float32(1.0),
    )
    return sequence._replace(**changed)


ONLINE, TARGET = np.float32([1.0, 2.0]), np.float32([3.0, -1.0])


@pytest.mark.parametrize(
    ("stored_state", "double", "errors"),
    [
        # Q = 6 * 1 and 4 * 2; targets 10 + (4 * 3) / 2 and 20 + (9 * 3) / 2
        (True, False, (16.0 - 6.0, 33.5 - 8.0)),
        # The online network prefers action 1: 10 + (4 * -1) / 2 and 20 + (9 * -1) / 2
        (True, True, (8.0 - 6.0, 15.5 - 8.0)),
        # Q = 4 * 1 and 2 * 2; targets 10 + (2 * 3) / 2 and 20 + (7 * 3) / 2
        (False, False, (13.0 - 4.0, 30.5 - 4.0)),
    ],
    ids=["stored", "double", "zero"],
)
def test_loss_by_hand(stored_state: bool, double: bool, errors: tuple[float, float]) -> None:
    rule, (first, second) = PLAIN._replace(double=double), errors
    value, priority, q_mean = found(rule, hand_made(), stored_state)
    assert value == pytest.approx((first**2 + second**2) / 2)
    assert priority == pytest.approx(0.9 * max(errors) + 0.1 * (first + second) / 2)
    assert q_mean == pytest.approx((6.0 + 8.0) / 2 if stored_state else (4.0 + 4.0) / 2)
    assert q_loss(ADDING, rule, 1, stored_state).words == 0


def test_rows_that_start_nothing_do_not_count() -> None:
    """The first transition alone, as if the second were not there; and none at all."""
    assert found(PLAIN, hand_made(starts=np.array([True, False]))) == pytest.approx([100.0, 10.0, 6.0])
    assert found(PLAIN, hand_made(starts=np.array([False, False]))) == [0.0, 0.0, 0.0]


def test_memory_begins_anew_after_last() -> None:
    """Row 1 is `last`, so row 2 begins with -2 and row 3 has 3: the second error is 20 + (3 * 3) / 2 - (-2 * 2)."""
    sequence = hand_made(last=np.array([False, True, False, False]), starts=np.array([False, True]))
    assert found(PLAIN, sequence)[0] == pytest.approx(28.5**2)


def test_the_value_after_several_steps_is_that_of_its_row() -> None:
    """Two steps from row 1: the value of row 3, 9 * 3, at a quarter."""
    sequence = hand_made(after_t=np.int32([3, 3]), discount_t=np.float32([0.25, 0.0]), starts=np.array([True, False]))
    assert found(PLAIN, sequence)[0] == pytest.approx((10.0 + 27.0 / 4 - 6.0) ** 2)


RESCALED = PLAIN._replace(rescaled=True)


def test_rescaled_targets() -> None:
    """h(10 + h^-1(12) / 2) - 6, with the larger value of row 2, 4 * 3."""
    expected = rescaled(10.0 + 0.5 * unrescaled(jnp.float32(12.0))) - 6.0
    _, priority, _ = found(RESCALED, hand_made(starts=np.array([True, False])))
    assert priority == pytest.approx(abs(float(expected)), rel=1e-5)


def test_rescaled_values_are_shown_as_returns() -> None:
    """6 * w_0 = h(8) = 2.008 and 4 * w_1 = h(15) = 3.015: the mean is that of 8 and 15, not h^-1 of the mean."""
    online = np.float32([2.008 / 6.0, 3.015 / 4.0])
    _, _, metrics = by_hand(RESCALED, True, ADDING)(online, TARGET, hand_made(), NO_NOISE)
    assert float(metrics["q_mean"]) == pytest.approx(11.5, rel=1e-5)


def one_transition(network: Network, seen: np.ndarray) -> tuple[Sequence, Batch]:
    """From the first of two observations, each of which begins an episode, to the second; in both forms."""
    sequence = Sequence(
        obs_tm1=seen,
        last=np.array([True, True]),
        memory=network.memory(),
        action_tm1=np.int32([1]),
        reward_t=np.float32([0.5]),
        discount_t=np.float32([0.9]),
        after_t=np.int32([1]),
        starts=np.array([True]),
        weight=np.float32(1.0),
    )
    batch = Batch(seen[0], np.int32(1), np.float32(0.5), np.float32(0.9), seen[1], np.float32(1.0))
    return sequence, batch


@BOTH
def test_unrolling_is_stepping(cell: Cell) -> None:
    """The same Q-values as acting row after row, with a new memory after each row that is `last`."""
    network = with_q(DESIGN._replace(dueling=True), cell)
    actor = actor_of(network)
    params, seen = weights(network), drawn(7, 3)
    last = np.array([False, False, True, True, False, False, False])
    start = jax.tree.map(lambda leaf: np.asarray(leaf) + np.float32(0.3), network.memory())

    @jax.jit
    def unroll(params: Any, last: Array, start: Any) -> tuple[Array, Any]:
        features, memory = unrolled(network, params, seen, last, start)
        return jax.vmap(network.apply, in_axes=(None, 0))(params, features), memory

    q, memory = unroll(params, last, start)
    values, carried = jax.jit(actor.values), start
    for row in range(7):
        expected, carried = values(params, seen[row], carried)
        np.testing.assert_allclose(q[row], expected, atol=1e-6)
        carried = actor.memory() if last[row] else carried
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), memory, carried)


def test_no_target_leans_on_an_illegal_action() -> None:
    """Row 1 leads to row 2, where action 0 alone is legal and has 4 * -1, though 4 * 3 would be more; in its own row
    action 1 was taken, which is worth 2 * 6."""
    mask = np.array([[True, True], [True, True], [True, False], [True, True]])
    sequence = hand_made(starts=np.array([True, False]), action_tm1=np.int32([1, 0]))
    sequence = sequence._replace(obs_tm1=Masked(sequence.obs_tm1, mask))
    network = ADDING._replace(apply=lambda weight, total: legal_only(weight * plain(total), total))
    target = np.float32([-1.0, 3.0])
    for double in (False, True):
        value, _, _ = by_hand(PLAIN._replace(double=double), True, network)(ONLINE, target, sequence, NO_NOISE)
        assert float(value) == pytest.approx((10.0 + 0.5 * 4.0 * -1.0 - 2.0 * 6.0) ** 2)


def test_each_network_reads_features_of_its_own() -> None:
    q = reading(ADDING)
    both = np.float32([5.0, 7.0])
    np.testing.assert_array_equal(q.apply(ONLINE, both), 5.0 * ONLINE)
    np.testing.assert_array_equal(q.apply(Target(TARGET), both), 7.0 * TARGET)


SUPPORT = jnp.linspace(-3.0, 3.0, 4)
MUNCHAUSEN = Munchausen(0.9, 0.3, -1.0)


@pytest.mark.parametrize("name", ["dqn", "c51", "iqn", "fqf"])
def test_any_loss_on_an_episode_of_one_observation_is_what_it_is_without_a_memory(name: str) -> None:
    """A network with an empty memory in each row, and the same layers as one without a memory."""
    inner = head_design(DESIGN, implicit=name in ("iqn", "fqf"))
    if name in ("iqn", "fqf"):
        head = implicit(inner, 3 if name == "fqf" else None)
    else:
        head = mlp(inner, None if name == "dqn" else 4)
    network = recurrent(DESIGN, "gru", head)
    params, target = members(network)
    seen = drawn(2, 3)

    def losses(network: Network) -> Loss:
        if name == "dqn":
            return dqn_loss(network, Rule(double=True, error="huber", munchausen=MUNCHAUSEN))
        if name == "iqn":
            return iqn_loss(network, False, MUNCHAUSEN)
        return fqf_loss(network, True, None) if name == "fqf" else c51_loss(network, SUPPORT, True, None)

    sequence, batch = one_transition(network, seen)
    theirs = losses(without_memory(network))
    ours = recurrent_loss(losses(reading(network)), network, 1, 0, True)
    noise = words(ours.words)
    assert ours.words == theirs.words

    def slope(of: Any, example: Any) -> Any:
        """The loss, its gradient, the priority and the metrics."""

        def value(*at: Any) -> Any:
            value, *rest = of(*at)
            return value, rest

        return jax.jit(jax.value_and_grad(value, has_aux=True))(params, target, example, noise)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        slope(ours.of, sequence),
        slope(theirs.of, batch),
    )


def random_sequence(network: Network, seen: np.ndarray) -> Sequence:
    """Two rows of six burnt in, three learned."""
    return Sequence(
        obs_tm1=seen,
        last=np.zeros(6, bool),
        memory=network.memory(),
        action_tm1=np.int32([0, 1, 1]),
        reward_t=np.float32([1.0, -1.0, 2.0]),
        discount_t=np.full(3, 0.9, np.float32),
        after_t=np.int32([3, 4, 5]),
        starts=np.ones(3, bool),
        weight=np.float32(1.0),
    )


def test_no_gradient_goes_through_the_burn_in() -> None:
    """What is seen in the burn-in changes the loss; but parameters that only its rows use get no gradient, nor does
    the target network. A column of the first layer is used by one input, which only burnt-in rows show."""
    network = with_q(DESIGN, "gru")
    params, target = members(network)
    seen = drawn(6, 3)
    seen[2:, 0] = 0.0

    def slopes(burn_in: int, length: int) -> Any:
        loss = q_loss(network, PLAIN, burn_in, True, length)
        return jax.jit(jax.value_and_grad(lambda *at: loss.of(*at)[0], argnums=(0, 1)))

    burning, sequence = slopes(2, 3), random_sequence(network, seen)
    value, (slope, of_target) = burning(params, target, sequence, NO_NOISE)
    np.testing.assert_array_equal(slope.hidden[0].linear.weight[:, 0], np.zeros(6))
    assert np.abs(slope.hidden[0].linear.weight[:, 1:]).max() > 0.0
    assert np.abs(slope.cell.of_memory.weight).max() > 0.0
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(of_target))
    seen_otherwise = seen.copy()
    seen_otherwise[0] += 1.0
    otherwise = sequence._replace(obs_tm1=seen_otherwise)
    assert abs(float(burning(params, target, otherwise, NO_NOISE)[0] - value)) > 1e-4

    learned = sequence._replace(
        action_tm1=np.zeros(5, np.int32),
        reward_t=np.ones(5, np.float32),
        discount_t=np.full(5, 0.9, np.float32),
        after_t=1 + np.arange(5, dtype=np.int32),
        starts=np.ones(5, bool),
    )
    _, (slope, _) = slopes(0, 5)(params, target, learned, NO_NOISE)
    assert np.abs(slope.hidden[0].linear.weight[:, 0]).max() > 0.0


def test_the_stored_memory_changes_the_loss_and_an_empty_start_does_not_see_it() -> None:
    network = with_q(DESIGN, "lstm")
    params, target = members(network)
    sequence = random_sequence(network, drawn(6, 3))
    other = sequence._replace(memory=jax.tree.map(lambda leaf: np.asarray(leaf) + np.float32(1.0), sequence.memory))
    of = {stored: jax.jit(q_loss(network, PLAIN, 2, stored, length=3).of) for stored in (False, True)}

    def value(stored_state: bool, sequence: Sequence) -> float:
        return float(of[stored_state](params, target, sequence, NO_NOISE)[0])

    assert value(False, sequence) == value(False, other) == value(True, sequence)
    assert abs(value(True, other) - value(True, sequence)) > 1e-4


@pytest.mark.parametrize("action_shape", [(), (2,)])
def test_branches_and_batches(action_shape: tuple[int, ...]) -> None:
    """A batch is each example alone, for a Discrete and for a MultiDiscrete action."""
    network = with_q(DESIGN._replace(action_shape=action_shape), "gru")
    params, target = members(network)
    actions = np.random.default_rng(6).integers(2, size=(3, 3, *action_shape), dtype=np.int32)
    examples = [
        random_sequence(network, seen)._replace(action_tm1=action)
        for seen, action in zip(drawn(3, 6, 3), actions, strict=True)
    ]
    of = q_loss(network, PLAIN, 2, True, length=3).of
    batched, alone = jax.jit(jax.vmap(of, in_axes=(None, None, 0, None))), jax.jit(of)
    together = batched(params, target, jax.tree.map(lambda *x: np.stack(x), *examples), NO_NOISE)
    for i, one in enumerate(examples):
        expected = alone(params, target, one, NO_NOISE)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[i], b, rtol=1e-5), together, expected)  # noqa: B023


def test_the_actor_explores_with_noise_and_is_evaluated_without() -> None:
    network = noisy(with_q(DESIGN, "gru"))
    actor, params = actor_of(network), weights(network)
    noise = words(actor.words)
    seen, memory = np.ones(3, np.float32), actor.memory()
    assert actor.words == network.words > 0
    play = jax.jit(actor.values)
    exploring, values = jax.jit(actor.exploring)(params, seen, memory, noise), play(params, seen, memory)
    perturbed = play(jax.jit(network.perturb)(params, noise), seen, memory)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), exploring, perturbed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), values, play(params.mean, seen, memory))
    assert not np.allclose(exploring[0], values[0])
