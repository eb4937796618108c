"""The page's network in a real browser against JAX: the same Q-values and greedy actions for every kind of network."""

from typing import Any

import numpy as np
import pytest
from web.kinds import KINDS, computed, error
from web.made import data_of

from qdojo.export.html import page


@pytest.fixture(scope="module")
def anywhere(opened: Any) -> Any:
    """A page whose functions the tests call."""
    return opened(page(data_of()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_network_gives_the_q_values_of_jax(kind: str, anywhere: Any) -> None:
    found, expected = computed(kind, anywhere)
    assert error(found, expected) < 1e-4
    best = np.sort(expected, axis=-1)
    clear = best[..., -1] - best[..., -2] > 1e-4
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found.argmax(-1)[clear], expected.argmax(-1)[clear])
