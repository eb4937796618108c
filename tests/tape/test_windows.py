"""The tape and its windows against a plain Python list of transitions, under random episodes. Not for learning."""

import functools
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from qdojo.tape import windows
from qdojo.tape.ring import READERS, Tape, empty, newest, size_in_bytes, take, write
from qdojo.tape.sampling import uniform_starts
from qdojo.types import Batch, Step

pytestmark = pytest.mark.usefixtures("strict_promotion")

GAMMA = 0.5
"""With small whole rewards every sum of powers of a half is exact, so equal means equal."""
STEP, TERMINATE, TRUNCATE, PAUSE = range(4)


class Shape(NamedTuple):
    capacity: int
    members: int
    envs: int
    block: int


SHAPES = [Shape(6, 1, 1, 1), Shape(8, 2, 3, 2), Shape(12, 3, 1, 4), Shape(5, 1, 2, 5)]


class Transition(NamedTuple):
    row: int
    observation: int
    action: int
    reward: int
    terminated: bool
    next_observation: int


class Copy:
    """One environment copy: the rows it puts on the tape and, apart from them, its transitions as plain lists.

    A run is what one window may cover: the steps between two ends, two pauses, or one and the other.
    """

    def __init__(self, number: int) -> None:
        self.observation, self.unused = number * 1000, number * 1000 + 1
        self.over, self.rows = False, 0
        self.runs: list[list[Transition]] = [[]]

    def advance(self, event: int) -> tuple[int, int, float, bool, bool]:
        shown, row = self.observation, self.rows
        self.rows += 1
        if self.over or event == PAUSE:
            if self.over:
                self._show_next()
            self.over = False
            self.runs.append([])
            return shown, 77, 0.0, False, True
        self._show_next()
        action, reward = shown % 5, shown % 7 - 3
        self.runs[-1].append(Transition(row, shown, action, reward, event == TERMINATE, self.observation))
        self.over = event in (TERMINATE, TRUNCATE)
        return shown, action, float(reward), event == TERMINATE, False

    def _show_next(self) -> None:
        self.observation, self.unused = self.unused, self.unused + 1

    def expected(self, n: int, oldest: int) -> dict[int, tuple[int, int, float, float, int]]:
        """What the window of each row is that starts a transition whose next observation is on the tape."""
        found = {}
        for run in self.runs:
            written = [step for step in run if oldest <= step.row < self.rows - 1]
            for i, first in enumerate(written):
                steps = written[i : i + n]
                total = sum(GAMMA**k * step.reward for k, step in enumerate(steps))
                discount = 0.0 if steps[-1].terminated else GAMMA ** len(steps)
                found[first.row] = (first.observation, first.action, total, discount, steps[-1].next_observation)
        return found


def observe(values: np.ndarray) -> np.ndarray:
    return np.stack([values, -values], axis=-1).astype(np.float32)


write_block = jax.jit(write)


@functools.cache
def read_every(n: int) -> object:
    def every(tape: Tape) -> Batch:
        age, env = jnp.meshgrid(jnp.arange(1, tape.capacity), jnp.arange(tape.num_envs), indexing="ij")
        return windows.read(windows.transitions(n), tape, age.ravel(), env.ravel(), jnp.float32(GAMMA))

    return jax.jit(jax.vmap(every, in_axes=(READERS,)))


def play(shape: Shape, events: np.ndarray) -> tuple[Tape, list[list[Copy]], list[np.ndarray]]:
    """Copies that live through `events` `[rows, member, env]`, and the tape they wrote, block after block."""
    copies = [[Copy(1 + m * shape.envs + e) for e in range(shape.envs)] for m in range(shape.members)]
    tape = empty(shape.capacity, shape.members, shape.envs, jax.ShapeDtypeStruct((2,), jnp.float32))
    shown = []
    for start in range(0, len(events), shape.block):
        rows = [
            [[copies[m][e].advance(events[t, m, e]) for e in range(shape.envs)] for m in range(shape.members)]
            for t in range(start, start + shape.block)
        ]
        values = np.array(rows, np.float32)
        shown.append(values[..., 0])
        block = Step(
            observation=jnp.asarray(observe(values[..., 0])),
            action=jnp.asarray(values[..., 1], jnp.int32),
            reward=jnp.asarray(values[..., 2]),
            terminated=jnp.asarray(values[..., 3], bool),
            last=jnp.asarray(values[..., 4], bool),
        )
        tape = write_block(tape, block)
    return tape, copies, shown


