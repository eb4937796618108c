"""C51's loss against numbers worked out by hand, on a table of logits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from probes.weights import drawn

from qdojo.agents.categorical import c51_loss, c51_network
from qdojo.bellman.targets import Munchausen
from qdojo.networks.inputs import Design
from qdojo.networks.mlp import mlp
from qdojo.networks.network import Network
from qdojo.types import Batch

pytestmark = pytest.mark.usefixtures("strict_promotion")

SUPPORT = jnp.array([0.0, 2.0, 4.0])
# Two observations, 0 and 1, two actions, three atoms: the parameters are the logits themselves.
TABLE = Network(init=lambda key: jnp.zeros((2, 2, 3)), apply=lambda params, observation: params[observation])
ONLINE = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.2, 0.4, 0.4]], [[0.25, 0.25, 0.5], [0.5, 0.25, 0.25]]]))
"""Q of observation 0: 1.5 and 2.4; of observation 1: 2.5 and 1.5."""
TARGET = jnp.log(jnp.array([[[0.1, 0.8, 0.1], [0.8, 0.1, 0.1]], [[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]]))
"""Q of observation 0: 2 and 0.6; of observation 1: 1.5 and 2.5."""
NO_NOISE = jnp.zeros(0, jnp.uint32)


def example(action: int = 1, reward: float = 1.0, discount: float = 0.5) -> Batch:
    return Batch(
        obs_tm1=jnp.int32(0),
        action_tm1=jnp.int32(action),
        reward_t=jnp.float32(reward),
        discount_t=jnp.float32(discount),
        obs_t=jnp.int32(1),
        weight=jnp.float32(1.0),
    )


CASES = {
    # Atoms 1, 2, 3 of (0.25, 0.25, 0.5): halves of 1 go to 0 and 2, halves of 3 to 2 and 4. Nothing is outside.
    "plain": (False, example(), [0.125, 0.125 + 0.25 + 0.25, 0.25], 0.0),
    # The online network takes action 0 in the next state: atoms 1, 2, 3 of (0.5, 0.25, 0.25)
    "double": (True, example(), [0.25, 0.25 + 0.25 + 0.125, 0.125], 0.0),
    "terminated": (False, example(reward=3.0, discount=0.0), [0.0, 0.5, 0.5], 0.0),
    # Atoms 3, 5, 7 of (0.25, 0.25, 0.5): three quarters lie above 4
    "clipped above": (False, example(reward=3.0, discount=1.0), [0.0, 0.125, 0.125 + 0.75], 0.75),
    # Atoms -1, 1, 3 of (0.5, 0.25, 0.25)
    "clipped below": (True, example(reward=-1.0, discount=1.0), [0.5 + 0.125, 0.125 + 0.125, 0.125], 0.5),
    "on the atoms": (False, example(action=0, reward=0.0, discount=1.0), [0.25, 0.25, 0.5], 0.0),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient(name: str) -> None:
    double, batch, projected, clipped = CASES[name]

    def loss(params: Array, target: Array) -> tuple[Array, Any]:
        value, priority, metrics = c51_loss(TABLE, SUPPORT, double, None).of(params, target, batch, NO_NOISE)
        return value, (priority, metrics)

    (value, (priority, metrics)), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(ONLINE, TARGET)
    action = int(batch.action_tm1)
    p = [[0.5, 0.25, 0.25], [0.2, 0.4, 0.4]][action]
    assert value == pytest.approx(-np.dot(projected, np.log(p)), rel=1e-5)
    assert priority == value
    assert metrics["q_mean"] == pytest.approx([1.5, 2.4][action])
    assert metrics["clipped"] == pytest.approx(clipped)
    only_the_chosen = np.zeros((2, 2, 3))
    only_the_chosen[0, action] = np.subtract(p, projected)
    np.testing.assert_allclose(slope, only_the_chosen, atol=1e-6)


SOFT = Munchausen(0.5, 2.0, -9.0)


def soft_target(double: bool, reward: float, discount: float) -> tuple[np.ndarray, float]:
    """The mixture with hat functions of NumPy, from the Q-values in the tables' comments."""

    def scaled(q: list[float]) -> np.ndarray:
        return 2.0 * (np.array(q) / 2.0 - np.log(np.sum(np.exp(np.array(q) / 2.0))))

    bonus = 0.5 * scaled([2.0, 0.6])[1]
    next_scaled = scaled([2.5, 1.5] if double else [1.5, 2.5])
    mixture, outside = np.zeros(3), 0.0
    for a, p in enumerate(([0.5, 0.25, 0.25], [0.25, 0.25, 0.5])):
        weight = np.exp(next_scaled[a] / 2.0)
        for z, mass in zip([0.0, 2.0, 4.0], p, strict=True):
            atom = reward + bonus + discount * (z - next_scaled[a])
            outside += weight * mass * (atom < 0 or atom > 4)
            mixture += weight * mass * np.maximum(1 - np.abs(np.clip(atom, 0, 4) - np.array([0, 2, 4])) / 2, 0)
    return mixture, outside


soft_losses = {double: jax.jit(c51_loss(TABLE, SUPPORT, double, SOFT).of) for double in (False, True)}


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(("reward", "discount"), [(1.0, 0.5), (2.0, 1.0), (1.0, 0.0)])
def test_munchausen(double: bool, reward: float, discount: float) -> None:
    batch = example(reward=reward, discount=discount)
    value, _, metrics = soft_losses[double](ONLINE, TARGET, batch, NO_NOISE)
    mixture, outside = soft_target(double, reward, discount)
    assert mixture.sum() == pytest.approx(1.0)
    assert value == pytest.approx(-mixture @ np.log([0.2, 0.4, 0.4]), rel=1e-5)
    assert metrics["clipped"] == pytest.approx(outside, abs=1e-6)


