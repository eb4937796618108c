"""Networks with a memory: the cells against Equinox's and by hand, and the whole network."""

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes.weights import drawn, weights, words

from qdojo.errors import UsageError
from qdojo.networks.implicit import implicit
from qdojo.networks.inputs import Design
from qdojo.networks.mlp import Dueling, LayerNorm, Linear, mlp
from qdojo.networks.network import Network
from qdojo.networks.noisy import Noisy, noisy
from qdojo.networks.recurrent import GRU, LSTM, LSTMMemory, head_design, recurrent

pytestmark = pytest.mark.usefixtures("strict_promotion")

KEY = jax.random.key(5)
DESIGN = Design(observation_shape=(3,), num_actions=2, hidden=(6, 4), layer_norm=True)
Cell = Literal["gru", "lstm"]
BOTH = pytest.mark.parametrize("cell", ["gru", "lstm"])


def with_q(design: Design, cell: Cell) -> Network:
    """A network of plain Q-values."""
    return recurrent(design, cell, mlp(head_design(design, implicit=False)))


def with_arrays(layer: Linear, weight: Any, bias: Any) -> Linear:
    return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, (jnp.asarray(weight), jnp.asarray(bias)))


def test_gru_against_equinox() -> None:
    theirs = eqx.nn.GRUCell(3, 4, key=KEY)
    ours = jax.eval_shape(lambda: GRU(3, 4, KEY))
    bias_of_memory = jnp.concatenate([jnp.zeros(8), theirs.bias_n])
    ours = eqx.tree_at(
        lambda cell: (cell.of_input, cell.of_memory),
        ours,
        (
            with_arrays(ours.of_input, theirs.weight_ih, theirs.bias),
            with_arrays(ours.of_memory, theirs.weight_hh, bias_of_memory),
        ),
    )
    step, expected, h = eqx.filter_jit(ours), eqx.filter_jit(theirs), jnp.zeros(4)
    for row in drawn(10, 3):
        output, memory = step(row, h)
        np.testing.assert_array_equal(output, memory)
        h = expected(row, h)
        np.testing.assert_allclose(output, h, atol=1e-6)


def test_lstm_against_equinox() -> None:
    theirs = eqx.nn.LSTMCell(3, 4, key=KEY)
    ours = jax.eval_shape(lambda: LSTM(3, 4, KEY))
    ours = eqx.tree_at(
        lambda cell: (cell.of_input, cell.of_memory),
        ours,
        (
            with_arrays(ours.of_input, theirs.weight_ih, theirs.bias),
            with_arrays(ours.of_memory, theirs.weight_hh, jnp.zeros(16)),
        ),
    )
    h, c = jnp.zeros(4), jnp.zeros(4)
    step, expected = eqx.filter_jit(ours), eqx.filter_jit(theirs)
    for row in drawn(10, 3):
        output, memory = step(row, LSTMMemory(h, c))
        h, c = expected(row, (h, c))
        np.testing.assert_allclose(output, h, atol=1e-6)
        np.testing.assert_allclose(memory.output, h, atol=1e-6)
        np.testing.assert_allclose(memory.cell, c, atol=1e-6)


def test_gru_by_hand() -> None:
    """All gates at sigmoid(0) = 1/2; the candidate is tanh(2 * 1 + 1/2 * (3 * 1/2 + 1)), and h' = h / 2 + c / 2."""
    cell = jax.eval_shape(lambda: GRU(1, 1, KEY))
    cell = eqx.tree_at(
        lambda cell: (cell.of_input, cell.of_memory),
        cell,
        (
            with_arrays(cell.of_input, [[0.0], [0.0], [2.0]], [0.0, 0.0, 0.0]),
            with_arrays(cell.of_memory, [[0.0], [0.0], [3.0]], [0.0, 0.0, 1.0]),
        ),
    )
    output, _ = cell(jnp.ones(1), jnp.full(1, 0.5))
    assert float(output[0]) == pytest.approx(0.25 + 0.5 * math.tanh(3.25))


def test_a_new_lstm_forgets_slowly() -> None:
    """Of biases uniform in +-1/sqrt(64), those of the forget gate are 1 higher."""
    bias = np.asarray(LSTM(3, 64, KEY).of_memory.bias)
    assert (np.abs(bias[64:128] - 1.0) <= 0.125).all()
    assert (np.abs(np.delete(bias, np.s_[64:128])) <= 0.125).all()


@BOTH
def test_an_episode_starts_with_zeros_and_the_memory_keeps_its_form(cell: Cell) -> None:
    network = with_q(DESIGN, cell)
    memory = network.memory()
    assert jax.tree.map(jnp.shape, jax.tree.leaves(memory)) == [(4,)] * (1 if cell == "gru" else 2)
    assert not any(leaf.any() for leaf in jax.tree.leaves(memory))
    params = jax.eval_shape(network.init, KEY)
    features, after = jax.eval_shape(network.features, params, jnp.ones(3), memory)
    assert features.shape == (4,)
    assert jax.eval_shape(network.apply, params, features).shape == (2,)
    assert jax.tree.structure(after) == jax.tree.structure(memory)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(after))


