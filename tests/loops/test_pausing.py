"""A chunk that is left between two reports goes on to the same bits and the same report, on every loop."""

import functools
import itertools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes.environments import constantly, probe, shows_time
from probes.training import HYPER, device_loop, host_loop, sharing, small_agent, small_network

import qdojo
from qdojo import snapshot
from qdojo.agents.explore import Exploration
from qdojo.errors import UsageError
from qdojo.loops import pausing
from qdojo.loops.learning import Rhythm
from qdojo.loops.offline import OfflineLoop
from qdojo.loops.pausing import STRETCH_SECONDS, Stretches, numbered, plan
from qdojo.loops.state import Programs, TrainState
from qdojo.runs import checkpoint, metrics
from qdojo.training.stopping import Interrupted
from qdojo.types import Report, Step

SLOW, OVERLAPPED = Rhythm(rows=3, updates=2, warmup_rows=8), Rhythm(rows=3, updates=16, warmup_rows=8)
RESTLESS = HYPER._replace(learning_rate_start=0.3, learning_rate_end=0.3, exploration=Exploration(0.1, 0.1, 1.0))
"""Another greedy action after each update."""
AGENT = functools.partial(small_agent, small_network(1), hyper=RESTLESS)


class Timed(gym.Env[np.ndarray, int]):
    """Five steps an episode, paid a third each, so that a sum depends on its order."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.elapsed = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.elapsed += 1
        return np.full(1, self.elapsed, np.float32), (1 + action) / 3, self.elapsed == 5, False, {}


def on_host(rhythm: Rhythm, env: Any = Timed) -> Any:
    return host_loop(env, AGENT(), rhythm=rhythm, capacity_rows=60, cycles=5)


def on_device(rhythm: Rhythm, **settings: Any) -> Any:
    environment = probe("timed", shows_time, constantly(1 / 3), terminate_after=5, truncate_after=9)
    return device_loop(environment, AGENT(), rhythm=rhythm, capacity_rows=60, cycles=5, **settings)


def logged() -> Step:
    rows = np.arange(40)
    return Step(rows[:, None].astype(np.float32), np.zeros(40, np.int32), np.ones(40, np.float32), rows < 0, rows < 0)


def offline(rhythm: Rhythm) -> Any:
    inner = host_loop(Timed, AGENT(num_envs=1), rhythm=rhythm, capacity_rows=60, cycles=5, envs=1)
    return OfflineLoop(inner, logged)


def stored(state: TrainState) -> TrainState:
    """The state as another process reads it."""
    state = jax.tree.map(np.array, state)
    assert snapshot.to_arrays(state)
    return state


def assert_equal(a: TrainState, b: TrainState) -> None:
    ours, theirs = snapshot.to_arrays(a), snapshot.to_arrays(b)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


@pytest.fixture
def single_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiled call makes more than one cycle."""
    monkeypatch.setattr(pausing, "STRETCH_SECONDS", 0.0)


LOOPS = {
    "host": functools.partial(on_host, SLOW),
    "host-overlapped": functools.partial(on_host, OVERLAPPED),
    "device": functools.partial(on_device, SLOW),
    "device-blocks": functools.partial(on_device, SLOW, members=4, at_once=2),
    "offline": functools.partial(offline, SLOW),
}


