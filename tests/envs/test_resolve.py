"""Names become environments, or one sentence that says what to do."""

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from qdojo.envs.resolve import resolve
from qdojo.envs.spaces import BadValueError, check_spaces
from qdojo.errors import UsageError


class Shown(gym.Env[Any, Any]):
    """An environment that is only its spaces."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any] | None = None) -> None:
        self.observation_space = observation
        self.action_space = spaces.Discrete(2) if action is None else action


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current folder, which a console script does not have on its path."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        textwrap.dedent(
            """
            import gymnasium as gym
            gym.register("Own/Pole-v3", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=9)
            number = 4
            def build(**kwargs):
                return gym.wrappers.TimeLimit(gym.make("CartPole-v1", **kwargs).unwrapped, 50)
            def nothing():
                return None
            def fails():
                raise RuntimeError("no\\nlicence")
            class Bare(gym.Env):
                pass
            """
        )
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [])
    yield name
    gym.registry.pop("Own/Pole-v3", None)


@pytest.fixture(autouse=True)
def _keep_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))


def test_a_registered_id() -> None:
    spec = resolve("CartPole-v1")
    assert (spec.name, spec.native_id, spec.is_vector) == ("CartPole-v1", "CartPole-v1", False)
    assert (spec.max_episode_steps, spec.reward_threshold) == (500, 475.0)
    env = spec.make(render_mode="rgb_array")
    assert env.render_mode == "rgb_array"
    assert "PassiveEnvChecker" not in str(env)
    env.close()


def test_a_bare_name_is_its_current_version() -> None:
    assert resolve("CartPole").native_id == "CartPole-v1"


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("CartPol-v1", "no environment called 'CartPol-v1'; did you mean CartPole-v1"),
        ("cartpole-v1", "did you mean CartPole-v1"),
        ("MinAtar/Breakot-v1", "did you mean MinAtar/Breakout-v1"),
        ("qdojo/MemoryChain1-v0", "there are qdojo/Catch-v0 and, with an N from 2 to 100, qdojo/DeepSeaN-v0 and"),
        ("Zzzzz-v0", "name a Gymnasium id"),
        ("not an id!", "name a Gymnasium id"),
        ("LunarLander-v2", "LunarLander-v2 is deprecated: the current version is LunarLander-v3."),
        ("CartPole-v7", "CartPole-v7 does not exist: the current version is CartPole-v1."),
        ("no_such_module:Env-v0", "No module named 'no_such_module'; install it"),
        ("math:Nope-v0", "the module math neither has a callable of that name nor registers such an id"),
        ("math:sqrt", "could not be built: it raised TypeError"),
        (3, "must be a Gymnasium id, `module:name` or a callable, not int"),
    ],
)
def test_a_wrong_name_gets_one_sentence(env: Any, words: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(env)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("package", "env", "words"),
    [
        ("Box2D", "LunarLander-v3", "LunarLander-v3 needs Box2D: pip install 'qdojo[box2d]'"),
        ("ale_py", "ALE/Pong-v5", "ALE/Pong-v5 needs the Atari emulator: pip install 'qdojo[atari]'"),
    ],
)
def test_a_missing_package_is_named(package: str, env: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "gymnasium.envs.box2d.lunar_lander", raising=False)
    monkeypatch.delitem(sys.modules, "gymnasium.envs.box2d", raising=False)
    with pytest.raises(UsageError) as error:
        resolve(env)
    assert str(error.value) == words


def test_a_module_that_registers_an_id(module: str) -> None:
    spec = resolve(f"{module}:Own/Pole-v3")
    assert (spec.name, spec.native_id, spec.max_episode_steps) == (f"{module}:Own/Pole-v3", None, 9)


def test_a_path_to_a_factory(module: str) -> None:
    spec = resolve(f"{module}:build")
    assert (spec.native_id, spec.max_episode_steps) == (None, 50)
    assert spec.make(render_mode="rgb_array").render_mode == "rgb_array"


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("nothing", "returned a NoneType; it must return a gymnasium.Env"),
        ("fails", "could not be built: it raised RuntimeError: no."),
        ("Bare", "lacks an attribute of gymnasium.Env"),
        ("number", "There is no environment called 'number'"),
    ],
)
def test_a_factory_that_does_not_do(module: str, attribute: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(f"{module}:{attribute}")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_module_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raises_on_import.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match="importing raises_on_import raised ZeroDivisionError"):
        resolve("raises_on_import:build")


def test_a_callable_and_what_it_may_return() -> None:
    spec = resolve(lambda: gym.make("CartPole-v1"))
    assert spec.name.endswith("<lambda>")
    assert spec.native_id is None
    vector = resolve(lambda: gym.make_vec("CartPole-v1", 3))
    assert vector.is_vector
    assert vector.observation_space.shape == (4,)
    assert check_spaces(vector).num_actions == 2


class Masking(Shown):
    """Gives a mask with its resets, unless it is to fail there."""

    fails = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if self.fails:
            raise RuntimeError("not today")
        return 0, {"action_mask": np.array([1, 0])}


def test_masks_are_looked_for_in_the_info_of_a_first_reset() -> None:
    assert resolve(lambda: Masking(spaces.Discrete(2))).mask_source == "info"
    assert resolve(lambda: gym.vector.SyncVectorEnv([lambda: Masking(spaces.Discrete(2))])).mask_source == "info"
    assert resolve("Taxi").mask_source == "info"
    assert resolve("FrozenLake").mask_source is None


def test_a_reset_that_fails_is_left_to_whoever_plays() -> None:
    def make() -> Masking:
        made = Masking(spaces.Discrete(2))
        made.fails = True
        return made

    assert resolve(make).mask_source is None


def test_the_limit_of_a_wrapper_is_found_without_a_registration() -> None:
    limited = resolve(lambda: gym.wrappers.TimeLimit(Shown(spaces.Discrete(2)), 7))
    assert (limited.max_episode_steps, limited.reward_threshold) == (7, None)
    assert resolve(lambda: Shown(spaces.Discrete(2))).max_episode_steps is None


@pytest.mark.parametrize(
    ("wrapped", "threshold"),
    [
        (lambda: gym.make("CartPole-v1"), 475.0),
        (lambda: gym.wrappers.FlattenObservation(gym.make("CartPole-v1")), 475.0),
        (lambda: gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda reward: 1_000.0 * reward), None),
        (lambda: gym.wrappers.FlattenObservation(gym.wrappers.NormalizeReward(gym.make("CartPole-v1"))), None),
        (lambda: gym.wrappers.vector.NormalizeReward(gym.make_vec("CartPole-v1", 2)), None),
    ],
    ids=["plain", "observations", "scaled", "normalised", "vector"],
)
def test_a_threshold_is_not_of_rewards_on_another_scale(wrapped: Any, threshold: float | None) -> None:
    assert resolve(wrapped).reward_threshold == threshold


def test_actions_with_an_offset() -> None:
    checked = check_spaces(Shown(spaces.Discrete(3), spaces.Discrete(4, start=-2)))
    assert (checked.num_actions, checked.action_start) == (4, -2)


@pytest.mark.parametrize(
    ("space", "given", "dtype", "shown"),
    [
        (spaces.Discrete(3, start=5), 6, np.float32, [0, 1, 0]),
        (spaces.Box(-1, 1, (2,), np.float64), np.array([0.5, -1.0]), np.float32, [0.5, -1]),
        (spaces.Box(-1, 1, (2,), np.float32), [0.5, -1.0], np.float32, [0.5, -1]),
        (spaces.Box(0, 9, (2, 1), np.int64), np.array([[1], [2]]), np.float32, [[1], [2]]),
        (spaces.Box(0, 255, (1, 2), np.uint8), np.array([[1, 2]], np.uint8), np.uint8, [[1, 2]]),
        (spaces.Box(-1, 1, (), np.float32), np.float32(0.25), np.float32, 0.25),
    ],
)
def test_observations_become_float32_uint8_or_one_hot(space: Any, given: Any, dtype: Any, shown: Any) -> None:
    checked = check_spaces(Shown(space))
    encoded = checked.encode(given)
    assert encoded.tolist() == shown
    assert encoded.dtype == checked.observation_dtype == dtype
    assert encoded.shape == checked.observation_shape


@pytest.mark.parametrize(
    ("space", "given", "words"),
    [
        (spaces.Discrete(3), 3, "3, which is outside"),
        (spaces.Discrete(3), 1.5, "1.5, but its Discrete space needs one integer"),
        (spaces.Box(-1, 1, (2,)), np.zeros((2, 1)), r"shape \(2, 1\)"),
        (spaces.Box(0, 255, (2,), np.uint8), np.zeros(2), "dtype float64, but uint8 is needed"),
        (spaces.Box(-1, 1, (2,)), ["a", "b"], "dtype <U1"),
    ],
)
def test_an_observation_outside_its_space_is_described(space: Any, given: Any, words: str) -> None:
    with pytest.raises(BadValueError, match=words):
        check_spaces(Shown(space)).encode(given)


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        (spaces.Discrete(2), spaces.Box(-1, 1, (1,)), r"continuous .*\(e.g. SAC, PPO\) that qdojo does not have"),
        (spaces.Discrete(2), spaces.MultiDiscrete([[2, 3]]), r"nvec of shape \(1, 2\), .* with a flat nvec"),
        (spaces.Discrete(2), spaces.Text(2), r"Text is not supported \(Discrete, .* and MultiBinary are\); wrap"),
        (spaces.Text(3), None, r"Text is not supported \(Box, .* are\); wrap .*ObservationWrapper that returns a Box"),
        (spaces.Sequence(spaces.Discrete(2)), None, "Sequence is not supported"),
        (spaces.Graph(spaces.Discrete(2), None), None, "Graph is not supported"),
        (spaces.OneOf([spaces.Discrete(2)]), None, "OneOf is not supported"),
        (spaces.Dict(a=spaces.Tuple([spaces.Text(3)])), None, "Text of its part 'a/0' is not supported"),
        (spaces.Dict(), None, "Dict is not supported"),
    ],
)
def test_spaces_that_are_not_played_are_named_with_a_way_out(observation: Any, action: Any, words: str) -> None:
    with pytest.raises(UsageError, match=f"Shown: .*{words}"):
        check_spaces(Shown(observation, action))
