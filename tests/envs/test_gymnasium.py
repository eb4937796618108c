"""The host environments: one rule in every mode, own seeds, exact resume, failures with a name."""

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from safetensors.numpy import load, save

from qdojo.envs.copies import REST, episode_seed
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.resolve import resolve
from qdojo.errors import EnvironmentFailure, UsageError

# Workers cannot import a test module, so they are sent its classes themselves.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Corridor(gym.Env[Any, Any]):
    """Shows [which copy, step]; action 1 at step 3 terminates, step 5 truncates; pays 10 * copy + step."""

    def __init__(self, which: int = 0) -> None:
        self.which = which
        self.observation_space = gym.spaces.Box(-100, 100, (2,), np.float64)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = 0
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.at += 1
        terminated = self.at == 3 and int(action) == 1
        return self._show(), 10.0 * self.which + self.at, terminated, not terminated and self.at == 5, {}

    def _show(self) -> np.ndarray:
        return np.array([self.which, self.at], np.float64)


class Broken(Corridor):
    """A corridor that goes wrong in its second step."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        shown, reward, terminated, truncated, info = super().step(action)
        if self.at < 2:
            return shown, reward, terminated, truncated, info
        match self.how:
            case "raises":
                raise RuntimeError("the motor is\nhot")
            case "exits":
                sys.exit(3)
            case "dies":
                os._exit(7)
            case "is killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hangs":
                time.sleep(60)
        wrong: dict[str, tuple[Any, Any]] = {
            "nan": (np.array([0, np.nan]), reward),
            "too large": (np.array([0, 1e300]), reward),
            "shape": (np.zeros((1, 2)), reward),
            "dtype": (np.array(["a", "b"]), reward),
            "reward": (shown, float("inf")),
            "no reward": (shown, None),
            "many rewards": (shown, np.zeros((2, 2))),
            "word as reward": (shown, "high"),
        }
        if self.how == "four values":
            return shown, reward, terminated, info  # type: ignore[return-value]
        return *wrong[self.how], terminated, truncated, info


class Forgetful(Corridor):
    """Ignores its seed: every reset shows something else."""

    def _show(self) -> np.ndarray:
        return np.random.default_rng().normal(size=2)


def corridors(mode: AutoresetMode) -> Callable[[], SyncVectorEnv]:
    return lambda: SyncVectorEnv([lambda: Corridor(0), lambda: Corridor(1)], autoreset_mode=mode)


def host_of(make: Callable[[], Any], size: int = 1, **kwargs: Any) -> HostEnvironment:
    return HostEnvironment(resolve(make), [5], size, **kwargs)


def transitions(host: HostEnvironment, steps: int) -> list[list[tuple[Any, ...]]]:
    """Per copy, what the applied steps say; the action depends only on what is shown and on the copy's progress."""
    rng = [np.random.default_rng(row) for row in range(host.size)]
    actions = np.array([generator.integers(2) for generator in rng])
    told: list[list[tuple[Any, ...]]] = [[] for _ in range(host.size)]
    shown = host.reset()
    for _ in range(steps):
        step = host.step(actions)
        for row in np.flatnonzero(step.applied):
            told[row].append(
                (
                    tuple(shown[row].tolist()),
                    int(actions[row]),
                    float(step.reward[row]),
                    bool(step.terminated[row]),
                    bool(step.truncated[row]),
                    tuple(step.observation[row].tolist()),
                )
            )
            actions[row] = rng[row].integers(2)
        assert not step.reward[~step.applied].any()
        assert not (step.terminated | step.truncated)[~step.applied].any()
        shown = step.observation
    host.close()
    return told


