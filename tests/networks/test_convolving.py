"""Convolution by matrix products against XLA's own: values, gradients, and the choice for each device."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdojo.networks import convolving
from qdojo.networks.convolving import Padding, by_products, by_xla, convolve

Method = Callable[..., jax.Array]
SHAPES = [
    # height, width, inputs, outputs, side, stride, padding
    (84, 84, 4, 32, 8, 4, "VALID"),
    (20, 20, 32, 64, 4, 2, "VALID"),
    (9, 9, 64, 64, 3, 1, "VALID"),
    (42, 42, 16, 16, 3, 1, "SAME"),
    (84, 84, 4, 32, 5, 5, "VALID"),
    (11, 14, 3, 5, 3, 2, "SAME"),
    (10, 7, 2, 3, 2, 3, "VALID"),
    (7, 10, 2, 3, 4, 3, "SAME"),
]


@pytest.mark.parametrize(("height", "width", "inputs", "outputs", "side", "stride", "padding"), SHAPES)
def test_products_give_what_xla_gives(
    height: int, width: int, inputs: int, outputs: int, side: int, stride: int, padding: Padding
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, height, width, inputs)).astype(np.float32)
    kernel = (rng.normal(size=(outputs, side, side, inputs)) / (side * inputs**0.5)).astype(np.float32)

    def values(method: Method, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.vmap(lambda one: method(one, kernel, stride, padding))(x)

    shape = jax.eval_shape(lambda *of: values(by_products, *of), x, kernel).shape
    cotangent = (rng.normal(size=shape) / math.prod(shape) ** 0.5).astype(np.float32)

    @jax.jit  # as one program, for each operation by itself would be compiled too
    def everything(x: jax.Array, kernel: jax.Array) -> list[tuple[jax.Array, ...]]:
        found = []
        for method in (by_products, by_xla):
            value, gradients = jax.vjp(lambda x, kernel, method=method: values(method, x, kernel), x, kernel)
            found.append((value, *gradients(cotangent)))
        return found

    for mine, theirs in zip(*everything(x, kernel), strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("backend", "is_xla"), [("cpu", False), ("gpu", True), ("tpu", True)])
def test_only_a_cpu_takes_products(backend: str, is_xla: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolving.jax, "default_backend", lambda: backend)
    x, kernel = jnp.zeros((9, 9, 2)), jnp.zeros((4, 3, 3, 2))
    program = str(jax.make_jaxpr(lambda x: convolve(x, kernel, 1, "SAME"))(x))
    assert ("conv_general_dilated" in program) is is_xla
    assert ("dot_general" in program) is not is_xla
