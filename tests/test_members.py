"""Members with numbers of their own: each learns what it would have learned alone. Not for how they are given."""

import re
from typing import Any

import jax
import numpy as np
import pytest

from qdojo.build.numbers import WHERE_GIVEN, replay_numbers
from qdojo.build.training import build
from qdojo.config import Config, make_config
from qdojo.errors import UsageError

CARTPOLE = "CartPole-v1"
SMALL: dict[str, Any] = {
    "hidden": (8, 8),
    "capacity_steps": 128,
    "batch_size": 8,
    "warmup_steps": 16,
    "collect_steps": 4,
    "updates_per_step": 0.5,
    "report_every_steps": 128,
    "steps": 128,
}
ONE = {"learning_rate": 0.02, "discount": 0.75, "epsilon_end": 0.5, "target_tau": 0.5}
OTHER = {"learning_rate": 0.001, "epsilon_start": 0.75, "munchausen_temperature": 1.5, "adam_epsilon": 0.5}
OTHER |= {
    "discount": 0.5,
    "epsilon_end": 0.0,
    "target_tau": 0.25,
    "munchausen_alpha": 0.25,
    "max_grad_norm": 0.125,
    "conservative": 0.0,
    "priority_alpha": 1.0,
}
MANY = {"munchausen": True, "prioritized": True, "conservative": 0.125, "max_grad_norm": 10.0}


def learned(config: Config, hyper: list[dict[str, float]] | None = None) -> Any:
    """The parameters of all members after one chunk."""
    parts = build(config, hyper=hyper)
    state, report = next(parts.loop.run(parts.loop.init()))
    parts.loop.close()
    assert report is not None
    assert report.updates > 20
    return jax.tree.map(np.asarray, state.agents.params)


@pytest.mark.slow
def test_each_member_learns_what_it_would_have_learned_alone_with_its_numbers() -> None:
    """Up to rounding: XLA multiplies by the inverse of a constant where it divides by a number of the state."""
    fields = SMALL | MANY
    together = learned(make_config(CARTPOLE, seeds=2, **fields), [ONE, OTHER])
    alone = learned(make_config(CARTPOLE, seed=1, **fields | OTHER))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b[0], rtol=2e-4, atol=2e-5), together, alone)


def test_without_numbers_of_their_own_the_state_holds_no_others() -> None:
    config = make_config(CARTPOLE, seeds=2, **SMALL)
    own, none = (build(config, hyper=hyper).loop.template().agents for hyper in ([{}, {}], None))
    assert jax.tree.structure(own) == jax.tree.structure(none)
    assert own.hyper.own == {}
    held = build(make_config(CARTPOLE, seeds=2, **SMALL | MANY), hyper=[{}, dict.fromkeys(WHERE_GIVEN[:3], 0.5)])
    assert set(held.loop.template().agents.hyper.own) == {"adam_beta1", "adam_beta2", "adam_epsilon"}
    np.testing.assert_array_equal(held.numbers.own["adam_beta2"], np.float32([0.999, 0.5]))


def test_a_constant_step_size_stays_constant() -> None:
    numbers = [{"learning_rate": 0.5}, {}, {"learning_rate": 0.25, "learning_rate_end": 0.125}]
    constant = build(make_config("Acrobot-v1", "dqn", seeds=3, learning_rate=0.1), hyper=numbers).numbers
    np.testing.assert_array_equal(constant.learning_rate_end, np.float32([0.5, 0.1, 0.125]))
    falling = make_config("Acrobot-v1", "dqn", seeds=3, learning_rate=0.1, learning_rate_end=0.01)
    ends = build(falling, hyper=numbers).numbers.learning_rate_end
    np.testing.assert_array_equal(ends, np.float32([0.01, 0.01, 0.125]))


@pytest.mark.parametrize("rates", [[1e-5, 1e-4, 1e-3], [1e-3, 1e-4, 1e-5]])
def test_a_rate_below_the_presets_final_one_stays_constant_instead_of_rising(rates: list[float]) -> None:
    ends = build(make_config("Acrobot-v1", learning_rate=rates)).numbers.learning_rate_end
    np.testing.assert_array_equal(ends, np.minimum(np.float32(rates), np.float32(1e-4)))
    alone = [replay_numbers(make_config("Acrobot-v1", learning_rate=rate)).learning_rate_end for rate in rates]
    assert alone == [min(rate, 1e-4) for rate in rates]


def test_pqn_and_the_tutorials_agent_hold_them_too() -> None:
    pqn = build(make_config(CARTPOLE, "pqn", seeds=2), hyper=[{"trace_decay": 0.25}, {"max_grad_norm": 3.0}])
    np.testing.assert_array_equal(pqn.numbers.lambda_, np.float32([0.25, 0.95]))
    config = make_config(CARTPOLE, "tutorial", seeds=2, network="mlp")
    parts = build(config, hyper=[{"epsilon_start": 0.5}, {"discount": 0.0}])
    states = jax.vmap(parts.agent.init)(jax.random.split(jax.random.key(0)), parts.numbers)
    np.testing.assert_array_equal(states.epsilon, np.float32([0.5, 1.0]))
    np.testing.assert_array_equal(states.own["discount"], np.float32([0.95, 0.0]))


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        ([{}], "hyper has numbers for 1 members, but there are 2; give one mapping per member."),
        ([{}, {"hidden": 3.0}], "Members cannot differ in hidden; they may differ in learning_rate, "),
        ([{"munchausen_alpha": 0.5}, {}], "munchausen_alpha is set, but nothing reads it"),
        ([{"discount": 0.5}, {"discount": 1.5}], "discount is 1.5: "),
    ],
)
def test_what_members_cannot_have_is_refused(hyper: list[dict[str, float]], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        build(make_config(CARTPOLE, seeds=2), hyper=hyper)


def test_numbers_of_the_state_are_read_by_the_tutorials_replay() -> None:
    """Each replay halves epsilon until it is at its minimum; a small step size moves the weights little."""
    small = {"batch_size": 4, "warmup_steps": 4, "report_every_steps": 120}
    config = make_config(CARTPOLE, "tutorial", seeds=2, network="mlp", **small)
    slow = {"learning_rate": 1e-5, "epsilon_decay_factor": 0.5, "epsilon_end": 0.125}
    parts = build(config, hyper=[slow, {"learning_rate": 0.01}])
    start = parts.loop.init()
    before = jax.tree.map(np.array, start.agents.params)
    state, _ = next(parts.loop.run(start))
    replays = np.asarray(state.agents.adam.updates) // 4
    assert (replays >= 2).all()
    expected = [0.5 ** min(int(replays[0]), 3), 0.995 ** int(replays[1])]
    np.testing.assert_allclose(state.agents.epsilon, expected, rtol=1e-5)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).reshape(2, -1).max(axis=1), state.agents.params, before)
    little, much = np.max(jax.tree.leaves(moved), axis=0)
    assert 0.0 < little < 0.01 * much
