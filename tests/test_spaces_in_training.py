"""Masks, branches and observations of every kind, from the environment through tape, targets and acting to a policy."""

import functools
from typing import Any

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import qdojo
from qdojo.api import Policy
from qdojo.build.opening import open_player
from qdojo.build.training import build
from qdojo.config import make_config
from qdojo.errors import EnvironmentFailure, UsageError
from qdojo.loops.state import member_keys
from qdojo.types import Masked

SMALL: dict[str, Any] = {
    "steps": 160,
    "hidden": (8, 8),
    "capacity_steps": 200,
    "warmup_steps": 40,
    "batch_size": 8,
    "eval_every_steps": 80,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
}
ON_POLICY: dict[str, Any] = {
    name: value for name, value in SMALL.items() if name not in ("batch_size", "capacity_steps")
} | {"collect_steps": 32, "updates_per_step": 1 / 32, "num_envs": 4, "minibatches": 4}
DIFFERENT = {
    "btr": SMALL,
    "bootdqn": SMALL | {"heads": 3, "distribution": "qrdqn", "quantiles": 4, "conservative": 1.0, "where": "dict"},
    "pqn": ON_POLICY | {"steps": 320, "eval_every_steps": 160},
    "r2d2": SMALL | {"munchausen": True, "branches": 2},
}
"""Between them they have every way to act, to sample and to make a target, and every kind of mask."""


def untrained(env: Any, **fields: Any) -> Policy:
    """A policy of the weights that training begins with."""
    config = make_config(env if isinstance(env, str) else "its own", **fields)
    opened = open_player(config, None, env)
    return Policy(config, opened, opened.player.network.init(member_keys(0, 1)[0]), 0)


class Doors(gym.Env[Any, Any]):
    """Of four doors some are shut, others at each step; the one that pays most is often shut. A shut door raises."""

    def __init__(self, render_mode: str | None = None, where: str = "info", branches: int = 0) -> None:
        self.where, self.branches, self.render_mode = where, branches, render_mode
        self.action_space = spaces.MultiDiscrete([4] * branches) if branches else spaces.Discrete(4)
        self.shape = (branches, 4) if branches else (4,)
        plain = spaces.Box(0.0, 1.0, (2,), np.float32)
        mask = spaces.MultiBinary(self.shape)
        self.observation_space = spaces.Dict(observation=plain, action_mask=mask) if where == "dict" else plain

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = 0
        return self._seen()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert np.take_along_axis(self.open, np.asarray(action)[..., None], axis=-1).all(), "a shut door was tried"
        self.at += 1
        observation, info = self._seen()
        return observation, float(np.mean(action)), self.at >= 7, False, info

    def _seen(self) -> tuple[Any, dict[str, Any]]:
        self.open = self.np_random.random(self.shape) < 0.4
        lucky = self.np_random.integers(3, size=(*self.shape[:-1], 1))
        np.put_along_axis(self.open, lucky, True, axis=-1)
        shown = self.np_random.random(2).astype(np.float32)
        if self.where == "dict":
            return {"observation": shown, "action_mask": self.open.astype(np.int8)}, {}
        return shown, {"action_mask": self.open.astype(np.int8)}


@pytest.mark.parametrize("preset", DIFFERENT)
def test_no_agent_ever_tries_an_illegal_action(preset: str, tmp_path: Any) -> None:
    """In training with much exploration and in evaluation: the environment would raise. Nor does its policy."""
    fields = dict(DIFFERENT[preset])
    kind = {name: fields.pop(name) for name in ("where", "branches") if name in fields}
    make = functools.partial(Doors, **kind)
    run = qdojo.train(make, preset=preset, root=tmp_path, epsilon_end=0.3, epsilon_start=0.5, **fields)
    assert np.isfinite(run.result["eval"]["mean"]).all()
    tape = build(run.config, run.env).loop.template().tape
    assert isinstance(tape.like.observation, Masked)
    assert tape.like.action.shape == ((0, 2) if "branches" in kind else (0,))
    env, policy = make(), run.policy()
    observation, info = env.reset(seed=1)
    over = False
    while not over:
        observation, _, over, _, info = env.step(policy.act(observation, info))


