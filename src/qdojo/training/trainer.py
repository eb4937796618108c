"""Runs training from start to end: consumes the loop's reports, and records, evaluates, checkpoints and stops."""

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qdojo.build.training import Parts
from qdojo.config import Config
from qdojo.errors import QdojoError
from qdojo.loops.evaluation import solved
from qdojo.loops.state import TrainState
from qdojo.runs import checkpoint
from qdojo.runs.directory import RunDirectory, create, replace_config, write_atomically
from qdojo.runs.metrics import set_damaged_aside
from qdojo.runs.segments import Listing
from qdojo.statistics import interquartile_mean, member_interval
from qdojo.training.diagnosing import Diagnosing
from qdojo.training.foreseen import foreseen, told_of_shards
from qdojo.training.judging import FINAL_SEED, Judge, still_solved
from qdojo.training.observers import Observers, Started
from qdojo.training.restoring import Progress, checkpoint_meta, restored, save_delivered, saved, told_of_disk
from qdojo.training.selection import Best, delivered, none_best
from qdojo.training.stopping import CutOff, Interrupted, stop_requests
from qdojo.types import Params, Report

PAUSE_SECONDS = 1.0
"""The loop yields within a chunk that takes longer than this, so that a due checkpoint is written."""


def start(config: Config, parts: Parts, root: Path, observers: Observers) -> RunDirectory:
    """Train a new run under `root` until its budget is spent or the environment is solved."""
    disk = told_of_disk(config, parts.loop, root)
    run = create(root, config.env, config.preset, config.to_toml())
    with run.lock(), contextlib.closing(parts.loop), _closing(observers):
        observers.tell("started", Started(run, config, parts.loop.name, at_step=0))
        for warning in [*foreseen(config, parts), *disk]:
            observers.tell("warned", warning)
        observers.tell("compiling")
        try:
            state = parts.loop.init()
            best = jax.tree.map(np.array, none_best(parts.loop.shards.cut(state.agents.params, 0)))
            Trainer(run, config, parts, observers).train(state, best)
        except BaseException:
            if not checkpoint.exists(run.checkpoints_path):
                shutil.rmtree(run.path)  # nothing exists yet that could be resumed
            raise
    return run


def proceed(
    run: RunDirectory,
    config: Config,
    parts: Parts,
    observers: Observers,
    read: checkpoint.Loaded,
    rewritten: Config | None = None,
) -> None:
    """Continue `run` from its last intact checkpoint: the one that was `read`, if no other process has saved one since.

    `rewritten` replaces its `config.toml`, if given.
    """
    with run.lock(), contextlib.closing(parts.loop), _closing(observers):
        loaded = checkpoint.load_latest(run.checkpoints_path, read)
        for skipped in loaded.skipped:
            observers.tell("warned", skipped)
        progress = restored(parts.loop, loaded.arrays)
        state, warning = parts.loop.reopened(progress.state)
        tape = loaded.tape
        if tape is not None and state.tape is not progress.state.tape:
            tape = tape.without_newest()  # this row now ends the lost episodes
        for told in filter(None, (warning, told_of_shards(config, loaded.meta))):
            observers.tell("warned", told)
        if damage := set_damaged_aside(run.metrics_path):
            observers.tell("warned", damage)
        if rewritten is not None:
            replace_config(run, rewritten.to_toml())
        steps, unjudged = int(loaded.meta["steps"]), bool(loaded.meta.get("unjudged", False))
        observers.tell("started", Started(run, config, parts.loop.name, steps, unjudged))
        observers.tell("compiling")
        solved = still_solved(config, parts.solved_at, loaded.meta)
        trainer = Trainer(run, config, parts, observers, steps, unjudged, solved, loaded.meta["seconds"], tape)
        read.unmap()
        loaded.unmap()
        trainer.train(state, progress.best)


@contextlib.contextmanager
def _closing(observers: Observers) -> Any:
    try:
        yield
    finally:
        observers.tell("closed")


