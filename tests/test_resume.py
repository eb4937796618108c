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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qdojo
from qdojo.api import Run
from qdojo.build import training as building
from qdojo.envs.contract import NativeEnvironment, Transition
from qdojo.errors import EnvironmentFailure, QdojoError, UsageError
from qdojo.loops.device import DeviceLoop
from qdojo.loops.host import HostLoop
from qdojo.runs import checkpoint
from qdojo.runs.directory import RunDirectory, list_runs, read_result, status
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
    "report_every_steps": 20,
    "eval_every_steps": 100,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
    "checkpoint_every_seconds": 0.0,
}
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
        for _ in range(chance.randint(3, 10)):
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


def assert_same(a: Run, b: Run) -> None:
    """All that was learned, remembered, counted and reported; only the clock may differ."""
    ours, theirs = (checkpoint.load_latest(run.directory.checkpoints_path) for run in (a, b))
    assert ours.path.name == theirs.path.name
    assert ours.arrays.keys() == theirs.arrays.keys()
    for name, array in ours.arrays.items():
        np.testing.assert_array_equal(array, theirs.arrays[name], err_msg=name)
    best, same = (checkpoint.load(run.directory.best_path)[0] for run in (a, b))
    for name, array in best.items():
        np.testing.assert_array_equal(array, same[name], err_msg=name)
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
    return pair(tmp_path_factory.mktemp("both"), after_reports=12)


@pytest.fixture
def whole(both: Pair) -> Run:
    return both.whole


@pytest.fixture
def stopped(both: Pair, tmp_path: Path) -> Run:
    """A copy that a test may change."""
    path = tmp_path / both.stopped.path.name
    shutil.copytree(both.stopped.path, path)
    return Run(RunDirectory(path))


def test_a_run_killed_twice_ends_with_the_same_bits(whole: Run, tmp_path: Path) -> None:
    """A resume of a resume: no bit of the state and no row of the metrics is lost or doubled."""
    chance = random.Random()
    killed(chance, tmp_path, do="train", what=SETTINGS["env"], **{k: v for k, v in SETTINGS.items() if k != "env"})
    (directory,) = list_runs(tmp_path)
    assert status(directory) == "interrupted"
    first = checkpoint.load_latest(directory.checkpoints_path).meta["steps"]
    killed(chance, tmp_path, do="resume", what=directory.name)
    second = checkpoint.load_latest(directory.checkpoints_path).meta["steps"]
    assert 0 < first < second < SETTINGS["steps"]
    assert_same(whole, qdojo.resume(directory.name, root=tmp_path))


def test_a_run_on_gymnasium_killed_in_mid_episode_ends_with_the_same_bits(tmp_path: Path) -> None:
    fields = {"loop": "host", "steps": 600}
    plain = train(tmp_path / "plain", **fields)
    root = tmp_path / "killed"
    order = {k: v for k, v in SETTINGS.items() if k != "env"} | fields
    killed(random.Random(), root, do="train", what=SETTINGS["env"], **order)
    (directory,) = list_runs(root)
    loaded = checkpoint.load_latest(directory.checkpoints_path)
    assert loaded.arrays["state/environment/length"].max() > 0
    assert_same(plain, qdojo.resume(directory.name, root=root))


@pytest.mark.parametrize("loop", ["device", "host"])
def test_a_longer_budget_continues_as_if_it_had_been_there_from_the_start(loop: str, tmp_path: Path) -> None:
    fields = {"loop": loop, "learning_rate_decay_steps": 100, "learning_rate_end": 1e-4}
    fields |= {"prioritized": True, "priority_beta_steps": 100}
    long = train(tmp_path / "long", steps=200, **fields)
    short = train(tmp_path / "short", steps=100, **fields)
    assert_same(long, qdojo.resume(short.path, steps=200))


class Quits:
    """Stops at once, as a second Ctrl-C does, before the first report."""

    def compiling(self) -> None:
        raise KeyboardInterrupt


