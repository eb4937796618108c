"""What an environment breaks is named by one sentence, before a run or within it, and nothing is left behind."""

import multiprocessing
import sys
from fractions import Fraction
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest

import qdojo
from qdojo.envs.doctor import examine
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.resolve import resolve
from qdojo.envs.spaces import check_spaces
from qdojo.envs.trial import try_out
from qdojo.errors import EnvironmentFailure, UsageError

# Workers cannot import a test module, so they are sent its classes themselves.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Walk(gym.Env[Any, Any]):
    """Five steps of a random walk that keeps every promise; the tests break one at a time."""

    opened = 0
    """Copies that were built and not closed."""
    steps_taken = 0

    def __init__(self) -> None:
        self.observation_space: Any = gym.spaces.Box(-100, 100, (1,), np.float32)
        self.action_space: Any = gym.spaces.Discrete(2)
        type(self).opened += 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.at = 0
        return self.shown(), {}

    def step(self, action: Any) -> Any:
        type(self).steps_taken += 1
        self.at += 1
        return self.shown(), 1.0, False, self.at == 5, {}

    def shown(self) -> Any:
        return np.array([self.at], np.float32)

    def close(self) -> None:
        type(self).opened -= 1


class CannotClose(Walk):
    def close(self) -> None:
        raise RuntimeError("the window is\nstuck")


class OldStep(Walk):
    def step(self, action: Any) -> Any:
        return super().step(action)[:4]


class RaisingStep(Walk):
    def step(self, action: Any) -> Any:
        raise KeyError("door")


class OldReset(Walk):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class BareReset(Walk):
    def reset(self, **options: Any) -> Any:
        return super().reset(**options)[0]


class NanAtStep(Walk):
    def shown(self) -> Any:
        return np.array([np.nan if self.at else 0.0], np.float32)


class WrongShape(Walk):
    def shown(self) -> Any:
        return np.zeros(2, np.float32)


class SpacesRaise(Walk):
    @property  # type: ignore[override]
    def observation_space(self) -> Any:
        raise RuntimeError("not connected")

    @observation_space.setter
    def observation_space(self, space: Any) -> None:
        pass


class Once:
    """A factory that fails from the given call on."""

    def __init__(self, good: int, make: Any = Walk) -> None:
        self.left, self.make = good, make

    def __call__(self) -> Any:
        self.left -= 1
        if self.left < 0:
            raise OSError("the port is\ntaken")
        return self.make()


def vector_of(make: Any) -> Any:
    return lambda: gym.vector.SyncVectorEnv([make, make])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (CannotClose, "close() raised RuntimeError: the window is; make close() work"),
        (OldStep, "fails at its first step (action 0): it returned a tuple of 4 from step, as in old Gym, but"),
        (RaisingStep, "fails at its first step (action 0): it raised KeyError: 'door'; step() after reset() must work"),
        (OldReset, "fails at its first reset: it raised TypeError"),
        (BareReset, "fails at its first reset: it returned a ndarray from reset, but a tuple (observation, info)"),
        (NanAtStep, "fails at its first step (action 0): it returned an observation that holds NaN or inf"),
        (WrongShape, "fails at its first reset: it returned an observation of shape (2,), but its space has (1,)"),
        (vector_of(RaisingStep), "fails at its first step: it raised KeyError: 'door'"),
        (vector_of(NanAtStep), "fails at its first step: it returned an observation that holds NaN or inf"),
    ],
)
def test_what_one_step_shows_is_told_before_anything_is_made(make: Any, words: str, tmp_path: Any) -> None:
    with pytest.raises(UsageError) as error:
        qdojo.train(make, root=tmp_path, steps=1000)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())


def test_spaces_that_raise_are_named() -> None:
    with pytest.raises(UsageError, match="reading its spaces raised RuntimeError: not connected"):
        resolve(SpacesRaise)


def test_an_environment_that_cannot_be_built_twice_is_refused() -> None:
    spec = resolve(Once(1))
    with pytest.raises(UsageError, match="its factory, called once more, raised OSError: the port is; make it build"):
        try_out(spec, check_spaces(spec))


def test_an_environment_of_which_there_can_be_only_one_at_a_time_is_refused() -> None:
    class Port(Walk):
        def __init__(self) -> None:
            if type(self).opened:
                raise OSError("the port is\ntaken")
            super().__init__()

    spec = resolve(Port)
    words = "its factory, called while another copy was open, raised OSError: the port is; evaluations run during"
    with pytest.raises(UsageError, match=words):
        try_out(spec, check_spaces(spec))
    assert Port.opened == 0


@pytest.mark.parametrize("wrapped", [lambda make: make, vector_of])
def test_a_factory_that_gives_the_same_environment_again_is_refused(wrapped: Any) -> None:
    class Same(Walk):
        pass

    env = wrapped(Same)()
    spec = resolve(lambda: env)
    with pytest.raises(UsageError, match="returned that same copy; make it build a fresh environment on each call"):
        try_out(spec, check_spaces(spec))


