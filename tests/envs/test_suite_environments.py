"""Deep sea, memory chain and catch against recorded episodes of the package `bsuite` 0.3.6; see
`probes/suite_reference.py`."""

import itertools
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qdojo
from qdojo.envs.contract import NativeEnvironment
from qdojo.envs.native import shipped
from qdojo.envs.native.deep_sea import deep_sea
from qdojo.envs.resolve import resolve
from qdojo.errors import UsageError

SUITE = Path(__file__).parent.parent / "fixtures" / "suite.npz"
COLUMNS = ("starts", "actions", "draws", "observations", "rewards", "terminated")


@cache
def stepped(env: NativeEnvironment) -> Callable[..., Any]:
    return jax.jit(env.step)


def episode(env: NativeEnvironment, actions: list[int], noise: jax.Array) -> tuple[list[np.ndarray], list[float]]:
    """Observations and rewards of one episode, which must end with the last action and not before."""
    state, first = env.reset(noise)
    shown, rewards = [np.asarray(first)], []
    for at, action in enumerate(actions):
        state, moved = stepped(env)(state, jnp.int32(action), noise)
        shown.append(np.asarray(moved.observation))
        rewards.append(float(moved.reward))
        assert bool(moved.terminated) is (at == len(actions) - 1)
        assert not moved.truncated
    return shown, rewards


@pytest.mark.parametrize(
    ("name", "rewards"),
    [
        ("DeepSea10", [-0.001, 0, 0.999]),
        ("DeepSea20", [-0.0005, 0, 0.9995]),
        ("MemoryChain2", [-1, 0, 1]),
        ("MemoryChain30", [-1, 0, 1]),
        ("Catch", [-1, 0, 1]),
    ],
)
def test_equals_the_reference_step_for_step(name: str, rewards: list[float]) -> None:
    with np.load(SUITE) as file:
        rows = {column: file[f"{name}.{column}"] for column in COLUMNS}
    assert sorted(set(rows["rewards"])) == pytest.approx(rewards)
    env = shipped(f"qdojo/{name}-v0")
    for starts, action, draw, shown, reward, terminated in zip(*rows.values(), strict=True):
        noise = jnp.full(env.noise_words, draw, jnp.uint32)
        if starts:
            state, seen = env.reset(noise)
        else:
            state, moved = stepped(env)(state, jnp.int32(action), noise)
            seen = moved.observation
            assert float(moved.reward) == pytest.approx(reward, abs=1e-7)
            assert bool(moved.terminated) is bool(terminated)
            assert not moved.truncated
        np.testing.assert_array_equal(seen, shown.reshape(env.observation_shape))


def test_another_sea_is_not_loaded_as_the_suites(tmp_path: Path) -> None:
    """Its agent would be scored in a sea that it never saw."""
    sea = deep_sea(4, 7)
    run = qdojo.train(sea, steps=40, warmup_steps=8, eval_every_steps=None, final_eval_episodes=1, root=tmp_path)
    with pytest.raises(UsageError, match=r"deep_sea\(4, 7\)"):
        qdojo.evaluate(run.path, episodes=1)


def test_one_path_in_a_deep_sea_pays() -> None:
    """All 32 sequences of five actions: one returns 0.99, and the others lose 0.002 for each step to the right."""
    size, nothing = 5, jnp.zeros(0, jnp.uint32)
    mapping = np.random.RandomState(42).binomial(1, 0.5, (size, size))
    env, found = shipped("qdojo/DeepSea5-v0"), 0
    for actions in itertools.product((0, 1), repeat=size):
        shown, rewards = episode(env, list(actions), nothing)
        column, expected = 0, []
        for row, action in enumerate(actions):
            np.testing.assert_array_equal(np.argwhere(shown[row]), [[row, column]])
            right = action == mapping[row, column]
            expected.append((1.0 if right and column == size - 1 else 0.0) - (0.002 if right else 0.0))
            column = min(max(column + (1 if right else -1), 0), size - 1)
        np.testing.assert_allclose(rewards, expected, atol=1e-6)
        assert not shown[-1].any()
        found += abs(sum(rewards) - 0.99) < 1e-5
    assert found == 1


def test_seeds_of_a_deep_sea_differ_in_its_actions() -> None:
    nothing = jnp.zeros(0, jnp.uint32)
    paths = {tuple(np.sign(episode(deep_sea(8, seed), [1] * 8, nothing)[1])) for seed in range(4)}
    assert len(paths) > 1


@pytest.mark.parametrize("name", ["DeepSea10", "MemoryChain20", "Catch"])
def test_ids_resolve(name: str) -> None:
    spec = resolve(f"qdojo/{name}-v0")
    assert spec.name == spec.native.name == f"qdojo/{name}-v0"


@pytest.mark.parametrize("name", ["qdojo/DeepSea-v0", "qdojo/DeepSea1-v0", "qdojo/DeepSea101-v0", "qdojo/Catch5-v0"])
def test_other_sizes_do_not_exist(name: str) -> None:
    with pytest.raises(UsageError, match="no environment called"):
        resolve(name)