def test_the_step_after_an_end_ignores_the_action_pays_nothing_and_shows_the_fresh_start() -> None:
    host = host_of(Corridor)
    assert host.reset().tolist() == [[0, 0]]
    for _ in range(4):
        assert not host.step(np.array([0])).truncated[0]
    end = host.step(np.array([0]))
    assert (end.observation.tolist(), end.truncated[0], end.applied[0]) == ([[0, 5]], True, True)
    fresh = host.step(np.array([1]))
    assert (fresh.observation.tolist(), fresh.reward[0], fresh.applied[0]) == ([[0, 0]], 0, False)
    assert not fresh.truncated[0]
    moved = host.step(np.array([0]))
    assert (moved.observation.tolist(), moved.applied[0]) == ([[0, 1]], True)
    assert moved.observation.dtype == np.float32
    assert moved.reward.dtype == np.float32


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_ended_copy_rests_while_another_plays(vectorization: Any) -> None:
    host = host_of(Corridor, 2, vectorization=vectorization)
    host.reset()
    for _ in range(2):
        host.step(np.array([1, 0]))
    assert host.step(np.array([1, 0])).terminated.tolist() == [True, False]
    for at in (4, 5):
        rest = host.step(np.array([REST, 0]))
        assert rest.observation.tolist() == [[0, 3], [0, at]]
        assert (rest.reward[0], rest.terminated[0], rest.applied[0], rest.begun[0]) == (0, False, False, False)
    assert host.state()["episode"].tolist() == [0, 0]
    assert host.state()["length"].tolist() == [3, 5]
    fresh = host.step(np.array([0, REST]))
    assert fresh.observation.tolist() == [[0, 0], [0, 5]]
    assert fresh.begun.tolist() == [True, False]
    host.close()


def test_every_autoreset_mode_tells_the_same_transitions() -> None:
    expected = transitions(host_of(corridors(AutoresetMode.NEXT_STEP), 2), 120)
    ends = [t for t in expected[1] if t[3] or t[4]]
    assert {t[3] for t in ends} == {True, False}
    # The final observation is the true one, not the next episode's first.
    assert all(t[5][1] == t[0][1] + 1 for told in expected for t in told)
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
        # Pauses cost steps, so fewer transitions fit; those there are must be the same ones.
        told = transitions(host_of(corridors(mode), 2), 200)
        for row in range(2):
            common = min(len(told[row]), len(expected[row]))
            assert common > 80
            assert told[row][:common] == expected[row][:common]


def test_a_pause_shows_the_fresh_start_to_the_ended_and_the_same_to_the_others() -> None:
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
        host = host_of(corridors(mode), 2)
        host.reset()
        for _ in range(2):
            host.step(np.array([0, 0]))
        end = host.step(np.array([1, 0]))
        assert end.terminated.tolist() == [True, False]
        assert end.observation.tolist() == [[0, 3], [1, 3]]
        pause = host.step(np.array([0, 0]))
        assert pause.observation.tolist() == [[0, 0], [1, 3]]
        assert pause.applied.tolist() == [False, False]
        after = host.step(np.array([0, 0]))
        assert after.observation.tolist() == [[0, 1], [1, 4]]
        assert after.applied.tolist() == [True, True]


def test_a_native_vector_class_plays_too() -> None:
    host = host_of(lambda: gym.make_vec("CartPole-v1", 3), 3)
    told = transitions(host, 200)
    assert sum(t[3] for row in told for t in row) > 10
    assert all(t[2] == 1.0 for row in told for t in row)


@pytest.mark.parametrize("declared", [None, "SOMETIMES"])
def test_an_unknown_autoreset_mode_is_refused_by_name(declared: str | None) -> None:
    def make() -> SyncVectorEnv:
        vector = SyncVectorEnv([Corridor])
        vector.metadata["autoreset_mode"] = declared
        return vector

    with pytest.raises(UsageError, match=f"{declared!r}.*AutoresetMode.NEXT_STEP"):
        host_of(make)


def test_a_vector_that_ignores_the_reset_mask_is_found_out() -> None:
    class ResetsAll(SyncVectorEnv):
        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            return super().reset(seed=seed)

    makers = [lambda: Corridor(0), lambda: Corridor(1)]
    host = host_of(lambda: ResetsAll(makers, autoreset_mode=AutoresetMode.DISABLED), 2)
    host.reset()
    for action in ([0, 0], [0, 0], [1, 0]):
        host.step(np.array(action))
    with pytest.raises(EnvironmentFailure, match="reset_mask"):
        host.step(np.array([0, 0]))


