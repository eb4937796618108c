"""The quantile losses against numbers worked out by hand, on tables of quantiles and on lines as quantile functions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from probes.weights import drawn, weights, words

from qdojo.agents.learner import Loss
from qdojo.agents.quantile import fqf_loss, iqn_loss, qrdqn_loss, qrdqn_network
from qdojo.bellman.distributions import quantile_huber
from qdojo.bellman.targets import Munchausen
from qdojo.networks.implicit import acting, implicit
from qdojo.networks.inputs import Design
from qdojo.networks.mlp import mlp
from qdojo.networks.network import Network
from qdojo.noise import uniform
from qdojo.types import Batch

pytestmark = pytest.mark.usefixtures("strict_promotion")

NO_NOISE = jnp.zeros(0, jnp.uint32)
SOFT = Munchausen(0.5, 2.0, -9.0)

# Two observations, 0 and 1, two actions, two quantiles: the parameters are the quantiles themselves.
TABLE = Network(init=lambda key: jnp.zeros((2, 2, 2)), apply=lambda params, observation: params[observation])
ONLINE = jnp.array([[[9.0, 9.0], [0.0, 1.0]], [[5.0, 6.0], [0.0, 2.0]]])
TARGET = jnp.array([[[1.0, 3.0], [2.0, 6.0]], [[-2.0, 0.0], [2.0, 8.0]]])


def example(action: int = 1, reward: float = 1.0, discount: float = 0.5) -> Batch:
    return Batch(
        obs_tm1=jnp.int32(0),
        action_tm1=jnp.int32(action),
        reward_t=jnp.float32(reward),
        discount_t=jnp.float32(discount),
        obs_t=jnp.int32(1),
        weight=jnp.float32(1.0),
    )


def scaled_log_policy(q: list[float]) -> np.ndarray:
    return 2.0 * (np.array(q) / 2.0 - np.log(np.sum(np.exp(np.array(q) / 2.0))))


CASES = {
    # The target network's Q in the next state is -1 and 5: action 1, 1 + 0.5 * (2, 8) = (2, 5).
    # Quantile 0 at 1/4: errors 2, 5: 0.25 * mean(1.5, 4.5); quantile 1 at 3/4: errors 1, 4: 0.75 * mean(0.5, 3.5)
    "plain": (False, example(), [2.0, 5.0], 0.25 * 3.0 + 0.75 * 2.0, [-0.25, -0.75]),
    # The online network's are 5.5 and 1: action 0, 1 + 0.5 * (-2, 0) = (0, 1).
    # Errors 0, 1 at 1/4: 0.25 * mean(0, 0.5); errors -1, 0 at 3/4: 0.25 * mean(0.5, 0)
    "double": (True, example(), [0.0, 1.0], 0.25 * 0.25 + 0.25 * 0.25, [-0.125, 0.125]),
    # Errors 4, 4 and 3, 3
    "terminated": (False, example(reward=4.0, discount=0.0), [4.0, 4.0], 0.25 * 3.5 + 0.75 * 2.5, [-0.25, -0.75]),
}


@pytest.mark.parametrize("name", CASES)
def test_qrdqn_loss_and_gradient(name: str) -> None:
    double, batch, goal, expected, pull = CASES[name]

    def loss(params: Array, target: Array) -> tuple[Array, Any]:
        value, priority, metrics = qrdqn_loss(TABLE, double, None).of(params, target, batch, NO_NOISE)
        return value, (priority, metrics)

    (value, (priority, metrics)), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(ONLINE, TARGET)
    assert value == pytest.approx(expected)
    assert priority == pytest.approx(abs(np.mean(goal) - 0.5))
    assert metrics["q_mean"] == 0.5
    only_the_chosen = np.zeros((2, 2, 2))
    only_the_chosen[0, 1] = pull
    np.testing.assert_allclose(slope, only_the_chosen)


@pytest.mark.parametrize("double", [False, True])
def test_qrdqn_with_munchausen(double: bool) -> None:
    """Q of the target network: 2 and 4, then -1 and 5; of the online one in the next state 5.5 and 1."""
    bonus = 0.5 * scaled_log_policy([2.0, 4.0])[1]
    scaled = scaled_log_policy([5.5, 1.0] if double else [-1.0, 5.0])
    following = np.exp(scaled / 2.0) @ (np.array([[-2.0, 0.0], [2.0, 8.0]]) - scaled[:, None])
    goal = jnp.asarray(1.0 + bonus + 0.5 * following, jnp.float32)
    expected = quantile_huber(jnp.array([0.0, 1.0]), jnp.array([0.25, 0.75]), goal)
    value, priority, _ = jax.jit(qrdqn_loss(TABLE, double, SOFT).of)(ONLINE, TARGET, example(), NO_NOISE)
    assert value == pytest.approx(float(expected), rel=1e-5)
    assert priority == pytest.approx(abs(float(goal.mean()) - 0.5), rel=1e-5)


def test_qrdqn_acts_on_the_mean_and_passes_the_noise_on() -> None:
    noisy = TABLE._replace(perturb=lambda params, noise: params + 1.0, words=3)
    network = qrdqn_network(noisy)
    np.testing.assert_allclose(network.apply(TARGET, jnp.int32(1)), [-1.0, 5.0])
    assert network.words == 3
    assert network.perturb is noisy.perturb
    assert network.init is noisy.init


# F^-1(t) = 2 c t for each observation and action, of mean c: the parameters are the means.
LINES = Network(
    init=lambda key: jnp.zeros((2, 2)),
    apply=lambda params, observation, fractions: 2.0 * fractions[:, None] * params[observation][None, :],
)
MEANS = jnp.array([[7.0, 1.0], [3.0, -1.0]])
TARGET_MEANS = jnp.array([[2.0, 4.0], [-2.0, 6.0]])
WORDS = jax.random.bits(jax.random.key(0), (5,), jnp.uint32)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("munchausen", [None, SOFT])
def test_iqn_loss(munchausen: Munchausen | None, double: bool) -> None:
    """The first 3 words are the online fractions, the last 2 the target's, whose means choose where `double` does not;
    double takes action 0, else action 1."""
    loss = iqn_loss(LINES, double, munchausen, online_samples=3, target_samples=2)
    assert loss.words == 5
    fractions, target_fractions = np.split(np.asarray(uniform(WORDS), np.float64), [3])
    if munchausen is None:
        reward, following = 1.0, 2.0 * target_fractions * (-2.0 if double else 6.0)
    else:
        reward = 1.0 + 0.5 * scaled_log_policy([2.0, 4.0])[1]
        drawn = 2.0 * np.mean(target_fractions)
        scaled = scaled_log_policy([3.0, -1.0] if double else [-2.0 * drawn, 6.0 * drawn])
        lines = 2.0 * np.outer([-2.0, 6.0], target_fractions)
        following = np.exp(scaled / 2.0) @ (lines - scaled[:, None])
    goal, found = reward + 0.5 * following, 2.0 * fractions * 1.0
    expected = quantile_huber(*(jnp.asarray(x, jnp.float32) for x in (found, fractions, goal)))
    value, priority, metrics = jax.jit(loss.of)(MEANS, TARGET_MEANS, example(), WORDS)
    assert value == pytest.approx(float(expected), rel=1e-5)
    assert priority == pytest.approx(abs(goal.mean() - found.mean()), rel=1e-5)
    assert metrics["q_mean"] == pytest.approx(found.mean(), rel=1e-5)


def test_iqn_draws_anew_for_other_words() -> None:
    loss = jax.jit(iqn_loss(LINES, False, None, 3, 2).of)
    other = jax.random.bits(jax.random.key(1), (5,), jnp.uint32)
    first, second = (loss(MEANS, TARGET_MEANS, example(), words)[0] for words in (WORDS, other))
    assert first != second


def test_the_targets_action_is_as_averse_to_risk_as_the_behaviour() -> None:
    """Action 0 is t^2 (mean 1/3, worst half 1/12), action 1 always 1/4: the latter is taken only with cvar 0.5."""
    network = LINES._replace(
        apply=lambda params, observation, fractions: jnp.stack(
            [params * fractions**2, jnp.full_like(fractions, 0.25)], axis=1
        )
    )
    fractions = np.asarray(uniform(WORDS), np.float64)
    for cvar, following in ((1.0, fractions[3:] ** 2), (0.5, np.full(2, 0.25))):
        loss = iqn_loss(network, False, None, 3, 2, cvar=cvar)
        _, priority, _ = jax.jit(loss.of)(jnp.float32(1.0), jnp.float32(1.0), example(), WORDS)
        assert priority == pytest.approx(abs(np.mean(1.0 + 0.5 * following) - 0.25), rel=1e-5)


# As LINES, but curved, F^-1(t) = 3 c t^2, with fractions of its own: 0, 0.2, 0.6 and 1, moved by the second parameter.
def curves(params: tuple[Array, Array], observation: Array, fractions: Array) -> Array:
    return 3.0 * fractions[:, None] ** 2 * params[0][observation][None, :]


def proposal(params: tuple[Array, Array], observation: Array) -> Array:
    return jnp.concatenate([jnp.zeros(1), jnp.array([0.2, 0.6]) + params[1], jnp.ones(1)])


CURVES = Network(init=lambda key: (jnp.zeros((2, 2)), jnp.zeros(2)), apply=curves, proposal=proposal)


@pytest.mark.parametrize("double", [False, True])
def test_fqf_loss_and_gradient(double: bool) -> None:
    """Middles 0.1, 0.4, 0.8. The target's own proposal is elsewhere, and matters for its choice of action alone."""
    middles = np.array([0.1, 0.4, 0.8])
    found, goal = 3.0 * middles**2, 1.0 + 0.5 * 3.0 * (-2.0 if double else 6.0) * middles**2
    online, target = (MEANS, jnp.zeros(2)), (TARGET_MEANS, jnp.full(2, 0.1))

    def loss(params: Any, target: Any) -> tuple[Array, Any]:
        value, priority, metrics = fqf_loss(CURVES, double, None).of(params, target, example(), NO_NOISE)
        return value, (priority, metrics)

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (value, (priority, metrics)), (slope, target_slope) = run(online, target)

    def regression(mean: Array) -> Array:
        tau = jnp.asarray(middles, jnp.float32)
        return quantile_huber(3.0 * mean * tau**2, tau, jnp.asarray(goal, jnp.float32))

    assert value == pytest.approx(float(regression(jnp.float32(1.0))), rel=1e-5)
    widths = np.array([0.2, 0.4, 0.4])
    assert priority == pytest.approx(abs(widths @ goal - widths @ found), rel=1e-5)
    assert metrics["q_mean"] == pytest.approx(widths @ found, rel=1e-5)
    # The quantiles learn from the regression alone ...
    only_the_chosen = np.zeros((2, 2))
    only_the_chosen[0, 1] = jax.grad(regression)(jnp.float32(1.0))
    np.testing.assert_allclose(slope[0], only_the_chosen, rtol=1e-5)
    # ... and the fractions from 2 F^-1(tau_i) - F^-1(tauhat_i) - F^-1(tauhat_{i-1}), here 3 t^2 at each, alone.
    np.testing.assert_allclose(slope[1], [3 * (0.08 - 0.16 - 0.01), 3 * (0.72 - 0.64 - 0.16)], rtol=1e-4)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, np.zeros_like(leaf)), target_slope)


