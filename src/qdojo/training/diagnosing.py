"""Adds the agents' diagnostics to some reports. `agents/diagnosis.py` computes them."""

import math
import time
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt32

from qdojo.build.training import Parts
from qdojo.config import Config
from qdojo.loops.state import TrainState, member_seeds
from qdojo.tape.ring import READERS, for_programs
from qdojo.types import Clock, Report

DIAGNOSE = int.from_bytes(b"diagnose")
"""Name of the stream of random words."""
EVERY_UPDATES = 2_000
"""Diagnoses are at least this many gradient steps apart, so that they take less than 2 % of the time of training."""


class Diagnosing:
    """Diagnoses the agents of a run at its reports.

    When depends on the number of the report alone, and the random words on the seeds and the number of rows, so a
    resumed run records the same diagnostics.
    """

    def __init__(self, config: Config, parts: Parts) -> None:
        assert parts.agent.diagnosis is not None
        self._config, self._diagnosis, self._programs = config, parts.agent.diagnosis, parts.loop.programs
        self._shards, axes = parts.loop.shards, (0, parts.loop.axes.tape, 0, None)
        self._all_examine = self._shards.over(self._examine, axes, 0)
        steps = config.epochs * config.minibatches if config.agent == "pqn" else 1
        updates = config.cycles_per_report * config.updates_per_cycle * steps
        self.every = math.ceil(EVERY_UPDATES / max(updates, 1))
        """Number of reports from one diagnosis to the next."""

    def added(self, report: Report, state: TrainState) -> Report:
        """The report with diagnostics if they are due, and their seconds. Those that a member lacks are left out."""
        number = report.steps // self._config.steps_per_report
        if number % self.every or report.updates == 0:
            return report
        began, compiled = time.perf_counter(), self._programs.compile_seconds
        words = self._shards.filled(self._words(int(state.clock.rows)), 0)
        arguments = (state.agents, for_programs(state.tape), words, state.clock)
        program = self._programs.compiled("diagnose", self._all_examine, *arguments, quickly=True)
        numbers = jax.tree.map(np.asarray, program(*arguments))
        of_members = [
            self._diagnosis.told({name: np.asarray(each[member]) for name, each in numbers.items()})
            for member in range(self._config.members)
        ]
        values = {name: np.array([found.get(name, np.nan) for found in of_members]) for name in of_members[0]}
        known = {name: each for name, each in values.items() if np.isfinite(each).all()}
        took = time.perf_counter() - began - (self._programs.compile_seconds - compiled)
        return report._replace(metrics=report.metrics | known, seconds=report.seconds + took)

    def _examine(self, agents: Any, tape: Any, words: Any, clock: Clock) -> Any:
        return jax.vmap(self._diagnosis.examine, in_axes=(0, READERS, 0, None))(agents, tape, words, clock)

    def _words(self, rows: int) -> UInt32[np.ndarray, "member words"]:
        """Random words for each member, from a stream that nothing else draws from."""
        config, words = self._config, self._diagnosis.words
        seeds = member_seeds(config.seed, config.members, config.distinct_seeds)
        return np.stack([np.random.Philox([DIAGNOSE, seed, rows]).random_raw(words) >> 32 for seed in seeds]).astype(
            np.uint32
        )