@pytest.mark.parametrize("double", [False, True])
def test_munchausen_without_bonus_or_temperature_is_c51(double: bool) -> None:
    cold = jax.jit(c51_loss(TABLE, SUPPORT, double, Munchausen(0.0, 1e-4, -1.0)).of)
    plain = jax.jit(c51_loss(TABLE, SUPPORT, double, None).of)
    expected = plain(ONLINE, TARGET, example(), NO_NOISE)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), cold(ONLINE, TARGET, example(), NO_NOISE), expected
    )


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("munchausen", [None, SOFT])
def test_no_gradient_reaches_the_target_network_or_the_next_state(double: bool, munchausen: Munchausen | None) -> None:
    def value(params: Array, target: Array) -> Array:
        return c51_loss(TABLE, SUPPORT, double, munchausen).of(params, target, example(), NO_NOISE)[0]

    online, target = jax.jit(jax.grad(value, argnums=(0, 1)))(ONLINE, TARGET)
    np.testing.assert_array_equal(target, np.zeros((2, 2, 3)))
    np.testing.assert_array_equal(online[1], np.zeros((2, 3)))
    assert np.any(online[0])


def test_the_q_values_and_the_noise_of_the_network() -> None:
    noisy = TABLE._replace(perturb=lambda params, noise: params + 1.0, words=3)
    network = c51_network(noisy, SUPPORT)
    np.testing.assert_allclose(network.apply(ONLINE, jnp.int32(0)), [1.5, 2.4], rtol=1e-6)
    assert network.words == 3
    assert network.perturb is noisy.perturb
    assert network.init is noisy.init


def test_descent_on_a_real_network_finds_the_distribution_of_the_reward() -> None:
    """At terminations that pay 0 or 4 with equal odds: mass of a half at each end, of which the mean is 2."""
    logits = mlp(Design((1,), 2, (8,), True), 3)
    loss = jax.vmap(c51_loss(logits, SUPPORT, True, None).of, in_axes=(None, None, 0, None))
    batch = Batch(
        obs_tm1=jnp.ones((2, 1)),
        action_tm1=jnp.ones(2, jnp.int32),
        reward_t=jnp.array([0.0, 4.0]),
        discount_t=jnp.zeros(2),
        obs_t=jnp.ones((2, 1)),
        weight=jnp.ones(2),
    )
    params = jax.jit(logits.init)(jax.random.key(0))
    slope = jax.grad(lambda params: jnp.mean(loss(params, params, batch, NO_NOISE)[0]))

    @jax.jit
    def learn(params: Any) -> Any:
        return jax.lax.fori_loop(0, 1000, lambda _, p: jax.tree.map(lambda x, d: x - 0.3 * d, p, slope(p)), params)

    params = learn(params)
    np.testing.assert_allclose(jax.nn.softmax(logits.apply(params, jnp.ones(1))[1]), [0.5, 0.0, 0.5], atol=0.02)
    assert c51_network(logits, SUPPORT).apply(params, jnp.ones(1))[1] == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("munchausen", [None, Munchausen(0.5, 2.0, -9.0)], ids=["plain", "munchausen"])
def test_branches_share_the_mixture_of_their_targets(munchausen: Munchausen | None, double: bool) -> None:
    """Twins are as one branch; and of two that differ the loss is the mean cross-entropy with the mean target."""
    support = jnp.array([0.0, 1.0, 2.0])
    # [observation, branch, action, atom]
    online, target = (jnp.asarray(drawn(2, 2, 2, 3, seed=seed)) for seed in (0, 1))
    both = Network(init=lambda key: jnp.zeros((2, 2, 2, 3)), apply=lambda params, observation: params[observation])
    action, reward = jnp.array([1, 0]), jnp.float32(0.3)
    batch = Batch(jnp.int32(0), action, reward, jnp.float32(0.5), jnp.int32(1), jnp.float32(1.0))
    of = jax.jit(c51_loss(both, support, double, munchausen).of)

    def of_branch(i: int) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities, and the target, of one branch alone."""
        alone = c51_loss(both, support, double, munchausen).of
        one = batch._replace(action_tm1=action[i])

        def slope(logits: Array) -> Array:
            return alone(online[:, i].at[0].set(logits), target[:, i], one, NO_NOISE)[0]

        logits = online[0, i]
        # The gradient of the cross-entropy is the softmax less the target.
        gap = jax.jit(jax.grad(slope))(logits)[action[i]]
        probabilities = jax.nn.softmax(logits[action[i]])
        return np.asarray(jnp.log(probabilities)), np.asarray(probabilities - gap)

    twins = jnp.stack([online[:, 0]] * 2, axis=1), jnp.stack([target[:, 0]] * 2, axis=1)
    same = batch._replace(action_tm1=jnp.array([1, 1]))
    value, priority, _ = of(*twins, same, NO_NOISE)
    alone, _, _ = of(online[:, 0], target[:, 0], batch._replace(action_tm1=jnp.int32(1)), NO_NOISE)
    np.testing.assert_allclose([value, priority], [alone, alone], rtol=1e-5)
    if munchausen is not None:
        return  # the bonus is a mean over branches too, so that each alone has another one
    (first, goal), (second, other) = of_branch(0), of_branch(1)
    mixture = (goal + other) / 2
    value, _, metrics = of(online, target, batch, NO_NOISE)
    np.testing.assert_allclose(value, -(mixture @ first + mixture @ second) / 2, rtol=1e-5)
    expected = (np.exp(first) @ np.asarray(support) + np.exp(second) @ np.asarray(support)) / 2
    np.testing.assert_allclose(metrics["q_mean"], expected, rtol=1e-5)
