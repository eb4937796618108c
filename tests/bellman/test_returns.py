"""n-step returns against numbers worked out by hand, and against a plain loop over random windows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdojo.bellman.returns import n_step_return

pytestmark = pytest.mark.usefixtures("strict_promotion")


class Window(NamedTuple):
    rewards: list[float]
    terminated: list[bool]
    alive: list[bool]
    gamma: float
    total: float
    discount: float


T, F = True, False
CASES = {
    "one step": Window([3.0], [F], [T], 0.5, 3.0, 0.5),
    "one step that terminates": Window([3.0], [T], [T], 0.5, 3.0, 0.0),
    # 1 + 0.5 * 2 + 0.25 * 4 = 3, and 0.5^3
    "three whole steps": Window([1.0, 2.0, 4.0], [F, F, F], [T, T, T], 0.5, 3.0, 0.125),
    # 1 + 0.9 * 2 + 0.81 * 4 = 6.04, nothing after
    "terminated at the last": Window([1.0, 2.0, 4.0], [F, F, T], [T, T, T], 0.9, 6.04, 0.0),
    # Cut after two: 1 + 0.9 * 2 = 2.8, bootstrapped with 0.9^2, whatever lies behind the cut
    "cut by truncation": Window([1.0, 2.0, 99.0], [F, F, T], [T, T, F], 0.9, 2.8, 0.81),
    "cut by termination": Window([1.0, 2.0, 99.0], [F, T, F], [T, T, F], 0.9, 2.8, 0.0),
    "cut after one": Window([7.0, 99.0, 99.0], [F, T, T], [T, F, F], 0.9, 7.0, 0.9),
    "no future": Window([1.0, 2.0], [F, F], [T, T], 0.0, 1.0, 0.0),
    "no discount": Window([1.0, 2.0, -4.0], [F, F, F], [T, T, T], 1.0, -1.0, 1.0),
}


def arrays(window: Window) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    return (
        jnp.array(window.rewards, jnp.float32),
        jnp.array(window.terminated),
        jnp.array(window.alive),
        jnp.float32(window.gamma),
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "jit"])
def test_a_window_worked_out_by_hand(name: str, compiled: bool) -> None:
    function = jax.jit(n_step_return) if compiled else n_step_return
    total, discount = function(*arrays(CASES[name]))
    assert total == pytest.approx(CASES[name].total, abs=1e-6)
    assert discount == pytest.approx(CASES[name].discount, abs=1e-7)
    assert total.dtype == discount.dtype == jnp.float32


def test_gamma_may_be_a_python_number() -> None:
    reward, terminated, alive, _ = arrays(CASES["three whole steps"])
    total, discount = n_step_return(reward, terminated, alive, 0.5)
    assert (float(total), float(discount)) == (3.0, 0.125)


def test_many_windows_at_once() -> None:
    of_three = [window for window in CASES.values() if len(window.rewards) == 3]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *map(arrays, of_three))
    total, discount = jax.jit(jax.vmap(n_step_return))(*stacked)
    np.testing.assert_allclose(total, [window.total for window in of_three], atol=1e-6)
    np.testing.assert_allclose(discount, [window.discount for window in of_three], atol=1e-7)


@given(
    rewards=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=5),
    length=st.integers(1, 5),
    ends=st.booleans(),
    gamma=st.floats(0, 1, width=32),
)
def test_any_window_against_a_plain_loop(rewards: list[float], length: int, ends: bool, gamma: float) -> None:
    n = len(rewards)
    length = min(length, n)
    terminated, alive = np.zeros(n, bool), np.arange(n) < length
    terminated[length - 1] = ends
    total, discount = n_step_return(
        jnp.array(rewards, jnp.float32), jnp.array(terminated), jnp.array(alive), jnp.float32(gamma)
    )
    np.testing.assert_allclose(total, sum(gamma**i * rewards[i] for i in range(length)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(discount, 0.0 if ends else gamma**length, rtol=1e-5, atol=1e-30)


def test_nothing_behind_the_cut_is_seen_not_even_what_is_not_finite() -> None:
    total, discount = n_step_return(
        jnp.array([1.0, jnp.nan]), jnp.array([False, False]), jnp.array([True, False]), jnp.float32(0.5)
    )
    assert (float(total), float(discount)) == (1.0, 0.5)
