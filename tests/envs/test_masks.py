"""Action masks: both conventions, in this process, in workers and in ready-made vectors; and all that may be wrong."""

import dataclasses
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

import qdojo
from qdojo.envs.doctor import examine
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.resolve import EnvSpec, resolve
from qdojo.envs.spaces import BadValueError, check_spaces
from qdojo.envs.trial import try_out
from qdojo.errors import EnvironmentFailure, UsageError
from qdojo.types import Masked

# Workers cannot import a test module, so they are sent its classes themselves.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

Mask = Callable[["Stairs"], Any]


def turning(env: "Stairs") -> Any:
    """Of 3 actions all but the one whose turn it is not; another after each step."""
    return np.arange(3) != (env.at + env.start) % 3


class Stairs(gym.Env[Any, Any]):
    """Shows where it is, from a start that its seed decides. Action 2 terminates from step 3 on, step 5 truncates."""

    def __init__(self, where: str = "info", mask: Mask = turning, nothing_at_an_end: bool = False) -> None:
        self.where, self.give, self.nothing_at_an_end = where, mask, nothing_at_an_end
        box = spaces.Box(-100, 100, (2,), np.float32)
        self.observation_space: Any = box
        if where == "observation":
            self.observation_space = spaces.Dict(observation=box, action_mask=spaces.MultiBinary(3))
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.start, self.at = int(self.np_random.integers(3)), 0
        return self.show(False)

    def step(self, action: Any) -> Any:
        assert turning(self)[action]
        self.at += 1
        terminated = self.at >= 3 and int(action) == 2
        shown, info = self.show(terminated)
        return shown, float(self.at), terminated, not terminated and self.at == 5, info

    def show(self, terminated: bool) -> tuple[Any, dict[str, Any]]:
        at = np.array([self.start, self.at], np.float32)
        mask = self.give(self)
        if terminated and self.nothing_at_an_end:
            mask = None if self.where == "info" else np.zeros(3, np.int8)
        if self.where == "observation":
            return {"observation": at, "action_mask": mask}, {}
        return at, {} if mask is None else {"action_mask": mask}


class MethodStairs(Stairs):
    """Gives its masks by sb3-contrib's convention; not after a termination, where there is nothing to choose."""

    def __init__(self, mask: Mask = turning) -> None:
        super().__init__("info", mask)
        self.terminated = False

    def show(self, terminated: bool) -> tuple[Any, dict[str, Any]]:
        self.terminated = terminated
        return np.array([self.start, self.at], np.float32), {}

    def action_masks(self) -> Any:
        assert not self.terminated
        return self.give(self)


