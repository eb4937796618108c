"""The doctor finds each broken promise and passes an environment that keeps them all."""

import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from qdojo.envs.doctor import Finding, examine


class Patient(gym.Env[Any, Any]):
    """A random walk that keeps every promise; the tests break one at a time."""

    end = 10

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-100, 100, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.at = self.np_random.normal()
        self.steps = 0
        return self.shown(), {}

    def step(self, action: Any) -> Any:
        self.at += float(action) - 0.5
        self.steps += 1
        return self.shown(), 1.0, self.steps == self.end, False, {}

    def shown(self) -> Any:
        return np.array([self.at], np.float32)


class OldReset(Patient):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class BareReset(Patient):
    def reset(self, **kwargs: Any) -> Any:  # type: ignore[override]
        return super().reset(**kwargs)[0]


class OldStep(Patient):
    def step(self, action: Any) -> Any:
        return super().step(action)[:4]


class ArrayReward(Patient):
    def step(self, action: Any) -> Any:
        shown, _, *rest = super().step(action)
        return shown, np.array([1.0]), *rest


class NanReward(Patient):
    def step(self, action: Any) -> Any:
        shown, _, *rest = super().step(action)
        return shown, float("nan"), *rest


class NumberFlag(Patient):
    def step(self, action: Any) -> Any:
        shown, reward, _, *rest = super().step(action)
        return shown, reward, 0, *rest


class NoInfo(Patient):
    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], None


class NanLater(Patient):
    def shown(self) -> Any:
        return np.array([np.nan if self.steps == 7 else self.at], np.float32)


class WrongShape(Patient):
    def shown(self) -> Any:
        return np.array([self.at, 0], np.float32)


class WrongDtype(Patient):
    def shown(self) -> Any:
        return np.array([self.at], np.float64)


class AList(Patient):
    def shown(self) -> Any:
        return [self.at]


class Outside(Patient):
    def shown(self) -> Any:
        return np.array([500], np.float32)


class Raises(Patient):
    def step(self, action: Any) -> Any:
        raise KeyError("door")


class Exits(Patient):
    def step(self, action: Any) -> Any:
        sys.exit("no licence")


class ExitsOnTheSecondReset(Patient):
    resets = 0

    def reset(self, **options: Any) -> Any:
        self.resets += 1
        return sys.exit(3) if self.resets > 1 else super().reset(**options)


class NeverBuilt(Patient):
    def __init__(self) -> None:
        sys.exit(3)


class Unseeded(Patient):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.at = np.random.default_rng().normal()
        return self.shown(), {}


class UnseededSteps(Patient):
    def step(self, action: Any) -> Any:
        self.at += np.random.default_rng().normal()
        return super().step(action)


class Endless(Patient):
    end = 10**9

    def shown(self) -> Any:
        return np.clip(super().shown(), -100, 100)


class Continuous(Patient):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.Box(0, 1, ())