@BOTH
def test_what_was_seen_before_changes_the_values(cell: Cell) -> None:
    network = with_q(DESIGN, cell)
    params, step = weights(network), jax.jit(network.features)
    after_one, after_other = (step(params, jnp.full(3, x), network.memory())[1] for x in (1.0, -1.0))
    now = jnp.zeros(3)
    assert np.abs(step(params, now, after_one)[0] - step(params, now, after_other)[0]).max() > 1e-3


@BOTH
@pytest.mark.parametrize("dueling", [False, True])
def test_parts_and_widths(cell: Cell, dueling: bool) -> None:
    params = jax.eval_shape(with_q(DESIGN._replace(dueling=dueling), cell).init, KEY)
    assert [layer.linear.weight.shape for layer in params.hidden] == [(6, 3)]
    gates = 3 if cell == "gru" else 4
    assert params.cell.of_input.weight.shape == (gates * 4, 6)
    assert params.cell.of_memory.weight.shape == (gates * 4, 4)
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, LayerNorm))
    assert sum(isinstance(leaf, LayerNorm) for leaf in leaves) == (3 if dueling else 1)
    head = params.head.head
    if dueling:
        assert isinstance(head, Dueling)
        assert head.value_hidden.linear.weight.shape == (4, 4)
        assert head.advantage.weight.shape == (2, 4)
    else:
        assert head.weight.shape == (2, 4)


def test_one_layer_is_the_memory_alone() -> None:
    params = jax.eval_shape(with_q(DESIGN._replace(hidden=(5,)), "gru").init, KEY)
    assert params.hidden == []
    assert params.cell.of_input.weight.shape == (15, 3)


def test_no_layer_is_refused() -> None:
    with pytest.raises(UsageError, match="hidden has no layer"):
        with_q(DESIGN._replace(hidden=()), "gru")


def test_heads_begin_with_the_features() -> None:
    """Of two branches with three actions: plain values, atoms, and quantiles at any fraction."""
    design = DESIGN._replace(action_shape=(2,), num_actions=3)
    plain, joined = head_design(design, implicit=False), head_design(design, implicit=True)
    assert (plain.observation_shape, plain.hidden, joined.hidden) == ((4,), (), (4,))

    def shape(head: Network, *fractions: jax.Array) -> tuple[int, ...]:
        network = recurrent(design, "gru", head)
        return jax.eval_shape(network.apply, jax.eval_shape(network.init, KEY), jnp.ones(4), *fractions).shape

    assert shape(mlp(plain)) == (2, 3)
    assert shape(mlp(plain, 5)) == (2, 3, 5)
    assert shape(implicit(joined, None), jnp.array([0.1, 0.9])) == (2, 2, 3)


def test_statistics_are_kept_of_whole_sequences() -> None:
    network = with_q(DESIGN._replace(normalized=True), "gru")
    seen = jnp.asarray(drawn(5, 7, 3) * 3.0 + 1.0)
    found = network.observe(jax.jit(network.init)(KEY), seen).inputs.statistics
    assert float(found.count) == 35
    np.testing.assert_allclose(found.mean, seen.reshape(35, 3).mean(axis=0), rtol=1e-4)


@BOTH
def test_members_differ_and_are_each_as_alone(cell: Cell) -> None:
    network = with_q(DESIGN, cell)
    keys = jax.random.split(KEY, 2)

    def first(key: jax.Array) -> jax.Array:
        return network.features(network.init(key), jnp.ones(3), network.memory())[0]

    together, alone = jax.jit(jax.vmap(first))(keys), jax.jit(first)
    assert not np.allclose(together[0], together[1])
    np.testing.assert_allclose(together, np.stack([alone(key) for key in keys]), atol=1e-6)


@BOTH
def test_noise_reaches_the_cell_and_is_left_out_where_nothing_was_perturbed(cell: Cell) -> None:
    """Words: inputs + outputs of 3 -> 6, of 6 and 4 -> gates * 4, and of 4 -> 2."""
    plain: Network = with_q(DESIGN, cell)
    network = noisy(plain)
    gates = 3 if cell == "gru" else 4
    assert network.words == (3 + 6) + (6 + 4 * gates) + (4 + 4 * gates) + (4 + 2)
    params = weights(network)
    assert isinstance(params, Noisy)
    perturbed = jax.jit(network.perturb)(params, words(network.words))
    for name in ("of_input", "of_memory"):
        moved = np.asarray(getattr(perturbed.cell, name).weight) - getattr(params.mean.cell, name).weight
        assert np.abs(moved).mean() > 0.01
    at = (np.arange(3, dtype=np.float32), network.memory())
    features, features_of_plain = jax.jit(network.features), jax.jit(plain.features)
    without, with_noise = features(params, *at), features(perturbed, *at)
    jax.tree.map(np.testing.assert_array_equal, without, features_of_plain(params.mean, *at))
    jax.tree.map(np.testing.assert_array_equal, with_noise, features_of_plain(perturbed, *at))
    assert np.abs(without[0] - with_noise[0]).max() > 1e-3


def test_noisy_statistics_are_of_the_means() -> None:
    network = noisy(with_q(DESIGN._replace(normalized=True), "gru"))
    params = network.observe(jax.jit(network.init)(KEY), jnp.ones((2, 4, 3)))
    assert float(params.mean.inputs.statistics.count) == 8
