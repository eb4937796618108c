"""Greedy evaluations during a run: their bound, their duration, and the agents that they select. The loops play the
episodes."""

import time
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from qdojo.build.training import Parts
from qdojo.config import Config
from qdojo.loops.evaluation import Played, episode_bound, solved, told_of_cuts
from qdojo.training.observers import Evaluated, Observers
from qdojo.training.selection import Best, judged, pooled
from qdojo.training.stopping import CutOff, StopRequests
from qdojo.types import Params

CONFIRMING_SEED, FINAL_SEED = 2**30, 2**31
"""Ranges of evaluation seeds: those below `CONFIRMING_SEED` select the best agent, those from there confirm that it has
solved the environment, and those from `FINAL_SEED` score the delivered agent."""
EVALUATION_TOLD_SECONDS = 0.5


class Judge:
    """Plays a run's evaluations and keeps the best agents."""

    def __init__(
        self,
        config: Config,
        parts: Parts,
        observers: Observers,
        stop: StopRequests,
        best: Best,
        longest: int,
        solved: bool = False,
    ) -> None:
        """`longest` is the length in env steps of the longest episode that training has finished so far."""
        self.best, self.longest, self.solved = best, longest, solved
        self.seconds = 0.0
        """Seconds spent on evaluations, excluding compilation."""
        self._config, self._parts, self._observers, self._stop = config, parts, observers, stop
        self._warned_of_cuts = False

    @property
    def bound_steps(self) -> int:
        """Number of steps after which an evaluation episode is cut at present."""
        limit = self._parts.spec.max_episode_steps
        return episode_bound(self._config.eval_episode_steps, self.longest, limit)

    def judge(self, step: int, params: Params) -> Evaluated | None:
        """Evaluate `params` at `step`; update the best agents and whether they solve the environment. Returns None and
        changes nothing if a stop is requested meanwhile."""
        episodes = self._config.eval_episodes
        cut: list[Bool[np.ndarray, "member episodes"]] = []

        def play(params: Params) -> Float[np.ndarray, "member"]:
            played = self.evaluate(params, step, episodes)
            cut.append(played.cut)
            return played.returns.mean(axis=1)

        try:
            best, scores = judged(self.best, params, play, episodes)
            self.best, self.solved = self._confirmed(best, step)
        except CutOff:
            return None
        # The first entry holds the challengers' episodes; those of the best agents, if played, follow.
        evaluated = Evaluated(step, scores, episodes, cut[0])
        self._observers.tell("evaluated", evaluated)
        self._tell_of_cuts(evaluated)
        return evaluated

    def _confirmed(self, best: Best, step: int) -> tuple[Best, bool]:
        """Whether the best agents reach the threshold twice, the second time by a standard error more.

        One of many evaluations reaches it by luck, and an agent that just reaches it may fail in the final one. The
        second time counts in their scores, so a lucky agent does not keep out the better ones that follow.
        """
        threshold = self._parts.solved_at
        if not self._config.until_solved or threshold is None or bool((best.score < threshold).any()):
            return best, False
        again = self.evaluate(best.params, CONFIRMING_SEED + step, self._config.final_eval_episodes)
        means, episodes = again.returns.mean(axis=1), again.returns.shape[1]
        error = again.returns.std(axis=1) / np.sqrt(episodes)
        confirmed = bool(solved(again, threshold + error).all())
        return pooled(best, np.ones_like(best.episodes, bool), means, episodes), confirmed

    def evaluate(self, params: Params, seed: int, episodes: int) -> Played:
        """The loop's evaluation. Raises CutOff if a stop is requested, because an episode may take long."""
        if self._stop.asked:
            raise CutOff
        loop = self._parts.loop
        began, compiled = time.perf_counter(), loop.programs.compile_seconds
        told_at = time.monotonic()

        def watch(done: int, steps: int) -> None:
            nonlocal told_at
            if time.monotonic() - told_at >= EVALUATION_TOLD_SECONDS:
                told_at = time.monotonic()
                self._observers.tell("evaluation_at", done, episodes * self._config.members, steps)

        try:
            self._stop.cutting_off = True
            return loop.evaluate(params, seed, episodes, self.bound_steps, watch)
        finally:
            self._stop.cutting_off = False
            self.seconds += time.perf_counter() - began - (loop.programs.compile_seconds - compiled)

    def _tell_of_cuts(self, evaluated: Evaluated) -> None:
        """Warn once if the greedy agent does not end its episodes."""
        told = told_of_cuts(evaluated.cut, self.bound_steps)
        if told is not None and not self._warned_of_cuts:
            self._warned_of_cuts = True
            message = (
                f"in the evaluation at step {evaluated.step:,}, {told} and count with the return up to there; "
                "the environment has no time limit that ends them (eval_episode_steps sets the bound)."
            )
            self._observers.tell("warned", message)


def still_solved(config: Config, threshold: float | None, meta: dict[str, Any]) -> bool:
    """Whether a run that stopped as solved, by a checkpoint's metadata, counts as solved by its settings now."""
    reached = meta.get("solved_at")
    return config.until_solved and threshold is not None and reached is not None and threshold <= reached