class Masker(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper that knows the masks, as sb3-contrib has one."""

    def action_masks(self) -> Any:
        return turning(self.env.unwrapped)  # type: ignore[arg-type]


def legal_actions(shown: Any, rng: np.random.Generator) -> np.ndarray:
    return np.where(shown.action_mask, rng.random(shown.action_mask.shape), -1).argmax(axis=-1)


def story(host: HostEnvironment, steps: int, seed: int = 0) -> list[list[Any]]:
    """What each step showed, under legal actions that depend on what was shown alone."""
    rng = np.random.default_rng(seed)
    told = []
    for _ in range(steps):
        step = host.step(legal_actions(host.observation, rng))
        told.append([*map(np.ndarray.tolist, (*step.observation, *step[1:]))])
    return told


@pytest.mark.parametrize("where", ["info", "observation"])
@pytest.mark.parametrize("nothing_at_an_end", [False, True])
def test_masks_reach_the_agent_from_either_place(where: str, nothing_at_an_end: bool) -> None:
    spec = resolve(lambda: Stairs(where, nothing_at_an_end=nothing_at_an_end))
    found = check_spaces(spec)
    assert (found.masked, found.mask_source, found.observation_shape) == (True, where, (2,))
    host = HostEnvironment(spec, [3], 2)
    rng = np.random.default_rng(0)
    shown = host.reset()
    assert shown.action_mask.dtype == bool
    terminations = 0
    for _ in range(60):
        before = shown
        step = host.step(legal_actions(shown, rng))
        shown = step.observation
        for row in range(2):
            start, at = shown.observation[row]
            if step.terminated[row] and nothing_at_an_end:
                terminations += 1
                assert shown.action_mask[row].all()
            else:
                assert shown.action_mask[row].tolist() == (np.arange(3) != (start + at) % 3).tolist()
        assert before.action_mask is not shown.action_mask
    assert terminations > 3 or not nothing_at_an_end


def wrong_later(mask: Any) -> Mask:
    """A mask that is right but for step 2."""
    return lambda env: mask if env.at == 2 else np.ones(3, np.int8)


def missing_later(env: Stairs) -> Any:
    return None if env.at == 2 else np.ones(3, np.int8)


class Free(Stairs):
    """Takes any action."""

    def step(self, action: Any) -> Any:
        self.at += 1
        shown, info = self.show(False)
        return shown, 0.0, False, self.at == 2, info


WRONG = [
    (wrong_later(np.zeros(3, np.int8)), "it returned an action mask that allows no action."),
    (wrong_later(np.ones(4, bool)), "it returned an action mask of shape (4,), but (3,) is needed."),
    (wrong_later(np.array([0, 1, 2])), "it returned an action mask that holds numbers other than 0 and 1."),
    (wrong_later(np.array(["a"] * 3)), "it returned an action mask of dtype <U1, but bool or numbers are needed."),
]


@pytest.mark.parametrize(("mask", "words"), WRONG)
@pytest.mark.parametrize("where", ["info", "observation"])
def test_a_bad_mask_is_a_failure_that_says_where_also_at_a_truncation(mask: Mask, words: str, where: str) -> None:
    host = HostEnvironment(resolve(lambda: Free(where, mask)), [3])
    host.reset()
    host.step(np.array([0]))
    before = host.state()
    with pytest.raises(EnvironmentFailure) as failure:
        host.step(np.array([1]))
    assert str(failure.value).endswith(words)
    assert "at step 2, action 1" in str(failure.value)
    assert all(np.array_equal(a, b) for a, b in zip(before.values(), host.state().values(), strict=True))


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("info", "it returned no action mask, although its first reset gave one."),
        ("observation", "it returned no action mask, although its observation space has one."),
    ],
)
def test_a_missing_mask_is_a_failure(where: str, words: str) -> None:
    host = HostEnvironment(resolve(lambda: Free(where, missing_later)), [3])
    host.reset()
    host.step(np.array([0]))
    with pytest.raises(EnvironmentFailure) as failure:
        host.step(np.array([0]))
    assert str(failure.value).endswith(words)


def test_an_observation_without_its_part_is_a_failure() -> None:
    found = check_spaces(Stairs("observation"))
    with pytest.raises(ValueError, match="an observation without 'observation'"):
        found.encode(np.zeros(2, np.float32))


def test_what_else_lies_beside_a_mask_is_the_observation() -> None:
    class Other(Stairs):
        observation_space = spaces.Dict(
            x=spaces.Discrete(2), action_mask=spaces.MultiBinary(3), y=spaces.Box(-1.0, 1.0, (2,))
        )

        def __init__(self) -> None:
            self.action_space = spaces.Discrete(3)

    found = check_spaces(Other())
    assert (found.masked, found.observation_shape) == (True, (4,))
    shown = found.encode({"x": 1, "action_mask": np.array([1.0, 0.0, 1.0]), "y": np.array([0.5, -0.5], np.float32)})
    assert isinstance(shown, Masked)
    np.testing.assert_array_equal(shown.observation, [0.0, 1.0, 0.5, -0.5])
    np.testing.assert_array_equal(shown.action_mask, [True, False, True])


def test_a_mask_that_comes_after_a_first_reset_without_one_is_not_ignored() -> None:
    plain = check_spaces(Stairs())
    plain = dataclasses.replace(plain, mask_source=None, masked=False)
    with pytest.raises(BadValueError, match="an action mask in its info, although its first reset gave none"):
        plain.encode(Stairs().observation_space.sample(), {"action_mask": np.ones(3, bool)})


@given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3), as_ints=st.booleans())
def test_a_flat_mask_and_one_a_branch_say_the_same(seed: int, sizes: list[int], as_ints: bool) -> None:
    rng = np.random.default_rng(seed)
    branches = [rng.random(n) < 0.5 for n in sizes]
    for branch in branches:
        branch[rng.integers(len(branch))] = True
    given_as = [branch.astype(np.int8) if as_ints else branch for branch in branches]

    class Branched(Stairs):
        def __init__(self) -> None:
            super().__init__()
            self.action_space: Any = spaces.MultiDiscrete(sizes)

    spec = resolve(Branched)
    assert spec.mask_source == "info"
    found = check_spaces(spec)
    shown = np.zeros(2, np.float32)
    tupled = found.encode(shown, {"action_mask": tuple(given_as)})
    flat = found.encode(shown, {"action_mask": np.concatenate(given_as)})
    assert tupled.action_mask.shape == (len(sizes), max(sizes))
    assert np.array_equal(tupled.action_mask, flat.action_mask)
    for row, branch in enumerate(branches):
        assert tupled.action_mask[row, : len(branch)].tolist() == branch.tolist()
        assert not tupled.action_mask[row, len(branch) :].any()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ((np.ones(2, bool), np.zeros(3, bool)), "allows no action in branch 1"),
        (np.array([0, 0, 1, 1, 1]), "allows no action in branch 0"),
        ((np.ones(2, bool),), r"masks of shapes \[\(2,\)\], but \[\(2,\), \(3,\)\] are needed"),
        (np.ones(6, bool), r"mask of shape \(6,\), but \(5,\) is needed"),
        (None, "no action mask"),
    ],
)
def test_a_bad_mask_of_a_branch(mask: Any, words: str) -> None:
    class Branched(Stairs):
        def __init__(self) -> None:
            super().__init__()
            self.action_space: Any = spaces.MultiDiscrete([2, 3])

    found = check_spaces(resolve(Branched))
    shown = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match=words):
        found.encode(shown, {"action_mask": mask})
    if "allows" in words or mask is None:
        after = found.encode(shown, {"action_mask": mask}, terminated=True)
        assert after.action_mask.tolist() == [[True, True, False], [True, True, True]]


@pytest.mark.parametrize("where", ["info", "observation"])
def test_workers_play_and_restore_what_sync_copies_do(where: str) -> None:
    spec = resolve(lambda: Stairs(where, nothing_at_an_end=True))
    sync, workers = HostEnvironment(spec, [1], 2), HostEnvironment(spec, [1], 2, "async")
    try:
        assert all(map(np.array_equal, sync.reset(), workers.reset()))
        assert workers.observation.action_mask.dtype == bool
        for steps in (1, 2, 4, 9):
            assert story(sync, steps) == story(workers, steps)
            kept = load(save(sync.state()))
            again = HostEnvironment(spec, [1], 2)
            assert again.restore(kept) == []
            assert workers.restore(kept) == []
            for host in (again, workers):
                assert all(map(np.array_equal, host.observation, sync.observation))
            assert story(again, 7, 1) == story(workers, 7, 1) == story(sync, 7, 1)
    finally:
        workers.close()
    assert multiprocessing.active_children() == []


def test_a_bad_mask_in_a_worker_is_named() -> None:
    host = HostEnvironment(resolve(lambda: Free("info", WRONG[0][0])), [3], 1, "async")
    try:
        host.reset()
        host.step(np.array([0]))
        with pytest.raises(EnvironmentFailure, match=r"copy 0 .*an action mask that allows no action"):
            host.step(np.array([0]))
    finally:
        host.close()


def test_a_mask_that_has_changed_makes_a_resume_inexact() -> None:
    first = HostEnvironment(resolve(Free), [3])
    first.reset()
    second = HostEnvironment(resolve(lambda: Free("info", lambda env: np.ones(3, bool))), [3])
    assert second.restore(first.state()) == [0]


def stairs_vector(mode: AutoresetMode, where: str) -> EnvSpec:
    def make() -> Stairs:
        return Stairs(where, nothing_at_an_end=True)

    return resolve(lambda: SyncVectorEnv([make, make], autoreset_mode=mode))


@pytest.mark.parametrize("where", ["info", "observation"])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_ready_made_vectors_show_masks_in_every_autoreset_mode(mode: AutoresetMode, where: str) -> None:
    spec = stairs_vector(mode, where)
    assert spec.mask_source == ("info" if where == "info" else None)
    host = HostEnvironment(spec, [3], 2)
    rng = np.random.default_rng(0)
    shown = host.reset()
    ends, pauses = 0, 0
    for _ in range(80):
        step = host.step(legal_actions(shown, rng))
        before, shown = shown, step.observation
        over = step.terminated | step.truncated
        ends, pauses = ends + int(over.sum()), pauses + int(not step.applied.any())
        for row in range(2):
            start, at = shown.observation[row]
            expected = np.ones(3, bool) if step.terminated[row] else np.arange(3) != (start + at) % 3
            assert shown.action_mask[row].tolist() == expected.tolist()
            assert not over[row] or at == before.observation[row, 1] + 1
    assert ends > 10
    assert pauses > 5


class Branching(Stairs):
    """Two branches, of 3 and 2 actions; masks as a tuple, which a vector keeps in an array of objects."""

    def __init__(self) -> None:
        super().__init__(mask=lambda env: (np.arange(3) == env.at % 3, np.ones(2, np.int8)))
        self.action_space: Any = spaces.MultiDiscrete([3, 2], start=[0, 4])

    def step(self, action: Any) -> Any:
        assert action in self.action_space
        assert action[0] == self.at % 3
        self.at += 1
        shown, info = self.show(False)
        return shown, float(action[1]), False, self.at == 4, info


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_ready_made_vectors_with_branches(mode: AutoresetMode) -> None:
    spec = resolve(lambda: SyncVectorEnv([Branching, Branching], autoreset_mode=mode))
    host = HostEnvironment(spec, [3], 2)
    shown = host.reset()
    for _ in range(20):
        step = host.step(shown.action_mask.argmax(axis=-1))
        shown = step.observation
        assert shown.action_mask.shape == (2, 2, 3)
        assert shown.action_mask[:, 1].tolist() == [[True, True, False]] * 2
        assert shown.action_mask[:, 0].argmax(axis=-1).tolist() == (shown.observation[:, 1] % 3).tolist()
        assert step.reward[step.applied].tolist() == [4.0] * int(step.applied.sum())


def test_a_bad_mask_in_a_ready_made_vector_names_the_copy() -> None:
    makers = [lambda: Free("info", lambda env: np.ones(3, bool)), lambda: Free("info", missing_later)]
    host = HostEnvironment(resolve(lambda: SyncVectorEnv(makers)), [3], 2)
    host.reset()
    host.step(np.array([0, 0]))
    with pytest.raises(EnvironmentFailure, match=r"copy 1 .*it returned no action mask, although its first reset"):
        host.step(np.array([0, 0]))


def test_taxi_is_masked() -> None:
    host = HostEnvironment(resolve("Taxi"), [0], 2)
    shown = host.reset()
    assert (shown.observation.shape, shown.action_mask.shape) == ((2, 500), (2, 6))
    assert shown.observation.dtype == np.float32
    assert 0 < shown.action_mask.sum() < 12


@pytest.mark.parametrize(
    "make",
    [
        MethodStairs,
        lambda: gym.wrappers.TimeLimit(MethodStairs(), 100),
        lambda: Masker(gym.wrappers.TimeLimit(Stairs("nowhere", lambda env: None), 100)),
    ],
)
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_masks_of_a_method_are_those_in_info(make: Any, vectorization: Any) -> None:
    spec = resolve(make)
    found = check_spaces(spec)
    assert (spec.mask_source, found.mask_source, found.masked) == ("method", "method", True)
    hosts = HostEnvironment(spec, [3], 2, vectorization), HostEnvironment(resolve(Stairs), [3], 2)
    assert np.array_equal(hosts[0].reset().action_mask, hosts[1].reset().action_mask)
    # After a termination all is legal here; there it is what it would have been.
    for mine, other in zip(story(hosts[0], 40), story(hosts[1], 40), strict=True):
        over = np.array(mine[3])
        assert mine[0] == other[0]
        assert mine[2:] == other[2:]
        assert np.array_equal(np.array(mine[1])[~over], np.array(other[1])[~over])
        assert np.array(mine[1])[over].all()
    restored = HostEnvironment(spec, [3], 2, vectorization)
    assert restored.restore(hosts[0].state()) == []
    assert np.array_equal(restored.observation.action_mask, hosts[0].observation.action_mask)
    for host in (*hosts, restored):
        host.close()


def test_masks_of_a_method_are_learned_and_played_by(tmp_path: Path) -> None:
    # Every illegal action is an AssertionError of the environment.
    run = qdojo.train(MethodStairs, root=tmp_path, steps=300, warmup_steps=50, hidden=[8], eval_every_steps=150)
    assert run.evaluate(5).returns.shape == (1, 5)
    env = MethodStairs()
    shown, _ = env.reset(seed=0)
    policy = run.policy()
    assert turning(env)[policy.act(shown, {"action_mask": env.action_masks()})]
    with pytest.raises(UsageError, match=r"The action mask is missing; pass info=.*env.action_masks\(\)"):
        policy.act(shown)


def raising(env: Stairs) -> Any:
    raise LookupError("no such\npiece")


def test_a_method_that_raises_or_gives_nothing_is_named() -> None:
    for mask, words in (
        (raising, "at its first reset: its action_masks() raised LookupError: no such;"),
        (lambda env: None, "at its first reset: it returned no action mask, although it has a method action_masks();"),
        (
            lambda env: np.ones(2),
            "it returned an action mask of shape (2,), but (3,) is needed; give a mask of 0 and 1",
        ),
    ):
        spec = resolve(lambda mask=mask: MethodStairs(mask))
        with pytest.raises(UsageError) as error:
            try_out(spec, check_spaces(spec))
        assert words in str(error.value)
        assert "\n" not in str(error.value)


class Late(Free):
    """Its first reset gives no mask, its steps do."""

    def reset(self, **options: Any) -> Any:
        return super().reset(**options)[0], {}


def test_a_mask_that_only_steps_give_is_named() -> None:
    words = "it returned an action mask in its info, although its first reset gave none"
    spec = resolve(Late)
    with pytest.raises(UsageError, match=f"{words}; give a mask of 0 and 1 with every reset and step"):
        try_out(spec, check_spaces(spec))
    host = HostEnvironment(spec, [1])
    host.reset()
    with pytest.raises(EnvironmentFailure, match=words):
        host.step(np.array([0]))
    vector = HostEnvironment(resolve(lambda: SyncVectorEnv([Late])), [1])
    vector.reset()
    with pytest.raises(EnvironmentFailure, match=words):
        vector.step(np.array([0]))


def test_masks_of_a_method_in_a_ready_made_vector_are_refused() -> None:
    with pytest.raises(UsageError, match=r"is a vector whose masks come from a method action_masks\(\)"):
        resolve(lambda: SyncVectorEnv([MethodStairs]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (MethodStairs, "3 actions, masked by its method action_masks(), observations float32[2]"),
        (Stairs, "3 actions, masked by info, observations float32[2]"),
        (lambda: Stairs("observation"), "3 actions, masked by its observations, observations float32[2]"),
    ],
)
def test_the_doctor_says_where_the_masks_are_and_plays_by_them(make: Any, words: str) -> None:
    findings = examine(make)
    assert findings[1].message == words
    assert [finding for finding in findings if not finding.ok] == []


def test_the_doctor_names_a_mask_that_only_steps_give() -> None:
    (found,) = [finding for finding in examine(Late) if not finding.ok]
    assert found.check == "step"
    assert "an action mask in its info, although its first reset gave none" in found.message
