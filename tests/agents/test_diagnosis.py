"""Each diagnostic against numbers worked out by hand, from the tape to the value that is recorded."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdojo.agents import diagnosis
from qdojo.agents.categorical import c51_loss
from qdojo.agents.diagnosis import Looks, value_diagnosis
from qdojo.agents.dqn import Rule, dqn_loss
from qdojo.agents.explore import Choosing, Exploration
from qdojo.agents.learner import Hyper, Structure, replay_agent
from qdojo.agents.pqn import PqnHyper, PqnStructure, pqn_agent
from qdojo.agents.tutorial import tutorial_agent
from qdojo.networks.inputs import Design
from qdojo.networks.mlp import mlp
from qdojo.networks.network import Network
from qdojo.tape.ring import Tape, empty, write
from qdojo.tape.windows import transitions
from qdojo.types import Batch, Clock, Diagnosis, Step

Row = tuple[float, int, float, bool, bool]
"""Observation, action, reward, terminated, last."""
SHOWN = Network(
    init=lambda key: jnp.zeros(2),
    # Q-values of an observation x: x and 2 x, times 1 plus the parameters.
    apply=lambda params, observation: observation[0] * jnp.array([1.0, 2.0]) * (1.0 + params),
)
HYPER = Hyper(0.1, 0.1, 100.0, 0.5, Exploration(1.0, 0.1, 100.0), 1.0)
CLOCK = Clock(jnp.int32(5), jnp.int32(1))
T, F = True, False


def tape_of(*rows: Row, capacity: int | None = None) -> Tape:
    observation, action, reward, terminated, last = (
        np.array(column)[:, None, None] for column in zip(*rows, strict=True)
    )
    tape = empty(capacity or len(rows), 1, 1, jax.ShapeDtypeStruct((1,), jnp.float32))
    block = Step(
        observation[..., None].astype(np.float32), action.astype(np.int32), reward.astype(np.float32), terminated, last
    )
    return write(tape, block)._replace(member=jnp.int32(0))


def numbers_of(of: Diagnosis, state: Any, tape: Tape) -> dict[str, np.ndarray]:
    words = np.random.default_rng(0).integers(0, 2**32, of.words, dtype=np.uint32)
    return jax.tree.map(np.asarray, jax.jit(of.examine)(state, tape, words, CLOCK))


def of_agent(agent: Any, tape: Tape) -> dict[str, float]:
    return agent.diagnosis.told(numbers_of(agent.diagnosis, agent.init(jax.random.key(0)), tape))


def test_quantiles_are_of_examples_with_a_weight_only() -> None:
    numbers = {
        "gradient_norm": np.array(5.0),
        "errors": np.array([-4.0, 1.0, 2.0, -3.0, 100.0]),
        "weight": np.array([1.0, 0.5, 1.0, 1.0, 0.0]),
        "age": np.array([10, 20, 30, 40, 1_000]),
    }
    found = diagnosis.of_batch(numbers)
    assert found == pytest.approx(
        {"gradient_norm": 5.0, "td_error_p10": 1.3, "td_error_median": 2.5, "td_error_p90": 3.7, "replay_age": 25.0}
    )
    assert diagnosis.of_batch(numbers | {"weight": np.zeros(5)}) == {"gradient_norm": 5.0}


def test_the_gap_counts_states_with_a_choice() -> None:
    """Gaps 2 and 0; the third state has one legal action, and the fourth is an end."""
    none = -1e30
    q = np.array([[1.0, 4.0, 2.0], [5.0, 5.0, none], [3.0, none, none], [9.0, 0.0, 0.0]], np.float32)[:, None]
    real = np.array([T, T, T, F])
    assert diagnosis.action_gap(q, real) == {"action_gap": 1.0}
    assert diagnosis.action_gap(q[2:], real[2:]) == {}
    assert diagnosis.action_gap(q[..., :1], real) == {}


def test_a_unit_is_dead_if_no_real_state_wakes_it() -> None:
    first = np.array([[T, F, F], [F, F, F], [T, T, T]])
    second = np.array([[F], [T], [F]])
    # Of four units, the second and third of the first layer wake at the end of an episode alone.
    assert diagnosis.dead_units([first, second], np.array([T, T, F])) == {"dead_units": 0.5}
    assert diagnosis.dead_units([], np.array([T])) == {}


def test_shares_of_actions_by_branch() -> None:
    action = np.array([[0], [1], [1], [1], [0]])
    real = np.array([T, T, T, T, F])
    assert diagnosis.action_shares(action, real, np.array([[T, T]])) == {"action_share_0": 0.25, "action_share_1": 0.75}
    both = np.array([[0, 2], [1, 2]])
    found = diagnosis.action_shares(both, np.array([T, T]), np.array([[T, T, F], [T, T, T]]))
    assert found == {
        "action_share_0_0": 0.5,
        "action_share_0_1": 0.5,
        "action_share_1_0": 0.0,
        "action_share_1_1": 0.0,
        "action_share_1_2": 1.0,
    }


@pytest.mark.parametrize(
    ("reward", "ends", "written", "discount", "total", "known"),
    [
        ([1.0, 2.0, 4.0], [0, 1, 2], [T, T, T], 0.5, 2.0, T),  # terminated in the second step: 1 + 0.5 * 2
        ([1.0, 2.0, 4.0], [0, 0, 2], [T, T, T], 0.5, 2.0, F),  # truncated there, and what follows counts 0.25
        ([1.0, 2.0, 4.0], [0, 0, 2], [T, T, T], 0.1, 1.2, T),  # what follows counts 0.01
        ([1.0, 2.0, 4.0], [0, 0, 0], [T, T, T], 0.5, 3.0, F),  # goes on, and what follows counts 0.125
        ([1.0, 2.0, 4.0], [0, 0, 0], [T, T, F], 0.5, 2.0, F),  # the third row is not written yet
        ([1.0, 2.0, 4.0], [0, 2, 0], [T, T, T], 0.5, 1.0, F),  # the next episode does not count
        ([1.0, 2.0, 4.0], [1, 2, 0], [T, T, T], 1.0, 1.0, T),
    ],
)
def test_the_return_that_followed(
    reward: Any, ends: Any, written: Any, discount: float, total: float, known: bool
) -> None:
    found, is_known = diagnosis.returns(np.array([reward]), np.array([ends]), np.array([written]), discount)
    assert found[0] == pytest.approx(total)
    assert is_known[0] == known


def test_a_replay_agents_batch_by_hand() -> None:
    """One transition: 3 + 0.5 * 8 = 7 is the target of Q = 1, so the error is 6 and the gradient -2 * 6 * 1."""
    structure = Structure(Choosing(2), batch_size=4, window=transitions(1), target_sync_updates=1, max_grad_norm=1.0)
    agent = replay_agent(SHOWN, lambda own: dqn_loss(SHOWN, Rule(False, "mse")), HYPER, structure)
    found = of_agent(agent, tape_of((1.0, 0, 3.0, F, F), (4.0, 0, 0.0, F, F)))
    # Before clipping, although max_grad_norm is 1.
    assert found == pytest.approx(
        {"gradient_norm": 12.0, "td_error_p10": 6.0, "td_error_median": 6.0, "td_error_p90": 6.0, "replay_age": 1.0}
    )


def test_pqns_phase_by_hand() -> None:
    """With lambda 0: targets 3 + 0.5 * 8 = 7 and 1 (terminated) of Q-values 1 and 8; the final row starts nothing.

    The gradient of a half of the mean over all three rows, for the two parameters: -6 * 1 / 3 and 7 * 8 / 3.
    """
    hyper = PqnHyper(0.1, 0.1, 100.0, 0.5, 0.0, Exploration(1.0, 0.1, 100.0))
    agent = pqn_agent(SHOWN, hyper, PqnStructure(Choosing(2), rollout=3, epochs=1, minibatches=1, max_grad_norm=1.0))
    found = of_agent(agent, tape_of((1.0, 0, 3.0, F, F), (4.0, 1, 1.0, T, F), (9.0, 0, 0.0, F, T), (1.0, 0, 0.0, F, F)))
    assert found["gradient_norm"] == pytest.approx(np.hypot(6.0 / 3, 56.0 / 3), rel=1e-6)
    assert found["td_error_median"] == pytest.approx(6.5)
    assert "replay_age" not in found


def test_the_tutorials_sample_by_hand() -> None:
    """The target 3 + 0.5 * 8 = 7 of Q = 1: Keras' mean over the two outputs gives the gradient -2 * 6 * 1 / 2."""
    agent = tutorial_agent(SHOWN, 2, discount=0.5, memory_steps=10, batch_size=1)
    tape = tape_of((1.0, 0, 3.0, F, F), (4.0, 0, 0.0, F, F))
    assert of_agent(agent, tape) == pytest.approx(
        {"gradient_norm": 6.0, "td_error_p10": 6.0, "td_error_median": 6.0, "td_error_p90": 6.0}
    )
    assert "td_error_median" not in of_agent(agent, tape_of((1.0, 0, 3.0, F, F)))


