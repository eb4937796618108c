"""States as named arrays and back. Not files: see `runs/test_checkpoint.py`."""

import tracemalloc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdojo import snapshot
from qdojo.errors import UsageError
from qdojo.snapshot import from_arrays, to_arrays


class State(NamedTuple):
    weights: dict[str, Any]
    layers: list[Any]
    tally: Any
    nothing: Any = None


def state() -> State:
    weights = {"w": jnp.array([[1.5, jnp.inf], [-0.0, jnp.nan]]), "층": jnp.arange(3, dtype=jnp.uint32)}
    return State(weights, [jnp.array(True), jnp.zeros((0, 2))], np.array([7], np.int64))


def test_every_leaf_has_the_name_of_its_place() -> None:
    assert list(to_arrays(state())) == ["weights/w", "weights/층", "layers/0", "layers/1", "tally"]


def test_a_state_comes_back_bit_for_bit_from_the_shapes_of_another() -> None:
    template = jax.eval_shape(lambda: state()._replace(tally=None))._replace(tally=np.zeros(1, np.int64))
    found = from_arrays(template, to_arrays(state()))
    assert jax.tree.structure(found) == jax.tree.structure(state())
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(state()), strict=True):
        assert ours.dtype == theirs.dtype
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
    assert isinstance(found.tally, np.ndarray), "what lives on the host stays there, with its 64 bits"
    assert isinstance(found.weights["w"], jax.Array)


def test_what_comes_back_shares_no_memory_with_the_arrays() -> None:
    arrays = to_arrays(state())
    found = from_arrays(state(), arrays)
    arrays["tally"][0] = 99
    assert found.tally.tolist() == [7]


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("weights/w", None, "weights/w is missing in the checkpoint, but this config needs float32[2, 2]."),
        ("weights/w", np.zeros((2, 3), np.float32), "weights/w is float32[2, 3] in the checkpoint, but this config "),
        ("tally", np.zeros(1, np.int32), "tally is int32[1] in the checkpoint, but this config needs int64[1]."),
        ("layers/2", np.zeros(1), "layers/2 is in the checkpoint, but this config has no such array."),
    ],
)
def test_the_state_of_another_config_is_refused(name: str, array: np.ndarray | None, message: str) -> None:
    arrays = to_arrays(state())
    arrays.pop(name, None)
    if array is not None:
        arrays[name] = array
    with pytest.raises(UsageError) as refused:
        from_arrays(state(), arrays)
    assert message in str(refused.value)


def test_an_array_goes_to_the_device_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an array that a file holds no more is in the host's memory than a block."""
    rows = np.arange(2**20, dtype=np.uint32).reshape(-1, 4)
    monkeypatch.setattr(snapshot, "BLOCK_BYTES", rows.nbytes // 16)
    tracemalloc.start()
    found = from_arrays(jax.ShapeDtypeStruct(rows.shape, rows.dtype), {"": rows})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, rows)
    assert peak < rows.nbytes / 2


def test_rows_that_were_never_written_are_zeros_where_that_is_allowed() -> None:
    template = {"rows": jax.ShapeDtypeStruct((5, 2), np.uint32)}
    short = {"rows": np.ones((3, 2), np.uint32)}
    found = from_arrays(template, short, filled_up=("rows",))["rows"]
    assert found.tolist() == [[1, 1]] * 3 + [[0, 0]] * 2
    assert from_arrays(template, {"rows": short["rows"][:0]}, filled_up=("rows",))["rows"].tolist() == [[0, 0]] * 5
    with pytest.raises(UsageError, match="needs uint32"):
        from_arrays(template, short)
    with pytest.raises(UsageError, match="needs uint32"):
        from_arrays(template, {"rows": np.ones((6, 2), np.uint32)}, filled_up=("rows",))
