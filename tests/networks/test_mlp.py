"""The dense Q-network against numbers worked out by hand and against NumPy."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from probes.weights import weights

from qdojo.networks.inputs import Design
from qdojo.networks.mlp import LAYER_NORM_EPSILON, Dueling, Hidden, LayerNorm, Linear, mlp

pytestmark = pytest.mark.usefixtures("strict_promotion")

KEY = jax.random.key(3)


def test_layer_norm_by_hand() -> None:
    """[1, 2, 3, 6] has mean 3 and variance (4 + 1 + 0 + 9) / 4 = 3.5; then scale 2 and offset 1."""
    norm = eqx.tree_at(lambda n: (n.scale, n.offset), LayerNorm(4), (jnp.full(4, 2.0), jnp.ones(4)))
    expected = 1.0 + 2.0 * np.array([-2.0, -1.0, 0.0, 3.0]) / np.sqrt(3.5 + LAYER_NORM_EPSILON)
    x = jnp.array([1.0, 2.0, 3.0, 6.0])
    np.testing.assert_allclose(norm(x), expected, rtol=1e-5, atol=1e-6)
    both = jax.jit(jax.vmap(norm))(np.stack([x, -x]))
    np.testing.assert_allclose(both, [expected, 2.0 - expected], rtol=1e-5, atol=1e-6)


def test_the_gradient_of_layer_norm_is_that_of_its_formula() -> None:
    """Against central differences of the formula in float64, for the input, the scale and the offset."""
    generator = np.random.default_rng(0)
    x, scale, offset, pull = generator.normal(size=(4, 6))

    def pulled(x: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.float64:
        return pull @ ((x - x.mean()) / np.sqrt(x.var() + LAYER_NORM_EPSILON) * scale + offset)

    def through(x: jax.Array, norm: LayerNorm) -> jax.Array:
        return jnp.dot(jnp.asarray(pull, jnp.float32), norm(x))

    given = [jnp.asarray(values, jnp.float32) for values in (x, scale, offset)]
    norm = eqx.tree_at(lambda n: (n.scale, n.offset), LayerNorm(6), (given[1], given[2]))
    slope_x, slopes = jax.jit(jax.grad(through, argnums=(0, 1)))(given[0], norm)
    values = [x, scale, offset]
    for i, found in enumerate((slope_x, slopes.scale, slopes.offset)):
        for k, step in enumerate(np.eye(6) * 1e-5):
            up, down = list(values), list(values)
            up[i], down[i] = values[i] + step, values[i] - step
            assert float(found[k]) == pytest.approx((pulled(*up) - pulled(*down)) / 2e-5, abs=1e-5)


def test_layer_norm_of_equal_features_is_its_offset() -> None:
    norm = LayerNorm(3)
    np.testing.assert_array_equal(norm(jnp.full(3, 5.0)), np.zeros(3))
    assert np.isfinite(jax.jit(jax.jacrev(norm))(jnp.full(3, 5.0))).all()


def test_a_linear_layer_by_hand() -> None:
    """[1, 2] by the rows [1, 3] and [2, -4] plus [10, 20]: 1 + 6 + 10 = 17 and 2 - 8 + 20 = 14."""
    weight, bias = jnp.array([[1.0, 3.0], [2.0, -4.0]]), jnp.array([10.0, 20.0])
    layer = eqx.tree_at(lambda layer: (layer.weight, layer.bias), Linear(2, 2, KEY), (weight, bias))
    np.testing.assert_array_equal(layer(jnp.array([1.0, 2.0])), [17.0, 14.0])


@pytest.mark.parametrize("x", [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -2.5]], ids=str)
def test_what_is_looked_up_is_what_the_product_gives(x: list[float]) -> None:
    """Values and gradients, for a batch that has each row twice."""
    layer, batch = Linear(3, 4, KEY), jnp.array([x, x])

    def loss(layer: Linear, call: Callable[[Linear, Array], Array]) -> Array:
        return jnp.sum(jnp.square(jax.vmap(lambda row: call(layer, row))(batch)))

    looked_up, product = (jax.value_and_grad(loss)(layer, call) for call in (Linear.of_one_hot, Linear.__call__))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), looked_up, product)


@pytest.mark.parametrize("inputs", [1, 4, 100])
def test_weights_start_within_the_bound_and_fill_it(inputs: int) -> None:
    layer = Linear(inputs, 2000, KEY)
    bound = 1.0 / np.sqrt(inputs)
    for values in (np.asarray(layer.weight), np.asarray(layer.bias)):
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.98 * bound
        assert values.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)


def in_numpy(params: object, observation: np.ndarray) -> np.ndarray:
    x = observation.astype(np.float64).ravel()
    for layer in params.hidden:
        x = through_hidden(layer, x)
    head = params.head
    if isinstance(head, Linear):
        return through_linear(head, x)
    value = through_linear(head.value, through_hidden(head.value_hidden, x))
    advantage = through_linear(head.advantage, through_hidden(head.advantage_hidden, x)).reshape(3, -1)
    return (value + advantage - advantage.mean(axis=0)).ravel()


def through_linear(layer: Linear, x: np.ndarray) -> np.ndarray:
    return np.asarray(layer.weight, np.float64) @ x + np.asarray(layer.bias)


def through_hidden(layer: Hidden, x: np.ndarray) -> np.ndarray:
    x = through_linear(layer.linear, x)
    if layer.norm is not None:
        x = (x - x.mean()) / np.sqrt(x.var() + LAYER_NORM_EPSILON)
        x = x * np.asarray(layer.norm.scale) + np.asarray(layer.norm.offset)
    return np.maximum(x, 0.0)


VECTOR, PICTURE = ((4,), np.float32), ((2, 3, 2), np.uint8)


@pytest.mark.parametrize(
    ("outputs", "hidden", "dueling", "layer_norm", "shape", "dtype"),
    [
        (None, (), False, False, *VECTOR),
        (4, (7, 6), False, True, *PICTURE),
        (None, (7, 6), True, False, *VECTOR),
        (4, (7, 6), True, True, *VECTOR),
        (None, (5,), True, True, *PICTURE),
    ],
)
def test_the_network_against_numpy(
    outputs: int | None,
    hidden: tuple[int, ...],
    dueling: bool,
    layer_norm: bool,
    shape: tuple[int, ...],
    dtype: type,
) -> None:
    network = mlp(Design(shape, 3, hidden, layer_norm, dueling), outputs)
    params = weights(network)
    norms = [layer.norm for layer in params.hidden]
    shared = hidden[:-1] if dueling else hidden
    assert [None if norm is None else norm.scale.shape for norm in norms] == [
        (w,) if layer_norm else None for w in shared
    ]
    observations = np.random.default_rng(0).uniform(0, 200, (5, *shape)).astype(dtype)
    batched = jax.jit(jax.vmap(network.apply, in_axes=(None, 0)))(params, jnp.asarray(observations))
    assert batched.shape == ((5, 3) if outputs is None else (5, 3, outputs))
    assert batched.dtype == jnp.float32
    for i, observation in enumerate(observations):
        np.testing.assert_allclose(batched[i].ravel(), in_numpy(params, observation), rtol=1e-4, atol=1e-3)


def test_every_key_gives_a_member_of_its_own_with_the_weights_it_has_alone() -> None:
    network = mlp(Design((4,), 2, (8,), True))
    keys = jax.random.split(KEY, 3)
    together = jax.jit(jax.vmap(network.init))(keys)
    init = jax.jit(network.init)
    for k in range(3):
        alone = init(keys[k])
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[k], b), together, alone)  # noqa: B023
    weights = np.asarray(together.hidden[0].linear.weight)
    assert not np.array_equal(weights[0], weights[1])


def test_no_two_layers_share_their_draw() -> None:
    params = jax.jit(mlp(Design((8,), 8, (8, 8), False)).init)(KEY)
    layers = [*(layer.linear for layer in params.hidden), params.head]
    assert len({np.asarray(layer.weight).tobytes() for layer in layers}) == 3


def test_dueling_streams_by_hand() -> None:
    """V is 3; A is [1, 2, 6] with mean 3: 3 + [1, 2, 6] - 3. Only the biases are not zero."""
    head = jax.tree.map(jnp.zeros_like, Dueling(2, 2, Design((2,), 3, (2,), False), 1, KEY))
    biases = (jnp.array([3.0]), jnp.array([1.0, 2.0, 6.0]))
    head = eqx.tree_at(lambda head: (head.value.bias, head.advantage.bias), head, biases)
    np.testing.assert_array_equal(head(jnp.ones(2)), [1.0, 2.0, 6.0])
    slope = jax.jacrev(head)(jnp.ones(2))
    np.testing.assert_array_equal(slope, np.zeros((3, 2)))


def test_dueling_needs_nothing_that_onnx_converters_do_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take the place of `jnp.mean` while they trace, and refuse its `where`. Branches of 3 and 2 actions: V is 3,
    the advantages that exist are [1, 2, 6], [5, 1] and have the mean 3."""
    mean = jnp.mean

    def converted(x: jax.Array, axis: int | None = None, keepdims: bool = False) -> jax.Array:
        return mean(x, axis=axis, keepdims=keepdims)

    monkeypatch.setattr(jnp, "mean", converted)
    design = Design((2,), 3, (2,), False, action_shape=(2,), branch_sizes=(3, 2))
    head = jax.tree.map(jnp.zeros_like, Dueling(2, 2, design, 1, KEY))
    biases = (jnp.array([3.0]), jnp.array([1.0, 2.0, 6.0, 5.0, 1.0, 99.0]))
    head = eqx.tree_at(lambda head: (head.value.bias, head.advantage.bias), head, biases)
    np.testing.assert_array_equal(head(jnp.ones(2))[:5], [1.0, 2.0, 6.0, 5.0, 1.0])


def test_no_two_streams_share_their_draw() -> None:
    head = jax.jit(mlp(Design((8,), 8, (8,), False, dueling=True)).init)(KEY).head
    layers = (head.value_hidden.linear, head.advantage_hidden.linear, head.advantage)
    assert len({np.asarray(layer.weight).tobytes() for layer in layers}) == 3
