"""A state in flat rows and back. Not for what that saves: see `benchmarks/speed.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdojo.loops.packing import LARGE, Packing

pytestmark = pytest.mark.usefixtures("strict_promotion")

TREE = {
    "weights": jnp.arange(12, dtype=jnp.float32).reshape(2, 3, 2) / 7,
    "count": jnp.array([2**31 - 1, -5], jnp.int32),
    "rate": jnp.array([0.1, np.nan], jnp.float32),
    "alive": jnp.array([True, False]),
    "nothing": jnp.zeros((2, 0), jnp.float32),
}


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_a_tree_comes_back_bit_by_bit(transform: object) -> None:
    packing = Packing(jax.eval_shape(lambda: TREE))
    packed = transform(packing.pack)(TREE)
    assert {dtype: rows.shape for dtype, rows in packed.items()} == {"float32": (2, 7), "int32": (2, 1), "bool": (2, 1)}
    found = transform(packing.unpack)(packed)
    for name, leaf in TREE.items():
        assert found[name].dtype == leaf.dtype
        np.testing.assert_array_equal(found[name], leaf)


def test_large_arrays_stay_as_they_are() -> None:
    tree = {"large": jnp.ones((2, LARGE + 1)), "small": jnp.ones((2, 3))}
    packing = Packing(tree)
    packed = packing.pack(tree)
    assert {place: rows.shape for place, rows in packed.items()} == {"array 0": (2, LARGE + 1), "float32": (2, 3)}
    np.testing.assert_array_equal(packing.unpack(packed)["large"], tree["large"])


def test_a_member_has_its_numbers_in_its_row() -> None:
    packed = Packing(TREE).pack(TREE)
    alone = jax.tree.map(lambda leaf: leaf[1:], TREE)
    np.testing.assert_array_equal(packed["float32"][1:], Packing(alone).pack(alone)["float32"])