def test_fqf_without_a_proposal_is_refused() -> None:
    with pytest.raises(ValueError, match="proposed=n"):
        fqf_loss(LINES, False, None)


def test_the_parts_of_fqfs_network_learn_from_their_own_loss() -> None:
    """On the real network: without the proposal's gradient nothing else changes."""
    network = implicit(Design((4,), 2, (8, 8), True, True), 5)
    frozen = network._replace(proposal=lambda p, o: jax.lax.stop_gradient(network.proposal(p, o)))  # type: ignore[misc]
    params, target = (weights(network, seed) for seed in range(2))
    batch = example()._replace(obs_tm1=jnp.ones(4), obs_t=jnp.zeros(4))

    def slope(of: Network) -> Any:
        loss = fqf_loss(of, False, None).of
        return jax.jit(jax.grad(lambda params: loss(params, target, batch, NO_NOISE)[0]))(params)

    both, without = slope(network), slope(frozen)
    assert np.any(both.proposal.bias)
    assert not np.any(without.proposal.bias)
    for part in ("features", "embedding", "head"):
        jax.tree.map(np.testing.assert_array_equal, getattr(both, part), getattr(without, part))
        assert any(np.any(leaf) for leaf in jax.tree.leaves(getattr(both, part)))


def losses(double: bool, munchausen: Munchausen | None) -> dict[str, tuple[Loss, Network]]:
    quantiles = mlp(Design((4,), 2, (8, 8), False), 5)
    plain, proposing = (implicit(Design((4,), 2, (8, 8), False, False), n) for n in (None, 5))
    return {
        "qrdqn": (qrdqn_loss(quantiles, double, munchausen), quantiles),
        "iqn": (iqn_loss(plain, double, munchausen), plain),
        "fqf": (fqf_loss(proposing, double, munchausen), proposing),
    }


