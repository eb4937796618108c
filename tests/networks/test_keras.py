"""A Keras model as a Q-network: its numbers, its seeds, its refusals; and a dense network as a Keras model."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdojo.errors import UsageError
from qdojo.networks.inputs import Design
from qdojo.networks.keras import (
    import_keras,
    keras_network,
    keras_settings,
    params_of,
    tutorial_network,
    with_params,
)
from qdojo.networks.keras_dense import mlp_as_keras
from qdojo.networks.mlp import MLP

keras = import_keras()
layers = keras.layers


def small(*hidden: Any, inputs: tuple[int, ...] = (4,), outputs: int = 2) -> Any:
    return keras.Sequential([layers.Input(inputs), *hidden, layers.Dense(outputs)])


def functional() -> Any:
    inputs = keras.Input((4,))
    hidden = layers.Dense(8, activation="tanh", kernel_initializer="orthogonal")(inputs)
    values = layers.Dense(2)(layers.Concatenate()([inputs, hidden]))
    return keras.Model(inputs, values)


class Subclassed(keras.Model):
    def __init__(self, width: int = 8, **rest: Any) -> None:
        super().__init__(**rest)
        self.width = width
        self.hidden = layers.Dense(width, activation="relu")
        self.head = layers.Dense(2)

    def call(self, x: Any) -> Any:
        return self.head(self.hidden(x))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}


class Doubling(layers.Layer):
    """A layer of the user's own, which Keras was never told about."""

    def call(self, x: Any) -> Any:
        return 2 * x


def compiled() -> Any:
    model = small(layers.Dense(8, activation="relu"), Doubling())
    model.compile(loss="mse", optimizer=keras.optimizers.Adam(0.001))
    return model


BUILDS: dict[str, Callable[[], Any]] = {
    "tutorial": lambda: tutorial_network((4,), 2),
    "functional": functional,
    "subclassed": Subclassed,
    "compiled": compiled,
    "without an input layer": lambda: keras.Sequential([layers.Dense(8), layers.LayerNormalization(), layers.Dense(2)]),
    "nested": lambda: small(keras.Sequential([layers.Dense(8), layers.ReLU()]), layers.BatchNormalization()),
}


def observations(count: int, shape: tuple[int, ...] = (4,)) -> Any:
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, *shape)), jnp.float32)


@keras_settings()
def predict(model: Any, batch: Any) -> np.ndarray:
    return np.asarray(model(batch))


def members(network: Any, count: int) -> Any:
    return jax.jit(jax.vmap(network.init))(jax.vmap(jax.random.key)(jnp.arange(count, dtype=jnp.uint32)))


@pytest.mark.parametrize("name", BUILDS)
def test_equals_the_model(name: str) -> None:
    with keras_settings():
        model = BUILDS[name]()
    network, batch = keras_network(model, (4,), 2), observations(64)
    found = jax.jit(jax.vmap(network.apply, in_axes=(None, 0)))(params_of(model), batch)
    np.testing.assert_allclose(found, predict(model, batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["compiled", "subclassed"])
def test_a_model_and_its_builder_are_the_same_network(name: str) -> None:
    key = jax.random.key(3)
    from_model, from_build = (
        jax.jit(keras_network(source, (4,), 2).init)(key) for source in (BUILDS[name](), BUILDS[name])
    )
    jax.tree.map(np.testing.assert_array_equal, from_model, from_build)


@pytest.mark.parametrize("name", ["functional", "nested"])
def test_members_have_the_weights_of_their_seed(name: str) -> None:
    network = keras_network(BUILDS[name], (4,), 2)
    population = members(network, 3)
    init = jax.jit(network.init)
    for seed in range(3):
        alone = init(jax.random.key(seed))
        jax.tree.map(lambda all_, one, seed=seed: np.testing.assert_array_equal(all_[seed], one), population, alone)
    kernels = [kernel for kernel in population.trainable if kernel.ndim == 3]
    assert kernels
    for kernel in kernels:
        assert not np.array_equal(kernel[0], kernel[1])
        assert not np.array_equal(kernel[1], kernel[2])


def test_no_two_layers_share_a_draw() -> None:
    first, _, second, *_ = (
        keras_network(small(layers.Dense(4), layers.Dense(4)), (4,), 2).init(jax.random.key(0)).trainable
    )
    assert not np.array_equal(first, second)


def test_initialisers_are_the_models_own() -> None:
    model = small(
        layers.Dense(400, kernel_initializer=keras.initializers.RandomNormal(3.0, 0.5), bias_initializer="ones"),
        layers.Dense(64),
        inputs=(100,),
    )
    normal, bias, glorot, zeros, *_ = keras_network(model, (100,), 2).init(jax.random.key(0)).trainable
    assert np.mean(normal) == pytest.approx(3.0, abs=0.02)
    assert np.std(normal) == pytest.approx(0.5, abs=0.02)
    np.testing.assert_array_equal(bias, np.ones(400))
    limit = np.sqrt(6 / (400 + 64))
    assert np.max(np.abs(glorot)) == pytest.approx(limit, rel=1e-3)
    np.testing.assert_array_equal(zeros, np.zeros(64))


def test_a_fixed_seed_stays_fixed() -> None:
    model = small(layers.Dense(8, kernel_initializer=keras.initializers.HeNormal(seed=7)))
    kernel = members(keras_network(model, (4,), 2), 2).trainable[0]
    np.testing.assert_array_equal(kernel[0], kernel[1])
    np.testing.assert_allclose(kernel[0], model.layers[0].kernel, rtol=1e-5)


def test_what_is_not_trainable_is_kept_and_not_learned() -> None:
    frozen = layers.Dense(3, trainable=False)
    model = small(layers.Normalization(mean=0.0, variance=1.0), frozen, layers.BatchNormalization(), layers.Dense(8))
    network = keras_network(model, (4,), 2)
    params = network.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params.non_trainable, params_of(model).non_trainable)
    assert any(np.array_equal(value, frozen.kernel) for value in params.non_trainable)

    learned, fixed = network.partition(params)
    assert not jax.tree.leaves((learned.non_trainable, fixed.trainable))
    jax.tree.map(np.testing.assert_array_equal, eqx.combine(learned, fixed), params)
    gradient = jax.grad(lambda learned: jnp.sum(network.apply(eqx.combine(learned, fixed), observations(1)[0])))(
        learned
    )
    assert any(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(gradient))