def test_a_trial_leaves_no_copy_open_and_the_random_numbers_of_the_process_alone() -> None:
    class Draws(Walk):
        def step(self, action: Any) -> Any:
            np.random.rand()
            return super().step(action)

    class Fails(Walk):
        def step(self, action: Any) -> Any:
            np.random.rand()
            super().step(action)
            raise RuntimeError

    for make in (Draws, Fails):
        spec = resolve(make)
        np.random.seed(3)
        if make is Fails:
            with pytest.raises(UsageError):
                try_out(spec, check_spaces(spec))
        else:
            try_out(spec, check_spaces(spec))
        assert np.random.rand() == np.random.RandomState(3).rand()
        assert (make.opened, make.steps_taken) == (0, 1)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_copy_that_cannot_be_built_is_named_and_the_others_are_closed(vectorization: Any) -> None:
    class Ports(Walk):
        pass

    spec = resolve(Once(10, Ports))
    ports = Once(2 if vectorization == "sync" else 0, Ports)
    object.__setattr__(spec, "make", ports)
    host = HostEnvironment(spec, [1], 3, vectorization)
    with pytest.raises(EnvironmentFailure) as error:
        host.reset()
    first_failed = 2 if vectorization == "sync" else 0
    assert f"failed in copy {first_failed}" in str(error.value)
    assert "its factory raised OSError: the port is" in str(error.value)
    assert "\n" not in str(error.value)
    host.close()
    assert Ports.opened == 0
    assert not multiprocessing.active_children()


def test_a_vector_that_cannot_be_built_again_is_named() -> None:
    spec = resolve(Once(1, vector_of(Walk)))
    with pytest.raises(EnvironmentFailure, match="failed to start: its factory raised OSError: the port is"):
        HostEnvironment(spec, [1], 2)


def test_a_vector_that_is_refused_is_closed() -> None:
    class Counted(Walk):
        pass

    spec = resolve(vector_of(Counted))
    with pytest.raises(UsageError, match="a vector of 2 environments, but 3 are needed"):
        HostEnvironment(spec, [1], 3)
    assert Counted.opened == 0


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_close_that_fails_after_all_was_played_costs_nothing(vectorization: Any, capfd: Any) -> None:
    host = HostEnvironment(resolve(CannotClose), [1], 2, vectorization)
    host.reset()
    host.close()
    assert not multiprocessing.active_children()
    assert "Traceback" not in capfd.readouterr().err


def test_the_doctor_names_what_cannot_be_closed_or_built_again() -> None:
    for make in (CannotClose, vector_of(CannotClose)):
        (found,) = [finding for finding in examine(make) if not finding.ok]
        assert found.check == "close"
        assert "raised RuntimeError: the window is; make close() work" in found.message
    for factory in (Once(1), Once(1, vector_of(Walk))):
        last = examine(factory)[-1]
        assert not last.ok
        assert "its factory, called once more, raised OSError: the port is" in last.message
        assert "\n" not in last.message


def paying(reward: Any) -> Any:
    class Pays(Walk):
        def step(self, action: Any) -> Any:
            shown, _, *rest = super().step(action)
            return shown, reward, *rest

    return Pays


WORD, BYTES, TEXT_ARRAY = "1.0", b"1.0", np.array("1.0")


@pytest.mark.parametrize("reward", [WORD, BYTES, TEXT_ARRAY, np.array(2, object), np.timedelta64(1), None, 1j, [1.0]])
def test_a_reward_that_is_no_number_is_refused(reward: Any) -> None:
    spec = resolve(paying(reward))
    with pytest.raises(UsageError, match=r"it returned the reward .*, but one number is needed") as error:
        try_out(spec, check_spaces(spec))
    assert "\n" not in str(error.value)
    (found,) = [finding for finding in examine(paying(reward)) if finding.check == "step"]
    assert "return one finite float" in found.message


@pytest.mark.parametrize("reward", [2, 2.0, np.float64(2), np.int8(2), np.array(2), np.float32(2), Fraction(2), True])
def test_a_reward_is_any_one_number(reward: Any) -> None:
    host = HostEnvironment(resolve(paying(reward)), [1])
    host.reset()
    assert host.step(np.array([0])).reward.tolist() == [float(reward)]


@pytest.mark.parametrize("rewards", [[WORD, WORD], [1.0], [[1.0], [1.0]], [None, None]])
def test_rewards_of_a_vector_are_numbers_one_a_copy(rewards: Any) -> None:
    class Pays(gym.vector.SyncVectorEnv):
        def step(self, actions: Any) -> Any:
            shown, _, *rest = super().step(actions)
            return shown, rewards, *rest

    host = HostEnvironment(resolve(lambda: Pays([Walk, Walk])), [1], 2)
    host.reset()
    with pytest.raises(EnvironmentFailure, match=r"it returned the rewards .*, but 2 numbers are needed"):
        host.step(np.array([0, 0]))


def test_flags_of_several_truths_are_named() -> None:
    class Flags(Walk):
        def step(self, action: Any) -> Any:
            return *super().step(action)[:2], np.array([True, False]), False, {}

    spec = resolve(Flags)
    words = r"it returned array\(\[ True, False\]\) and False as terminated and truncated, but each must be one bool"
    with pytest.raises(UsageError, match=words):
        try_out(spec, check_spaces(spec))