class Kind:
    """Loops of one kind that share their compiled programs, and two chunks that one of them made without a pause."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._programs = make, Programs()
        loop = self.made()
        self.whole = [(stored(state), report) for state, report in itertools.islice(loop.run(loop.init()), 2)]
        loop.close()

    def made(self, **settings: Any) -> Any:
        return sharing(self._programs, self._make(**settings))


@functools.cache
def kind(name: str) -> Kind:
    return Kind(LOOPS[name])


def assert_reports_equal(a: Report, b: Report) -> None:
    assert (a.steps, a.updates, a.episodes) == (b.steps, b.updates, b.episodes)
    jax.tree.map(np.testing.assert_array_equal, a.metrics, b.metrics)


@pytest.mark.usefixtures("single_cycles")
@pytest.mark.parametrize("name", LOOPS)
def test_a_chunk_that_pauses_everywhere_makes_the_same_bits_and_reports(name: str) -> None:
    whole, paused = kind(name).whole, kind(name).made()
    found, pauses = [], 0
    for state, report in paused.run(paused.init(), lambda: True):
        pauses += report is None
        if report is not None:
            found.append((stored(state), report))
        if len(found) == 2:
            break
    assert pauses >= 4
    for (state, report), (same, told) in zip(whole, found, strict=True):
        assert_equal(state, same)
        assert_reports_equal(report, told)
    paused.close()


@pytest.mark.usefixtures("single_cycles")
@pytest.mark.parametrize("name", LOOPS)
def test_another_process_goes_on_with_an_unfinished_chunk(name: str) -> None:
    """Left before an update and after one; where collecting overlaps, the agents that act then are not the latest."""
    first = kind(name).made()
    states = (state for state, _ in first.run(first.init(), lambda: True))
    unfinished = [stored(state) for state in itertools.takewhile(lambda state: state.partial, states)]
    first.close()
    for left in (unfinished[at] for at in (0, 1, 3, 9) if at < len(unfinished)):
        second = kind(name).made()
        second.check_partial(left.partial)
        on_host = {"tally": left.tally, "partial": left.partial, "environment": left.environment}
        arrays = left._replace(tally=None, partial=None, environment=None)
        reopened, warning = second.reopened(jax.tree.map(jnp.asarray, arrays)._replace(**on_host))
        assert warning is None
        same, told = list(itertools.islice(second.run(reopened), 2))[-1]
        whole, report = kind(name).whole[-1]
        assert_equal(whole, stored(same))
        assert_reports_equal(report, told)
        second.close()


def test_a_lost_episode_of_an_unfinished_chunk_is_not_counted() -> None:
    make = functools.partial(
        gym.vector.SyncVectorEnv, [Timed, Timed], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
    )
    loops = [kind("host").made(env=make) for _ in "ab"]
    left = stored(next(itertools.islice(loops[0].run(loops[0].init(), lambda: True), 7, None))[0])
    reopened, warning = loops[1].reopened(left)
    assert warning is not None
    # Eight rows: five steps, the pause of the vector, two steps of an episode that is lost.
    assert reopened.partial["row applied"][:, 0, 0].tolist() == [True] * 5 + [False] * 3
    assert reopened.tally.env_steps.tolist() == [4]
    _, report = next(loops[1].run(reopened))
    assert [episode.length for episode in report.episodes] == [5, 5] * (1 + (15 - 8) // 6)
    for loop in loops:
        loop.close()


def test_an_unfinished_chunk_of_other_settings_is_refused() -> None:
    loop = on_host(SLOW)
    for partial in ({"device plan": plan(5, SLOW)}, {"host plan": plan(6, SLOW)}):
        with pytest.raises(UsageError, match="stopped between two reports; first resume it unchanged"):
            loop.check_partial(partial)
    loop.check_partial({"host plan": plan(5, SLOW)})
    loop.check_partial({})


def test_stretches_are_short_where_learning_begins_and_follow_the_clock() -> None:
    stretches = Stretches(1_000, Rhythm(rows=2, updates=1, warmup_rows=200))
    cycle, lengths = 0, []
    while cycle < 300:
        end = stretches.end(cycle, 0)
        lengths.append(end - cycle)
        stretches.took(end - cycle, 0.0)
        cycle = end
    assert lengths == [1, 4, 16, 64, 14, 1, 4, 16, 64, 256]
    stretches.took(256, 256 * STRETCH_SECONDS / 100)
    assert stretches.end(300, 0) == 300 + 100


def test_names_of_numbered_leaves_share_nothing() -> None:
    array = np.zeros(2)
    copies = numbered("x", {"a": array})
    array[0] = 1.0
    assert copies["x 0"].tolist() == [0.0, 0.0]


class Slow(Timed):
    """Asks for a stop, as Ctrl-C does, at one step of all its copies."""

    taken = 0
    stop_at: int | None = None

    def step(self, action: Any) -> Any:
        Slow.taken += 1
        if Slow.taken == Slow.stop_at:
            signal.raise_signal(signal.SIGINT)
        return super().step(action)


TINY: dict[str, Any] = {
    "steps": 120,
    "report_every_steps": 60,
    "collect_steps": 6,
    "updates_per_step": 0.5,
    "hidden": (4,),
    "capacity_steps": 60,
    "batch_size": 4,
    "warmup_steps": 12,
    "eval_every_steps": 60,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
}


@pytest.mark.usefixtures("shared_programs")
def test_a_stop_within_a_chunk_is_answered_at_the_next_step(tmp_path: Path) -> None:
    """In the warm-up, while learning and after a report; the last resume ends as a run that was never stopped."""
    Slow.stop_at = None
    whole = qdojo.train(Slow, root=tmp_path / "whole", **TINY)
    go_on = functools.partial(qdojo.train, Slow, **TINY)
    # A chunk of 60 rows has 50 steps, and an evaluation 10; a resume plays the open episode again.
    for at, rows, updates in ((5, 0, 0), (30, 30, 12), (45, 66, 30)):
        Slow.taken, Slow.stop_at = 0, at
        with pytest.raises(Interrupted) as stopped:
            go_on(root=tmp_path / "stopped")
        assert Slow.taken == Slow.stop_at, "the environment was stepped after the request"
        go_on = functools.partial(qdojo.resume, stopped.value.run.path, env=Slow)
        left = checkpoint.load_latest(stopped.value.run.checkpoints_path).arrays
        assert (left["state/clock/rows"], left["state/clock/updates"]) == (rows, updates)
    Slow.stop_at = None
    run = go_on(root=tmp_path / "stopped")
    ours, theirs = (checkpoint.load_latest(r.directory.checkpoints_path) for r in (whole, run))
    assert ours.arrays.keys() == theirs.arrays.keys()
    for name, array in ours.arrays.items():
        np.testing.assert_array_equal(array, theirs.arrays[name], err_msg=name)
    for name in ("loss", "epsilon"):
        a, b = (metrics.metric(r.directory.metrics_path, name)[0] for r in (whole, run))
        assert a.steps.tolist() == b.steps.tolist() == [60, 120]
        assert a.values.tolist() == b.values.tolist()
    curves = [metrics.learning_curve(r.directory.metrics_path)[0] for r in (whole, run)]
    assert curves[0].values.tolist() == curves[1].values.tolist()
    assert whole.result["eval"] == run.result["eval"]


class Traced(Programs):
    """Keeps what each program is compiled of."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[Any, str] = {}

    def compiled(self, name: Any, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if name not in self.found:
            self.found[name] = str(jax.make_jaxpr(function)(*args))
        return super().compiled(name, function, *args, **options)


@pytest.mark.parametrize("kind", ["device", "offline"])
def test_a_stretch_draws_none_of_the_chunks_words(kind: str) -> None:
    """A chunk of many short stretches, each of which drew the words of all, took hours in place of seconds."""
    loop = LOOPS[kind]()
    programs = Traced()
    loop.programs = programs
    if kind == "offline":
        loop.inner.programs = programs
    next(loop.run(loop.init()))
    prefix = "offline " if kind == "offline" else ""
    assert "random_bits" in programs.found[f"{prefix}words"]
    assert "random_bits" not in programs.found[f"{prefix}chunk"]
    assert "threefry" not in programs.found[f"{prefix}chunk"]