def test_a_vector_of_another_size_and_a_failing_one_are_named() -> None:
    with pytest.raises(UsageError, match="a vector of 2 environments, but 3 are needed"):
        host_of(corridors(AutoresetMode.NEXT_STEP), 3)
    host = host_of(lambda: SyncVectorEnv([Corridor, lambda: Broken("nan")]), 2)
    host.reset()
    host.step(np.array([0, 0]))
    with pytest.raises(EnvironmentFailure, match=r"copy 1 \(vector seed \d+, at step 2, action 0\).*NaN"):
        host.step(np.array([0, 0]))
    host = host_of(lambda: SyncVectorEnv([Corridor, lambda: Broken("raises")]), 2)
    host.reset()
    host.step(np.array([0, 0]))
    with pytest.raises(EnvironmentFailure, match="RuntimeError: the motor is"):
        host.step(np.array([0, 0]))


def played(host: HostEnvironment, actions: np.ndarray) -> list[np.ndarray]:
    return [np.concatenate([step.observation.ravel(), step.reward, step.applied]) for step in map(host.step, actions)]


def test_a_member_sees_the_same_episodes_whatever_it_trains_beside() -> None:
    spec = resolve("CartPole-v1")
    alone, population = HostEnvironment(spec, [7], 2), HostEnvironment(spec, [3, 7], 2)
    actions = np.random.default_rng(0).integers(2, size=(100, 2))
    assert np.array_equal(alone.reset(), population.reset()[2:])
    assert not np.array_equal(population.observation[:2], population.observation[2:])
    for both in actions:
        one, all_of_them = alone.step(both), population.step(np.concatenate([both, both]))
        assert np.array_equal(one.observation, all_of_them.observation[2:])


def test_no_two_episodes_share_a_seed() -> None:
    seeds = {episode_seed(m, c, e) for m in range(5) for c in range(5) for e in range(20)}
    assert len(seeds) == 500
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize("steps", [0, 1, 60, 61, 62])
def test_a_restored_environment_goes_on_as_if_nothing_had_happened(steps: int) -> None:
    spec = resolve("CartPole-v1")
    actions = np.random.default_rng(1).integers(2, size=(200, 4))
    first = HostEnvironment(spec, [1, 2], 2)
    first.reset()
    played(first, actions[:steps])
    kept = load(save(first.state()))
    second = HostEnvironment(spec, [1, 2], 2)
    assert second.restore(kept) == []
    assert np.array_equal(second.observation, first.observation)
    assert all(map(np.array_equal, played(first, actions[steps:]), played(second, actions[steps:])))
    assert all(np.array_equal(a, b) for a, b in zip(first.state().values(), second.state().values(), strict=True))


def test_an_episode_that_is_just_over_is_restored_as_over() -> None:
    first = host_of(Corridor)
    first.reset()
    for _ in range(5):
        first.step(np.array([0]))
    assert first.state()["over"].tolist() == [True]
    second = host_of(Corridor)
    assert second.restore(first.state()) == []
    assert second.observation.tolist() == [[0, 5]]
    assert second.step(np.array([0])).applied.tolist() == [False]
    assert second.state()["episode"].tolist() == [1]


def test_what_cannot_be_rebuilt_is_reported_and_starts_its_next_episode() -> None:
    first = host_of(Forgetful)
    first.reset()
    first.step(np.array([0]))
    second = host_of(Forgetful)
    assert second.restore(first.state()) == [0]
    assert second.state()["episode"].tolist() == [1]
    assert second.step(np.array([0])).applied.tolist() == [True]
    longer = first.state() | {"length": np.array([9]), "actions": np.zeros((1, 9), np.int32)}
    assert host_of(Corridor).restore(longer) == [0]
    with pytest.raises(UsageError, match="1 copies, but this run has 2"):
        host_of(Corridor, 2).restore(first.state())