def test_masks_of_a_dict_observation_reach_the_policy() -> None:
    env = Doors(where="dict")
    policy = untrained(functools.partial(Doors, where="dict"), hidden=(8,))
    observation, _ = env.reset(seed=1)
    over = False
    while not over:
        q = policy.q_values(observation)
        assert (q[observation["action_mask"] == 0] < -1e8).all()
        observation, _, over, _, _ = env.step(policy.act(observation))


def test_a_policy_needs_the_info_that_holds_the_mask() -> None:
    env, policy = Doors(), untrained(Doors, hidden=(8,))
    observation, info = env.reset(seed=1)
    env.step(policy.act(observation, info))
    with pytest.raises(UsageError, match="info is missing, but this environment puts its action masks there"):
        policy.act(observation)


class AllShut(Doors):
    """Nothing is legal at the third step."""

    def _seen(self) -> tuple[Any, dict[str, Any]]:
        observation, info = super()._seen()
        return observation, {"action_mask": info["action_mask"] * (self.at != 2)}


def test_a_mask_that_allows_nothing_stops_the_run_with_the_environments_name(tmp_path: Any) -> None:
    with pytest.raises(EnvironmentFailure, match=r"AllShut failed .* it returned an action mask that allows no action"):
        qdojo.train(AllShut, root=tmp_path, **SMALL)


class Levers(gym.Env[Any, Any]):
    """Three levers of different length, one step; each pays for itself, and its best place is known."""

    BEST = (2, 0, 4)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.action_space = spaces.MultiDiscrete([3, 2, 5], start=[10, 0, -1])
        self.observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action))
        right = np.asarray(action) - self.action_space.start == self.BEST
        return np.zeros(1, np.float32), float(np.mean(right)), True, False, {}


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        (SMALL | {"dueling": True, "prioritized": True, "capacity_steps": 1_000}, 1_000),
        (SMALL | {"preset": "c51", "vmin": -1.0, "vmax": 2.0, "atoms": 7, "capacity_steps": 1_000}, 1_000),
        (SMALL | {"preset": "iqn", "heads": 2, "capacity_steps": 1_000}, 1_000),
        (ON_POLICY | {"preset": "pqn"}, 2_000),
    ],
    ids=["dqn", "c51", "iqn", "pqn"],
)
def test_branches_learn_each_their_own_best_action(fields: dict[str, Any], steps: int, tmp_path: Any) -> None:
    settings = {"steps": steps, "epsilon_decay_steps": steps * 3 // 4, "eval_every_steps": steps}
    run = qdojo.train(Levers, root=tmp_path, **fields | settings | {"learning_rate": 1e-2, "num_envs": 4})
    assert run.result["eval"]["mean"] == [1.0]
    assert run.policy().act(np.zeros(1, np.float32)).tolist() == [12, 0, 3]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "tutorial"}, "agent='tutorial' has one value per action, but the actions are MultiDiscrete"),
        ({"embedding": 4}, "embedding is set, but the observations of .* are not Discrete or MultiDiscrete"),
    ],
)
def test_what_branches_cannot_do_is_refused(fields: dict[str, Any], message: str, tmp_path: Any) -> None:
    with pytest.raises(UsageError, match=message):
        qdojo.train(Levers, root=tmp_path, **fields)
    assert list(tmp_path.iterdir()) == []