def test_a_new_budget_outlives_the_resume_that_brought_it(tmp_path: Path) -> None:
    run = train(tmp_path, steps=100)
    train(tmp_path, steps=100)
    before = [each.name for each in list_runs(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        qdojo.resume(run.path, steps=200, observers=[Quits()])
    assert [each.name for each in list_runs(tmp_path)] == before, "it is as old as it was"
    resumed = qdojo.resume(run.path)
    assert resumed.result["steps"] == 200
    assert resumed.config == run.config.model_copy(update={"steps": 200})


def test_an_end_between_two_evaluations_is_judged_too(tmp_path: Path) -> None:
    run = train(tmp_path, steps=130, loop="host")
    assert sorted({steps for steps, *_ in rows_of(run)["evaluations"]}) == [100, 140]
    assert qdojo.resume(run.path, steps=130).result["steps"] == 140, "its own budget is no lower one"


@pytest.mark.parametrize("fork", [False, True])
def test_a_budget_below_what_is_done_is_refused(fork: bool, whole: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^steps is 799, but 800 are done already; use more, or leave steps out\.$"):
        qdojo.resume(whole.path, root=tmp_path, steps=799, fork=fork)
    assert not list_runs(tmp_path)
    assert whole.config.steps == SETTINGS["steps"]


@pytest.mark.parametrize("loop", ["device", "host"])
@pytest.mark.parametrize("when", ["judging", "defending", "delivering"])
def test_an_evaluation_that_ctrl_c_cuts_off_is_made_up_for(
    loop: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = {"device": DeviceLoop, "host": HostLoop}[loop]
    evaluate, seeds = kind.evaluate, []

    def interrupted(self: Any, params: Any, seed: int, episodes: int, *bounds: Any) -> Any:
        is_now = {"judging": not seeds, "defending": seed in seeds, "delivering": seed == FINAL_SEED}
        seeds.append(seed)
        if is_now[when]:
            monkeypatch.setattr(kind, "evaluate", evaluate)
            signal.raise_signal(signal.SIGINT)
        return evaluate(self, params, seed, episodes, *bounds)

    monkeypatch.setattr(kind, "evaluate", interrupted)
    with pytest.raises(Interrupted) as stopped:
        train(tmp_path / "stopped", steps=250, loop=loop)
    assert status(stopped.value.run) == "interrupted"
    resumed = qdojo.resume(stopped.value.run.path)
    assert_same(train(tmp_path / "whole", steps=250, loop=loop), resumed)


class EndsOnChange(gym.Env[np.ndarray, int]):
    """Ends where an action is another than the one before, which a greedy agent never chooses."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.before: int | None = None
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        ended = self.before not in (None, action)
        self.before = action
        self.steps += 1
        if self.steps == 1000:
            signal.raise_signal(signal.SIGTERM)
        return np.zeros(2, np.float32), 1.0, ended, False, {}


def test_an_evaluation_that_never_ends_is_foretold_and_can_be_stopped(tmp_path: Path) -> None:
    heard = Heard()
    with pytest.raises(Interrupted) as stopped:
        train(tmp_path, env=EndsOnChange, observers=[heard])
    assert len(heard.warnings) == 1
    assert "EndsOnChange has no time limit" in heard.warnings[0]
    assert "gymnasium.wrappers.TimeLimit" in heard.warnings[0]
    assert checkpoint.load_latest(stopped.value.run.checkpoints_path).meta["steps"] == 100
    limited = Heard()

    def limit() -> gym.Env[Any, Any]:
        return gym.wrappers.TimeLimit(EndsOnChange(), 50)

    train(tmp_path, env=limit, observers=[limited], steps=100)
    vector = {"seeds": 1, "num_envs": 2, "steps": 100}
    train(tmp_path, env=lambda: gym.vector.SyncVectorEnv([limit, limit]), observers=[limited], **vector)
    assert not [said for said in limited.warnings if "time limit" in said]


def test_all_of_rainbow_is_kept(tmp_path: Path) -> None:
    """Priorities, noisy weights and all else: stopped between two evaluations and resumed, to the same bits."""
    whole, run = pair(tmp_path, after_reports=7, preset="rainbow", hidden=(8,), atoms=5, steps=200)
    saved = checkpoint.load_latest(run.directory.checkpoints_path)
    assert_same(whole, qdojo.resume(run.path))
    arrays = checkpoint.load_latest(whole.directory.checkpoints_path).arrays
    for part in ("params/mean", "params/spread", "target_params/spread", "priorities/levels/0", "priorities/highest"):
        found = [name for name in arrays if name.startswith(f"state/agents/{part}")]
        assert found, part
        assert any(not np.array_equal(arrays[name], saved.arrays[name]) for name in found), f"{part} did not change"


@pytest.mark.parametrize(
    "fields",
    [
        {
            "preset": "r2d2",
            "loop": "host",
            "hidden": (8, 8),
            "sequence_steps": 4,
            "burn_in_steps": 2,
            "normalize_observations": True,
        },
        {"preset": "bootdqn", "loop": "device", "hidden": (8,), "heads": 3},
    ],
    ids=lambda fields: fields["preset"],
)
def test_what_an_agent_carries_through_an_episode_is_kept(fields: dict[str, Any], tmp_path: Path) -> None:
    whole, run = pair(tmp_path, after_reports=5, steps=160, seeds=1, **fields)
    saved = checkpoint.load_latest(run.directory.checkpoints_path)
    assert any(name.startswith("state/memory") for name in saved.arrays)
    assert_same(whole, qdojo.resume(run.path))


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


@pytest.mark.parametrize("where", ["header", "page"])
def test_damaged_metrics_are_set_aside_and_training_goes_on(where: str, whole: Run, stopped: Run) -> None:
    path = stopped.directory.metrics_path
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damaged = bytearray(path.read_bytes())
    damaged[0 if where == "header" else 4096] ^= 1
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
    fork = qdojo.resume(stopped.path, root=tmp_path, fork=True)
    assert fork.path != stopped.path
    assert before == (
        stopped.directory.metrics_path.read_bytes(),
        sorted(p.name for p in stopped.directory.checkpoints_path.iterdir()),
    )
    assert fork.result["steps"] == SETTINGS["steps"]
    arrays = checkpoint.load_latest(fork.directory.checkpoints_path).arrays
    np.testing.assert_array_equal(arrays["state/agents/hyper/learning_rate_start"], np.float32([0.25, 0.25]))
    np.testing.assert_array_equal(arrays["state/agents/hyper/discount"], np.float32([0.5, 0.5]))


@pytest.mark.parametrize("hidden", [[9], [8, 8], []], ids=["wider", "deeper", "shallower"])
def test_a_fork_that_does_not_fit_leaves_nothing_behind(hidden: list[int], stopped: Run, tmp_path: Path) -> None:
    edit(stopped, "hidden = [\n    8,\n]", f"hidden = {hidden}")
    with pytest.raises(UsageError, match="this config needs"):
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


def pays_after(steps: int, reward: float) -> NativeEnvironment:
    """Pays 1 a step, and from some step on something else. It never ends."""

    def reset(noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.int32(0), jnp.zeros(4)

    def step(elapsed: jax.Array, action: jax.Array, noise: jax.Array) -> tuple[jax.Array, Transition]:
        paid = jnp.where(elapsed >= steps, reward, 1.0).astype(jnp.float32)
        return elapsed + 1, Transition(jnp.zeros(4), paid, jnp.asarray(False), jnp.asarray(False))

    return NativeEnvironment("pays", (4,), 2, 1, 50, reset, step)


def assert_diverged(root: Path, match: str, **changes: Any) -> Run:
    with pytest.raises(QdojoError, match=match):
        train(root, **changes)
    (directory,) = list_runs(root)
    result = read_result(directory)
    assert result["status"] == "failed"
    assert "no longer finite" in result["error"]
    arrays = checkpoint.load_latest(directory.checkpoints_path).arrays
    for name, array in arrays.items():
        finite = array.dtype.kind != "f" or "best/score" in name or "tape" in name or np.isfinite(array).all()
        assert finite, f"{name} of the checkpoint that a resume would take is not finite"
    return Run(directory)


def test_an_optimizer_that_overflows_is_noticed_though_the_loss_is_finite(tmp_path: Path) -> None:
    """Adam's second moment becomes inf at gradients of 1e19, and then no step is taken any more."""
    assert_diverged(
        tmp_path,
        r"^optimizer/nu/.* of member [01] is no longer finite at step [\d,]+: the agent diverged; lower learning_rate",
        learning_rate=1e6,
        error="mse",
        layer_norm=False,
        eval_every_steps=800,
    )


def test_divergence_stops_the_run_and_its_checkpoint_is_whole(tmp_path: Path) -> None:
    run = assert_diverged(
        tmp_path,
        r"^(loss|q_mean) of member 0 is no longer finite at step [\d,]+: the agent diverged; lower learning_rate "
        r"\(now 1e\+30\) or set max_grad_norm; the last checkpoint is whole\.$",
        learning_rate=1e30,
        error="mse",
        layer_norm=False,
        eval_every_steps=800,
    )
    assert run.evaluate(episodes=2).returns.shape == (2, 2)


def test_a_reward_that_is_not_finite_stops_the_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qdojo.build.stepping.native", lambda env_id: pays_after(100, jnp.inf))
    assert_diverged(tmp_path, "no longer finite at step", eval_every_steps=800)


class Breaks(gym.Env[np.ndarray, int]):
    """Raises in its 60th step."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.taken = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.taken += 1
        if self.taken == 60:
            raise ValueError("the gripper fell off")
        return np.zeros(2, np.float32), 1.0, self.taken % 7 == 0, False, {}


def test_an_environment_that_raises_stops_the_run_and_its_checkpoint_is_whole(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="the gripper fell off"):
        train(tmp_path, env=Breaks, eval_every_steps=800)
    (directory,) = list_runs(tmp_path)
    assert read_result(directory)["status"] == "failed"
    assert checkpoint.load_latest(directory.checkpoints_path).meta["steps"] == 120


def curve_rows(monkeypatch: pytest.MonkeyPatch, draw: Callable[[Path], None]) -> None:
    monkeypatch.setattr("qdojo.training.observers.curve.curve_png", lambda metrics, title, target: draw(metrics))


def test_the_curve_is_drawn_from_all_that_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run shorter than the time between two commits has its learning curve too."""
    seen = []

    def draw(metrics: Path) -> None:
        connection = sqlite3.connect(metrics)
        seen.append(connection.execute("SELECT max(steps) FROM metrics").fetchone()[0])
        connection.close()

    curve_rows(monkeypatch, draw)
    train(tmp_path, steps=100, checkpoint_every_seconds=1000.0)
    assert seen == [100]


def test_a_checkpoint_holds_no_row_that_was_never_written(tmp_path: Path) -> None:
    """Of a memory of 500,000 steps, 800 are on the disk; with the rows of zeros of earlier versions it resumes too."""
    run = train(tmp_path, steps=400, capacity_steps=500_000)
    loaded = checkpoint.load_latest(run.directory.checkpoints_path)
    assert len(loaded.arrays[WORDS]) == 200
    assert (loaded.path / checkpoint.ARRAYS).stat().st_size < 100_000
    parts = building.build(run.config)
    rows = parts.loop.template().tape.words.shape[0]
    assert rows >= 250_000
    filled_up = np.zeros((rows, *loaded.arrays[WORDS].shape[1:]), np.uint32)
    filled_up[:200] = loaded.arrays[WORDS]
    ours, theirs = (
        restored(parts.loop, arrays).state.tape.words for arrays in (loaded.arrays, loaded.arrays | {WORDS: filled_up})
    )
    np.testing.assert_array_equal(ours, theirs)


def test_a_checkpoint_without_the_longest_episode_resumes(tmp_path: Path) -> None:
    """As earlier versions wrote it."""
    run = train(tmp_path, steps=200)
    loaded = checkpoint.load_latest(run.directory.checkpoints_path)
    old = {name: array for name, array in loaded.arrays.items() if name != "state/tally/longest"}
    checkpoint.save(run.directory.checkpoints_path, loaded.path.name, old, loaded.meta)
    assert qdojo.resume(run.path, root=tmp_path, steps=300).result["steps"] == 300
