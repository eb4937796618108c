"""A chunk that is left between two reports goes on to the same bits and the same report, on every loop."""

import functools
import itertools
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes.environments import constantly, probe, shows_time
from probes.training import device_loop, host_loop, small_agent, small_network

import qdojo
from qdojo import snapshot
from qdojo.errors import UsageError
from qdojo.loops import pausing
from qdojo.loops.learning import Rhythm
from qdojo.loops.offline import OfflineLoop
from qdojo.loops.pausing import Stretches, numbered, plan
from qdojo.loops.state import TrainState
from qdojo.runs import checkpoint, metrics
from qdojo.training.stopping import Interrupted
from qdojo.types import Step

SLOW, OVERLAPPED = Rhythm(rows=3, updates=2, warmup_rows=8), Rhythm(rows=3, updates=16, warmup_rows=8)


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


def on_host(rhythm: Rhythm) -> Any:
    return host_loop(Timed, small_agent(small_network(1)), rhythm=rhythm, capacity_rows=60, cycles=5)


def on_device(rhythm: Rhythm) -> Any:
    environment = probe("timed", shows_time, constantly(1 / 3), terminate_after=5, truncate_after=9)
    return device_loop(environment, small_agent(small_network(1)), rhythm=rhythm, capacity_rows=60, cycles=5)


def logged() -> Step:
    rows = np.arange(40)
    return Step(rows[:, None].astype(np.float32), np.zeros(40, np.int32), np.ones(40, np.float32), rows < 0, rows < 0)


def offline(rhythm: Rhythm) -> Any:
    inner = host_loop(
        Timed, small_agent(small_network(1), num_envs=1), rhythm=rhythm, capacity_rows=60, cycles=5, envs=1
    )
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
    monkeypatch.setattr(pausing, "SHORT_SECONDS", -1.0)


LOOPS = [
    pytest.param(functools.partial(on_host, SLOW), id="host"),
    pytest.param(functools.partial(on_host, OVERLAPPED), id="host-overlapped"),
    pytest.param(functools.partial(on_device, SLOW), id="device"),
    pytest.param(functools.partial(offline, SLOW), id="offline"),
]


@pytest.mark.usefixtures("single_cycles")
@pytest.mark.parametrize("made", LOOPS)
def test_a_chunk_that_pauses_everywhere_makes_the_same_bits_and_reports(made: Any) -> None:
    plain, paused = made(), made()
    whole = [(stored(state), report) for state, report in itertools.islice(plain.run(plain.init()), 2)]
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
        assert report.episodes == told.episodes
        jax.tree.map(np.testing.assert_array_equal, report.metrics, told.metrics)
        assert report.steps == told.steps
    plain.close()
    paused.close()


@pytest.mark.usefixtures("single_cycles")
@pytest.mark.parametrize("pauses", [1, 2, 4])
@pytest.mark.parametrize("made", LOOPS)
def test_another_process_goes_on_with_an_unfinished_chunk(made: Any, pauses: int) -> None:
    plain, first, second = made(), made(), made()
    whole = list(itertools.islice(plain.run(plain.init()), 2))[-1]
    left = stored(next(itertools.islice(first.run(first.init(), lambda: True), pauses - 1, None))[0])
    assert left.partial
    first.close()
    second.check_partial(left.partial)
    on_host = {"tally": left.tally, "partial": left.partial, "environment": left.environment}
    arrays = jax.tree.map(jnp.asarray, left._replace(tally=None, partial=None, environment=None))._replace(**on_host)
    reopened, warning = second.reopened(arrays)
    assert warning is None
    same = list(itertools.islice(second.run(reopened), 2))[-1]
    assert_equal(stored(whole[0]), stored(same[0]))
    assert whole[1].episodes == same[1].episodes
    jax.tree.map(np.testing.assert_array_equal, whole[1].metrics, same[1].metrics)
    plain.close()
    second.close()


def test_a_lost_episode_of_an_unfinished_chunk_is_not_counted() -> None:
    make = functools.partial(
        gym.vector.SyncVectorEnv, [Timed, Timed], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
    )
    loops = [host_loop(make, small_agent(small_network(1)), rhythm=SLOW, capacity_rows=60, cycles=5) for _ in "ab"]
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
        with pytest.raises(UsageError, match="stopped between two reports; resume it unchanged"):
            loop.check_partial(partial)
    loop.check_partial({"host plan": plan(5, SLOW)})
    loop.check_partial({})


def test_stretches_are_short_where_learning_begins_and_follow_the_clock() -> None:
    stretches = Stretches(1_000, Rhythm(rows=2, updates=1, warmup_rows=200))
    cycle, lengths = 0, []
    while cycle < 300:
        end = stretches.end(cycle, 0)
        lengths.append(end - cycle)
        stretches.took(0.0)
        cycle = end
    assert lengths == [1, 4, 16, 64, 14, 1, 4, 16, 64, 256]
    stretches.took(5.0)
    assert stretches.end(300, 0) == 300 + 500


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


@pytest.mark.parametrize("at", [5, 33, 115])
def test_a_stop_within_a_chunk_is_answered_at_the_next_step(at: int, tmp_path: Path) -> None:
    """In the warm-up, while learning and after a report; a resume ends as a run that was never stopped."""
    Slow.taken, Slow.stop_at = 0, None
    whole = qdojo.train(Slow, root=tmp_path / "whole", **TINY)
    # A chunk of 60 rows has 50 steps, and so has an evaluation.
    Slow.taken, Slow.stop_at = 0, at
    with pytest.raises(Interrupted) as stopped:
        qdojo.train(Slow, root=tmp_path / "stopped", **TINY)
    assert Slow.taken == Slow.stop_at, "the environment was stepped after the request"
    Slow.stop_at = None
    run = qdojo.resume(stopped.value.run.path, env=Slow, root=tmp_path / "stopped")
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