def test_the_given_model_is_left_as_it_was() -> None:
    model = tutorial_network((4,), 2)
    before = [variable.value for variable in model.variables]
    network = keras_network(model, (4,), 2)
    params = network.init(jax.random.key(0))
    copy = with_params(model, params, (4,))
    jax.tree.map(np.testing.assert_array_equal, params_of(copy), params)
    assert copy is not model
    for old, now in zip(before, [variable.value for variable in model.variables], strict=True):
        np.testing.assert_array_equal(old, now)


def test_dropout_is_off() -> None:
    model = small(layers.Dense(8, use_bias=False), layers.Dropout(0.9))
    x = observations(1)
    found = keras_network(model, (4,), 2).apply(params_of(model), x[0])
    np.testing.assert_allclose(found[None], x @ model.layers[0].kernel @ model.layers[2].kernel, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "shape", "words"),
    [
        (lambda: small(outputs=3), (4,), ["returns 3 values", "2 actions"]),
        (lambda: small(), (6,), ["shape (4,)", "shape (6,)"]),
        (lambda: small(), (2, 4), ["shape (4,)", "shape (2, 4)"]),
        (lambda: small(inputs=(8, 8, 1)), (8, 8, 1), ["returns 128 values", "2 actions"]),
        (lambda: keras.Model(i := keras.Input((4,)), [layers.Dense(2)(i), layers.Dense(2)(i)]), (4,), ["several"]),
        (lambda: keras.Sequential([layers.Conv2D(3, 3), layers.Dense(2)]), (4,), ["cannot take", "(4,)"]),
        (lambda: keras.Sequential([layers.Input((4,)), layers.Lambda(lambda x: x[:, :2])]), (4,), ["Lambda"]),
        (lambda: "a string", (4,), ["str", "keras.Model"]),
    ],
)
def test_refusals(model: Callable[[], Any], shape: tuple[int, ...], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        keras_network(model, shape, 2)
    for word in words:
        assert word in str(caught.value)


def test_parameters_of_another_network_are_refused() -> None:
    params = params_of(tutorial_network((4,), 2))
    with pytest.raises(UsageError, match=r"\(4, 8\).*\(4, 24\)"):
        with_params(small(layers.Dense(8)), params, (4,))


def test_a_table_as_keras() -> None:
    params = MLP(Design((3, 3), 2, (16, 8), layer_norm=True, one_hot=True, table=True), 1, jax.random.key(0))
    batch = 0.5 * jnp.eye(9).reshape(9, 3, 3)
    expected = jax.vmap(params)(batch)
    np.testing.assert_allclose(predict(mlp_as_keras(params, (3, 3)), batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("layer_norm", "shape"), [(False, (4,)), (True, (3, 5)), (True, ())])
@pytest.mark.parametrize("dueling", [False, True])
def test_a_dense_network_as_keras(dueling: bool, layer_norm: bool, shape: tuple[int, ...]) -> None:
    params = MLP(Design(shape, 3, (16, 8), layer_norm, dueling), 1, jax.random.key(0))
    if layer_norm:
        values = jnp.linspace(0.5, 1.5, 16), jnp.linspace(-1.0, 1.0, 16)
        params = eqx.tree_at(lambda p: (p.hidden[0].norm.scale, p.hidden[0].norm.offset), params, values)
    model = mlp_as_keras(params, shape)
    assert isinstance(model, keras.Sequential) != dueling
    batch = observations(32, shape)
    np.testing.assert_allclose(predict(model, batch), jax.vmap(params)(batch), rtol=1e-4, atol=1e-5)


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.config, "backend", lambda: "torch")
    with pytest.raises(UsageError, match="KERAS_BACKEND=jax"):
        import_keras()


def test_importing_the_module_imports_no_keras() -> None:
    script = (
        "import sys, qdojo.networks.keras, qdojo.export.keras, qdojo.agents.tutorial; print('keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_backend_is_set_where_the_environment_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    script = "from qdojo.networks.keras import import_keras; print(import_keras().config.backend())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "jax"
