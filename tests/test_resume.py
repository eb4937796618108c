"""A run that was killed, and resumed, ends as one that never was. Not Ctrl-C, which is the command line's."""

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import numpy as np
import pytest

import qdojo
from qdojo.api import Run
from qdojo.build import training as building
from qdojo.errors import UsageError
from qdojo.loops.device import DeviceLoop
from qdojo.loops.host import HostLoop
from qdojo.runs import checkpoint, history
from qdojo.runs.directory import RunDirectory, list_runs, status
from qdojo.runs.metrics import set_damaged_aside
from qdojo.training.judging import FINAL_SEED
from qdojo.training.observers import Started
from qdojo.training.restoring import WORDS, restored
from qdojo.training.stopping import Interrupted

SETTINGS: dict[str, Any] = {
    "env": "CartPole-v1",
    "seed": 3,
    "seeds": 2,
    "num_envs": 2,
    "steps": 800,
    "hidden": (8,),
    "capacity_steps": 200,
    "batch_size": 8,
    "warmup_steps": 40,
    "collect_steps": 4,
    "updates_per_step": 0.5,
    "learning_rate": 1e-3,
    "learning_rate_end": 1e-4,
    "learning_rate_decay_steps": 100,
    "report_every_steps": 20,
    "eval_every_steps": 100,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
    "checkpoint_every_seconds": 0.0,
}
HOST_STEPS = 330
"""Fewer, and no multiple of what lies between two evaluations."""
CHILD = """
import json, sys, qdojo

class Say:
    def reported(self, report):
        print(report.steps, flush=True)

order = json.loads(sys.argv[1])
getattr(qdojo, order.pop("do"))(order.pop("what"), observers=[Say()], **order)
"""
TIMED = ("steps_per_second",)
"""Metrics that tell how fast the machine was, and are different each time."""
pytestmark = pytest.mark.usefixtures("shared_programs")


def train(root: Path, **changes: Any) -> Run:
    fields = SETTINGS | changes
    return qdojo.train(fields.pop("env"), root=root, **fields)


def killed(chance: random.Random, root: Path, **order: Any) -> None:
    """Carry out an order in a process of its own and kill it after some report, at whatever it is doing then."""
    cache = str(jax.config.values["jax_compilation_cache_dir"])
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(order | {"root": str(root)})],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": cache},
    )
    with process:
        for _ in range(chance.randint(3, 8)):
            assert process.stdout.readline(), "the run ended before it could be killed"
        time.sleep(chance.uniform(0.0, 0.05))
        process.kill()
    assert process.returncode == -9


def rows_of(run: Run) -> dict[str, list[tuple[Any, ...]]]:
    connection = sqlite3.connect(run.directory.metrics_path)
    tables = {
        table: [
            row
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall()
            if not set(row) & set(TIMED)
        ]
        for table in ("episodes", "metrics", "evaluations")
    }
    connection.close()
    return tables


def snapshots_of(run: Run) -> dict[tuple[int, int, str], bytes]:
    return {
        (member, step, name): array.tobytes()
        for member in range(run.config.members)
        for step, weights in history.snapshots(run.path, member)
        for name, array in weights.items()
    }


def assert_same(a: Run, b: Run, but: str = "") -> None:
    """All that was learned, remembered, counted and reported; only the clock may differ, and the array `but`."""
    ours, theirs = (checkpoint.load_latest(run.directory.checkpoints_path) for run in (a, b))
    assert ours.path.name == theirs.path.name
    assert ours.arrays.keys() == theirs.arrays.keys()
    for name, array in ours.arrays.items():
        if name != but:
            np.testing.assert_array_equal(array, theirs.arrays[name], err_msg=name)
    best, same = (checkpoint.load(run.directory.best_path)[0] for run in (a, b))
    for name, array in best.items():
        np.testing.assert_array_equal(array, same[name], err_msg=name)
    assert snapshots_of(a) == snapshots_of(b)
    assert snapshots_of(a)
    assert rows_of(a) == rows_of(b)
    assert rows_of(a)["episodes"] or a.result["loop"] == "offline"
    assert rows_of(a)["evaluations"]
    for name in ("steps", "env_steps", "updates", "eval", "solved", "status"):
        assert a.result[name] == b.result[name], name


