"""Random words, the tally of episodes, the best parameters, memory, compiled programs. Not for the loops themselves."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from probes.training import small_agent, small_network

from qdojo.loops.state import (
    COLLECT,
    EVALUATE,
    INIT,
    LEARN,
    START,
    Programs,
    chunk_words,
    count,
    fresh_memory,
    fresh_tally,
    member_keys,
    renewed,
    streams,
)
from qdojo.types import Episode


def words(seed: int = 0, members: int = 2, stream: int = COLLECT, rows: int = 0) -> np.ndarray:
    draw = jax.jit(chunk_words, static_argnums=(1, 3))
    return np.asarray(draw(member_keys(seed, members), stream, jnp.int32(rows), (5, 3, 4)))


def test_words_have_the_member_axis_third() -> None:
    assert words().shape == (5, 3, 2, 4)
    assert words().dtype == np.uint32


def test_member_k_has_the_words_of_seed_plus_k_alone() -> None:
    together = words(seed=7, members=3)
    for k in range(3):
        np.testing.assert_array_equal(together[:, :, k], words(seed=7 + k, members=1)[:, :, 0])


def test_no_two_members_chunks_or_streams_share_a_word() -> None:
    draws = [words(), words(rows=2), words(rows=4), words(stream=LEARN), words(seed=100)]
    values = np.concatenate([draw.ravel() for draw in draws])
    assert len(np.unique(values)) == len(values)
    assert len({INIT, COLLECT, LEARN, START, EVALUATE}) == 5


def test_words_follow_from_seed_and_rows_alone() -> None:
    np.testing.assert_array_equal(words(rows=6), words(rows=6))


def test_streams_differ_from_each_other_and_from_their_source() -> None:
    keys = member_keys(0, 2)
    data = [jax.random.key_data(k).tolist() for k in (keys, streams(keys, START), streams(keys, INIT))]
    assert len({tuple(row) for two in data for row in two}) == 6


def test_the_tally_of_a_few_rows_by_hand() -> None:
    """Two envs: the first ends after rows 1 and 4, and restarts in row 2; the second goes on."""
    reward = np.array([[[1.0, 10.0]], [[2.0, 10.0]], [[0.0, 10.0]], [[3.0, 10.0]], [[4.0, 10.0]]], np.float32)
    applied = np.array([[[1, 1]], [[1, 1]], [[0, 1]], [[1, 1]], [[1, 1]]], bool)
    ended = np.array([[[0, 0]], [[1, 0]], [[0, 0]], [[0, 0]], [[1, 0]]], bool)
    tally, episodes = count(fresh_tally(1, 2), reward, applied, ended, first_row=100)
    assert episodes == [
        Episode(member=0, episode=1, steps=204, score=3.0, length=2),
        Episode(member=0, episode=2, steps=210, score=7.0, length=2),
    ]
    assert tally.score.tolist() == [[0.0, 50.0]]
    assert tally.length.tolist() == [[0, 5]]
    assert tally.episodes.tolist() == [2]
    assert tally.env_steps.tolist() == [9]
    after, episodes = count(tally, reward[:1], applied[:1], np.ones((1, 1, 2), bool), first_row=105)
    assert episodes == [Episode(0, 3, 212, 1.0, 1), Episode(0, 4, 212, 60.0, 6)]
    assert after.env_steps.tolist() == [11]


@settings(max_examples=40)
@given(
    ended=arrays(bool, (12, 2, 2)),
    rewards=arrays(np.int8, (12, 2, 2), elements=st.integers(-9, 9)),
    cuts=st.lists(st.integers(1, 11), unique=True, max_size=3).map(sorted),
)
def test_the_tally_against_a_plain_loop(ended: np.ndarray, rewards: np.ndarray, cuts: list[int]) -> None:
    """However the rows are cut into chunks; the row after an end restarts and pays nothing."""
    over = np.concatenate([np.zeros((1, 2, 2), bool), ended[:-1]])
    for row in range(1, 12):  # a restart cannot end
        over[row] = ended[row - 1]
        ended[row] &= ~over[row]
    applied, reward = ~over, np.where(over, 0, rewards).astype(np.float32)
    expected, scores, lengths, numbers = [], np.zeros((2, 2)), np.zeros((2, 2), int), [0, 0]
    for row, member, env in np.ndindex(12, 2, 2):
        scores[member, env] += reward[row, member, env]
        lengths[member, env] += applied[row, member, env]
        if ended[row, member, env]:
            numbers[member] += 1
            at = member, env
            expected.append(Episode(member, numbers[member], (row + 1) * 2, scores[at], lengths[at]))
            scores[at], lengths[at] = 0, 0
    tally, found = fresh_tally(2, 2), []
    for start, stop in zip([0, *cuts], [*cuts, 12], strict=True):
        tally, episodes = count(tally, reward[start:stop], applied[start:stop], ended[start:stop], start)
        found += episodes
    assert found == expected
    np.testing.assert_array_equal(tally.score, scores)
    np.testing.assert_array_equal(tally.length, lengths)
    assert tally.env_steps.tolist() == applied.sum(axis=(0, 2)).tolist()


def test_small_rewards_are_not_lost_beside_large_sums() -> None:
    """A million steps of 0.1: float32 would be off by hundreds."""
    reward = np.full((1_000_000, 1, 1), 0.1, np.float32)
    tally, _ = count(fresh_tally(1, 1), reward, np.ones_like(reward, bool), np.zeros_like(reward, bool), 0)
    assert tally.score[0, 0] == pytest.approx(1e6 * float(np.float32(0.1)), rel=1e-9)


def test_memory_is_renewed_only_where_an_episode_is_over() -> None:
    agent = small_agent(small_network(1))._replace(memory=lambda: {"hidden": jnp.full(3, 7.0), "head": jnp.int32(2)})
    memory = fresh_memory(agent, 2, 2)
    assert memory["hidden"].shape == (2, 2, 3)
    over = jnp.array([[True, False], [False, False]])
    found = renewed(agent, jax.tree.map(jnp.zeros_like, memory), over)
    np.testing.assert_array_equal(found["head"], [[2, 0], [0, 0]])
    np.testing.assert_array_equal(found["hidden"][0], [[7.0] * 3, [0.0] * 3])


def test_a_program_is_compiled_once_and_its_time_is_counted() -> None:
    programs, traced = Programs(), []

    def double(x: Any) -> Any:
        traced.append(1)
        return x + x

    for _ in range(3):
        assert programs.compiled("double", double, jnp.float32(2.0))(jnp.float32(2.0)) == 4.0
    assert len(traced) == 1
    assert programs.compile_seconds > 0.0


@pytest.mark.parametrize("flags", ["", "--xla_backend_optimization_level=0"])
def test_a_program_is_compiled_quickly_to_the_same_bits_unless_flags_say_how(
    flags: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `words` and `init` of the loops are: random bits, and initial weights."""
    compile_, asked = jax.stages.Lowered.compile, []

    def spied(lowered: Any, options: Any = None) -> Any:
        asked.append(options)
        return compile_(lowered, options)

    def weights(key: Any) -> Any:
        return chunk_words(key, COLLECT, jnp.int32(0), (5, 3, 4)), small_network(2).init(jax.random.key(0))

    keys = member_keys(0, 2)
    best = jax.jit(weights).lower(keys).compile({"xla_backend_optimization_level": "2"})(keys)
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(jax.stages.Lowered, "compile", spied)
    program = Programs().compiled("weights", weights, keys, quickly=True)
    assert asked == [None if flags else {"xla_backend_optimization_level": "1"}]
    if not flags:
        jax.tree.map(np.testing.assert_array_equal, program(keys), best)