class Masked(Patient):
    """Two branches; the first action of the first is legal at even steps only."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space: Any = gym.spaces.Dict(
            place=gym.spaces.Box(-100, 100, (1,)), kind=gym.spaces.Discrete(3)
        )
        self.action_space: Any = gym.spaces.MultiDiscrete([3, 5], start=[1, 0])

    def reset(self, **options: Any) -> Any:
        return super().reset(**options)[0], {"action_mask": self.mask()}

    def step(self, action: Any) -> Any:
        assert action[0] > 1 or self.steps % 2 == 0, "illegal"
        return *super().step(0)[:4], {"action_mask": self.mask()}

    def shown(self) -> Any:
        return {"place": super().shown(), "kind": self.steps % 3}

    def mask(self) -> Any:
        return np.array([self.steps % 2 == 0, 1, 1], np.int8), np.ones(5, np.int8)


class BadPart(Masked):
    def shown(self) -> Any:
        return super().shown() | {"place": np.array([500], np.float32)}


class NoWayOut(Masked):
    def mask(self) -> Any:
        return super().mask()[0], np.full(5, self.steps != 4, np.int8)


class ForgetsMask(Masked):
    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], {}


def failed(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.message for finding in findings if not finding.ok}


def test_a_sound_environment_passes_every_check() -> None:
    for env in (Patient, "CartPole-v1", "FrozenLake-v1"):
        findings = examine(env)
        assert failed(findings) == {}
        assert [f.check for f in findings] == [
            "resolves",
            "spaces",
            "reset",
            "step",
            "seed",
            "time limit",
            "gymnasium's checker",
            "speed",
            "close",
        ]
        assert "1000 random steps" in findings[3].message


@pytest.mark.parametrize(
    ("env", "sees"),
    [
        ("CartPole-v1", "2 actions, observations float32[4]"),
        ("FrozenLake-v1", "4 actions, observations one-hot float32[16]"),
        ("Taxi", "6 actions, masked by info, observations one-hot float32[500]"),
        (Masked, "MultiDiscrete 3 x 5 actions, masked by info, observations float32[4]"),
    ],
)
def test_what_the_agent_will_see_is_said(env: Any, sees: str) -> None:
    assert examine(env)[1] == Finding("spaces", True, sees)


def test_masked_environments_are_played_by_their_masks() -> None:
    findings = examine(Masked)
    assert failed(findings) == {}
    assert findings[6].message.startswith("not run")
    vector = examine(lambda: gym.vector.SyncVectorEnv([Masked, Masked]))
    assert failed(vector) == {}
    found = failed(examine(lambda: gym.vector.SyncVectorEnv([Masked, NoWayOut])))["step"]
    assert "copy 1" in found
    assert "To fix it, give a mask of 0 and 1" in found


@pytest.mark.parametrize(
    ("env", "check", "words"),
    [
        ("CartPol-v1", "resolves", "did you mean CartPole-v1"),
        (Continuous, "spaces", "continuous"),
        (OldReset, "reset", "define reset(self, *, seed=None, options=None)"),
        (BareReset, "reset", "reset returned a ndarray; define reset"),
        (WrongShape, "reset", "has shape (2,), but its space has (1,)"),
        (WrongDtype, "reset", "is float64, but its space float32; return .astype(np.float32)"),
        (AList, "reset", "is a list; return np.asarray(..., dtype=np.float32)"),
        (Outside, "reset", "observation[0] is 500, outside its space's -100 .. 100"),
        (OldStep, "step", "a tuple of 4; return (observation, reward, terminated, truncated, info)"),
        (ArrayReward, "step", "return one finite float"),
        (NanReward, "step", "the reward is nan; return one finite float"),
        (NumberFlag, "step", "terminated is 0 of type int; return bool(terminated)"),
        (NoInfo, "step", "info is a NoneType; return a dict"),
        (NanLater, "step", "step 7: the observation holds NaN or inf"),
        (Raises, "step", "KeyError: 'door'"),
        (Exits, "step", "it raised SystemExit: no licence; step() after reset() must work"),
        (ExitsOnTheSecondReset, "step", "it raised SystemExit: 3"),
        (NeverBuilt, "resolves", "NeverBuilt could not be built: it raised SystemExit: 3."),
        (Unseeded, "seed", "two resets with the same seed start differently); call super().reset(seed=seed)"),
        (UnseededSteps, "seed", "they differ from step 1); call super().reset(seed=seed)"),
        (BadPart, "reset", "in part 'place', observation[0] is 500, outside its space's -100 .. 100"),
        (
            NoWayOut,
            "step",
            "step 4: it returned an action mask that allows no action in branch 1; give a mask of 0 and 1",
        ),
        (ForgetsMask, "step", "step 1: it returned no action mask, although its first reset gave one; give a mask"),
        (Endless, "time limit", "gymnasium.wrappers.TimeLimit"),
    ],
)
def test_each_broken_promise_is_found_with_its_remedy(env: Any, check: str, words: str) -> None:
    found = failed(examine(env))
    assert check in found
    assert words in found[check]
    assert "\n" not in found[check]


def test_ready_made_vectors_are_examined_too() -> None:
    findings = examine(lambda: gym.make_vec("CartPole-v1", 3))
    assert failed(findings) == {}
    assert [f.check for f in findings] == ["resolves", "spaces", "step", "speed", "close"]

    def undeclared() -> Any:
        vector = gym.vector.SyncVectorEnv([Patient])
        del vector.metadata["autoreset_mode"]
        return vector

    assert "autoreset_mode" in failed(examine(undeclared))["step"]
    assert "NaN" in failed(examine(lambda: gym.vector.SyncVectorEnv([NanLater])))["step"]
