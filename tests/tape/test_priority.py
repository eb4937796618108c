"""The sum tree against plain NumPy leaves under random writes and updates. Not for what is learned from the rows."""

import functools
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from qdojo.tape.priority import (
    BRANCHING,
    EPSILON,
    LARGEST,
    SumTree,
    advance,
    full,
    importance,
    put,
    sample,
    update,
)
from qdojo.tape.ring import READERS, Tape, empty, write
from qdojo.types import Step

pytestmark = pytest.mark.usefixtures("strict_promotion")

ALPHA = 0.5
put_jit, sample_jit = jax.jit(put), jax.jit(sample)
update_jit = jax.jit(update, static_argnums=5)
advance_jit = jax.jit(advance, static_argnums=2)
write_jit = jax.jit(write)
full_jit = jax.jit(full, static_argnums=(0, 1))
full_once = functools.cache(full_jit)


def block(last: np.ndarray) -> Step:
    """Rows `[time, member, env]` of which nothing matters but `last`."""
    number = np.zeros(last.shape, np.float32)
    return Step(number, number.astype(np.int32), number, number > 0, last.astype(bool))


@functools.cache
def blank(capacity: int, envs: int, members: int = 1) -> Tape:
    return empty(capacity, members, envs, jax.ShapeDtypeStruct((), jnp.float32))


def tape_of_one(capacity: int, envs: int, written: int) -> Tape:
    return blank(capacity, envs)._replace(written=jnp.int32(written), member=jnp.int32(0))


def words(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(2**32, size=shape, dtype=np.uint32))