@st.composite
def lives(draw: st.DrawFn) -> tuple[Shape, np.ndarray]:
    shape = draw(st.sampled_from(SHAPES))
    blocks = draw(st.integers(1, 3 * shape.capacity // shape.block))
    # Half of all rows are plain steps, so that windows of five are met as well as episodes of one.
    event = st.sampled_from([STEP, STEP, STEP, TERMINATE, TRUNCATE, PAUSE])
    return shape, draw(arrays(np.int8, (blocks * shape.block, shape.members, shape.envs), elements=event))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@settings(max_examples=60, suppress_health_check=[HealthCheck.data_too_large])
@given(life=lives())
def test_every_window_is_the_transition_of_a_plain_list(n: int, life: tuple[Shape, np.ndarray]) -> None:
    shape, events = life
    tape, copies, _ = play(shape, events)
    written = len(events)
    held = min(written, shape.capacity)
    assert int(tape.written) == written
    assert int(tape.size) == held
    batch = jax.tree.map(np.asarray, read_every(n)(tape))
    ages = np.repeat(np.arange(1, shape.capacity), shape.envs)
    envs = np.tile(np.arange(shape.envs), shape.capacity - 1)
    for member in range(shape.members):
        expected = [copies[member][e].expected(n, written - held) for e in range(shape.envs)]
        for i in np.flatnonzero(ages < held):
            row = written - 1 - ages[i]
            transition = expected[envs[i]].pop(row, None)
            assert batch.weight[member, i] == (transition is not None)
            if transition is not None:
                found = (
                    batch.obs_tm1[member, i, 0],
                    batch.action_tm1[member, i],
                    batch.reward_t[member, i],
                    batch.discount_t[member, i],
                    batch.obs_t[member, i, 0],
                )
                assert found == transition
                assert batch.obs_t[member, i, 1] == -batch.obs_t[member, i, 0]
        assert expected == [{}] * shape.envs, "a transition of the list was not found on the tape"


@settings(max_examples=20)
@given(life=lives())
def test_each_observation_is_held_once(life: tuple[Shape, np.ndarray]) -> None:
    """Once, but for a pause: the row that it takes shows again what the next row shows."""
    shape, events = life
    tape, _, shown = play(shape, events)
    held = min(len(events), shape.capacity)
    every = np.concatenate(shown)[-held:]
    at = np.arange(len(events) - held, len(events)) % shape.capacity
    np.testing.assert_array_equal(tape.rows.observation[at], observe(every))
    last = np.asarray(tape.rows.last)[at]
    for member in range(shape.members):
        for env in range(shape.envs):
            values = every[:, member, env]
            repeated = values[1:] == values[:-1]
            assert not (repeated & ~last[:-1, member, env]).any()
            assert len(np.unique(values)) == held - repeated.sum()


def test_a_truncated_end_bootstraps_from_its_final_observation_and_a_terminated_one_does_not() -> None:
    for event, discount in ((TRUNCATE, 0.25), (TERMINATE, 0.0)):
        tape, _, _ = play(Shape(8, 1, 1, 2), np.array([STEP, event, STEP, STEP]).reshape(4, 1, 1))
        batch = read_every(5)(tape)
        # The third row before the newest is the first of all, in place 2 of the ages 1, 2, 3.
        assert float(batch.discount_t[0, 2]) == discount
        assert float(batch.obs_t[0, 2, 0]) == 1002, "the final observation of the episode of 1000, 1001"


def test_readers_share_the_rows_and_never_see_another_members() -> None:
    tape, _, _ = play(SHAPES[1], np.zeros((8, 2, 3), np.int8))
    seen = jax.vmap(lambda tape: take(tape, jnp.arange(8), jnp.zeros(8, int)).observation, in_axes=(READERS,))
    np.testing.assert_array_equal(seen(tape), np.asarray(tape.rows.observation)[:, :, 0].swapaxes(0, 1))


def test_ages_count_back_from_the_newest_row_also_across_the_seam() -> None:
    tape, _, _ = play(Shape(6, 1, 1, 1), np.zeros((8, 1, 1), np.int8))
    np.testing.assert_array_equal(newest(tape, jnp.array([0, 1, 2, 5])), [1, 0, 5, 2])


def test_the_estimate_is_what_the_tape_takes() -> None:
    """Action, reward and flags take 3 words; six floats take 6, six bytes take 2."""
    for dtype, words in ((jnp.float32, 9), (jnp.uint8, 5)):
        observation = jax.ShapeDtypeStruct((3, 2), dtype)
        tape = empty(10, 2, 3, observation)
        assert size_in_bytes(10, 2, 3, observation) == tape.words.nbytes == 10 * 2 * 3 * words * 4


@pytest.mark.parametrize(
    ("dtype", "shape"), [(np.float32, (3, 2)), (np.uint8, (5,)), (np.uint8, (4, 2)), (np.float32, ())]
)
def test_rows_come_back_bit_by_bit(dtype: type, shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    rows = (4, 2, 3)
    step = Step(
        observation=jnp.asarray(generator.uniform(0, 256, (*rows, *shape)).astype(dtype)),
        action=jnp.asarray(generator.integers(-(2**31), 2**31, rows).astype(np.int32)),
        reward=jnp.asarray(generator.choice([0.1, -np.inf, np.nan, 1e-42], rows).astype(np.float32)),
        terminated=jnp.asarray(generator.random(rows) < 0.5),
        last=jnp.asarray(generator.random(rows) < 0.5),
    )
    tape = write(empty(8, 2, 3, jax.ShapeDtypeStruct(shape, dtype)), step)
    for ours, theirs in zip(
        jax.tree.leaves(jax.tree.map(lambda x: x[:4], tape.rows)), jax.tree.leaves(step), strict=True
    ):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def written_tape(rows: int, capacity: int, envs: int) -> Tape:
    return empty(capacity, 1, envs, jax.ShapeDtypeStruct((), jnp.float32))._replace(
        written=jnp.int32(rows), member=jnp.int32(0)
    )


@pytest.mark.parametrize(("rows", "held"), [(2, 2), (7, 7), (16, 16), (40, 16)])
def test_starts_are_uniform_over_all_rows_that_have_a_successor(rows: int, held: int) -> None:
    envs, draws = 3, 30_000
    noise = jax.random.bits(jax.random.key(rows), (draws,), jnp.uint32)
    age, env = jax.jit(uniform_starts)(written_tape(rows, 16, envs), noise)
    cells, counts = np.unique(np.stack([age, env]), axis=1, return_counts=True)
    assert set(cells[0]) == set(range(1, held))
    assert len(counts) == (held - 1) * envs
    assert stats.chisquare(counts).pvalue > 1e-3


def test_each_start_has_a_word_of_its_own() -> None:
    tape = written_tape(16, 16, 2)
    noise = jax.random.bits(jax.random.key(0), (64,), jnp.uint32)
    before = np.stack(uniform_starts(tape, noise))
    after = np.stack(uniform_starts(tape, noise.at[17].add(jnp.uint32(1))))
    assert np.flatnonzero((before != after).any(axis=0)).tolist() == [17]


@pytest.mark.skipif("QDOJO_LARGE" not in os.environ, reason="takes 9 GB of memory; set QDOJO_LARGE=1 to run it")
def test_rows_beyond_two_to_the_31_words_are_written_and_read() -> None:
    """1,250,000 frames of 84 x 84 bytes are more words than a signed 32-bit index counts."""
    frame = jax.ShapeDtypeStruct((84, 84), jnp.uint8)
    tape = jax.jit(lambda: empty(1_250_000, 1, 1, frame))()
    assert tape.words.size > 2**31
    put = jax.jit(lambda tape, written, step: write(tape._replace(written=written), step), donate_argnums=0)
    rows = [0, 1, 1_216_001, 1_249_998, 1_249_999]
    for row in rows:
        shown = jnp.full((1, 1, 1, 84, 84), row % 251, jnp.uint8)
        flat = jnp.zeros((1, 1, 1))
        step = Step(shown, flat.astype(jnp.int32), flat + row, flat > 1.0, flat > 1.0)
        tape = put(tape, jnp.int32(row), step)
    read = jax.jit(lambda tape: take(tape._replace(member=jnp.int32(0)), jnp.array(rows), jnp.zeros(5, jnp.int32)))
    found = read(tape)
    np.testing.assert_array_equal(found.reward, rows)
    np.testing.assert_array_equal(found.observation[:, 83, 83], [row % 251 for row in rows])
