"""The conservative term against numbers worked out by hand, and that it goes with every loss and mask."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdojo.agents.categorical import c51_loss, c51_network
from qdojo.agents.conservative import conservative, optimism
from qdojo.agents.dqn import Rule, dqn_loss
from qdojo.agents.learner import Loss
from qdojo.agents.quantile import qrdqn_loss, qrdqn_network
from qdojo.networks.inputs import Design, legal_only
from qdojo.networks.mlp import mlp
from qdojo.networks.network import Network
from qdojo.noise import uniform
from qdojo.types import Batch, Masked, Observation, Params

pytestmark = pytest.mark.usefixtures("strict_promotion")

TABLE = Network(
    init=lambda key: jnp.zeros((2, 3)),
    # Two observations, 0 and 1, three actions: the parameters are the Q-values themselves.
    apply=lambda params, observation: params[observation],
)
# exp of the first row: 1, 2 and 5, whose sum is 8.
ONLINE = jnp.log(jnp.array([[1.0, 2.0, 5.0], [1.0, 1.0, 1.0]]))
TARGET = jnp.array([[9.0, 9.0, 9.0], [10.0, 30.0, 20.0]])
NO_NOISE = jnp.zeros(0, jnp.uint32)
PLAIN = dqn_loss(TABLE, Rule(False, "mse"))


def example(action: Any = 1, **changes: Any) -> Batch:
    batch = Batch(
        obs_tm1=jnp.int32(0),
        action_tm1=jnp.asarray(action, jnp.int32),
        reward_t=jnp.float32(4.0),
        discount_t=jnp.float32(0.5),
        obs_t=jnp.int32(1),
        weight=jnp.float32(1.0),
    )
    return batch._replace(**changes)


plain_loss, quarter = jax.jit(PLAIN.of), jax.jit(conservative(PLAIN, TABLE, 0.25).of)


@pytest.mark.parametrize(("action", "share"), [(0, 1 / 8), (1, 2 / 8), (2, 5 / 8)])
def test_the_gap_is_minus_the_log_of_the_softmax_share(action: int, share: float) -> None:
    """log 8 - log 2 = log 4 for action 1; the loss has alpha of it, the priority nothing."""
    base, priority, metrics = plain_loss(ONLINE, TARGET, example(action), NO_NOISE)
    found, same_priority, more = quarter(ONLINE, TARGET, example(action), NO_NOISE)
    assert found == pytest.approx(float(base) + 0.25 * -math.log(share))
    assert same_priority == priority
    assert more["conservative"] == pytest.approx(-math.log(share))
    assert {name: more[name] for name in metrics} == metrics


def test_the_gradient_pushes_all_actions_down_and_that_of_the_data_up() -> None:
    """softmax(Q) less one for the chosen action, for the online network's observation alone."""
    slope = jax.grad(lambda q: optimism(q[0], jnp.int32(1)))(ONLINE)
    np.testing.assert_allclose(slope, [[1 / 8, 2 / 8 - 1, 5 / 8], [0.0, 0.0, 0.0]], rtol=1e-6)
    of_target = jax.grad(lambda q: conservative(PLAIN, TABLE, 1.0).of(ONLINE, q, example(), NO_NOISE)[0])(TARGET)
    np.testing.assert_array_equal(of_target, np.zeros((2, 3)))


def test_without_alpha_it_is_the_given_loss() -> None:
    given = jax.value_and_grad(lambda q: PLAIN.of(q, TARGET, example(), NO_NOISE)[0])(ONLINE)
    found = jax.value_and_grad(lambda q: conservative(PLAIN, TABLE, 0.0).of(q, TARGET, example(), NO_NOISE)[0])(ONLINE)
    jax.tree.map(np.testing.assert_array_equal, found, given)


def test_branches_have_the_mean_of_their_gaps() -> None:
    """log 8 - log 5 and log 3 - log 1."""
    q = jnp.log(jnp.array([[1.0, 2.0, 5.0], [1.0, 1.0, 1.0]]))
    assert optimism(q, jnp.array([2, 0])) == pytest.approx(0.5 * (math.log(8 / 5) + math.log(3.0)))