class Rooms(gym.Env[Any, Any]):
    """A nested observation; the exit is at room 3."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.action_space = spaces.Discrete(2, start=1)
        inner = spaces.Tuple((spaces.MultiBinary(3), spaces.MultiDiscrete([2, 3])))
        self.observation_space = spaces.Dict(room=spaces.Discrete(4), inner=inner, far=spaces.Box(-1e3, 1e3, (2,)))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.room = 0
        return self._seen(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.room = max(0, self.room + (1 if action == 2 else -1))
        return self._seen(), float(self.room == 3), self.room == 3, False, {}

    def _seen(self) -> Any:
        far = np.array([500.0 * self.room, -800.0], np.float32)
        return {"room": self.room, "inner": (np.array([0, 1, 1], np.int8), np.array([1, 2])), "far": far}


def test_nested_observations_are_one_vector_that_is_normalised(tmp_path: Any) -> None:
    """The statistics are learned in training and kept in evaluation."""

    def make(**kwargs: Any) -> Any:
        return gym.wrappers.TimeLimit(Rooms(**kwargs), 20)

    run = qdojo.train(make, root=tmp_path, normalize_observations=True, seeds=2, **SMALL)
    assert run.opened.spaces.observation_shape == (4 + 3 + 2 + 3 + 2,)
    assert run.policy().act(Rooms().reset()[0]) in (1, 2)
    statistics = run.delivered.params.inputs.statistics
    assert (np.asarray(statistics.count) >= 8).all()
    before = jax.tree.map(np.asarray, run.delivered.params)
    run.evaluate(3)
    jax.tree.map(np.testing.assert_array_equal, before, run.delivered.params)


def test_categories_are_one_hot() -> None:
    like = build(make_config("FrozenLake-v1", hidden=(8,))).loop.template().tape.like.observation
    assert (like.shape, like.dtype) == ((0, 16), np.float32)
    assert untrained("FrozenLake-v1", hidden=(8,)).act(5) in range(4)


def test_categories_are_embedded(tmp_path: Any) -> None:
    run = qdojo.train("FrozenLake-v1", root=tmp_path, embedding=3, noisy=True, dueling=True, **SMALL)
    like = build(run.config, run.env).loop.template().tape.like.observation
    assert (like.shape, like.dtype) == ((0, 1), np.int32)
    assert run.policy().act(5) in range(4)


def test_taxis_masks_are_used() -> None:
    env, policy = gym.make("Taxi-v4"), untrained("Taxi-v4", embedding=4, hidden=(8,))
    observation, info = env.reset(seed=3)
    for _ in range(20):
        action = policy.act(observation, info)
        assert info["action_mask"][action] == 1
        observation, _, over, _, info = env.step(action)
        if over:
            break


def test_a_memory_on_copies_that_wait_is_refused(tmp_path: Any) -> None:
    def make() -> Any:
        return SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP)

    with pytest.raises(UsageError, match=r"recurrent is set, but copies of .* wait while others restart"):
        qdojo.train(make, preset="drqn", num_envs=2, collect_steps=8, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("env", "observation", "message"),
    [
        (
            "CartPole-v1",
            np.zeros(3),
            r"The agent was given an observation of shape \(3,\), but its space has \(4,\); pass",
        ),
        ("CartPole-v1", np.zeros((1, 4)), r"an observation of shape \(1, 4\), but"),
        ("CartPole-v1", ["a", "b", "c", "d"], "an observation of dtype <U1, but float32 is needed; pass one"),
        ("CartPole-v1", [[0.0], [0.0, 1.0]], "a list, which is not an observation; pass one"),
        ("CartPole-v1", (np.zeros(4), {}), "The observation is all that reset returned; pass the first part"),
        ("CartPole-v1", (np.zeros(4), 1.0, False, False, {}), "The observation is all that step returned; pass"),
        ("FrozenLake-v1", 99, "the observation 99, which is outside its Discrete space; pass one"),
        ("FrozenLake-v1", (0, {"prob": 1}), "The observation is all that reset returned; pass the first part"),
    ],
)
def test_an_observation_that_does_not_fit_is_refused_in_a_sentence(env: str, observation: Any, message: str) -> None:
    policy = untrained(env)
    for see in (policy.act, policy.q_values):
        with pytest.raises(UsageError, match=message):
            see(observation)