def tree_of(leaves: np.ndarray, envs: int) -> SumTree:
    tree = full_once(len(leaves) // envs, envs)
    return put_jit(tree, jnp.arange(len(leaves)), jnp.asarray(leaves, jnp.float32))


def leaves_of(tree: SumTree, number: int) -> np.ndarray:
    leaves = np.asarray(tree.levels[0]).ravel()
    assert (leaves[number:] == 0).all()
    return leaves[:number]


def assert_sums_are_exact(tree: SumTree) -> None:
    """Bit by bit those of a tree that is built at once, which in turn are the sums up to float32 rounding."""
    leaves = np.asarray(tree.levels[0]).ravel()
    fresh = full_once(len(leaves) - 1, 1)
    fresh = put_jit(fresh, jnp.arange(len(leaves) - 1), jnp.asarray(leaves[:-1]))
    for ours, built in zip(tree.levels, fresh.levels, strict=True):
        np.testing.assert_array_equal(ours, built)
    starts = np.arange(0, len(leaves), BRANCHING)
    for level in tree.levels[1:]:
        sums = np.add.reduceat(leaves.astype(np.float64), starts)
        np.testing.assert_allclose(np.asarray(level).ravel()[: len(sums)], sums, rtol=1e-5)
        starts = starts[::BRANCHING]


def row_of(tape: Tape, age: Any) -> np.ndarray:
    return (int(tape.written) - 1 - np.asarray(age)) % tape.capacity


@pytest.mark.parametrize(
    ("capacity", "envs", "groups"),
    [(5, 3, [1]), (16, 2, [2, 1]), (31 * 32, 1, [32, 2, 1]), (40_000, 1, [1251, 40, 2, 1])],
)
def test_there_is_always_an_empty_place_behind_the_last_node(capacity: int, envs: int, groups: list[int]) -> None:
    tree = full_jit(capacity, envs)
    assert [level.shape for level in tree.levels] == [(number, BRANCHING) for number in groups]
    assert (leaves_of(tree, capacity * envs) == 1.0).all()
    assert tree.levels[-1].sum() == capacity * envs
    for level in tree.levels:
        assert level[-1, -1] == 0.0


class Shape(NamedTuple):
    capacity: int
    envs: int
    rows: int


SHAPES = [Shape(6, 1, 1), Shape(9, 5, 2), Shape(4, 2, 4), Shape(40, 30, 8)]


@settings(max_examples=15)
@given(data=st.data(), shape=st.sampled_from(SHAPES), before=st.integers(0, 2))
def test_a_life_of_the_tree(data: st.DataObject, shape: Shape, before: int) -> None:
    """Writes and updates in turn, and every leaf as a plain array says; the ring goes round up to four times."""
    capacity, envs, rows = shape
    tree, tape = full_once(capacity, envs), blank(capacity, envs)
    leaves, highest = np.ones((capacity, envs), np.float32), np.float32(1.0)
    lasts = np.zeros((capacity, envs), bool)
    cycles = data.draw(st.integers(1, 4 * capacity // rows))
    ended = data.draw(arrays(bool, (before + cycles, rows, 1, envs)))
    errors = data.draw(arrays(np.float32, (cycles, 4), elements=st.sampled_from([0.0, 0.5, 3.0, 8.0, 1e9])))
    noise = np.asarray(words(data.draw(st.integers(0, 99)), (cycles, 4)))
    for i in range(before + cycles):
        for t in range(rows):
            # One at a time: then any capacity is a multiple of the block.
            tape = write_jit(tape, block(ended[i, t : t + 1]))
            lasts[(int(tape.written) - 1) % capacity] = ended[i, t, 0]
        if i < before:
            continue
        reader = tape._replace(member=jnp.int32(0))
        tree = advance_jit(tree, reader, rows)
        for age in range(min(rows + 1, capacity, int(tape.size))):
            at = row_of(tape, age)
            leaves[at] = np.where(lasts[at] | (age == 0), 0.0, highest)
        np.testing.assert_array_equal(leaves_of(tree, leaves.size), leaves.ravel())

        age, env, probability = sample_jit(tree, reader, noise[i - before])
        at = row_of(tape, age), np.asarray(env)
        written = leaves[: int(tape.size)]
        if written.sum() > 0:
            assert (at[0] < int(tape.size)).all()
            assert (leaves[at] > 0).all()
            np.testing.assert_allclose(probability, leaves[at] / written.sum(), rtol=1e-5)
        else:
            assert (age.tolist(), env.tolist(), probability.tolist()) == ([1] * 4, [0] * 4, [1.0] * 4)
            continue

        # Priorities belong to the row, so that an example drawn twice has one.
        error = errors[i - before][(at[0] + at[1]) % 4]
        tree = update_jit(tree, reader, age, env, jnp.asarray(error), ALPHA)
        value = (error + np.float32(EPSILON)) ** np.float32(ALPHA)
        leaves[at] = np.where(lasts[at], 0.0, value)
        np.testing.assert_allclose(leaves_of(tree, leaves.size), leaves.ravel(), rtol=1e-6)
        leaves = leaves_of(tree, leaves.size).reshape(leaves.shape).copy()
        highest = np.float32(max(highest, leaves[at].max()))
        assert tree.highest == highest
    assert_sums_are_exact(tree)


def test_sums_are_exact_after_a_million_updates() -> None:
    leaves = 50_000

    def step(tree: SumTree, seed: jax.Array) -> tuple[SumTree, None]:
        exponent = (seed[1] % jnp.uint32(60)).astype(jnp.float32) - 30.0
        leaf = (seed[0] % jnp.uint32(leaves)).astype(jnp.int32)
        return put(tree, leaf, jnp.where(seed[1] % jnp.uint32(7) == 0, 0.0, 2.0**exponent)), None

    tree = jax.jit(lambda tree, seeds: jax.lax.scan(step, tree, seeds)[0])(
        full_jit(leaves, 1), words(0, (32_000, 2, 32))
    )
    assert len(np.unique(leaves_of(tree, leaves))) > 40
    assert_sums_are_exact(tree)


MASSES = st.one_of(st.just(0.0), st.sampled_from([1e-35, 1e-12, 1.0, 1e12, LARGEST]), st.floats(0, 1e6, width=32))


@settings(max_examples=100)
@given(
    leaves=arrays(np.float32, 33 * 40, elements=MASSES, fill=st.sampled_from([0.0, 1.0, 1e-6])),
    written=st.integers(1, 40),
    drawn=arrays(np.uint32, 64, elements=st.sampled_from([0, 1, 2**31, 2**32 - 257, 2**32 - 1]), fill=st.nothing()),
)
def test_nothing_without_a_priority_is_drawn(leaves: np.ndarray, written: int, drawn: np.ndarray) -> None:
    """Whatever the words, at their ends too, and however far apart the sizes of the priorities."""
    envs = 33
    tape = tape_of_one(40, envs, written)
    age, env, probability = sample_jit(tree_of(leaves, envs), tape, jnp.asarray(drawn))
    leaf = row_of(tape, age) * envs + np.asarray(env)
    # XLA takes subnormal numbers for 0.
    leaves = np.where(leaves < np.finfo(np.float32).tiny, 0.0, leaves)
    assert np.isfinite(probability).all()
    if leaves[: written * envs].any():
        assert (leaf < written * envs).all()
        assert (leaves[leaf] > 0).all()
        expected = leaves[leaf] / leaves[: written * envs].sum(dtype=np.float64)
        np.testing.assert_allclose(probability, expected, rtol=1e-5, atol=1e-37)
    else:
        np.testing.assert_array_equal([age, env, probability], np.repeat([[1.0], [0.0], [1.0]], 64, axis=1))


@pytest.mark.parametrize(("written", "held"), [(7, 7), (20, 20), (53, 20)])
def test_rows_are_drawn_in_proportion(written: int, held: int) -> None:
    """One example an update: then draws are independent, as the test of chi square wants them."""
    envs, draws = 3, 40_000
    leaves = np.random.default_rng(0).choice([0.0, 0.2, 1.0, 4.0], 20 * envs).astype(np.float32)
    tape = tape_of_one(20, envs, written)
    tree = tree_of(leaves, envs)
    age, env, _ = jax.jit(jax.vmap(lambda w: sample(tree, tape, w)))(words(written, (draws, 1)))
    leaf = (row_of(tape, age) * envs + np.asarray(env)).ravel()
    mass = leaves[: held * envs].astype(np.float64)
    counts = np.bincount(leaf, minlength=len(mass))
    assert len(counts) == len(mass)
    some = mass > 0
    assert counts[~some].sum() == 0
    assert stats.chisquare(counts[some], draws * mass[some] / mass.sum()).pvalue > 1e-3


def test_each_example_comes_from_its_part_of_the_mass() -> None:
    """64 equal leaves and 8 examples: 8 leaves each. Example 0 has the leaves 0 to 7, and so on."""
    tape = tape_of_one(64, 1, 64)
    age, _, probability = jax.jit(jax.vmap(lambda w: sample(full(64, 1), tape, w)))(words(1, (400, 8)))
    for i in range(8):
        assert set(row_of(tape, age)[:, i]) == set(range(8 * i, 8 * i + 8))
    np.testing.assert_allclose(probability, 1 / 64, rtol=1e-6)


def test_each_example_has_a_word_of_its_own() -> None:
    tree, tape, noise = full_jit(4000, 1), tape_of_one(4000, 1, 4000), words(0, (64,))
    before = sample_jit(tree, tape, noise)[0]
    after = sample_jit(tree, tape, noise.at[17].add(jnp.uint32(2**31)))[0]
    assert np.flatnonzero(before != after).tolist() == [17]


def test_small_neighbours_at_the_end_of_a_million_are_told_apart() -> None:
    """Leaves of .05 behind 999,900 of 1. The last of 32 parts has a mass of 31,247 for 2**24 words, 26.8 words a leaf.

    Near a million the grid of float32 is 1/16: targets rounded to it would give some leaves 34 words, the others none.
    """
    tape = tape_of_one(1_000_000, 1, 1_000_000)
    tree = put_jit(full_jit(1_000_000, 1), jnp.arange(999_900, 1_000_000), jnp.full(100, 0.05))
    noise = jnp.zeros((2600, 32), jnp.uint32).at[:, 31].set(jnp.arange(2**24 - 2600, 2**24, dtype=jnp.uint32) << 8)
    age, _, _ = jax.jit(jax.vmap(sample, in_axes=(None, None, 0)))(tree, tape, noise)
    rows, counts = np.unique(row_of(tape, age)[:, 31], return_counts=True)
    assert len(rows) > 94
    np.testing.assert_array_equal(np.diff(rows), 1)
    np.testing.assert_allclose(counts[2:-2], 26.8, atol=4)


def test_new_rows_enter_at_the_highest_priority_and_wait_for_their_successor() -> None:
    """Two copies. Copy 1 ends in the second row. 8.0 + epsilon to the power of a half is 2.8284."""
    tape, tree = blank(6, 2), full_jit(6, 2)
    tree = tree._replace(highest=jnp.float32(2.0))
    for last in ([0, 0], [0, 1], [0, 0]):
        tape = write_jit(tape, block(np.array(last).reshape(1, 1, 2)))
    reader = tape._replace(member=jnp.int32(0))
    tree = advance_jit(tree, reader, 3)
    assert leaves_of(tree, 12).reshape(6, 2).tolist() == [[2, 2], [2, 0], [0, 0], [1, 1], [1, 1], [1, 1]]
    tree = update_jit(tree, reader, jnp.array([2, 1]), jnp.array([1, 1]), jnp.array([8.0, 9e9]), ALPHA)
    assert float(tree.highest) == pytest.approx(math.sqrt(8)), "a row marked last has no say"
    np.testing.assert_allclose(leaves_of(tree, 12)[:6], [2, 2.8284271, 2, 0, 0, 0], rtol=1e-6)
    # The fourth row: only now does the third one, of age 1, have a successor.
    reader = write_jit(tape, block(np.zeros((1, 1, 2))))._replace(member=jnp.int32(0))
    np.testing.assert_allclose(
        leaves_of(advance_jit(tree, reader, 1), 12)[2:8], [2, 0, *[2.8284271] * 2, 0, 0], rtol=1e-6
    )


def test_rows_that_were_never_written_are_left_alone() -> None:
    tree = advance_jit(full_jit(5, 1), tape_of_one(5, 1, 0), 3)
    assert leaves_of(tree, 5).tolist() == [1] * 5
    tree = advance_jit(full_jit(5, 1), tape_of_one(5, 1, 1), 3)
    assert leaves_of(tree, 5).tolist() == [0, 1, 1, 1, 1]
    age, env, probability = sample_jit(tree, tape_of_one(5, 1, 1), words(0, (3,)))
    assert (age.tolist(), env.tolist(), probability.tolist()) == ([1] * 3, [0] * 3, [1.0] * 3)


@pytest.mark.parametrize(("priority", "leaf"), [(np.nan, 2.0), (np.inf, 2.0), (3e38, LARGEST), (0.0, EPSILON)])
def test_no_priority_poisons_the_tree(priority: float, leaf: float) -> None:
    tape, tree = tape_of_one(64, 1, 64), full_jit(64, 1)._replace(highest=jnp.float32(2.0))
    tree = update_jit(tree, tape, jnp.array([5]), jnp.array([0]), jnp.array([priority], jnp.float32), 1.0)
    assert leaves_of(tree, 64)[58] == np.float32(leaf)
    assert tree.highest == np.float32(max(leaf, 2.0))
    assert np.isfinite(sample_jit(tree, tape, words(0, (8,)))[2]).all()
    assert_sums_are_exact(tree)


def test_importance_weights_by_hand() -> None:
    """10 rows: (10 * .1)**-.5 = 1, (10 * .4)**-.5 = 1/2, (10 * .025)**-.5 = 2; over the largest, 2."""
    probability = jnp.array([0.1, 0.4, 0.025])
    np.testing.assert_allclose(importance(probability, 10, 0.5), [0.5, 0.25, 1.0], rtol=1e-6)
    np.testing.assert_allclose(importance(probability, jnp.int32(10), jnp.float32(0.0)), [1, 1, 1])
    np.testing.assert_allclose(importance(probability, 10, 1.0), [0.25, 0.0625, 1.0], rtol=1e-6)
    np.testing.assert_allclose(importance(jnp.array([0.0, 0.5, 0.125]), 8, 0.5), [0, 0.5, 1], rtol=1e-6)
    assert importance(jnp.zeros(2), 8, 0.5).tolist() == [0, 0]


def cycle(tree: SumTree, tape: Tape, noise: jax.Array, rows: int) -> tuple[SumTree, Any]:
    """All that happens to the tree of one member from one update to the next."""
    tree = advance(tree, tape, rows)
    age, env, probability = sample(tree, tape, noise)
    weight = importance(probability, tape.size, 0.4)
    priority = (noise % jnp.uint32(100)).astype(jnp.float32)
    return update(tree, tape, age, env, priority, 0.6), (age, env, weight)


def run(trees: SumTree, tape: Tape, last: jax.Array, noise: jax.Array) -> Any:
    """Many cycles in one scan; `last [cycles, rows, member, env]`, `noise [cycles, member, batch]`."""

    def step(carry: tuple[SumTree, Tape], given: Any) -> Any:
        trees, tape = carry
        tape = write(tape, block(given[0]))
        mapped = jax.vmap(functools.partial(cycle, rows=given[0].shape[0]), in_axes=(0, READERS, 0))
        trees, drawn = mapped(trees, tape, given[1])
        return (trees, tape), drawn

    return jax.lax.scan(step, (trees, tape), (last, noise))


def test_members_side_by_side_are_each_alone() -> None:
    members, capacity, envs = 3, 60, 2
    last = jax.random.bernoulli(jax.random.key(1), 0.2, (50, 4, members, envs))
    noise = words(2, (50, members, 16))
    trees = jax.vmap(lambda _: full_jit(capacity, envs))(jnp.arange(members))
    (together, _), drawn = jax.jit(run)(trees, blank(capacity, envs, members), last, noise)
    assert not np.array_equal(together.levels[0][0], together.levels[0][1])
    for m in range(members):
        one = slice(m, m + 1)
        alone = jax.jit(run)(
            jax.tree.map(lambda x, one=one: x[one], trees), blank(capacity, envs), last[:, :, one], noise[:, one]
        )
        jax.tree.map(
            np.testing.assert_array_equal,
            jax.tree.map(lambda x, m=m: x[m], together),
            jax.tree.map(lambda x: x[0], alone[0][0]),
        )
        jax.tree.map(
            np.testing.assert_array_equal,
            jax.tree.map(lambda x, m=m: x[:, m], drawn),
            jax.tree.map(lambda x: x[:, 0], alone[1]),
        )


@pytest.mark.parametrize("members", [1, 4])
def test_no_step_copies_the_leaves(members: int) -> None:
    """What an update costs must not grow with the memory: the program may hold the leaves and write into them."""
    capacity = 79_190
    trees = jax.vmap(lambda _: full_jit(capacity, 1))(jnp.arange(members))
    given = jnp.zeros((3, 10, members, 1), bool), jnp.zeros((3, members, 32), jnp.uint32)
    arguments = trees, blank(capacity, 1, members), *given
    program = jax.jit(run, donate_argnums=(0, 1)).lower(*arguments).compile().as_text()
    made = re.findall(r"= \w+\[([\d,]+)\]\S* ([\w-]+)\(", program)
    large = {operation for shape, operation in made if math.prod(map(int, shape.split(","))) >= capacity}
    assert large >= {"parameter"}
    assert large <= {"parameter", "get-tuple-element", "bitcast", "fusion", "dynamic-update-slice", "call", "scatter"}
