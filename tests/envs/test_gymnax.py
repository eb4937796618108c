"""Environments with the interface of gymnax: a small one, and those of gymnax itself where that is installed."""

import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qdojo
from qdojo.envs.contract import advance, start
from qdojo.envs.native.gymnax import from_gymnax
from qdojo.envs.native.own import adapted
from qdojo.envs.resolve import resolve
from qdojo.errors import UsageError

PARAMS = SimpleNamespace(max_steps_in_episode=6, goal=3)


class Line:
    """A line with a goal and slippery ground, with the methods of gymnax 1.0."""

    name = "Line"
    default_params = PARAMS

    def action_space(self, params: Any) -> Any:
        return SimpleNamespace(n=2)

    def observation_space(self, params: Any) -> Any:
        return SimpleNamespace(n=7, shape=())

    def reset_env(self, key: Any, params: Any) -> Any:
        at = jax.random.randint(key, (), 0, 2)
        return at, {"at": at, "time": 0}

    def step_env(self, key: Any, state: Any, action: Any, params: Any) -> Any:
        slips = jax.random.bernoulli(key, 0.25)
        at = jnp.clip(state["at"] + jnp.where(slips, 0, 2 * action - 1), 0, 6)
        return at, {"at": at, "time": state["time"] + 1}, at == params.goal, at == params.goal, {"discount": 1.0}

    def is_truncated(self, state: Any, params: Any) -> Any:
        return state["time"] >= params.max_steps_in_episode


def keys(number: int, seed: int = 0) -> Any:
    return jax.random.bits(jax.random.key(seed), (number, 2), jnp.uint32)


def follow(env: Any, params: Any, native: Any, steps: int) -> int:
    """Play, and make each step and reset in the other's terms too, from the same key and state; the number of ends."""
    words = keys(steps + 1)
    wrapped = jax.vmap(lambda word: jax.random.wrap_key_data(word, impl="threefry2x32"))(words)
    actions = jax.random.randint(jax.random.key(1), (steps,), 0, native.num_actions)
    reset = jax.jit(lambda key: env.reset_env(key, params))
    step = jax.jit(lambda key, state, action: env.step_env(key, state, action, params))
    running, advanced, ends = start(native, words[0]), jax.jit(partial(advance, native)), 0
    same(running, *reset(wrapped[0]), native)
    for key, word, action in zip(wrapped[1:], words[1:], actions, strict=True):
        before, (running, moved) = running, advanced(running, action, word)
        if before.over:
            same(running, *reset(key), native)
            assert (moved.reward, moved.terminated, moved.truncated) == (0.0, False, False)
            continue
        observation, state, reward, terminated, _ = step(key, before.state, action)
        same(running, observation, state, native)
        np.testing.assert_allclose(moved.reward, reward, rtol=1e-5, atol=1e-6)
        assert (moved.terminated, moved.truncated) == (terminated, env.is_truncated(state, params))
        ends += int(running.over)
    return ends


def same(running: Any, observation: Any, state: Any, native: Any) -> None:
    """Equal but for what the compiler rounds otherwise."""
    np.testing.assert_allclose(running.observation, as_seen(observation, native), rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(jax.tree.leaves(running.state), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def as_seen(observation: Any, native: Any) -> Any:
    if np.shape(observation) == native.observation_shape:
        return np.asarray(observation, np.float32)
    return np.eye(native.observation_shape[0], dtype=np.float32)[int(observation)]


def test_an_environment_with_the_interface_is_itself_step_by_step() -> None:
    native = from_gymnax(Line())
    assert (native.name, native.observation_shape, native.num_actions, native.max_episode_steps) == ("Line", (7,), 2, 6)
    assert follow(Line(), PARAMS, adapted(native, "Line"), 100) > 10
    longer = from_gymnax(Line(), SimpleNamespace(max_steps_in_episode=9, goal=5), "Longer")
    assert (longer.name, longer.max_episode_steps) == ("Longer", 9)


def test_it_is_trained_on_the_device_loop(tmp_path: Any) -> None:
    fields: dict[str, Any] = {"hidden": [16], "warmup_steps": 100, "final_eval_episodes": 10, "eval_every_steps": 500}
    run = qdojo.train(from_gymnax(Line()), root=tmp_path, steps=1500, epsilon_decay_steps=500, **fields)
    assert run.result["loop"] == "device"
    assert run.evaluate(20).mean[0] > 0.8


class Old(Line):
    """As of gymnax before 1.0."""

    @property
    def is_truncated(self) -> Any:  # type: ignore[override]
        raise AttributeError


class Continuous(Line):
    def action_space(self, params: Any) -> Any:
        return SimpleNamespace(shape=(1,))


class Parts(Line):
    def observation_space(self, params: Any) -> Any:
        return SimpleNamespace(spaces={})


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (Old, "Line has no is_truncated(state, params), which gymnax has since 1.0; use that or later."),
        (Continuous, "Line: its actions are a SimpleNamespace, but they must be Discrete."),
        (Parts, "Line: its observations are a SimpleNamespace; convert them to a Box."),
    ],
)
def test_what_does_not_fit_is_named(env: Any, words: str) -> None:
    with pytest.raises(UsageError) as error:
        from_gymnax(env())
    assert str(error.value) == words


def test_gymnax_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnax", None)
    with pytest.raises(UsageError, match=r"gymnax:CartPole-v1 needs gymnax: pip install 'qdojo\[gymnax\]'"):
        resolve("gymnax:CartPole-v1")


IDS = [
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "Breakout-MinAtar",
    "Freeway-MinAtar",
    "SpaceInvaders-MinAtar",
    "Catch-bsuite",
    "DeepSea-bsuite",
    "UmbrellaChain-bsuite",
    "FourRooms-misc",
    "FrozenLake-misc",
]


@pytest.mark.parametrize("name", IDS)
@pytest.mark.filterwarnings("ignore")
def test_environments_of_gymnax_are_themselves_step_by_step(name: str) -> None:
    gymnax = pytest.importorskip("gymnax", exc_type=ImportError)
    env, params = gymnax.make(name)
    spec = resolve(f"gymnax:{name}")
    assert (spec.name, spec.max_episode_steps) == (f"gymnax:{name}", params.max_steps_in_episode)
    assert follow(env, params, spec.native, 300) > (0 if params.max_steps_in_episode < 300 else -1)


@pytest.mark.filterwarnings("ignore")
def test_names_that_gymnax_does_not_know_or_qdojo_cannot_play() -> None:
    pytest.importorskip("gymnax", exc_type=ImportError)
    with pytest.raises(UsageError, match="gymnax has no environment called 'CartPole'; did you mean CartPole-v1"):
        resolve("gymnax:CartPole")
    with pytest.raises(UsageError, match="gymnax:Pendulum-v1: its actions are a Box, but they must be Discrete"):
        resolve("gymnax:Pendulum-v1")
