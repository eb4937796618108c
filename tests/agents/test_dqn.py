"""The DQN loss and its gradient against numbers worked out by hand, on a table of Q-values."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import Array

from qdojo.agents.dqn import Rule, dqn_loss
from qdojo.bellman.targets import Munchausen, rescaled, unrescaled
from qdojo.networks.inputs import legal_only
from qdojo.networks.network import Network
from qdojo.types import Batch, Masked, Metrics

pytestmark = pytest.mark.usefixtures("strict_promotion")

TABLE = Network(
    init=lambda key: jnp.zeros((2, 3)),
    # Two observations, 0 and 1, three actions: the parameters are the Q-values themselves.
    apply=lambda params, observation: params[observation],
)
ONLINE = jnp.array([[1.0, 2.0, 3.0], [7.0, 5.0, 6.0]])
TARGET = jnp.array([[9.0, 9.0, 9.0], [10.0, 30.0, 20.0]])
NO_NOISE = jnp.zeros(0, jnp.uint32)


def example(action: int = 1, reward: float = 4.0, discount: float = 0.5) -> Batch:
    return Batch(
        obs_tm1=jnp.int32(0),
        action_tm1=jnp.int32(action),
        reward_t=jnp.float32(reward),
        discount_t=jnp.float32(discount),
        obs_t=jnp.int32(1),
        weight=jnp.float32(1.0),
    )


CASES = {
    # 4 + 0.5 * 30 - 2 = 17: the target network's own maximum
    "plain": (False, example(), 17.0),
    # The online network takes action 0 in the next state, the target network says 10: 4 + 0.5 * 10 - 2 = 7
    "double": (True, example(), 7.0),
    "terminated": (False, example(discount=0.0), 2.0),
    "below": (True, example(action=2, reward=-2.5, discount=0.0), -5.5),
    "small": (True, example(action=0, reward=1.5, discount=0.0), 0.5),
}


@functools.cache
def loss_and_gradient(double: bool, error: str) -> Any:
    def loss(params: Array, target: Array, batch: Batch) -> tuple[Array, tuple[Array, Metrics]]:
        value, priority, metrics = dqn_loss(TABLE, Rule(double, error)).of(params, target, batch, NO_NOISE)
        return value, (priority, metrics)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("error", ["mse", "huber"])
def test_loss_and_gradient(name: str, error: str) -> None:
    double, batch, difference = CASES[name]
    (value, (priority, metrics)), slope = loss_and_gradient(double, error)(ONLINE, TARGET, batch)
    assert priority == pytest.approx(abs(difference))
    if error == "mse":
        expected, pull = difference**2, 2 * difference
    else:
        expected = 0.5 * difference**2 if abs(difference) <= 1 else abs(difference) - 0.5
        pull = float(np.clip(difference, -1, 1))
    assert value == pytest.approx(expected)
    assert metrics["q_mean"] == ONLINE[0, batch.action_tm1]
    only_the_chosen = np.zeros((2, 3))
    only_the_chosen[0, int(batch.action_tm1)] = -pull
    np.testing.assert_allclose(slope, only_the_chosen)


@pytest.mark.parametrize("double", [False, True])
def test_no_gradient_reaches_the_target_network(double: bool) -> None:
    def value(params: Array, target: Array) -> Array:
        return dqn_loss(TABLE, Rule(double, "mse")).of(params, target, example(), NO_NOISE)[0]

    slope = jax.jit(jax.grad(value, argnums=1))(ONLINE, TARGET)
    np.testing.assert_array_equal(slope, np.zeros((2, 3)))


def test_many_examples_at_once() -> None:
    batch = jax.tree.map(lambda *x: jnp.stack(x), *(batch for _, batch, _ in CASES.values()))
    losses, *_ = jax.jit(jax.vmap(dqn_loss(TABLE, Rule(True, "mse")).of, in_axes=(None, None, 0, None)))(
        ONLINE, TARGET, batch, NO_NOISE
    )
    np.testing.assert_allclose(losses, [49.0, 49.0, 4.0, 30.25, 0.25])


BRANCHES = Network(
    init=lambda key: jnp.zeros((2, 2, 3)),
    # Two observations, two branches of three actions.
    apply=lambda params, observation: params[observation],
)
ONLINE_BRANCHES = jnp.array([[[1.0, 2.0, 3.0], [0.0, 0.0, 4.0]], [[7.0, 5.0, 6.0], [1.0, 2.0, 0.0]]])
TARGET_BRANCHES = jnp.array([[[9.0, 9.0, 9.0], [0.0, 0.0, 0.0]], [[10.0, 30.0, 20.0], [4.0, 6.0, 8.0]]])


@pytest.mark.parametrize(("double", "target"), [(False, 4 + 0.5 * (30 + 8) / 2), (True, 4 + 0.5 * (10 + 6) / 2)])
def test_branches_share_the_mean_of_their_values_as_target(double: bool, target: float) -> None:
    batch = example()._replace(action_tm1=jnp.array([1, 2]))
    loss = dqn_loss(BRANCHES, Rule(double, "mse"))
    value, priority, metrics = jax.jit(loss.of)(ONLINE_BRANCHES, TARGET_BRANCHES, batch, NO_NOISE)
    errors = np.array([target - 2.0, target - 4.0])
    assert value == pytest.approx(np.mean(errors**2))
    assert priority == pytest.approx(np.mean(np.abs(errors)))
    assert metrics["q_mean"] == 3.0


def test_rescaled_values_have_targets_of_plain_returns() -> None:
    """The target network says h(x) = 30, so x is what the sum of rewards adds to; the loss is in units of h again."""
    loss = dqn_loss(TABLE, Rule(False, "mse", rescaled=True))
    value, priority, _ = loss.of(ONLINE, TARGET, example(), NO_NOISE)
    target = rescaled(4.0 + 0.5 * unrescaled(jnp.float32(30.0)))
    assert priority == pytest.approx(float(target) - 2.0, rel=1e-6)
    assert value == pytest.approx((float(target) - 2.0) ** 2, rel=1e-6)


def test_rescaled_values_are_shown_as_returns() -> None:
    """h(8) = sqrt(9) - 1 + 0.008 and h(-15) = 1 - sqrt(16) - 0.015."""
    loss = dqn_loss(TABLE, Rule(False, "mse", rescaled=True))
    for q, expected in ((2.008, 8.0), (-3.015, -15.0)):
        _, _, metrics = loss.of(ONLINE.at[0, 1].set(q), TARGET, example(), NO_NOISE)
        assert metrics["q_mean"] == pytest.approx(expected, rel=1e-5)


MASKED = Network(
    init=lambda key: jnp.zeros((2, 3)),
    apply=lambda params, seen: legal_only(params[seen.observation], seen),
)


@functools.cache
def loss_with_masks(double: bool, munchausen: Munchausen | None) -> Any:
    return jax.jit(dqn_loss(MASKED, Rule(double, "mse", munchausen)).of)


@given(
    mask=st.lists(st.booleans(), min_size=3, max_size=3).filter(any),
    double=st.booleans(),
    munchausen=st.sampled_from([None, Munchausen(0.9, 0.03, -1.0), Munchausen(0.5, 2.0, -10.0)]),
    junk=st.sampled_from([-1e6, -3.0, 1e6]),
)
def test_values_of_illegal_actions_never_reach_a_target(
    mask: list[bool], double: bool, munchausen: Munchausen | None, junk: float
) -> None:
    """Whatever the networks say of illegal actions, in this observation and the next, the loss is the same."""
    loss, legal = loss_with_masks(double, munchausen), np.array(mask)
    batch = example(action=int(np.argmax(mask)))._replace(
        obs_tm1=Masked(jnp.int32(0), legal), obs_t=Masked(jnp.int32(1), legal)
    )
    found = [
        loss(np.where(legal, ONLINE, other), np.where(legal, TARGET, other), batch, NO_NOISE)[0]
        for other in np.float32([0.0, junk])
    ]
    assert np.isfinite(found).all()
    assert found[0] == found[1]
