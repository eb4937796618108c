"""A run from start to end: consumes what the loop yields, and writes, evaluates, saves and stops. Not for learning."""

import contextlib
import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from qdojo import snapshot
from qdojo.build.memory import told_of_size
from qdojo.build.training import Loop, Parts
from qdojo.config import Config
from qdojo.errors import QdojoError
from qdojo.export.keras import export, keras_model
from qdojo.loops.evaluation import Played, episode_bound, solved, told_of_cuts
from qdojo.loops.state import TrainState, member_keys
from qdojo.observer import Observer
from qdojo.plots import curve_png
from qdojo.runs import checkpoint
from qdojo.runs.directory import RunDirectory, create, replace_config, write_atomically
from qdojo.runs.metrics import MetricsWriter, set_damaged_aside
from qdojo.selection import Best, judged, none_best
from qdojo.statistics import interquartile_mean, member_interval
from qdojo.types import Params, Report

CONFIRMING_SEED, FINAL_SEED = 2**30, 2**31
"""Evaluation seeds below the first choose the best agent during a run, those from it on confirm that it has solved
the environment, and those from the second on judge what was delivered."""
COMMIT_SECONDS = 1.0
PAUSE_SECONDS = 1.0
"""Within a chunk that takes longer, the loop yields after this time, for a checkpoint that is due."""
EVALUATION_TOLD_SECONDS = 0.5
CLIPPED_SHARE = 0.05
"""Of the mass of categorical targets: what may lie outside the atoms unsaid."""
VERSIONED = ("jax", "jaxlib", "numpy")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after everything was saved."""

    def __init__(self, run: RunDirectory) -> None:
        super().__init__(f"interrupted; qdojo resume {run.path}")
        self.run = run


class _CutOff(KeyboardInterrupt):
    """A stop was asked for where what goes on can be given up."""


class StopRequests:
    """Whether Ctrl-C or SIGTERM has asked for a stop. Training pauses, an evaluation is cut off."""

    def __init__(self) -> None:
        self.asked = False
        self.cutting_off = False
        """Whether a request is to be raised where it comes. Environments let it through: it is no `Exception`."""


def start(config: Config, parts: Parts, root: Path, observer: Observer) -> RunDirectory:
    """Train a new run under `root` until its budget is spent or it is solved."""
    run = create(root, config.env, config.preset, config.to_toml())
    with run.lock(), contextlib.closing(parts.loop):
        observer.started(run, config, parts.loop.name)
        if config.dataset is None and config.warmup_steps >= config.steps:
            observer.warned(
                f"nothing will be learned: steps={config.steps} end before warmup_steps={config.warmup_steps}."
            )
        # A ready-made vector does not show the limits of its copies.
        if parts.spec.max_episode_steps is None and not parts.spec.is_vector:
            observer.warned(
                f"{parts.spec.name} has no time limit that can be seen, so episodes of an evaluation that the agent "
                "does not end are cut (eval_episode_steps); better wrap it in gymnasium.wrappers.TimeLimit, or "
                "register it with max_episode_steps."
            )
        if told := told_of_size(parts.agent, parts.spaces.observation_shape):
            observer.warned(told)
        observer.compiling()
        try:
            state = parts.loop.init()
        except BaseException:
            shutil.rmtree(run.path)  # there is nothing yet that a resume could go on from
            raise
        nothing_yet = none_best(state.agents.params)
        Trainer(run, config, parts, observer).train(state, jax.tree.map(jnp.copy, nothing_yet))
    return run


def proceed(
    run: RunDirectory, config: Config, parts: Parts, observer: Observer, rewritten: Config | None = None
) -> None:
    """Go on from the last whole checkpoint of `run`, with everything that was there.

    `rewritten` is what its `config.toml` says from then on, where that changes.
    """
    with run.lock(), contextlib.closing(parts.loop):
        loaded = checkpoint.load_latest(run.checkpoints_path)
        for skipped in loaded.skipped:
            observer.warned(skipped)
        progress = restored(parts.loop, loaded.arrays)
        state, warning = parts.loop.reopened(progress.state)
        if warning:
            observer.warned(warning)
        if damage := set_damaged_aside(run.metrics_path):
            observer.warned(damage)
        with MetricsWriter(run.metrics_path) as metrics:
            metrics.truncate(int(loaded.meta["steps"]))
        if rewritten is not None:
            replace_config(run, rewritten.to_toml())
        observer.started(run, config, parts.loop.name)
        observer.compiling()
        Trainer(run, config, parts, observer, loaded.meta).train(state, progress.best)


class Progress(NamedTuple):
    """What a checkpoint holds: the state of training, and the best agents on the way to it."""

    state: TrainState
    best: Best


WORDS = "state/tape/words"
"""The rows of the tape, in a checkpoint."""


def saved(progress: Progress) -> snapshot.Arrays:
    """What a checkpoint holds: everything but the rows of the tape that were never written, which are zeros."""
    arrays = snapshot.to_arrays(progress)
    return arrays | {WORDS: arrays[WORDS][: int(progress.state.tape.size)]}


def restored(loop: Loop, arrays: snapshot.Arrays) -> Progress:
    """What a checkpoint's arrays say."""
    template = loop.template()
    # Checkpoints of earlier versions do not know the longest episode.
    arrays = {"state/tally/longest": np.zeros_like(template.tally.longest)} | arrays
    expected = Progress(template, best_template(template))
    # Of host environments the arrays are as long as their episodes, and of an unfinished chunk as its rows: the loop
    # knows what fits.
    environment, arrays = _taken_out(arrays, "state/environment/") if template.environment is None else (None, arrays)
    partial, arrays = _taken_out(arrays, "state/partial/")
    loop.check_partial(partial)
    progress = snapshot.from_arrays(expected, arrays, filled_up=(WORDS,))
    state = progress.state._replace(partial=partial or None)
    return progress._replace(state=state if environment is None else state._replace(environment=environment))