def test_the_error_of_a_distribution_is_that_of_its_mean() -> None:
    """Equal mass on 0, 10 and 20 of the taken action, all mass on 20 of the next one: |1 + 0.5 * 20 - 10| = 1."""
    logits = Network(init=lambda key: jnp.zeros(()), apply=lambda params, observation: observation)
    first, following = jnp.zeros((2, 3)), jnp.array([[0.0, 0.0, 99.0], [99.0, 0.0, 0.0]])
    loss = c51_loss(logits, jnp.array([0.0, 10.0, 20.0]), False, None)
    batch = Batch(first, jnp.int32(1), jnp.float32(1.0), jnp.float32(0.5), following, jnp.float32(1.0))
    assert loss.td_error is not None
    error = jax.jit(loss.td_error)(jnp.zeros(()), jnp.zeros(()), batch, jnp.zeros(0, jnp.uint32))
    assert error == pytest.approx(1.0, abs=1e-5)


def looks(**changes: Any) -> Looks:
    usual = Looks(SHOWN, lambda q: q, lambda state: 0.5, 1, 5, np.array([[T, T]]), 256, False)
    return usual._replace(**changes)


class Holds(NamedTuple):
    params: Any


def looked_at(of: Diagnosis, tape: Tape, params: Any = None) -> dict[str, np.ndarray]:
    return numbers_of(of, Holds(jnp.zeros(2) if params is None else params), tape)