@pytest.mark.parametrize(("double", "munchausen"), [(False, SOFT), (True, None)])
@pytest.mark.parametrize("name", ["qrdqn", "iqn", "fqf"])
def test_the_target_comes_from_the_target_network_and_no_gradient_goes_there(
    name: str, double: bool, munchausen: Munchausen | None
) -> None:
    loss, network = losses(double, munchausen)[name]
    online, target, other = (weights(network, seed) for seed in range(3))
    batch = example()._replace(obs_tm1=jnp.ones(4), obs_t=jnp.full(4, -1.0))
    noise = words(loss.words)
    value = jax.jit(jax.value_and_grad(lambda params, target: loss.of(params, target, batch, noise)[0], argnums=(0, 1)))
    first, (slope, target_slope) = value(online, target)
    second, _ = value(online, other)
    assert first != second
    assert any(np.any(leaf) for leaf in jax.tree.leaves(slope))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(target_slope))


@pytest.mark.parametrize("name", ["qrdqn", "iqn", "fqf"])
def test_descent_on_a_real_network_finds_the_distribution_of_the_reward(name: str) -> None:
    """At terminations that pay 0 three times in four and else 4: the mean is 1, and so is the Q-value."""
    quantiles = mlp(Design((1,), 2, (16, 16), False), 8)
    implicits = {
        "iqn": implicit(Design((1,), 2, (16, 16), False, False), None),
        "fqf": implicit(Design((1,), 2, (16, 16), False, False), 8),
    }
    if name == "qrdqn":
        network, loss = qrdqn_network(quantiles), qrdqn_loss(quantiles, True, None)
    else:
        network = acting(implicits[name], 64, 1.0)
        loss = (iqn_loss if name == "iqn" else fqf_loss)(implicits[name], True, None)
    batch = Batch(
        obs_tm1=jnp.ones((8, 1)),
        action_tm1=jnp.ones(8, jnp.int32),
        reward_t=jnp.array([0.0, 0.0, 0.0, 4.0] * 2),
        discount_t=jnp.zeros(8),
        obs_t=jnp.ones((8, 1)),
        weight=jnp.ones(8),
    )
    params = jax.jit(network.init)(jax.random.key(0))
    noise = words(1000, 8, loss.words)

    def mean_loss(params: Any, words: Array) -> Array:
        return jnp.mean(jax.vmap(loss.of, in_axes=(None, None, 0, 0))(params, params, batch, words)[0])

    @jax.jit
    def learn(params: Any, noise: Array) -> Any:
        def step(params: Any, words: Array) -> tuple[Any, None]:
            return jax.tree.map(lambda x, d: x - 0.02 * d, params, jax.grad(mean_loss)(params, words)), None

        return jax.lax.scan(step, params, noise)[0]

    q = jax.jit(network.apply)(learn(params, noise), jnp.ones(1))
    # The Huber part draws the quantiles of such a distribution together a little.
    assert float(q[1]) == pytest.approx(1.0, abs=0.3)