class Heard:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warned(self, message: str) -> None:
        self.warnings.append(message)


class Quits:
    """Stops at once, as a second Ctrl-C does, before the first report."""

    def compiling(self) -> None:
        raise KeyboardInterrupt


class Pair(NamedTuple):
    """A run that nothing happened to, and its directory as it was in the middle, which a kill would have left."""

    whole: Run
    stopped: Run


def pair(root: Path, after_reports: int, **changes: Any) -> Pair:
    """Its last checkpoint is the one before the report at which it stops; what came after that is on no disk."""

    class Copy:
        run, seen = Path(), 0

        def started(self, started: Started) -> None:
            self.run = started.run.path

        def reported(self, report: Any) -> None:
            self.seen += 1
            if self.seen == after_reports:
                shutil.copytree(self.run, root / "stopped" / self.run.name)

    whole = train(root / "whole", observers=[Copy()], **changes)
    (directory,) = list_runs(root / "stopped")
    saved = checkpoint.load_latest(directory.checkpoints_path).meta["steps"]
    assert 0 < saved < whole.result["steps"]
    assert status(directory) == "interrupted"
    return Pair(whole, Run(directory))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("both"), after_reports=16)


@pytest.fixture(scope="module")
def whole(both: Pair) -> Run:
    return both.whole


@pytest.fixture(scope="module")
def on_host(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("host"), loop="host", steps=HOST_STEPS)


@pytest.fixture
def stopped(both: Pair, tmp_path: Path) -> Run:
    """A copy that a test may change."""
    path = tmp_path / both.stopped.path.name
    shutil.copytree(both.stopped.path, path)
    return Run(RunDirectory(path))


def test_a_run_killed_twice_ends_with_the_same_bits(whole: Run, stopped: Run, tmp_path: Path) -> None:
    """A resume of a resume: no bit of the state and no row of the metrics is lost or doubled."""
    first = checkpoint.load_latest(stopped.directory.checkpoints_path).meta["steps"]
    killed(random.Random(), tmp_path, do="resume", what=str(stopped.path))
    assert status(stopped.directory) == "interrupted"
    second = checkpoint.load_latest(stopped.directory.checkpoints_path).meta["steps"]
    assert 0 < first < second < SETTINGS["steps"]
    assert_same(whole, qdojo.resume(stopped.path))


def test_a_run_on_gymnasium_killed_in_mid_episode_ends_with_the_same_bits(on_host: Run, tmp_path: Path) -> None:
    order = SETTINGS | {"loop": "host", "steps": HOST_STEPS}
    killed(random.Random(), tmp_path, do="train", what=order.pop("env"), **order)
    (directory,) = list_runs(tmp_path)
    assert status(directory) == "interrupted"
    loaded = checkpoint.load_latest(directory.checkpoints_path)
    assert 0 < loaded.meta["steps"] < HOST_STEPS
    assert loaded.arrays["state/environment/length"].max() > 0
    assert_same(on_host, qdojo.resume(directory.name, root=tmp_path))


