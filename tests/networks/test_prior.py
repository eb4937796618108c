"""Networks with a prior: sums worked out by hand, and that the prior never learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdojo.agents.categorical import c51_network
from qdojo.agents.dqn import Rule, dqn_loss
from qdojo.agents.explore import Choosing, Exploration
from qdojo.agents.learner import Hyper, Structure, replay_agent
from qdojo.networks.inputs import Design
from qdojo.networks.mlp import mlp
from qdojo.networks.network import Network
from qdojo.networks.noisy import noisy
from qdojo.networks.prior import Prior, with_prior
from qdojo.noise import uniform
from qdojo.tape.ring import empty, write
from qdojo.tape.windows import transitions
from qdojo.types import Clock, Masked, Step

pytestmark = pytest.mark.usefixtures("strict_promotion")

KEY = jax.random.key(4)
DESIGN = Design((3,), 2, (5,), True)
TABLE = Network(
    init=lambda key: jax.random.normal(key, (2, 3)),
    # Two observations, 0 and 1, three actions: the parameters are the Q-values themselves.
    apply=lambda params, observation: params[observation],
    perturb=lambda params, noise: params + uniform(noise)[None],
    words=3,
    observe=lambda params, observation: params + jnp.float32(observation.shape[0]),
)
PARAMS = Prior(
    learned=jnp.array([[1.0, 2.0, 3.0], [7.0, 5.0, 6.0]]), fixed=jnp.array([[10.0, -20.0, 0.0], [1.0, 1.0, 1.0]])
)


@pytest.mark.parametrize(("scale", "expected"), [(0.0, [1.0, 2.0, 3.0]), (0.5, [6.0, -8.0, 3.0])])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_the_sum_by_hand(scale: float, expected: list[float], transform: object) -> None:
    np.testing.assert_array_equal(transform(with_prior(TABLE, scale).apply)(PARAMS, jnp.int32(0)), expected)


def test_both_parts_are_drawn_as_the_network_is_and_apart() -> None:
    plain = mlp(DESIGN)
    params = with_prior(plain, 1.0).init(KEY)
    assert jax.tree.structure(params.learned) == jax.tree.structure(plain.init(KEY))
    assert not np.array_equal(params.learned.head.weight, params.fixed.head.weight)
    assert not np.array_equal(
        params.fixed.head.weight, with_prior(plain, 1.0).init(jax.random.key(5)).fixed.head.weight
    )


@pytest.mark.parametrize("table", [False, True])
def test_a_prior_of_one_hot_observations_differs_as_much_between_many_states_as_between_few(table: bool) -> None:
    spread = {}
    for states in (25, 2500):
        network = mlp(Design((states,), 2, (50, 50), False, one_hot=True, table=table))
        params = jax.vmap(with_prior(network, 1.0).init)(jax.random.split(KEY, 8))
        each = jax.vmap(jax.vmap(network.apply, (None, 0)), (0, None))
        for name, part in params._asdict().items():
            assert np.abs(part.hidden[0].linear.weight).max() < (1.0 if name == "fixed" else states**-0.5)
            spread[name, states] = float(each(part, jnp.eye(states)).std(axis=1).mean())
    assert spread["fixed", 2500] == pytest.approx(spread["fixed", 25], rel=0.3)
    assert spread["learned", 2500] < 0.2 * spread["learned", 25]


def test_the_gradient_reaches_the_learned_part_alone() -> None:
    plain = mlp(DESIGN)
    network = with_prior(plain, 2.0)
    params, observation = network.init(KEY), jnp.arange(3.0)
    slope = jax.grad(lambda params: jnp.sum(network.apply(params, observation)))(params)
    expected = jax.grad(lambda params: jnp.sum(plain.apply(params, observation)))(params.learned)
    jax.tree.map(np.testing.assert_array_equal, slope.learned, expected)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, np.zeros(leaf.shape)), slope.fixed)


@pytest.mark.parametrize("target_tau", [1.0, 0.3])
def test_updates_leave_the_prior_as_it_was_drawn(target_tau: float) -> None:
    """And no optimizer keeps moments of it. A soft sync of equal weights would round them."""
    network = with_prior(mlp(DESIGN), 1.0)
    hyper = Hyper(0.1, 0.1, 1.0, 0.9, Exploration(0.1, 0.1, 1.0), target_tau)
    structure = Structure(Choosing(2), 4, transitions(1), 1, max_grad_norm=1.0)
    learner = replay_agent(network, lambda own: dqn_loss(network, Rule(True, "mse")), hyper, structure)
    tape, never = empty(2, 1, 1, jax.ShapeDtypeStruct((3,), jnp.float32)), jnp.zeros((2, 1, 1), bool)
    rows = Step(jnp.ones((2, 1, 1, 3)), jnp.ones((2, 1, 1), jnp.int32), jnp.ones((2, 1, 1)), never, never)
    tape = write(tape, rows)._replace(member=jnp.int32(0))
    start = state = learner.init(KEY)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for i in range(5):
            noise = jax.random.bits(jax.random.key(i), (learner.update_words,), jnp.uint32)
            state, _ = jax.jit(learner.update)(state, tape, noise, Clock(jnp.int32(i), jnp.int32(i)))
    jax.tree.map(np.testing.assert_array_equal, state.params.fixed, start.params.fixed)
    jax.tree.map(np.testing.assert_array_equal, state.target_params.fixed, start.params.fixed)
    assert np.abs(state.params.learned.head.bias - start.params.learned.head.bias).max() > 0.1
    assert not jax.tree.leaves((state.optimizer.mu.fixed, state.optimizer.nu.fixed))


def test_illegal_actions_stay_far_below() -> None:
    network = with_prior(mlp(DESIGN), 3.0)
    observation = Masked(jnp.ones(3), jnp.array([False, True]))
    illegal, legal = network.apply(network.init(KEY), observation)
    assert illegal < -1e8
    assert np.abs(legal) < 100.0


def test_illegal_actions_stay_far_below_where_the_outputs_are_a_distribution() -> None:
    network = c51_network(with_prior(mlp(DESIGN, 5), 3.0), jnp.linspace(-1.0, 1.0, 5))
    illegal, legal = network.apply(network.init(KEY), Masked(jnp.ones(3), jnp.array([False, True])))
    assert illegal < -1e8
    assert -1.0 <= legal <= 1.0


def test_noise_goes_to_the_learned_part() -> None:
    network = with_prior(TABLE, 1.0)
    assert network.words == 3
    noise = jax.random.bits(KEY, (3,), jnp.uint32)
    drawn = network.perturb(PARAMS, noise)
    np.testing.assert_array_equal(drawn.learned, PARAMS.learned + uniform(noise)[None])
    np.testing.assert_array_equal(drawn.fixed, PARAMS.fixed)


def test_a_noisy_network_has_a_prior_without_noise() -> None:
    plain = mlp(DESIGN)
    network = with_prior(noisy(plain), 2.0)
    params, observation = network.init(KEY), jnp.arange(3.0)
    drawn = network.perturb(params, jax.random.bits(KEY, (network.words,), jnp.uint32))
    expected = plain.apply(drawn.learned, observation) + 2.0 * plain.apply(params.fixed.mean, observation)
    np.testing.assert_allclose(network.apply(drawn, observation), expected, rtol=1e-6)


def test_both_parts_see_observations_normalised() -> None:
    network = with_prior(mlp(DESIGN._replace(normalized=True)), 1.0)
    seen = network.observe(network.init(KEY), jnp.array([[1.0, 2.0, 3.0], [3.0, 2.0, 7.0]]))
    for part in seen:
        np.testing.assert_allclose(part.inputs.statistics.mean, [2.0, 2.0, 5.0])