def _taken_out(arrays: snapshot.Arrays, inside: str) -> tuple[snapshot.Arrays, snapshot.Arrays]:
    """Those whose name begins so, without that beginning, and the others."""
    inner = {name.removeprefix(inside): array for name, array in arrays.items() if name.startswith(inside)}
    return inner, {name: array for name, array in arrays.items() if not name.startswith(inside)}


def with_settings_of(config: Config, parts: Parts, arrays: snapshot.Arrays) -> snapshot.Arrays:
    """A checkpoint's arrays with the numbers of another config in place of their own, which are part of the state.

    Raises UsageError where that config needs a state of another shape.
    """
    agents = jax.vmap(parts.agent.init)(member_keys(config.seed, config.seeds))
    fresh = snapshot.to_arrays({"state": {"agents": agents}})
    changed = arrays | {name: array for name, array in fresh.items() if name.startswith("state/agents/hyper/")}
    restored(parts.loop, changed)
    return changed


def best_template(template: TrainState) -> Best:
    """Shapes and dtypes of the best agents."""
    return jax.eval_shape(none_best, template.agents.params)


class Trainer:
    """The consumers of one run's reports, in one place."""

    def __init__(
        self, run: RunDirectory, config: Config, parts: Parts, observer: Observer, before: dict[str, Any] | None = None
    ) -> None:
        """`before` is the meta of the checkpoint that a resumed run goes on from."""
        self.run, self.config, self.parts, self.loop, self.observer = run, config, parts, parts.loop, observer
        self.seconds: dict[str, float] = {"compile": 0.0, "train": 0.0, "eval": 0.0} | (before or {}).get("seconds", {})
        self._compiled_before = self.seconds["compile"]
        self._steps = int((before or {}).get("steps", 0))
        self._unjudged = bool((before or {}).get("unjudged", False))
        """Whether an evaluation is due at these steps: one that was cut off is made up for by the resume."""
        self._saved_at = self._committed_at = self._yielded_at = time.monotonic()
        self._warned_of_clipping = self._warned_of_cuts = False
        self._longest = 0
        """Env steps of the longest episode that training has finished."""

    def train(self, state: TrainState, best: Best) -> None:
        """Run to the end; on Ctrl-C, SIGTERM or an exception save what is whole, and say how it ended."""
        self._best = best
        self._longest = int(state.tally.longest.max())
        self._learned = jax.tree.map(np.asarray, state.agents.params)
        self._end("interrupted")
        with MetricsWriter(self.run.metrics_path) as metrics, _stop_requests() as self._stop:
            if self._steps == 0:
                self._save(metrics, state)
            try:
                state = self._until_done(state, metrics)
                self._save(metrics, state)
            except Exception as error:
                self._end("failed", error=str(error))
                raise
            finally:
                curve_png(self.run.metrics_path, f"{self.config.env}, {self.config.preset}", self.run.curve_path)
                if self.config.agent == "tutorial":
                    self._save_weights()
            result = None if self._stop.asked else self._result(state)
            if result is None:
                raise Interrupted(self.run)
        self._end("finished", **result)
        self.observer.finished(self.run, result)

    def _until_done(self, state: TrainState, metrics: MetricsWriter) -> TrainState:
        if self._unjudged:
            self._judge(metrics, state.agents.params)
        between_reports = state.partial is not None
        if self._stop.asked or (not between_reports and (self._budget_spent(state) or self._solved())):
            return state
        for after, report in self.loop.run(state, self._pausing):
            state = after
            self._yielded_at = time.monotonic()
            if report is None:
                if self._stop.asked:
                    break
                self._save_if_due(metrics, state)
                continue
            if self.config.agent == "tutorial":
                self._learned = jax.tree.map(np.asarray, state.agents.params)
            self._check_finite(report)
            self._check_support(report)
            self._record(metrics, report)
            every, spent = self.config.eval_every_steps, self._budget_spent(state)
            # What was learned last is often the best, so the end is judged too, whether or not it is a multiple.
            self._unjudged = every is not None and (spent or report.steps // every > self._steps // every)
            self._steps, self._longest = report.steps, int(state.tally.longest.max())
            scores = self._judge(metrics, state.agents.params) if self._unjudged else None
            self.observer.reported(report, scores)
            if spent or (scores is not None and self._solved()) or self._stop.asked:
                break
            self._save_if_due(metrics, state)
        return state

    def _pausing(self) -> bool:
        """Whether the loop is to yield before its report: a stop is answered, and a checkpoint written, in time."""
        return self._stop.asked or time.monotonic() - self._yielded_at >= PAUSE_SECONDS

    def _save_if_due(self, metrics: MetricsWriter, state: TrainState) -> None:
        if time.monotonic() - self._saved_at >= self.config.checkpoint_every_seconds:
            self._save(metrics, state)

    def _budget_spent(self, state: TrainState) -> bool:
        episodes = self.config.episodes
        enough = episodes is not None and bool((state.tally.episodes >= episodes).all())
        return enough or int(state.clock.rows) * self.config.num_envs >= self.config.steps

    def _solved(self) -> bool:
        """Whether the best agents reach the threshold, and do so again: one evaluation among many may be luck."""
        threshold = self.parts.solved_at
        if not self.config.until_solved or threshold is None or bool((self._best.score < threshold).any()):
            return False
        try:
            again = self._evaluate(self._best.params, CONFIRMING_SEED + self._steps, self.config.final_eval_episodes)
        except _CutOff:
            return False
        return bool(solved(again, threshold).all())

    def _judge(self, metrics: MetricsWriter, params: Params) -> Float[np.ndarray, "member"] | None:
        """Greedy scores, by which the best agents are kept; None, and nothing is, where a stop was asked for."""
        steps, episodes = self._steps, self.config.eval_episodes

        cut: list[Bool[np.ndarray, "member episodes"]] = []

        def play(params: Params) -> Float[np.ndarray, "member"]:
            played = self._evaluate(params, steps, episodes)
            cut.append(played.cut)
            return played.returns.mean(axis=1)

        try:
            self._best, scores = judged(self._best, params, play, episodes)
        except _CutOff:
            return None
        self._unjudged = False
        metrics.evaluation(steps, scores, episodes)
        # The challengers' episodes; those of the best, where it played as well, come after.
        metrics.metrics(steps, {"evaluation_cut": cut[0].sum(axis=1)})
        self._tell_of_cuts(cut[0])
        return scores

    def _tell_of_cuts(self, cut: Bool[np.ndarray, "member episodes"]) -> None:
        """Say once that the greedy agent does not end its episodes."""
        told = told_of_cuts(cut, self._bound())
        if told is not None and not self._warned_of_cuts:
            self._warned_of_cuts = True
            self.observer.warned(
                f"in the evaluation at step {self._steps:,}, {told} and count with the return until then; "
                "the environment has no time limit that ends them (eval_episode_steps sets the bound)."
            )

    def _evaluate(self, params: Params, seed: int, episodes: int) -> Played:
        """What the loop says. Raises _CutOff where a stop is asked for: an episode may take long."""
        if self._stop.asked:
            raise _CutOff
        began, compiled = time.perf_counter(), self.loop.programs.compile_seconds
        told_at = time.monotonic()

        def watch(done: int, steps: int) -> None:
            nonlocal told_at
            if time.monotonic() - told_at >= EVALUATION_TOLD_SECONDS:
                told_at = time.monotonic()
                self.observer.evaluation_at(done, episodes * self.config.seeds, steps)

        try:
            self._stop.cutting_off = True
            return self.loop.evaluate(params, seed, episodes, self._bound(), watch)
        finally:
            self._stop.cutting_off = False
            self.seconds["eval"] += time.perf_counter() - began - (self.loop.programs.compile_seconds - compiled)

    def _bound(self) -> int:
        return episode_bound(self.config.eval_episode_steps, self._longest, self.parts.spec.max_episode_steps)

    def _record(self, metrics: MetricsWriter, report: Report) -> None:
        self.seconds["train"] += report.seconds
        # Members that are through with their episodes play on, beside those that are not; that is not part of the run.
        most = self.config.episodes or math.inf
        metrics.episodes(episode for episode in report.episodes if episode.episode <= most)
        speed = (report.steps - self._steps) * self.config.seeds / max(report.seconds, 1e-9)
        metrics.metrics(report.steps, report.metrics | {"steps_per_second": speed, "updates": float(report.updates)})
        if time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            metrics.commit()
            self._committed_at = time.monotonic()

    def _check_finite(self, report: Report) -> None:
        for name, values in report.metrics.items():
            if not np.isfinite(values).all():
                raise self._diverged(name, int(np.argmin(np.isfinite(values))), report.steps)

    def _check_support(self, report: Report) -> None:
        """Say once that returns lie outside the atoms."""
        clipped = float(np.max(report.metrics.get("clipped", 0.0)))
        if clipped > CLIPPED_SHARE and not self._warned_of_clipping:
            self._warned_of_clipping = True
            self.observer.warned(
                f"{clipped:.0%} of the returns' distribution lies outside vmin={self.config.vmin:g} to "
                f"vmax={self.config.vmax:g}; widen them."
            )

    def _diverged(self, name: str, member: int, steps: int) -> QdojoError:
        return QdojoError(
            f"{name} of member {member} is no longer finite at step {steps:,}: the agent diverged; "
            f"lower learning_rate (now {self.config.learning_rate:g}) or set max_grad_norm; "
            "the last checkpoint is whole."
        )

    def _save(self, metrics: MetricsWriter, state: TrainState) -> None:
        arrays = saved(Progress(state, self._best))
        # A loss can be finite while the gradient, or Adam's square of it, is not.
        for name, array in arrays.items():
            if name.startswith("state/agents/") and not np.isfinite(array).all():
                member = int(np.argwhere(~np.isfinite(array))[0, 0])
                raise self._diverged(name.removeprefix("state/agents/"), member, self._steps)
        metrics.commit()
        self.seconds["compile"] = self._compiled_before + self.loop.programs.compile_seconds
        meta = {
            "steps": self._steps,
            "unjudged": self._unjudged,
            "longest_episode": self._longest,
            "seconds": self.seconds,
            "config": self.config.model_dump(mode="json"),
            "versions": versions(),
        }
        folder = self.run.checkpoints_path
        checkpoint.save(folder, checkpoint.step_name(self._steps), arrays, meta)
        checkpoint.save(folder, self.run.best_path.name, snapshot.to_arrays(self._delivered(state)), meta)
        checkpoint.prune(folder)
        self._saved_at = time.monotonic()

    def _result(self, state: TrainState) -> dict[str, Any] | None:
        """What `result.json` says, or None where a stop is asked for before it is known."""
        config, threshold = self.config, self.parts.solved_at
        self.observer.evaluating(config.final_eval_episodes)
        try:
            played = self._evaluate(self._delivered(state).params, FINAL_SEED, config.final_eval_episodes)
        except _CutOff:
            return None
        means = played.returns.mean(axis=1)
        self.seconds["compile"] = self._compiled_before + self.loop.programs.compile_seconds
        return {
            "run": str(self.run.path),
            "env": config.env,
            "preset": config.preset,
            "loop": self.loop.name,
            "seeds": config.seeds,
            "steps": self._steps,
            "env_steps": state.tally.env_steps.tolist(),
            "updates": int(state.clock.updates),
            "seconds": self.seconds | {"total": sum(self.seconds.values())},
            "eval": {
                "episodes": config.final_eval_episodes,
                "mean": means.tolist(),
                "iqm": interquartile_mean(means),
                "interval": member_interval(means),
                "cut": played.cut.sum(axis=1).tolist(),
                "bound_steps": self._bound(),
            },
            "solved": None if threshold is None else solved(played, threshold).tolist(),
        }

    def _delivered(self, state: TrainState) -> Best:
        """What the run hands out: the best evaluated agents; the last ones where none were evaluated."""
        if not self._best.episodes.any():
            return none_best(state.agents.params)
        return self._best

    def _save_weights(self) -> None:
        """The tutorial's file, one a member: what it had learned at the last report, however the run ends."""
        for member in range(self.config.seeds):
            params = jax.tree.map(lambda leaf, member=member: leaf[member], self._learned)
            suffix = "" if self.config.seeds == 1 else f"-{member}"
            path = self.run.path / f"cartpole_weight{suffix}.weights.h5"
            export(keras_model(params, self.parts.spaces.observation_shape, self.parts.model), path)

    def _end(self, status: str, **fields: Any) -> None:
        content = json.dumps({"status": status} | fields, indent=1, ensure_ascii=False)
        write_atomically(self.run.result_path, content.encode() + b"\n")


def versions() -> dict[str, str]:
    """Versions of what the bits of a run depend on."""
    return {name: version(name) for name in VERSIONED}


@contextlib.contextmanager
def _stop_requests() -> Iterator[StopRequests]:
    """Ctrl-C and SIGTERM ask for a stop, as `StopRequests` says; a second one stops at once."""
    stop = StopRequests()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        stop.asked = True
        for number in before:
            signal.signal(number, signal.default_int_handler)
        if stop.cutting_off:
            raise _CutOff

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
