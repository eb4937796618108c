"""n-step and lambda returns against numbers worked out by hand, and against a plain loop over random windows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdojo.bellman.returns import lambda_return, n_step_return

pytestmark = pytest.mark.usefixtures("strict_promotion")

n_step_jit, lambda_jit = jax.jit(n_step_return), jax.jit(lambda_return)


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
    function = n_step_jit if compiled else n_step_return
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
    total, discount = n_step_jit(np.array(rewards, np.float32), terminated, alive, np.float32(gamma))
    np.testing.assert_allclose(total, sum(gamma**i * rewards[i] for i in range(length)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(discount, 0.0 if ends else gamma**length, rtol=1e-5, atol=1e-30)


def test_nothing_behind_the_cut_is_seen_not_even_what_is_not_finite() -> None:
    total, discount = n_step_return(
        jnp.array([1.0, jnp.nan]), jnp.array([False, False]), jnp.array([True, False]), jnp.float32(0.5)
    )
    assert (float(total), float(discount)) == (1.0, 0.5)


class Course(NamedTuple):
    """Successive rows, oldest first, with gamma 0.5."""

    rewards: list[float]
    terminated: list[bool]
    values: list[float]
    followed: list[bool]
    lambda_: float
    returns: list[float]


COURSES = {
    "one step": Course([3.0], [F], [4.0], [T], 0.5, [5.0]),
    "one step that terminates": Course([3.0], [T], [4.0], [F], 0.5, [3.0]),
    # Every step bootstraps: 1 + 0.5 * 10, 2 + 0.5 * 20, 4 + 0.5 * 40.
    "lambda 0": Course([1.0, 2.0, 4.0], [F, F, F], [10.0, 20.0, 40.0], [T, T, F], 0.0, [6.0, 12.0, 24.0]),
    # Only the newest bootstraps: 4 + 20 = 24, 2 + 0.5 * 24 = 14, 1 + 0.5 * 14 = 8.
    "lambda 1": Course([1.0, 2.0, 4.0], [F, F, F], [10.0, 20.0, 40.0], [T, T, F], 1.0, [8.0, 14.0, 24.0]),
    # 24; 2 + 0.5 * (10 + 12) = 13; 1 + 0.5 * (5 + 6.5) = 6.75.
    "lambda one half": Course([1.0, 2.0, 4.0], [F, F, F], [10.0, 20.0, 40.0], [T, T, F], 0.5, [6.75, 13.0, 24.0]),
    # The second step terminates: 2; 1 + 0.5 * (5 + 1) = 4. The third row is the final observation, the fourth is of
    # the next episode: 8 + 0.5 * 6 = 11.
    "terminated in the middle": Course(
        [1.0, 2.0, 0.0, 8.0], [F, T, F, F], [10.0, 20.0, 0.0, 6.0], [T, F, T, T], 0.5, [4.0, 2.0, 2.75, 11.0]
    ),
    # The second step is cut short: 2 + 0.5 * 20 = 12; 1 + 0.5 * (5 + 6) = 6.5.
    "truncated in the middle": Course(
        [1.0, 2.0, 0.0, 8.0], [F, F, F, F], [10.0, 20.0, 0.0, 6.0], [T, F, T, T], 0.5, [6.5, 12.0, 2.75, 11.0]
    ),
    # 2 + 10 = 12 and 1 + 0.5 * 12 = 7, whatever comes after the cut.
    "truncated in the middle, lambda 1": Course(
        [1.0, 2.0, 0.0, 8.0], [F, F, F, F], [10.0, 20.0, 0.0, 6.0], [T, F, T, T], 1.0, [7.0, 12.0, 5.5, 11.0]
    ),
}


def columns(course: Course) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    return (
        jnp.array(course.rewards, jnp.float32),
        jnp.where(jnp.array(course.terminated), 0.0, 0.5),
        jnp.array(course.values, jnp.float32),
        jnp.array(course.followed),
        jnp.float32(course.lambda_),
    )


@pytest.mark.parametrize("name", COURSES)
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "jit"])
def test_lambda_returns_worked_out_by_hand(name: str, compiled: bool) -> None:
    function = lambda_jit if compiled else lambda_return
    found = function(*columns(COURSES[name]))
    np.testing.assert_allclose(found, COURSES[name].returns, rtol=1e-6)
    assert found.dtype == jnp.float32


def test_many_courses_at_once_and_lambda_as_a_python_number() -> None:
    of_four = [course for course in COURSES.values() if len(course.rewards) == 4]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *map(columns, of_four))
    np.testing.assert_allclose(
        jax.jit(jax.vmap(lambda_return))(*stacked), [course.returns for course in of_four], rtol=1e-6
    )
    reward, discount, value, followed, _ = columns(COURSES["lambda 0"])
    np.testing.assert_allclose(lambda_return(reward, discount, value, followed, 0.0), [6.0, 12.0, 24.0])


@given(
    steps=st.lists(st.tuples(st.floats(-10, 10, width=32), st.floats(-10, 10, width=32)), min_size=4, max_size=4),
    lambda_=st.floats(0, 1, width=32),
    gamma=st.floats(0, 1, width=32),
)
def test_any_lambda_return_is_the_mean_of_the_n_step_returns(
    steps: list[tuple[float, float]], lambda_: float, gamma: float
) -> None:
    """(1 - lambda) sum_k lambda^(k-1) G^(k), the rest of the weight on the longest: Sutton and Barto, equation 12.3."""
    rewards, values = (np.array(column, np.float64) for column in zip(*steps, strict=True))
    n = len(steps)
    of_n_steps = [sum(gamma**i * rewards[i] for i in range(k)) + gamma**k * values[k - 1] for k in range(1, n + 1)]
    shares = [(1.0 - lambda_) * lambda_ ** (k - 1) for k in range(1, n)] + [lambda_ ** (n - 1)]
    found = lambda_jit(
        rewards.astype(np.float32),
        np.full(n, gamma, np.float32),
        values.astype(np.float32),
        np.ones(n, bool),
        np.float32(lambda_),
    )
    np.testing.assert_allclose(found[0], np.dot(shares, of_n_steps), rtol=1e-4, atol=1e-4)


def test_nothing_beyond_the_end_of_an_episode_is_seen() -> None:
    """1 + 0.5 * 2, whatever the row after it returns."""
    rows = [jnp.array(column) for column in ([1.0, jnp.nan], [0.5, 0.5], [2.0, jnp.nan])]
    found = lambda_return(*rows, jnp.array([False, False]), jnp.float32(0.9))
    assert float(found[0]) == 2.0
