"""Ensembles: losses and values against those of each head alone, and which head acts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes.weights import weights, words
from scipy import stats

from qdojo.agents.bootstrapped import NO_HEAD, bootstrapped, bootstrapped_actor, bootstrapped_loss
from qdojo.agents.categorical import c51_loss, c51_network
from qdojo.agents.conservative import conservative
from qdojo.agents.dqn import Rule, dqn_loss
from qdojo.agents.explore import Choosing, Exploration
from qdojo.agents.learner import Hyper, Loss, Structure, replay_agent
from qdojo.agents.quantile import qrdqn_loss, qrdqn_network
from qdojo.networks.inputs import Design
from qdojo.networks.mlp import mlp
from qdojo.networks.network import Network
from qdojo.networks.noisy import noisy
from qdojo.networks.prior import with_prior
from qdojo.noise import uniform
from qdojo.tape.ring import empty, write
from qdojo.tape.sampling import UNIFORM, Sampler, prioritized
from qdojo.tape.windows import transitions
from qdojo.types import Batch, Clock, Masked, Step

HEADS = 3
KEY = jax.random.key(6)
TABLE = Network(
    init=lambda key: jax.random.normal(key, (2,)),
    # Two actions, and the parameters are their Q-values.
    apply=lambda params, observation: params,
    perturb=lambda params, noise: params + uniform(noise),
    words=2,
)
Q = jnp.array([[1.0, 4.0], [2.0, 0.0], [9.0, 5.0]])
OBSERVATION = jnp.zeros(1)
SUPPORT = jnp.linspace(-2.0, 2.0, 5)


def variant(name: str) -> tuple[Network, Loss]:
    """A network of one head, and its loss."""
    design = Design((3,), 2, (4,), True, dueling=name == "conservative")
    rule = Rule(double=True, error="mse")
    if name == "c51":
        outputs = with_prior(mlp(design, 5), 1.0)
        return c51_network(outputs, SUPPORT), c51_loss(outputs, SUPPORT, True, None)
    if name == "qrdqn":
        outputs = mlp(design, 5)
        return qrdqn_network(outputs), qrdqn_loss(outputs, True, None)
    network = mlp(design)
    network = noisy(network) if name == "noisy" else with_prior(network, 2.0)
    loss = dqn_loss(network, rule)
    return network, conservative(loss, network, 0.5) if name == "conservative" else loss


VARIANTS = ["noisy", "c51", "qrdqn", "conservative"]


def example() -> Batch:
    return Batch(
        obs_tm1=jnp.array([1.0, -1.0, 2.0]),
        action_tm1=jnp.int32(1),
        reward_t=jnp.float32(0.5),
        discount_t=jnp.float32(0.9),
        obs_t=jnp.array([0.0, 1.0, -2.0]),
        weight=jnp.float32(1.0),
    )


def head(params: Any, k: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[k], params)


@pytest.mark.parametrize("name", ["noisy", "c51"])
def test_heads_are_drawn_apart(name: str) -> None:
    network, _ = variant(name)
    params = jax.jit(bootstrapped(network, HEADS).init)(KEY)
    apply = jax.jit(network.apply)
    q = [np.asarray(apply(head(params, k), example().obs_tm1)) for k in range(HEADS)]
    assert not any(np.allclose(q[i], q[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    found = jax.jit(bootstrapped(network, HEADS).apply)(params, example().obs_tm1)
    np.testing.assert_allclose(found, np.mean(q, 0), rtol=1e-5)


def test_values_are_the_mean_over_heads() -> None:
    """(1 + 2 + 9) / 3 and (4 + 0 + 5) / 3."""
    np.testing.assert_allclose(bootstrapped(TABLE, HEADS).apply(Q, OBSERVATION), [4.0, 3.0])
    q, memory = bootstrapped_actor(TABLE, HEADS).values(Q, OBSERVATION, jnp.int32(2))
    np.testing.assert_allclose(q, [4.0, 3.0])
    assert memory == 2


def test_illegal_actions_stay_far_below() -> None:
    network = bootstrapped(with_prior(mlp(Design((3,), 2, (4,), False)), 3.0), 10)
    illegal, legal = network.apply(weights(network), Masked(jnp.ones(3), jnp.array([False, True])))
    assert illegal < -1e8
    assert np.abs(legal) < 100.0


def test_each_head_has_noise_of_its_own() -> None:
    network = bootstrapped(TABLE, HEADS)
    assert network.words == 6
    noise = words(6)
    np.testing.assert_array_equal(network.perturb(Q, noise), Q + uniform(noise).reshape(3, 2))


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_and_gradient_are_the_mean_of_each_heads_own(name: str) -> None:
    network, loss = variant(name)
    ensemble = bootstrapped_loss(loss, HEADS)
    params, target = (weights(bootstrapped(network, HEADS), seed) for seed in (0, 1))
    noise = words(ensemble.words)

    def slope_of(loss: Loss) -> Any:
        def value(*at: Any) -> Any:
            value, *rest = loss.of(*at)
            return value, rest

        return jax.jit(jax.value_and_grad(value, has_aux=True))

    (found, (priority, metrics)), slope = slope_of(ensemble)(params, target, example(), noise)
    apart, one = [], slope_of(loss)
    for k in range(HEADS):
        own = noise[k * loss.words : (k + 1) * loss.words]
        (value, rest), expected = one(head(params, k), head(target, k), example(), own)
        apart.append((value, *rest))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b / HEADS, rtol=1e-4, atol=1e-6), head(slope, k), expected
        )
    assert found == pytest.approx(np.mean([a[0] for a in apart]), rel=1e-5)
    assert priority == pytest.approx(np.mean([a[1] for a in apart]), rel=1e-5)
    assert metrics.keys() == apart[0][2].keys()
    for metric, value in metrics.items():
        assert value == pytest.approx(np.mean([a[2][metric] for a in apart]), rel=1e-5)


def test_a_loss_with_noise_has_words_for_each_head() -> None:
    """Of the words 0, 1/4, 1/2, 3/4, ... the heads see two each."""

    def loss(params: Any, target: Any, batch: Any, noise: Any) -> Any:
        return uniform(noise)[0], uniform(noise)[1], {}

    ensemble = bootstrapped_loss(Loss(loss, 2), HEADS)
    assert ensemble.words == 6
    noise = (jnp.array([0.0, 0.25, 0.5, 0.75, 0.25, 0.5]) * 2.0**32).astype(jnp.uint32)
    first, second, _ = ensemble.of(Q, Q, example(), noise)
    assert (float(first), float(second)) == (0.25, 0.5)


def test_the_head_is_drawn_at_a_start_and_kept() -> None:
    actor = bootstrapped_actor(TABLE._replace(words=0, perturb=lambda params, noise: params), HEADS)
    assert actor.words == 1
    memory = actor.memory()
    assert memory == NO_HEAD
    for word, drawn in ((7, 1), (8, 2), (9, 0)):
        q, memory = jax.jit(actor.exploring)(Q, OBSERVATION, actor.memory(), jnp.array([word], jnp.uint32))
        assert memory == drawn
        np.testing.assert_array_equal(q, Q[drawn])
        for later in range(3):
            q, memory = actor.exploring(Q, OBSERVATION, memory, jnp.array([later], jnp.uint32))
            assert memory == drawn
            np.testing.assert_array_equal(q, Q[drawn])


def test_each_head_is_drawn_as_often() -> None:
    actor = bootstrapped_actor(TABLE, 10)
    explore = jax.jit(jax.vmap(actor.exploring, in_axes=(None, None, None, 0)))
    _, drawn = explore(jnp.zeros((10, 2)), OBSERVATION, actor.memory(), words(5000, actor.words))
    counts = np.bincount(np.asarray(drawn), minlength=10)
    assert counts.sum() == 5000
    assert stats.chisquare(counts).pvalue > 0.01


def test_the_acting_head_has_its_noise() -> None:
    noise = words(3)
    q, _ = bootstrapped_actor(TABLE, HEADS).exploring(Q, OBSERVATION, jnp.int32(1), noise)
    np.testing.assert_array_equal(q, Q[1] + uniform(noise[1:]))


def test_observations_are_seen_by_all_heads() -> None:
    network = bootstrapped(mlp(Design((3,), 2, (4,), False, normalized=True)), HEADS)
    seen = network.observe(jax.jit(network.init)(KEY), jnp.array([[1.0, 2.0, 3.0], [3.0, 2.0, 7.0]]))
    np.testing.assert_allclose(seen.inputs.statistics.mean, np.tile([2.0, 2.0, 5.0], (HEADS, 1)))


@pytest.mark.parametrize(
    ("name", "sampler"), [("noisy", UNIFORM), ("c51", prioritized(2, 1, 2))], ids=["uniform", "prioritized"]
)
def test_it_learns_as_an_agent(name: str, sampler: Sampler) -> None:
    """Every head moves, and stays apart from the others; the agent carries which one acts."""
    network, loss = variant(name)
    structure = Structure(Choosing(2), 4, transitions(1), 1, None, sampler)
    hyper = Hyper(0.01, 0.01, 1.0, 0.9, Exploration(0.0, 0.0, 1.0), 1.0, 0.5)
    ensemble, actor = bootstrapped(network, HEADS), bootstrapped_actor(network, HEADS)
    learner = replay_agent(ensemble, lambda own: bootstrapped_loss(loss, HEADS), hyper, structure, None, actor)
    assert learner.update_words == 4 * (1 + HEADS * loss.words) + 2 * HEADS * network.words
    tape, never = empty(2, 1, 1, jax.ShapeDtypeStruct((3,), jnp.float32)), jnp.zeros((2, 1, 1), bool)
    rows = Step(jnp.ones((2, 1, 1, 3)), jnp.ones((2, 1, 1), jnp.int32), jnp.ones((2, 1, 1)), never, never)
    tape = write(tape, rows)._replace(member=jnp.int32(0))
    clock, start = Clock(jnp.int32(2), jnp.int32(0)), jax.jit(learner.init)(KEY)
    state, metrics = jax.jit(learner.update)(start, tape, words(learner.update_words, seed=1), clock)
    assert np.isfinite(metrics["loss"])
    apply = jax.jit(jax.vmap(network.apply, in_axes=(0, None)))
    before, after = (apply(s.params, jnp.ones(3)) for s in (start, state))
    assert np.abs(after - before).max(axis=1).min() > 1e-4
    assert len(np.unique(np.asarray(after)[:, 1])) == HEADS
    _, memory = jax.jit(learner.act)(
        state, jnp.ones(3), learner.memory(), words(learner.act_words, seed=2), clock, jnp.int32(0)
    )
    assert 0 <= int(memory) < HEADS