class Trainer:
    """Consumes the reports of one run."""

    def __init__(
        self,
        run: RunDirectory,
        config: Config,
        parts: Parts,
        observers: Observers,
        steps: int = 0,
        unjudged: bool = False,
        solved: bool = False,
        seconds: dict[str, float] | None = None,
        tape: Listing | None = None,
    ) -> None:
        """`steps` to `tape` are the values in the checkpoint from which a run resumes."""
        self.run, self.config, self.parts, self.loop, self.observers = run, config, parts, parts.loop, observers
        self._seconds_before: dict[str, float] = {"compile": 0.0, "train": 0.0, "eval": 0.0} | (seconds or {})
        self._train_seconds, self._steps, self._tape, self._solved = 0.0, steps, tape, solved
        self._unjudged = unjudged
        """Whether an evaluation at these steps is still due: a resume repeats one that was cut off."""
        self._saved_at = self._yielded_at = time.monotonic()
        self._checks, self._diagnosing = list(parts.checks), Diagnosing(config, parts)

    def train(self, state: TrainState, best: Best) -> None:
        """Run to the end and record how the run ended. On Ctrl-C or SIGTERM, save it first; then raise Interrupted."""
        self._learned = jax.tree.map(np.asarray, self._params(state)) if self.parts.exports else None
        self._end("interrupted")
        with stop_requests() as self._stop:
            longest = int(state.tally.longest.max())
            self._judge = Judge(self.config, self.parts, self.observers, self._stop, best, longest, self._solved)
            try:
                if self._steps == 0:
                    self.observers.tell("learned", 0, self._params(state))
                    self._save(state)
                state = self._until_done(state)
                self._save(state)
            except Exception as error:
                self._end("failed", error=str(error))
                raise
            finally:
                self._export()
            result = None if self._stop.asked else self._result(state)
            if result is None:
                raise Interrupted(self.run)
        self._end("finished", **result)
        self.observers.tell("finished", self.run, result)

    def _until_done(self, state: TrainState) -> TrainState:
        self._evaluate_if_due(state)
        between_reports = state.partial is not None
        if self._stopping or (not between_reports and (self._budget_spent(state) or self._judge.solved)):
            return state
        for after, report in self.loop.run(state, self._pausing):
            state = after
            self._yielded_at = time.monotonic()
            if report is None:
                if self._stop.asked:
                    break
                self._save_if_due(state)
                continue
            if self.parts.exports:
                self._learned = jax.tree.map(np.asarray, self._params(state))
            report = self._checked(report, state)
            self._train_seconds += report.seconds
            before, self._steps = self._steps, report.steps
            self._judge.longest = int(state.tally.longest.max())
            self.observers.tell("reported", report)
            self.observers.tell("learned", report.steps, self._params(state))
            every, spent = self.config.eval_every_steps, self._budget_spent(state)
            # The last agent is often the best, so the end is evaluated even if it is not a multiple of the interval.
            ending = spent or self.observers.stopped_by is not None
            self._unjudged = every is not None and (ending or report.steps // every > before // every)
            self._evaluate_if_due(state)
            if spent or self._judge.solved or self._stopping:
                break
            self._save_if_due(state)
        return state

    @property
    def _stopping(self) -> bool:
        """Whether a signal or an observer has requested the end of training."""
        return self._stop.asked or self.observers.stopped_by is not None

    def _pausing(self) -> bool:
        """Whether the loop should yield within a chunk, so that stop requests and checkpoints are handled in time."""
        return self._stop.asked or time.monotonic() - self._yielded_at >= PAUSE_SECONDS

    def _save_if_due(self, state: TrainState) -> None:
        if time.monotonic() - self._saved_at >= self.config.checkpoint_every_seconds:
            self._save(state)

    def _budget_spent(self, state: TrainState) -> bool:
        episodes = self.config.episodes
        enough = episodes is not None and bool((state.tally.episodes >= episodes).all())
        return enough or int(state.clock.rows) * self.config.num_envs >= self.config.steps

    def _evaluate_if_due(self, state: TrainState) -> None:
        """Evaluate the agents. If a stop request cuts this off, it remains due."""
        if self._unjudged:
            self._unjudged = self._judge.judge(self._steps, self._params(state)) is None

    def _checked(self, report: Report, state: TrainState) -> Report:
        """Add diagnostics, of which each check warns at most once. Raises QdojoError if a metric is not finite."""
        for name, values in report.metrics.items():
            if not np.isfinite(values).all():
                raise self._diverged(name, int(np.argmin(np.isfinite(values))), report.steps)
        report = self._diagnosing.added(report, state)
        for check in tuple(self._checks):
            if warning := check(report, state.tally):
                self._checks.remove(check)
                self.observers.tell("warned", warning)
        return report

    def _diverged(self, name: str, member: int, steps: int) -> QdojoError:
        return QdojoError(
            f"{name} of member {member} is no longer finite at step {steps:,}: the agent diverged; lower "
            f"learning_rate (now {self.config.learning_rate:g}) or set max_grad_norm; the last checkpoint is intact."
        )

    def _save(self, state: TrainState) -> None:
        arrays, ring = saved(Progress(state, self._judge.best), self.loop)
        # A loss can be finite while the gradient, or Adam's squared gradient, is not.
        for name, array in arrays.items():
            if name.startswith("state/agents/") and not np.isfinite(array).all():
                member = int(np.argwhere(~np.isfinite(array))[0, 0])
                raise self._diverged(name.removeprefix("state/agents/"), member, self._steps)
        self.observers.tell("saving")
        meta = checkpoint_meta(self.config) | {
            "steps": self._steps,
            "unjudged": self._unjudged,
            "solved_at": self.parts.solved_at if self._judge.solved else None,
            "longest_episode": self._judge.longest,
            "seconds": self._seconds(),
        }
        folder = self.run.checkpoints_path
        self._tape = checkpoint.append(folder, ring, self._tape)
        checkpoint.save(folder, checkpoint.step_name(self._steps), arrays, meta, self._tape)
        save_delivered(self.run, self._delivered(state), meta, self.parts)
        checkpoint.prune(folder)
        self._saved_at = time.monotonic()

    def _seconds(self) -> dict[str, float]:
        now = {
            "compile": self.loop.programs.compile_seconds,
            "train": self._train_seconds,
            "eval": self._judge.seconds,
        }
        return {name: before + now.get(name, 0.0) for name, before in self._seconds_before.items()}

    def _result(self, state: TrainState) -> dict[str, Any] | None:
        """The contents of `result.json`, or None if a stop is requested during the final evaluation."""
        config, threshold = self.config, self.parts.solved_at
        self.observers.tell("evaluating", config.final_eval_episodes)
        try:
            played = self._judge.evaluate(self._delivered(state).params, FINAL_SEED, config.final_eval_episodes)
        except CutOff:
            return None
        means = played.returns.mean(axis=1)
        seconds = self._seconds()
        stopped_by = self.observers.stopped_by
        return {
            "run": str(self.run.path),
            "env": config.env,
            "preset": config.preset,
            "loop": self.loop.name,
            "seeds": config.seeds,
            "members": [{"seed": config.seed + k} | own for own in config.combinations for k in range(config.seeds)],
            "steps": self._steps,
            "env_steps": state.tally.env_steps.tolist(),
            "updates": int(state.clock.updates),
            "seconds": seconds | {"total": sum(seconds.values())},
            "eval": {
                "episodes": config.final_eval_episodes,
                "mean": means.tolist(),
                "iqm": interquartile_mean(means),
                "interval": member_interval(means),
                "cut": played.cut.sum(axis=1).tolist(),
                "bound_steps": self._judge.bound_steps,
            },
            "solved": None if threshold is None else solved(played, threshold).tolist(),
        } | ({} if stopped_by is None else {"stopped_by": stopped_by})

    def _params(self, state: TrainState) -> Params:
        return self.loop.shards.cut(state.agents.params, 0)

    def _delivered(self, state: TrainState) -> Best:
        return delivered(self._judge.best, self._params(state))

    def _export(self) -> None:
        """Write the files that the agent declares, as of the last report. A failure only gives a warning."""
        for export in self.parts.exports:
            try:
                export(self.run.path, self._learned)
            except (QdojoError, OSError) as error:
                self.observers.tell("warned", f"a file with the learned weights was not written: {error}")

    def _end(self, status: str, **fields: Any) -> None:
        """Record the status of the run. Raises QdojoError if it cannot be written, but only warns for `failed`."""
        content = json.dumps({"status": status} | fields, indent=1, ensure_ascii=False)
        try:
            write_atomically(self.run.result_path, content.encode() + b"\n")
        except OSError as error:
            told = f"{self.run.result_path} cannot be written: {error.strerror or error}"
            if status != "failed":
                raise QdojoError(f"{told}; the last checkpoint is intact.") from error
            # Do not hide the error that made the run fail.
            self.observers.tell("warned", f"{told}.")
