"""The loss on sequences against numbers worked out by hand, and against what the agent does when it acts."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from qdojo.agents.categorical import c51_loss, c51_network
from qdojo.agents.dqn import Rule, dqn_loss
from qdojo.agents.explore import actor_of
from qdojo.agents.learner import Loss
from qdojo.agents.quantile import fqf_loss, iqn_loss, qrdqn_loss, qrdqn_network
from qdojo.agents.recurrent import Target, reading, recurrent_loss, unrolled
from qdojo.bellman.targets import Munchausen, rescaled, unrescaled
from qdojo.networks.implicit import implicit
from qdojo.networks.inputs import Design, in_place, legal_only, plain
from qdojo.networks.mlp import mlp
from qdojo.networks.network import Network
from qdojo.networks.noisy import noisy
from qdojo.networks.recurrent import head_design, recurrent
from qdojo.types import Batch, Masked, Observation, Sequence

pytestmark = pytest.mark.usefixtures("strict_promotion")

KEY = jax.random.key(5)
NO_NOISE = jnp.zeros(0, jnp.uint32)
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
        obs_tm1=jnp.array([1.0, 3.0, -2.0, 5.0]),
        last=jnp.zeros(4, bool),
        memory=jnp.float32(2.0),
        action_tm1=jnp.array([0, 1]),
        reward_t=jnp.array([10.0, 20.0]),
        discount_t=jnp.array([0.5, 0.5]),
        after_t=jnp.array([2, 3]),
        starts=jnp.array([True, True]),
        weight=jnp.float32(1.0),
    )
    return sequence._replace(**changed)


ONLINE, TARGET = jnp.array([1.0, 2.0]), jnp.array([3.0, -1.0])


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
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_loss_by_hand(stored_state: bool, double: bool, errors: tuple[float, float], transform: Any) -> None:
    loss = q_loss(ADDING, PLAIN._replace(double=double), 1, stored_state)
    value, priority, metrics = transform(loss.of)(ONLINE, TARGET, hand_made(), NO_NOISE)
    first, second = errors
    assert float(value) == pytest.approx((first**2 + second**2) / 2)
    assert float(priority) == pytest.approx(0.9 * max(errors) + 0.1 * (first + second) / 2)
    assert float(metrics["q_mean"]) == pytest.approx((6.0 + 8.0) / 2 if stored_state else (4.0 + 4.0) / 2)
    assert loss.words == 0


def test_rows_that_start_nothing_do_not_count() -> None:
    """The first transition alone, as if the second were not there; and none at all."""
    loss = q_loss(ADDING, PLAIN, 1, True).of
    value, priority, metrics = loss(ONLINE, TARGET, hand_made(starts=jnp.array([True, False])), NO_NOISE)
    assert (float(value), float(priority), float(metrics["q_mean"])) == pytest.approx((100.0, 10.0, 6.0))
    value, priority, metrics = loss(ONLINE, TARGET, hand_made(starts=jnp.array([False, False])), NO_NOISE)
    assert (float(value), float(priority), float(metrics["q_mean"])) == (0.0, 0.0, 0.0)


def test_memory_begins_anew_after_last() -> None:
    """Row 1 is `last`, so row 2 begins with -2 and row 3 has 3: the second error is 20 + (3 * 3) / 2 - (-2 * 2)."""
    sequence = hand_made(last=jnp.array([False, True, False, False]), starts=jnp.array([False, True]))
    value, _, _ = q_loss(ADDING, PLAIN, 1, True).of(ONLINE, TARGET, sequence, NO_NOISE)
    assert float(value) == pytest.approx(28.5**2)


def test_the_value_after_several_steps_is_that_of_its_row() -> None:
    """Two steps from row 1: the value of row 3, 9 * 3, at a quarter."""
    sequence = hand_made(after_t=jnp.array([3, 3]), discount_t=jnp.array([0.25, 0.0]), starts=jnp.array([True, False]))
    value, _, _ = q_loss(ADDING, PLAIN, 1, True).of(ONLINE, TARGET, sequence, NO_NOISE)
    assert float(value) == pytest.approx((10.0 + 27.0 / 4 - 6.0) ** 2)


def test_rescaled_targets() -> None:
    """h(10 + h^-1(12) / 2) - 6, with the larger value of row 2, 4 * 3."""
    rule = PLAIN._replace(rescaled=True)
    sequence = hand_made(starts=jnp.array([True, False]))
    _, priority, _ = q_loss(ADDING, rule, 1, True).of(ONLINE, TARGET, sequence, NO_NOISE)
    expected = rescaled(10.0 + 0.5 * unrescaled(jnp.float32(12.0))) - 6.0
    assert float(priority) == pytest.approx(abs(float(expected)), rel=1e-5)


def test_rescaled_values_are_shown_as_returns() -> None:
    """6 * w_0 = h(8) = 2.008 and 4 * w_1 = h(15) = 3.015: the mean is that of 8 and 15, not h^-1 of the mean."""
    online = jnp.array([2.008 / 6.0, 3.015 / 4.0])
    _, _, metrics = q_loss(ADDING, PLAIN._replace(rescaled=True), 1, True).of(online, TARGET, hand_made(), NO_NOISE)
    assert float(metrics["q_mean"]) == pytest.approx(11.5, rel=1e-5)


def one_transition(network: Network, seen: Array) -> tuple[Sequence, Batch]:
    """From the first of two observations, each of which begins an episode, to the second; in both forms."""
    sequence = Sequence(
        obs_tm1=seen,
        last=jnp.array([True, True]),
        memory=network.memory(),
        action_tm1=jnp.array([1]),
        reward_t=jnp.array([0.5]),
        discount_t=jnp.array([0.9]),
        after_t=jnp.array([1]),
        starts=jnp.array([True]),
        weight=jnp.float32(1.0),
    )
    batch = Batch(seen[0], jnp.int32(1), jnp.float32(0.5), jnp.float32(0.9), seen[1], jnp.float32(1.0))
    return sequence, batch


def test_an_episode_of_one_observation_is_the_plain_loss() -> None:
    """Each of two rows begins an episode: what `dqn_loss` says of the network without a memory, Munchausen too."""
    rule = Rule(double=True, error="huber", munchausen=Munchausen(0.9, 0.3, -1.0))
    network = with_q(DESIGN, "gru")
    params, target = (network.init(key) for key in jax.random.split(KEY))
    seen = jax.random.normal(KEY, (2, 3))
    sequence, batch = one_transition(network, seen)
    ours = jax.jit(q_loss(network, rule, 0, True, length=1).of)(params, target, sequence, NO_NOISE)
    theirs = jax.jit(dqn_loss(without_memory(network), rule).of)(params, target, batch, NO_NOISE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)


@BOTH
def test_unrolling_is_stepping(cell: Cell) -> None:
    """The same Q-values as acting row after row, with a new memory after each row that is `last`."""
    network = with_q(DESIGN._replace(dueling=True), cell)
    actor = actor_of(network)
    params, seen = network.init(KEY), jax.random.normal(KEY, (7, 3))
    last = jnp.array([False, False, True, True, False, False, False])
    start = jax.tree.map(lambda leaf: leaf + 0.3, network.memory())
    features, memory = jax.jit(lambda params: unrolled(network, params, seen, last, start))(params)
    q = jax.vmap(network.apply, in_axes=(None, 0))(params, features)
    values, carried = jax.jit(actor.values), start
    for row in range(7):
        expected, carried = values(params, seen[row], carried)
        np.testing.assert_allclose(q[row], expected, atol=1e-6)
        carried = actor.memory() if last[row] else carried
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), memory, carried)


def test_no_target_leans_on_an_illegal_action() -> None:
    """Row 1 leads to row 2, where action 0 alone is legal and has 4 * -1, though 4 * 3 would be more; in its own row
    action 1 was taken, which is worth 2 * 6."""
    mask = jnp.array([[True, True], [True, True], [True, False], [True, True]])
    sequence = hand_made(starts=jnp.array([True, False]), action_tm1=jnp.array([1, 0]))
    sequence = sequence._replace(obs_tm1=Masked(sequence.obs_tm1, mask))
    network = ADDING._replace(apply=lambda weight, total: legal_only(weight * plain(total), total))
    target = jnp.array([-1.0, 3.0])
    for double in (False, True):
        loss = q_loss(network, PLAIN._replace(double=double), 1, True)
        value, _, _ = loss.of(ONLINE, target, sequence, NO_NOISE)
        assert float(value) == pytest.approx((10.0 + 0.5 * 4.0 * -1.0 - 2.0 * 6.0) ** 2)


def test_each_network_reads_features_of_its_own() -> None:
    q = reading(ADDING)
    both = jnp.array([5.0, 7.0])
    np.testing.assert_array_equal(q.apply(ONLINE, both), 5.0 * ONLINE)
    np.testing.assert_array_equal(q.apply(Target(TARGET), both), 7.0 * TARGET)


DISTRIBUTIONS: dict[str, Callable[[Network], tuple[Network, Loss]]] = {
    "c51": lambda head: (c51_network(head, SUPPORT), c51_loss(head, SUPPORT, True, None)),
    "qrdqn": lambda head: (qrdqn_network(head), qrdqn_loss(head, True, MUNCHAUSEN)),
}
SUPPORT = jnp.linspace(-3.0, 3.0, 4)
MUNCHAUSEN = Munchausen(0.9, 0.3, -1.0)


@pytest.mark.parametrize("name", [*DISTRIBUTIONS, "iqn", "fqf"])
def test_any_loss_on_an_episode_of_one_observation_is_what_it_is_without_a_memory(name: str) -> None:
    """A network with an empty memory in each row, and the same layers as one without a memory."""
    inner = head_design(DESIGN, implicit=name in ("iqn", "fqf"))
    head = implicit(inner, 3 if name == "fqf" else None) if name in ("iqn", "fqf") else mlp(inner, 4)
    network = recurrent(DESIGN, "gru", head)
    params, target = (network.init(key) for key in jax.random.split(KEY))
    seen = jax.random.normal(KEY, (2, 3))

    def losses(network: Network) -> Loss:
        if name == "iqn":
            return iqn_loss(network, False, MUNCHAUSEN)
        return fqf_loss(network, True, None) if name == "fqf" else DISTRIBUTIONS[name](network)[1]

    sequence, batch = one_transition(network, seen)
    theirs = losses(without_memory(network))
    ours = recurrent_loss(losses(reading(network)), network, 1, 0, True)
    noise = jax.random.bits(KEY, (ours.words,), jnp.uint32)
    assert ours.words == theirs.words

    def slope(of: Any, example: Any) -> Any:
        return jax.jit(jax.value_and_grad(lambda params: of(params, target, example, noise)[0]))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        slope(ours.of, sequence),
        slope(theirs.of, batch),
    )


def random_sequence(network: Network, seen: Array) -> Sequence:
    """Two rows of six burnt in, three learned."""
    return Sequence(
        obs_tm1=seen,
        last=jnp.zeros(6, bool),
        memory=network.memory(),
        action_tm1=jnp.array([0, 1, 1]),
        reward_t=jnp.array([1.0, -1.0, 2.0]),
        discount_t=jnp.full(3, 0.9),
        after_t=jnp.array([3, 4, 5]),
        starts=jnp.ones(3, bool),
        weight=jnp.float32(1.0),
    )


@BOTH
def test_no_gradient_goes_through_the_burn_in(cell: Cell) -> None:
    """What is seen in the burn-in changes the loss; but parameters that only its rows use get no gradient, nor does
    the target network. A column of the first layer is used by one input, which only burnt-in rows show."""
    network = with_q(DESIGN, cell)
    params, target = (network.init(key) for key in jax.random.split(KEY))
    seen = jax.random.normal(KEY, (6, 3)).at[2:, 0].set(0.0)

    def slopes(burn_in: int, length: int) -> tuple[Any, Any]:
        sequence = random_sequence(network, seen)
        if burn_in == 0:
            sequence = sequence._replace(
                action_tm1=jnp.zeros(length, int),
                reward_t=jnp.ones(length),
                discount_t=jnp.full(length, 0.9),
                after_t=1 + jnp.arange(length),
                starts=jnp.ones(length, bool),
            )
        loss = q_loss(network, PLAIN, burn_in, True, length)
        return jax.jit(jax.grad(lambda *both: loss.of(*both, sequence, NO_NOISE)[0], argnums=(0, 1)))(params, target)

    slope, of_target = slopes(2, 3)
    np.testing.assert_array_equal(slope.hidden[0].linear.weight[:, 0], np.zeros(6))
    assert np.abs(slope.hidden[0].linear.weight[:, 1:]).max() > 0.0
    assert np.abs(slope.cell.of_memory.weight).max() > 0.0
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(of_target))
    assert np.abs(slopes(0, 5)[0].hidden[0].linear.weight[:, 0]).max() > 0.0

    def value(seen: Array) -> Array:
        loss = q_loss(network, PLAIN, 2, True, length=3)
        return loss.of(params, target, random_sequence(network, seen), NO_NOISE)[0]

    assert abs(float(value(seen) - value(seen.at[0].add(1.0)))) > 1e-4


def test_the_stored_memory_changes_the_loss_and_an_empty_start_does_not_see_it() -> None:
    network = with_q(DESIGN, "lstm")
    params, target = (network.init(key) for key in jax.random.split(KEY))
    sequence = random_sequence(network, jax.random.normal(KEY, (6, 3)))
    other = sequence._replace(memory=jax.tree.map(lambda leaf: leaf + 1.0, sequence.memory))

    def value(stored_state: bool, sequence: Sequence) -> float:
        return float(q_loss(network, PLAIN, 2, stored_state, length=3).of(params, target, sequence, NO_NOISE)[0])

    assert value(False, sequence) == value(False, other) == value(True, sequence)
    assert abs(value(True, other) - value(True, sequence)) > 1e-4


@pytest.mark.parametrize("action_shape", [(), (2,)])
def test_branches_and_batches(action_shape: tuple[int, ...]) -> None:
    """A batch is each example alone, for a Discrete and for a MultiDiscrete action."""
    network = with_q(DESIGN._replace(action_shape=action_shape), "gru")
    params, target = (network.init(key) for key in jax.random.split(KEY))

    def example(key: Array) -> Sequence:
        plain = random_sequence(network, jax.random.normal(key, (6, 3)))
        return plain._replace(action_tm1=jax.random.randint(key, (3, *action_shape), 0, 2))

    examples = [example(key) for key in jax.random.split(KEY, 3)]
    of = jax.jit(q_loss(network, PLAIN, 2, True, length=3).of)
    together = jax.vmap(of, in_axes=(None, None, 0, None))(
        params, target, jax.tree.map(lambda *x: jnp.stack(x), *examples), NO_NOISE
    )
    for i, one in enumerate(examples):
        alone = of(params, target, one, NO_NOISE)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[i], b, rtol=1e-5), together, alone)  # noqa: B023


def test_the_actor_explores_with_noise_and_is_evaluated_without() -> None:
    network = noisy(with_q(DESIGN, "gru"))
    actor, params = actor_of(network), network.init(KEY)
    noise = jax.random.bits(KEY, (actor.words,), jnp.uint32)
    seen, memory = jnp.ones(3), actor.memory()
    assert actor.words == network.words > 0
    exploring, values = actor.exploring(params, seen, memory, noise), actor.values(params, seen, memory)
    perturbed = actor.values(network.perturb(params, noise), seen, memory)
    jax.tree.map(np.testing.assert_array_equal, exploring, perturbed)
    jax.tree.map(np.testing.assert_array_equal, values, actor.values(params.mean, seen, memory))
    assert not np.allclose(exploring[0], values[0])