def test_branches_share_the_mixture_of_their_quantiles() -> None:
    """Branch 0 is the table's first action in both states, branch 1 its second: 1 + 0.5 * (-2, 0) and 1 + 0.5 * (2, 8),
    so that each branch learns the quantiles of (0, 1, 2, 5)."""
    branches = Network(TABLE.init, lambda params, observation: params[observation][:, None, :])
    batch = example()._replace(action_tm1=jnp.array([0, 0]))
    value, priority, metrics = jax.jit(qrdqn_loss(branches, False, None).of)(ONLINE, TARGET, batch, NO_NOISE)
    mixture = jnp.array([0.0, 1.0, 2.0, 5.0])
    each = [float(quantile_huber(ONLINE[0, i], jnp.array([0.25, 0.75]), mixture)) for i in range(2)]
    assert float(value) == pytest.approx(np.mean(each))
    assert float(metrics["q_mean"]) == pytest.approx((9.0 + 0.5) / 2)
    assert float(priority) == pytest.approx(abs(2.0 - 4.75))


@pytest.mark.parametrize("munchausen", [None, SOFT], ids=["plain", "munchausen"])
@pytest.mark.parametrize("kind", ["iqn", "fqf"])
def test_twin_branches_are_as_one(kind: str, munchausen: Munchausen | None) -> None:
    design = Design((3,), 2, (6, 5), layer_norm=False)
    single = implicit(design, 3 if kind == "fqf" else None)
    twins = single._replace(apply=lambda *at: jnp.stack([single.apply(*at)] * 2, axis=1))

    def loss(network: Network) -> Loss:
        return fqf_loss(network, True, munchausen) if kind == "fqf" else iqn_loss(network, False, munchausen)

    params, target = (weights(single, seed) for seed in range(2))
    seen, after = jnp.asarray(drawn(2, 3))
    batch = example()._replace(obs_tm1=seen, obs_t=after)
    noise = words(loss(single).words)
    one = jax.jit(loss(single).of)(params, target, batch, noise)
    two = jax.jit(loss(twins).of)(params, target, batch._replace(action_tm1=jnp.array([1, 1])), noise)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, two)