def test_q_values_of_states_against_what_followed() -> None:
    """Two steps of 1 with x = 3 and x = 6, the second terminal, over and over: returns 1.5 and 1, Q-values 3 and 12."""
    rows: list[Row] = [(3.0, 0, 1.0, F, F), (6.0, 1, 1.0, T, F), (50.0, 0, 0.0, F, T)] * 8
    tape = tape_of(*rows, capacity=30)
    of = value_diagnosis(looks())
    numbers = looked_at(of, tape)
    found = of.told(numbers)
    first = numbers["action"][: diagnosis.RETURNS][~numbers["last"][: diagnosis.RETURNS]] == 0
    assert found["q_bias"] == pytest.approx(np.where(first, 3.0 - 1.5, 12.0 - 1.0).mean(), rel=1e-6)
    steps = numbers["action"][~numbers["last"]]
    # The second action is always worth x more.
    assert found["action_gap"] == pytest.approx(np.where(steps == 0, 3.0, 6.0).mean(), rel=1e-6)
    assert found["action_share_0"] == pytest.approx((steps == 0).mean())
    assert 0.3 < found["action_share_0"] < 0.7
    assert found["action_share_0"] + found["action_share_1"] == pytest.approx(1.0)
    assert "dead_units" not in found


def test_what_the_tape_does_not_show_is_left_out() -> None:
    of = value_diagnosis(looks(horizon=6))
    short = tape_of(*[(3.0, 0, 1.0, F, F)] * 6, capacity=10)
    assert "q_bias" not in of.told(looked_at(of, short))
    # Long enough, but truncated so early that the unseen rest of each return counts.
    cut: list[Row] = [(3.0, 0, 1.0, F, F), (3.0, 0, 0.0, F, T)] * 5
    assert "q_bias" not in of.told(looked_at(of, tape_of(*cut)))
    only_ends = tape_of(*[(3.0, 0, 1.0, F, T)] * 8)
    assert of.told(looked_at(of, only_ends)) == {}


def test_hidden_units_of_a_network_and_its_streams() -> None:
    """A unit whose weights are 0 and whose bias is negative is dead; all others are woken by a large bias."""
    network = mlp(Design((1,), 2, (4, 3), layer_norm=False, dueling=True))
    params = jax.tree.map(jnp.zeros_like, network.init(jax.random.key(0)))
    layers = [params.hidden[0], params.head.value_hidden, params.head.advantage_hidden]
    biases = [np.array([1.0, 1.0, -1.0, 1.0]), np.array([1.0, -1.0, 1.0]), np.array([-1.0, -1.0, 1.0])]
    for layer, bias in zip(layers, biases, strict=True):
        object.__setattr__(layer.linear, "bias", jnp.asarray(bias, jnp.float32))
    of = value_diagnosis(looks(network=network, horizon=0))
    tape = tape_of(*[(3.0, 0, 1.0, F, F)] * 4)
    found = of.told(looked_at(of, tape, params))
    assert found["dead_units"] == pytest.approx(4 / 10)
