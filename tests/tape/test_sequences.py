"""Windows of successive rows, on a small tape whose every number is known."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdojo.tape import priority, windows
from qdojo.tape.ring import Tape, empty, write
from qdojo.tape.sampling import uniform_starts
from qdojo.types import Sequence, Step

pytestmark = pytest.mark.usefixtures("strict_promotion")

GAMMA = 0.5
"""Its powers are exact."""


class Life(NamedTuple):
    """Rows of one env: what each paid, and which are the ends."""

    reward: list[float]
    terminated: list[int]
    last: list[int]


TERMINATED = Life([1.0, 2.0, 4.0, 0.0, 8.0, 16.0, 32.0, 64.0], [2], [3])
"""Row 2 terminates, row 3 shows the final observation, and with row 4 another episode begins."""
TRUNCATED = TERMINATED._replace(terminated=[])


def tape_of(life: Life, capacity: int = 8, envs: int = 1, block: int | None = None) -> Tape:
    """Row t shows 10 t and had -t as its memory; action t. One block, or several; other envs show 1000 more each."""
    rows = len(life.reward)
    number = jnp.broadcast_to(jnp.arange(rows)[:, None, None], (rows, 1, envs))
    at = number.astype(jnp.float32)
    step = Step(
        observation=10.0 * at + 1000.0 * jnp.arange(envs, dtype=jnp.float32)[None, None],
        action=number.astype(jnp.int32),
        reward=jnp.take(jnp.array(life.reward), number),
        terminated=jnp.isin(number, jnp.array(life.terminated, int)),
        last=jnp.isin(number, jnp.array(life.last, int)),
        memory={"carried": -jnp.stack([at, at], axis=-1)},
    )
    tape = empty(
        capacity,
        1,
        envs,
        jax.ShapeDtypeStruct((), jnp.float32),
        memory={"carried": jax.ShapeDtypeStruct((2,), jnp.float32)},
    )
    for start in range(0, rows, block or rows):
        tape = write_block(tape, jax.tree.map(lambda leaf: leaf[start : start + (block or rows)], step))  # noqa: B023
    return tape._replace(member=jnp.int32(0))


write_block = jax.jit(write)
read = jax.jit(windows.read, static_argnums=0)


def sequence(life: Life, burn_in: int, length: int, n: int, first: int) -> Sequence:
    """The sequence that starts with row `first`."""
    age = jnp.array([len(life.reward) - 1 - first])
    found = read(windows.sequences(burn_in, length, n), tape_of(life), age, jnp.array([0]), jnp.float32(GAMMA))
    return jax.tree.map(lambda leaf: leaf[0], found)


def test_plain_rows_by_hand() -> None:
    """Of rows 4 .. 7 the first is burnt in, two start transitions: 16 and 32, each leading to the next row."""
    found = sequence(TERMINATED, 1, 2, 1, 4)
    np.testing.assert_array_equal(found.obs_tm1, [40.0, 50.0, 60.0, 70.0])
    np.testing.assert_array_equal(found.last, [False] * 4)
    np.testing.assert_array_equal(found.memory["carried"], [-4.0, -4.0])
    np.testing.assert_array_equal(found.action_tm1, [5, 6])
    np.testing.assert_array_equal(found.reward_t, [16.0, 32.0])
    np.testing.assert_array_equal(found.discount_t, [GAMMA, GAMMA])
    np.testing.assert_array_equal(found.after_t, [2, 3])
    np.testing.assert_array_equal(found.starts, [True, True])
    assert float(found.weight) == 1.0


@pytest.mark.parametrize(
    ("life", "discounts"),
    # A final observation is worth something after a truncation, after gamma and gamma^2, and nothing after an end.
    [(TERMINATED, [0.0, 0.0, GAMMA**2, GAMMA**2]), (TRUNCATED, [GAMMA**2, GAMMA, GAMMA**2, GAMMA**2])],
    ids=["terminated", "truncated"],
)
def test_two_steps_across_an_end_by_hand(life: Life, discounts: list[float]) -> None:
    """Row 1: 2 + 4 / 2. Row 2: 4, cut by row 3. Row 3 starts nothing. Rows 4 and 5: 8 + 16 / 2 and 16 + 32 / 2."""
    found = sequence(life, 0, 5, 2, 1)
    real = np.array([0, 1, 3, 4])
    np.testing.assert_array_equal(found.obs_tm1, [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0])
    np.testing.assert_array_equal(found.last, [False, False, True, False, False, False, False])
    np.testing.assert_array_equal(found.starts, [True, True, False, True, True])
    np.testing.assert_array_equal(found.reward_t[real], [4.0, 4.0, 16.0, 32.0])
    np.testing.assert_array_equal(found.discount_t[real], discounts)
    np.testing.assert_array_equal(found.after_t[real], [2, 2, 5, 6])
    np.testing.assert_array_equal(found.memory["carried"], [-1.0, -1.0])


def test_a_cut_row_ends_windows_as_a_truncation_does() -> None:
    """`ring.cut` marks a row `last`: the row before leads to it, and it leads nowhere."""
    life = Life([1.0, 2.0, 4.0, 8.0, 16.0], [], [2])
    found = sequence(life, 0, 3, 2, 0)
    np.testing.assert_array_equal(found.starts, [True, True, False])
    np.testing.assert_array_equal(found.reward_t[:2], [1.0 + 2.0 * GAMMA, 2.0])
    np.testing.assert_array_equal(found.discount_t[:2], [GAMMA**2, GAMMA])
    np.testing.assert_array_equal(found.after_t[:2], [2, 2])


def test_a_sequence_without_a_transition_weighs_nothing() -> None:
    assert float(sequence(TERMINATED, 0, 1, 1, 3).weight) == 0.0


def test_transitions_are_those_of_the_other_window() -> None:
    """Reward, discount and next observation of every learned row, at any n, as `transitions` reads them."""
    tape, last_row = tape_of(TERMINATED), len(TERMINATED.reward) - 1
    for n in (1, 2, 3):
        found = sequence(TERMINATED, 1, 3, n, 0)
        age = last_row - jnp.arange(1, 4)
        batch = read(windows.transitions(n), tape, age, jnp.zeros(3, int), jnp.float32(GAMMA))
        starts = np.asarray(batch.weight, bool)
        np.testing.assert_array_equal(found.starts, starts)
        np.testing.assert_array_equal(found.action_tm1, batch.action_tm1)
        np.testing.assert_array_equal(found.reward_t[starts], batch.reward_t[starts])
        np.testing.assert_array_equal(found.discount_t[starts], batch.discount_t[starts])
        np.testing.assert_array_equal(found.obs_tm1[found.after_t][starts], batch.obs_t[starts])


def test_a_sequence_may_lie_across_the_seam_of_the_ring() -> None:
    """Eight rows on a tape of six: rows 2 .. 7 are held, the first two places have rows 6 and 7."""
    tape = tape_of(TERMINATED, capacity=6, block=2)
    window = windows.sequences(0, 3, 1)
    found = read(window, tape, jnp.array([3]), jnp.array([0]), jnp.float32(GAMMA))
    np.testing.assert_array_equal(found.obs_tm1[0], [40.0, 50.0, 60.0, 70.0])


def test_the_least_age_is_that_of_a_whole_sequence() -> None:
    assert windows.sequences(3, 4, 2).after == 8
    assert windows.sequences(0, 1, 1).after == windows.transitions(1).after == 1


def test_uniform_starts_have_a_whole_sequence_after_them() -> None:
    tape = tape_of(TERMINATED, envs=2)
    noise = jax.random.bits(jax.random.key(0), (500,), jnp.uint32)
    age, env = uniform_starts(tape, noise, windows.sequences(2, 2, 1).after)
    assert set(np.asarray(age).tolist()) == {4, 5, 6, 7}
    assert set(np.asarray(env).tolist()) == {0, 1}


def test_priorities_hide_rows_without_a_whole_sequence_until_it_is_there() -> None:
    """Of 8 rows, the newest 4 wait; row 3 is `last`. After two more, of a tape of 8, rows 4 and 5 can be drawn too."""
    life = Life([*TERMINATED.reward, 0.0, 0.0], [2], [3])
    whole, early = tape_of(life, block=2), tape_of(TERMINATED, block=2)
    after = windows.sequences(2, 2, 1).after
    noise = jax.random.bits(jax.random.key(0), (200,), jnp.uint32)
    advance = jax.jit(priority.advance, static_argnums=(2, 3))
    tree = advance(priority.full(8, 1), early, 8, after)

    sample = jax.jit(priority.sample)

    def drawn(tree: priority.SumTree, tape: Tape) -> set[int]:
        age, _, _ = sample(tree, tape, noise)
        return set((int(tape.written) - 1 - np.asarray(age)).tolist())

    assert drawn(tree, early) == {0, 1, 2}
    assert drawn(advance(tree, whole, 2, after), whole) == {2, 4, 5}