def test_a_ready_made_vector_says_that_it_cannot_be_restored() -> None:
    host = host_of(corridors(AutoresetMode.SAME_STEP), 2)
    host.reset()
    assert host.state()["restorable"].tolist() == [False]
    other = host_of(corridors(AutoresetMode.SAME_STEP), 2)
    assert other.restore(host.state()) == [0, 1]
    assert other.observation.tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raises", "RuntimeError: the motor is$"),
        ("exits", "SystemExit: 3"),
        ("nan", "NaN or inf"),
        ("too large", "NaN or inf"),
        ("shape", r"shape \(1, 2\), but its space has \(2,\)"),
        ("dtype", "dtype <U1"),
        ("reward", "a reward of inf"),
        ("no reward", "it returned the reward None, but one number is needed"),
        ("many rewards", r"it returned the reward array\(.*\), but one number is needed"),
        ("word as reward", "it returned the reward 'high', but one number is needed"),
        (
            "four values",
            r"it returned a tuple of 4 from step, as in old Gym, but a tuple \(observation, .* is needed: split done",
        ),
    ],
)
def test_a_failure_names_the_copy_the_seed_and_the_step_and_leaves_the_state_as_it_was(how: str, words: str) -> None:
    makers = iter([Corridor, Corridor, lambda: Broken(how)])
    host = HostEnvironment(resolve(lambda: next(makers)()), [5], 2)
    host.reset()
    host.step(np.array([0, 1]))
    before = host.state()
    with pytest.raises(EnvironmentFailure) as failure:
        host.step(np.array([0, 1]))
    where = f"copy 1 (episode seed {episode_seed(5, 1, 0)}, at step 2, action 1)"
    assert where in str(failure.value)
    assert "\n" not in str(failure.value)
    assert re.search(words, str(failure.value).rstrip("."))
    assert all(np.array_equal(a, b) for a, b in zip(before.values(), host.state().values(), strict=True))


class NoInfo(Corridor):
    """Resets as before Gymnasium; its observations have two elements, as many as what was asked for has parts."""

    def reset(self, **options: Any) -> Any:
        return super().reset(**options)[0]


class TextAsReward(Corridor):
    def step(self, action: Any) -> Any:
        shown, _, *rest = super().step(action)
        return shown, "high", *rest


class NanLater(Corridor):
    def step(self, action: Any) -> Any:
        shown, *rest = super().step(action)
        return shown * np.nan, *rest


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (NoInfo, r"it returned a ndarray from reset, but a tuple \(observation, info\) is needed"),
        (TextAsReward, "it returned the reward 'high', but one number is needed"),
        (NanLater, "it returned an observation that holds NaN or inf"),
    ],
)
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_broken_promise_points_to_the_doctor(kind: Any, words: str, vectorization: Any) -> None:
    name = f"{kind.__module__}:{kind.__name__}"
    with (
        contextlib.closing(host_of(kind, vectorization=vectorization)) as host,
        pytest.raises(EnvironmentFailure, match=rf"{words}; `qdojo doctor {name}` says how to fix it\.$"),
    ):
        first_step(host)


def first_step(host: HostEnvironment) -> None:
    host.reset()
    host.step(np.array([1]))