@pytest.mark.parametrize(("loop", "long"), [("device", "whole"), ("host", "on_host")])
def test_a_longer_budget_continues_as_if_it_had_been_there_from_the_start(
    loop: str, long: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Also where the resume that brought it was given up before its first report."""
    run: Run = request.getfixturevalue(long)
    short = train(tmp_path, steps=100, loop=loop)
    shutil.copytree(short.path, tmp_path / "later")
    before = [each.name for each in list_runs(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        qdojo.resume(short.path, steps=run.config.steps, observers=[Quits()])
    assert [each.name for each in list_runs(tmp_path)] == before, "it is as old as it was"
    resumed = qdojo.resume(short.path)
    assert resumed.config == short.config.model_copy(update={"steps": run.config.steps})
    # The budget that was there at the start, which nothing reads without priorities.
    assert_same(run, resumed, but="state/agents/hyper/priority_beta_steps")


def test_an_end_between_two_evaluations_is_judged_too(on_host: Run, tmp_path: Path) -> None:
    assert sorted({steps for steps, *_ in rows_of(on_host)["evaluations"]}) == [100, 200, 300, 340]
    again = shutil.copytree(on_host.path, tmp_path / on_host.path.name)
    assert qdojo.resume(again, steps=HOST_STEPS).result["steps"] == 340, "its own budget is no lower one"


@pytest.mark.parametrize("fork", [False, True])
def test_a_budget_below_what_is_done_is_refused(fork: bool, whole: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^steps is 799, but 800 are already done; use more, or leave steps out\.$"):
        qdojo.resume(whole.path, root=tmp_path, steps=799, fork=fork)
    assert not list_runs(tmp_path)
    assert whole.config.steps == SETTINGS["steps"]


@pytest.mark.parametrize(
    ("loop", "long", "cut_off"),
    [("device", "whole", ["judging", "defending", "delivering"]), ("host", "on_host", ["judging"])],
)
def test_evaluations_that_ctrl_c_cuts_off_are_made_up_for(
    loop: str,
    long: str,
    cut_off: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """One after the other, and after each a resume."""
    kind = {"device": DeviceLoop, "host": HostLoop}[loop]
    whole: Run = request.getfixturevalue(long)
    evaluate, seeds, waiting = kind.evaluate, [], list(cut_off)

    def interrupted(self: Any, params: Any, seed: int, episodes: int, *bounds: Any) -> Any:
        is_now = {"judging": not seeds, "defending": seed in seeds, "delivering": seed == FINAL_SEED}
        seeds.append(seed)
        if waiting and is_now[waiting[0]]:
            seeds.clear()
            waiting.pop(0)
            signal.raise_signal(signal.SIGINT)
        return evaluate(self, params, seed, episodes, *bounds)

    monkeypatch.setattr(kind, "evaluate", interrupted)
    with pytest.raises(Interrupted) as stopped:
        train(tmp_path, loop=loop, steps=whole.config.steps)
    for _ in cut_off[1:]:
        assert status(stopped.value.run) == "interrupted"
        with pytest.raises(Interrupted):
            qdojo.resume(stopped.value.run.path)
    assert status(stopped.value.run) == "interrupted"
    assert not waiting
    assert_same(whole, qdojo.resume(stopped.value.run.path))


class EndsOnChange(gym.Env[np.ndarray, int]):
    """Ends where an action is another than the one before, which a greedy agent never chooses."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.before: int | None = None
        self.steps = 0
        return np.zeros(4, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        ended = self.before not in (None, action)
        self.before = action
        self.steps += 1
        if self.steps == 1000:
            signal.raise_signal(signal.SIGTERM)
        return np.zeros(4, np.float32), 1.0, ended, False, {}


def test_an_evaluation_that_never_ends_is_foretold_and_can_be_stopped(tmp_path: Path) -> None:
    heard = Heard()
    with pytest.raises(Interrupted) as stopped:
        train(tmp_path, env=EndsOnChange, observers=[heard])
    assert len(heard.warnings) == 1
    assert "EndsOnChange declares no time limit" in heard.warnings[0]
    assert "gymnasium.wrappers.TimeLimit" in heard.warnings[0]
    assert checkpoint.load_latest(stopped.value.run.checkpoints_path).meta["steps"] == 100
    limited = Heard()

    def limit() -> gym.Env[Any, Any]:
        return gym.wrappers.TimeLimit(EndsOnChange(), 50)

    for env in (limit, lambda: gym.vector.SyncVectorEnv([limit, limit])):
        with pytest.raises(KeyboardInterrupt):  # What is foretold is told before anything is compiled.
            train(tmp_path, env=env, observers=[limited, Quits()], seeds=1)
    assert not [said for said in limited.warnings if "time limit" in said]


def test_all_of_rainbow_is_kept_and_the_head_that_acts(tmp_path: Path) -> None:
    """Priorities, noisy weights, the head of an episode and all else: stopped between two evaluations and resumed, to
    the same bits."""
    fields = {"preset": "rainbow", "hidden": (8,), "atoms": 5, "heads": 3, "steps": 160}
    whole, run = pair(tmp_path, after_reports=7, **fields)
    saved = checkpoint.load_latest(run.directory.checkpoints_path)
    assert_same(whole, qdojo.resume(run.path))
    arrays = checkpoint.load_latest(whole.directory.checkpoints_path).arrays
    assert any(name.startswith("state/memory") for name in saved.arrays)
    for tree, part in (
        ("params", "/mean"),
        ("params", "/spread"),
        ("target_params", "/spread"),
        ("priorities/levels/0", ""),
    ):
        found = [name for name in arrays if name.startswith(f"state/agents/{tree}") and part in name]
        assert found, part
        assert any(not np.array_equal(arrays[name], saved.arrays[name]) for name in found), f"{part} did not change"
    assert (saved.arrays["state/agents/priorities/highest"] != 1.0).all(), "it is what it was at the start"


def test_what_an_agent_remembers_of_an_episode_on_gymnasium_is_kept(tmp_path: Path) -> None:
    fields = {"preset": "r2d2", "loop": "host", "hidden": (8, 8), "sequence_steps": 4, "burn_in_steps": 2}
    whole, run = pair(tmp_path, after_reports=6, steps=140, normalize_observations=True, **fields)
    saved = checkpoint.load_latest(run.directory.checkpoints_path).arrays
    assert any(name.startswith("state/memory") for name in saved)
    assert_same(whole, qdojo.resume(run.path))
    arrays = checkpoint.load_latest(whole.directory.checkpoints_path).arrays
    learned = [name for name in arrays if name.startswith("state/agents/params")]
    for member in range(2):
        assert any(not np.array_equal(arrays[name][member], saved[name][member]) for name in learned)
    assert any(not np.array_equal(arrays[name][0], arrays[name][1]) for name in learned), "both learned the same"


def test_learning_from_logged_steps_goes_on_without_them(stopped: Run, tmp_path: Path) -> None:
    fields = {"preset": "cql", "num_envs": 1, "hidden": (8,), "quantiles": 4, "capacity_steps": 400, "steps": 200}
    fields |= {"warmup_steps": 1_000}  # the default, for nothing is collected
    whole, run = pair(tmp_path, after_reports=4, dataset=str(stopped.path), **fields)
    assert whole.result["loop"] == "offline"
    assert whole.result["env_steps"] == [0, 0]
    shutil.rmtree(stopped.path)
    assert_same(whole, qdojo.resume(run.path))


def test_a_finished_run_is_left_as_it_is(whole: Run) -> None:
    before = checkpoint.load_latest(whole.directory.checkpoints_path)
    again = qdojo.resume(whole.path)
    after = checkpoint.load_latest(whole.directory.checkpoints_path)
    assert before.meta["steps"] == after.meta["steps"] == SETTINGS["steps"]
    for name, array in before.arrays.items():
        np.testing.assert_array_equal(array, after.arrays[name], err_msg=name)
    assert again.result["status"] == "finished"


def test_a_solved_run_stays_where_it_was_solved(tmp_path: Path) -> None:
    """Also where it was killed after its last chunk, while what it delivers was evaluated."""
    run = train(tmp_path, until_solved=True, solved_at=1.0)
    solved_at = run.result["steps"]
    assert solved_at == SETTINGS["eval_every_steps"]
    run.directory.result_path.unlink()
    assert qdojo.resume(run.path).result["steps"] == solved_at


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_leads_to_the_same_end(whole: Run, stopped: Run) -> None:
    newest = checkpoint.load_latest(stopped.directory.checkpoints_path).path / checkpoint.ARRAYS
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    heard = Heard()
    resumed = qdojo.resume(stopped.path, observers=[heard])
    assert len(heard.warnings) == 1
    assert str(newest) in heard.warnings[0]
    assert_same(whole, resumed)


def test_damaged_metrics_are_set_aside_and_training_goes_on(whole: Run, stopped: Run, tmp_path: Path) -> None:
    path = stopped.directory.metrics_path
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    good = path.read_bytes()
    for name, place in (("header", 0), ("page", 4096)):
        damaged = bytearray(good)
        damaged[place] ^= 1
        other = tmp_path / name / path.name
        other.parent.mkdir()
        other.write_bytes(damaged)
        assert str(other) in (set_damaged_aside(other) or "")
        assert other.with_name("metrics.sqlite.damaged").read_bytes() == damaged
        assert not other.exists()
    path.write_bytes(damaged)
    heard = Heard()
    resumed = qdojo.resume(stopped.path, observers=[heard])
    assert len(heard.warnings) == 1
    assert str(path) in heard.warnings[0]
    assert path.with_name("metrics.sqlite.damaged").read_bytes() == damaged
    assert rows_of(resumed)["metrics"]
    ours, theirs = (checkpoint.load_latest(run.directory.checkpoints_path).arrays for run in (resumed, whole))
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def edit(run: Run, old: str, new: str) -> None:
    text = run.directory.config_path.read_text(encoding="utf-8")
    assert old in text
    run.directory.config_path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_changed_setting_is_refused_with_the_difference_and_a_fork_goes_on_under_it(
    stopped: Run, tmp_path: Path
) -> None:
    edit(stopped, "learning_rate = 0.001", "learning_rate = 0.25")
    edit(stopped, "discount = 0.99", "discount = 0.5")
    before = (
        stopped.directory.metrics_path.read_bytes(),
        sorted(p.name for p in stopped.directory.checkpoints_path.iterdir()),
    )
    with pytest.raises(UsageError) as refused:
        qdojo.resume(stopped.path)
    message = str(refused.value)
    assert "learning_rate was 0.001, is 0.25" in message
    assert "discount was 0.99, is 0.5" in message
    assert "--fork" in message
    with pytest.raises(KeyboardInterrupt):  # `training/test_resuming.py` shows a fork that ends.
        qdojo.resume(stopped.path, root=tmp_path / "forks", fork=True, observers=[Quits()])
    (fork,) = list_runs(tmp_path / "forks")
    assert before == (
        stopped.directory.metrics_path.read_bytes(),
        sorted(p.name for p in stopped.directory.checkpoints_path.iterdir()),
    )
    arrays = checkpoint.load_latest(fork.checkpoints_path).arrays
    np.testing.assert_array_equal(arrays["state/agents/hyper/learning_rate_start"], np.float32([0.25, 0.25]))
    np.testing.assert_array_equal(arrays["state/agents/hyper/discount"], np.float32([0.5, 0.5]))


@pytest.mark.parametrize("hidden", [[9], [8, 8], []], ids=["wider", "deeper", "shallower"])
def test_a_fork_that_does_not_fit_leaves_nothing_behind(hidden: list[int], stopped: Run, tmp_path: Path) -> None:
    edit(stopped, "hidden = [\n    8,\n]", f"hidden = {hidden}")
    with pytest.raises(UsageError, match=r"this config (needs|has no such array)"):
        qdojo.resume(stopped.path, root=tmp_path, fork=True)
    assert len(list_runs(tmp_path)) == 1


def test_other_versions_are_refused_with_the_difference(stopped: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"jax": "99.0", "jaxlib": "99.0", "numpy": np.__version__}
    monkeypatch.setattr("qdojo.training.restoring.versions", lambda: found)
    with pytest.raises(UsageError, match=rf"jax was {jax.__version__}, is 99\.0; jaxlib was .*--fork"):
        qdojo.resume(stopped.path)


def test_a_run_that_is_being_written_cannot_be_resumed(stopped: Run) -> None:
    with stopped.directory.lock(), pytest.raises(UsageError, match="being written by another process"):
        qdojo.resume(stopped.path)


def test_a_checkpoint_holds_no_row_that_was_never_written_and_older_ones_resume(tmp_path: Path) -> None:
    """Of a memory of 50,000 steps, 200 are on the disk. Earlier versions wrote the others as rows of zeros, and no
    longest episode."""
    run = train(tmp_path, steps=200, capacity_steps=50_000)
    loaded = checkpoint.load_latest(run.directory.checkpoints_path)
    assert len(loaded.arrays[WORDS]) == 100
    assert (loaded.path / checkpoint.ARRAYS).stat().st_size < 100_000
    parts = building.build(run.config)
    rows = parts.loop.template().tape.words.shape[0]
    assert rows >= 25_000
    filled_up = np.zeros((rows, *loaded.arrays[WORDS].shape[1:]), np.uint32)
    filled_up[:100] = loaded.arrays[WORDS]
    old = {name: array for name, array in loaded.arrays.items() if name != "state/tally/longest"} | {WORDS: filled_up}
    assert len(old) == len(loaded.arrays) - 1
    ours, theirs = (restored(parts.loop, arrays).state.tape.words for arrays in (loaded.arrays, old))
    np.testing.assert_array_equal(ours, theirs)
    checkpoint.save(run.directory.checkpoints_path, loaded.path.name, old, loaded.meta)
    with pytest.raises(KeyboardInterrupt):
        qdojo.resume(run.path, steps=300, observers=[Quits()])
