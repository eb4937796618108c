"""The DQN loss and its gradient against numbers worked out by hand, on a table of Q-values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from qdojo.agents.dqn import dqn_loss
from qdojo.types import Batch, Metrics, Network

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


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("error", ["mse", "huber"])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_loss_and_gradient(name: str, error: str, transform: object) -> None:
    double, batch, difference = CASES[name]

    def loss(params: Array, target: Array, batch: Batch) -> tuple[Array, tuple[Array, Metrics]]:
        value, priority, metrics = dqn_loss(TABLE, double, error).of(params, target, batch, NO_NOISE)
        return value, (priority, metrics)

    (value, (priority, metrics)), slope = transform(jax.value_and_grad(loss, has_aux=True))(ONLINE, TARGET, batch)
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
        return dqn_loss(TABLE, double, "mse").of(params, target, example(), NO_NOISE)[0]

    slope = jax.grad(value, argnums=1)(ONLINE, TARGET)
    np.testing.assert_array_equal(slope, np.zeros((2, 3)))


def test_many_examples_at_once() -> None:
    batch = jax.tree.map(lambda *x: jnp.stack(x), *(batch for _, batch, _ in CASES.values()))
    losses, *_ = jax.jit(jax.vmap(dqn_loss(TABLE, True, "mse").of, in_axes=(None, None, 0, None)))(
        ONLINE, TARGET, batch, NO_NOISE
    )
    np.testing.assert_allclose(losses, [49.0, 49.0, 4.0, 30.25, 0.25])