def test_illegal_actions_have_no_share() -> None:
    """Of 1, 2 and 5 the last is illegal: log 3 - log 2, and no gradient for it."""
    masked = TABLE._replace(apply=lambda q, seen: legal_only(q[seen.observation], seen))
    seen = Masked(jnp.int32(0), jnp.array([True, True, False]))
    loss = conservative(dqn_loss(masked, Rule(True, "mse")), masked, 1.0)
    batch = example(1, obs_tm1=seen, obs_t=seen)
    metrics = loss.of(ONLINE, TARGET, batch, NO_NOISE)[2]
    assert metrics["conservative"] == pytest.approx(math.log(1.5))
    slope = jax.grad(lambda q: loss.of(q, TARGET, batch, NO_NOISE)[2]["conservative"])(ONLINE)
    np.testing.assert_allclose(slope[0], [1 / 3, 2 / 3 - 1, 0.0], rtol=1e-6)


def test_one_legal_action_leaves_no_gap() -> None:
    q = legal_only(jnp.array([1.0, 2.0, 3.0]), Masked(jnp.zeros(1), jnp.array([False, True, False])))
    assert optimism(q, jnp.int32(1)) == 0.0


@pytest.mark.parametrize("kind", ["c51", "qrdqn"])
def test_of_a_distribution_the_means_count(kind: str) -> None:
    outputs, support = mlp(Design((3,), 2, (4,), False), 5), jnp.linspace(-2.0, 2.0, 5)
    if kind == "c51":
        network, loss = c51_network(outputs, support), c51_loss(outputs, support, True, None)
    else:
        network, loss = qrdqn_network(outputs), qrdqn_loss(outputs, True, None)
    params, target = (outputs.init(jax.random.key(seed)) for seed in (0, 1))
    batch = example(1, obs_tm1=jnp.array([1.0, -1.0, 2.0]), obs_t=jnp.ones(3))
    base, *_ = loss.of(params, target, batch, NO_NOISE)
    found, _, metrics = conservative(loss, network, 2.0).of(params, target, batch, NO_NOISE)
    q = np.asarray(network.apply(params, batch.obs_tm1), np.float64)
    gap = np.log(np.exp(q).sum()) - q[1]
    assert metrics["conservative"] == pytest.approx(gap, rel=1e-5)
    assert found == pytest.approx(float(base) + 2.0 * gap, rel=1e-5)


def test_the_loss_keeps_its_noise() -> None:
    def loss(params: Params, target: Params, batch: Batch, noise: Any) -> Any:
        return uniform(noise)[1], jnp.float32(0.0), {}

    found = conservative(Loss(loss, 2), TABLE, 0.0)
    assert found.words == 2
    assert found.of(ONLINE, TARGET, example(), jnp.array([0, 2**31], jnp.uint32))[0] == 0.5


def test_a_large_alpha_clones_the_data() -> None:
    """Values that the reward ranks the other way: with the term the action of the data is the best."""

    def apply(params: Params, observation: Observation) -> Any:
        return params

    bandit = Network(init=lambda key: jnp.zeros(2), apply=apply)
    batch = example(0, reward_t=jnp.float32(-1.0), discount_t=jnp.float32(0.0))

    def learned(alpha: float) -> Any:
        loss = conservative(dqn_loss(bandit, Rule(False, "mse")), bandit, alpha)
        slope = jax.jit(jax.grad(lambda q: loss.of(q, q, batch, NO_NOISE)[0]))
        q = jnp.zeros(2)
        for _ in range(200):
            q = q - 0.1 * slope(q)
        return q

    # Untouched, the other action keeps its 0 and is the better one.
    np.testing.assert_allclose(learned(0.0), [-1.0, 0.0], atol=1e-3)
    assert int(jnp.argmax(learned(1.0))) == 0
