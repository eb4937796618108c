"""Convolutions against plain NumPy, the spectral norm against the SVD, and images of every layout."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes.weights import drawn, weights

from qdojo.errors import UsageError
from qdojo.export.keras import keras_model
from qdojo.networks import torsos
from qdojo.networks.inputs import Design, Inputs
from qdojo.networks.keras_dense import read_weights
from qdojo.networks.mlp import mlp
from qdojo.networks.noisy import noisy
from qdojo.networks.torsos import Convolution, Convolutions, Impala, Stage
from qdojo.observations import channels_first

KEY = jax.random.key(0)
spectral_norm = jax.jit(torsos.spectral_norm)
called = jax.jit(lambda module, x: module(x))


def windows(x: np.ndarray, side: int, stride: int, filled: float | None) -> np.ndarray:
    """[places, places, side, side, channels]; with `filled`, a place for every `stride` numbers, as SAME has it."""
    if filled is not None:
        beyond = [max((-(-n // stride) - 1) * stride + side - n, 0) for n in x.shape[:2]]
        x = np.pad(x, [*((b // 2, b - b // 2) for b in beyond), (0, 0)], constant_values=filled)
    rows, columns = ((n - side) // stride + 1 for n in x.shape[:2])
    return np.array(
        [
            [x[i * stride : i * stride + side, j * stride : j * stride + side] for j in range(columns)]
            for i in range(rows)
        ]
    )


def convolved(x: np.ndarray, layer: Convolution) -> np.ndarray:
    side = layer.kernel.shape[1]
    kernel = np.asarray(layer.kernel, np.float64)
    if layer.spectral_norm:
        kernel = kernel / np.linalg.svd(kernel.reshape(len(kernel), -1), compute_uv=False)[0]
    seen = windows(x, side, layer.stride, 0.0 if layer.padding == "SAME" else None)
    return np.einsum("ijabc,oabc->ijo", seen, kernel) + np.asarray(layer.bias)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


def through_stage(x: np.ndarray, stage: Stage) -> np.ndarray:
    x = windows(convolved(x, stage.convolution), 3, 2, -np.inf).max(axis=(2, 3))
    for block in stage.blocks:
        x = x + convolved(relu(convolved(relu(x), block.first)), block.second)
    return x


def filled(make: Callable[[], Any]) -> Any:
    """A module with parameters drawn by NumPy, within the bound of its convolutions."""
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(generator.uniform(-0.1, 0.1, leaf.shape).astype(np.float32)), jax.eval_shape(make)
    )


@pytest.mark.parametrize(
    ("kind", "width", "kernels"),
    [
        ("nature", 1.0, [(32, 8, 8, 2), (64, 4, 4, 32), (64, 3, 3, 64)]),
        ("nature", 0.5, [(16, 8, 8, 2), (32, 4, 4, 16), (32, 3, 3, 32)]),
        ("der", 1.0, [(32, 5, 5, 2), (64, 5, 5, 32)]),
    ],
)
def test_plain_torsos_are_convolutions_with_relu(kind: Any, width: float, kernels: list[Any]) -> None:
    x, torso = drawn(44, 36, 2), filled(lambda: Convolutions(2, kind, width, KEY))
    assert [layer.kernel.shape for layer in torso.convolutions] == kernels
    expected = x
    for layer in torso.convolutions:
        expected = relu(convolved(expected, layer))
    found = called(torso, x)
    assert found.shape == (torsos.features(kind, *x.shape[:2], width),) == expected.ravel().shape
    np.testing.assert_allclose(found, expected.ravel(), atol=1e-5)


@pytest.mark.parametrize("kind", ["nature", "der"])
def test_plain_torsos_see_every_pixel_of_a_frame(kind: Any) -> None:
    torso = jax.tree.map(jnp.ones_like, filled(lambda: Convolutions(1, kind, 0.05, KEY)))
    slopes = jax.jit(jax.grad(lambda x: jnp.sum(torso(x))))(jnp.ones((84, 84, 1)))
    assert np.all(np.asarray(slopes) > 0.0)


@pytest.mark.parametrize(("sides", "spectral"), [((6, 5), False), ((1, 3), True)])
def test_a_stage_of_impala(sides: tuple[int, int], spectral: bool) -> None:
    x, stage = drawn(*sides, 2), filled(lambda: Stage(2, 4, spectral, KEY))
    np.testing.assert_allclose(called(stage, x), through_stage(x, stage), atol=1e-4)


def test_impala_is_three_stages_and_takes_any_size() -> None:
    torso, x = filled(lambda: Impala(1, 1.0, False, KEY)), drawn(9, 4, 1)
    expected = x
    for stage in torso.stages:
        expected = through_stage(expected, stage)
    found = called(torso, x)
    assert found.shape == (torsos.features("impala", *x.shape[:2], 1.0),) == (2 * 1 * 32,)
    np.testing.assert_allclose(found, relu(expected).ravel(), atol=1e-5)
    wide = jax.eval_shape(lambda: Impala(3, 2.0, True, KEY))
    assert [stage.convolution.kernel.shape for stage in wide.stages] == [(32, 3, 3, 3), (64, 3, 3, 32), (64, 3, 3, 64)]
    assert [stage.convolution.spectral_norm for stage in wide.stages] == [False] * 3
    assert all(block.first.spectral_norm and block.second.spectral_norm for s in wide.stages for block in s.blocks)


@pytest.mark.parametrize("sides", [(4, 4), (5, 7), (1, 2)])
def test_pooling_is_a_maximum_over_three_at_every_second_place(sides: tuple[int, int]) -> None:
    x = drawn(*sides, 3)
    expected = windows(x, 3, 2, -np.inf).max(axis=(2, 3))
    np.testing.assert_array_equal(torsos.pooled(jnp.array(x)), expected)
    of_jax = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (3, 3, 1), (2, 2, 1), "SAME")
    np.testing.assert_array_equal(expected, of_jax)


@pytest.mark.parametrize("shape", [(16, 144), (64, 576), (3, 2), (1, 9)])
def test_the_spectral_norm_is_the_largest_singular_value(shape: tuple[int, int]) -> None:
    for seed in range(5):
        matrix = np.random.default_rng(seed).uniform(-0.1, 0.1, shape).astype(np.float32)
        expected = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[0]
        np.testing.assert_allclose(spectral_norm(matrix), expected, rtol=1e-3)


def test_its_gradient_is_u_v() -> None:
    matrix = drawn(5, 12)
    left, _, right = np.linalg.svd(matrix)
    np.testing.assert_allclose(
        jax.jit(jax.grad(torsos.spectral_norm))(matrix), np.outer(left[:, 0], right[0]), atol=1e-3
    )


def test_the_gradient_of_a_normalised_kernel_is_that_of_miyato() -> None:
    """Equation 9 to 12: (G - <G, W / sigma> u v^T) / sigma, for the gradient G by W / sigma."""
    kernel, slope = drawn(4, 3, 3, 2), drawn(4, 3, 3, 2)[::-1]
    found = jax.jit(jax.grad(lambda w: jnp.vdot(torsos.spectrally_normalized(w), slope)))(kernel)
    left, sigmas, right = np.linalg.svd(kernel.reshape(4, -1))
    g, sigma = slope.reshape(4, -1), sigmas[0]
    pull = np.sum(g * kernel.reshape(4, -1)) / sigma
    expected = (g - pull * np.outer(left[:, 0], right[0])) / sigma
    np.testing.assert_allclose(found.reshape(4, -1), expected, atol=1e-3)


def test_nothing_but_zeros_has_no_direction_and_stays_finite() -> None:
    value, slope = jax.value_and_grad(lambda w: torsos.spectrally_normalized(w).sum())(jnp.zeros((2, 3)))
    assert value == 0.0
    assert jnp.isfinite(slope).all()


def test_channels_are_the_smaller_of_the_first_axis_and_the_last() -> None:
    shapes = [(9, 8), (9, 8, 3), (3, 9, 8), (9, 8, 9), (2, 2, 2)]
    found = {shape: torsos.sides_and_channels(shape, channels_first(shape)) for shape in shapes}
    assert found == {
        (9, 8): (9, 8, 1),
        (9, 8, 3): (9, 8, 3),
        (3, 9, 8): (9, 8, 3),
        (9, 8, 9): (9, 8, 9),
        (2, 2, 2): (2, 2, 2),
    }


def design(shape: tuple[int, ...], **fields: Any) -> Design:
    return Design(shape, 3, (8, 8), layer_norm=False, scale=255, **fields)


PICTURE = np.random.default_rng(0).integers(256, size=(9, 8, 3), dtype=np.uint8)


def test_channels_may_come_first() -> None:
    last, first = mlp(design((9, 8, 3), torso="impala")), mlp(design((3, 9, 8), torso="impala", channels_first=True))
    params, other = weights(last), weights(first)
    for mine, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(
        jax.jit(last.apply)(params, PICTURE), jax.jit(first.apply)(other, np.moveaxis(PICTURE, -1, 0))
    )


@pytest.mark.parametrize("kind", ["dense", "impala"])
def test_pictures_are_scaled_once(kind: Any) -> None:
    of = design((9, 8, 3), torso=kind)
    inputs, plain = (filled(lambda scale=scale: Inputs(of._replace(scale=scale), KEY)) for scale in (255, 1))
    np.testing.assert_allclose(called(inputs, PICTURE), called(plain, PICTURE.astype(np.float32) / 255), atol=1e-6)
    assert jnp.abs(called(plain, PICTURE)).max() > 5.0


def test_noise_is_on_dense_layers_alone() -> None:
    params = jax.eval_shape(noisy(mlp(design((9, 8, 3), torso="impala"))).init, KEY)
    assert jax.tree.leaves(params.spread.inputs) == []
    assert len(jax.tree.leaves(params.spread)) == 6


def test_a_small_picture_needs_impala() -> None:
    with pytest.raises(UsageError, match=r"an image of 35 x 36 is too small; .* use torso='impala'"):
        torsos.features("nature", 35, 36, 1.0)


def test_convolutions_have_no_keras_form() -> None:
    network = mlp(design((9, 8, 3), torso="impala"))
    with pytest.raises(UsageError, match="begins with convolutions"):
        keras_model(weights(network), (9, 8, 3))
    with pytest.raises(UsageError, match="weights is a Keras file of dense layers only"):
        read_weights("any.h5", network)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras
def test_a_dense_network_of_pictures_scales_them_in_keras_too() -> None:
    network = mlp(design((9, 8, 3)))
    params = weights(network)
    found = keras_model(params, (9, 8, 3)).predict(PICTURE[None], verbose=0)[0]
    np.testing.assert_allclose(found, network.apply(params, PICTURE), atol=1e-5)