def test_async_workers_play_and_restore_what_sync_copies_do() -> None:
    spec = resolve("CartPole-v1")
    actions = np.random.default_rng(2).integers(2, size=(120, 2))
    sync, workers = HostEnvironment(spec, [1], 2), HostEnvironment(spec, [1], 2, "async")
    assert np.array_equal(sync.reset(), workers.reset())
    assert all(map(np.array_equal, played(sync, actions[:70]), played(workers, actions[:70])))
    state = workers.state()
    # The workers are in mid-episode here, or just over: restoring must not depend on where they were.
    played(workers, actions[70:])
    assert workers.restore(state) == []
    assert all(map(np.array_equal, played(sync, actions[70:]), played(workers, actions[70:])))
    assert len(multiprocessing.active_children()) == 2
    workers.close()
    workers.close()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raises", r"copy 0 \(episode seed \d+, at step 2, action 1\).*the motor is"),
        ("reward", "copy 0 .*a reward of inf"),
        ("dies", r"copy 0 .*worker process died \(exit code 7\)"),
        ("is killed", r"copy 0 .*worker process died \(exit code -9\)"),
        ("hangs", "copy 0 .*did not answer within 2 seconds"),
    ],
)
def test_a_failing_worker_is_named_and_no_process_is_left(how: str, words: str) -> None:
    host = host_of(lambda: Broken(how), vectorization="async", timeout_seconds=2.0)
    host.reset()
    host.step(np.array([1]))
    with pytest.raises(EnvironmentFailure, match=words):
        host.step(np.array([1]))
    host.close()
    assert multiprocessing.active_children() == []


def test_a_worker_that_dies_while_it_starts_is_reported_and_no_process_is_left() -> None:
    parent = os.getpid()

    def make() -> Corridor:
        if os.getpid() != parent:
            os._exit(1)
        return Corridor()

    with pytest.raises(EnvironmentFailure, match="died while it started"):
        host_of(make, 2, vectorization="async")
    assert multiprocessing.active_children() == []


ORPHANS = """
import multiprocessing, os, signal
import gymnasium as gym
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.resolve import resolve
if __name__ == "__main__":
    host = HostEnvironment(resolve("CartPole-v1"), [0], 2, "async")
    host.reset()
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_when_their_parent_is_killed(tmp_path: Any) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30)
    assert done.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


INTERRUPTED = """
import os, signal
import numpy as np
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.resolve import resolve
if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: print("noted", flush=True))
    host = HostEnvironment(resolve("CartPole-v1"), [0], 2, "async")
    host.reset()
    os.killpg(0, signal.SIGINT)
    print(host.step(np.array([0, 1])).reward.tolist())
    host.close()
"""


def test_ctrl_c_is_left_to_the_parent(tmp_path: Any) -> None:
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30, start_new_session=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "noted\n[1.0, 1.0]\n", "")


UNGUARDED = """
import gymnasium as gym
import numpy as np
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.resolve import resolve
print("once", flush=True)
class Mine(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}
    def step(self, action):
        return np.zeros(2, np.float32), float(action), False, False, {}
host = HostEnvironment(resolve(Mine), [0], 2, "async")
host.reset()
print(host.step(np.array([0, 1])).reward.tolist())
host.close()
"""


@pytest.mark.parametrize("how", ["a script", "-c", "standard input"])
def test_workers_need_no_guard_where_nothing_has_to_be_imported(tmp_path: Any, how: str) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(UNGUARDED)
    given = {"a script": [str(script)], "-c": ["-c", UNGUARDED], "standard input": ["-"]}[how]
    done = subprocess.run([sys.executable, *given], input=UNGUARDED, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "once\n[0.0, 1.0]\n", "")


REGISTERS = """
import gymnasium as gym
import numpy as np
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.resolve import resolve
gym.register("Mine-v0", "gymnasium.envs.classic_control:CartPoleEnv")
if __name__ == "__main__":
    host = HostEnvironment(resolve(lambda: gym.make("Mine-v0")), [0], 2, "async")
    host.reset()
    print(host.step(np.array([0, 1])).reward.tolist())
    host.close()
"""


def test_a_guarded_script_that_registers_environments_is_imported_by_the_workers(tmp_path: Any) -> None:
    script = tmp_path / "registers.py"
    script.write_text(REGISTERS)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1.0, 1.0]\n", "")


def test_importing_the_host_side_imports_no_jax() -> None:
    code = """
    import sys
    import qdojo.envs.gymnasium, qdojo.envs.doctor, qdojo.watch
    print(sorted({"jax", "keras", "equinox"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
