"""All settings of a run as one frozen record. `fields.py` declares the settings."""

import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import tomli_w
from pydantic import model_validator

from qdojo.config import resolve
from qdojo.config.fields import (
    GROUPS,
    DistributionSettings,
    EnvironmentSettings,
    EvaluationSettings,
    ExplorationSettings,
    NetworkSettings,
    OptimizerSettings,
    OutputSettings,
    ReplaySettings,
    RunSettings,
    ScreenSettings,
    TargetSettings,
)


class Config(
    OutputSettings,
    EvaluationSettings,
    ExplorationSettings,
    OptimizerSettings,
    DistributionSettings,
    TargetSettings,
    ReplaySettings,
    NetworkSettings,
    ScreenSettings,
    EnvironmentSettings,
    RunSettings,
):
    """All settings of one run, frozen: the given ones override those of the preset for the environment.

    Raises UsageError, in one sentence, if a setting is invalid, missing or without effect. NumPy numbers and arrays are
    converted to Python values. The resolved config is stored in the run directory as `config.toml`.
    """

    # Pydantic lists the fields of the last base class first.
    title: ClassVar[str] = ""

    @model_validator(mode="wrap")
    @classmethod
    def _resolve(cls, given: Any, handler: resolve.Handler, info: Any) -> "Config":
        if not isinstance(given, Mapping):
            return handler(given)  # it is a Config already
        return resolve.resolve(cls, given, handler, bool(info.context and info.context.get("resolved")))

    @classmethod
    def tables(cls) -> set[str]:
        """Names of the tables that a file may have."""
        return {group.table for group in GROUPS} - {""}

    @property
    def members(self) -> int:
        """Number of agents in the population: `seeds` for each combination of the values in `vary`."""
        return self.seeds * math.prod(len(values) for values in self.vary.values())

    @property
    def distinct_seeds(self) -> int | None:
        """Number of members after which the seeds repeat; None if each member has its own seed."""
        return self.seeds if self.vary else None

    @property
    def combinations(self) -> list[dict[str, float]]:
        """All combinations of the values in `vary`; member m has combination m // seeds and seed `seed + m % seeds`."""
        return [dict(zip(self.vary, values, strict=True)) for values in itertools.product(*self.vary.values())]

    @property
    def parts_of_the_mlp(self) -> list[str]:
        """The chosen options that only the built-in network (`mlp`) supports."""
        parts = {
            "dueling": self.dueling,
            "noisy": self.noisy,
            "recurrent": self.recurrent is not None,
            "embedding": self.embedding is not None,
            f"distribution={self.distribution!r}": self.distribution is not None,
        }
        return [name for name, is_chosen in parts.items() if is_chosen]

    @property
    def beyond_keras(self) -> list[str]:
        """The chosen options that an exported Keras model, which maps observations to Q-values, cannot represent."""
        parts = {
            f"distribution={self.distribution!r}": self.distribution is not None,
            "recurrent": self.recurrent is not None,
            "heads": self.heads > 1,
            "prior_scale": self.prior_scale > 0.0,
            "embedding": self.embedding is not None,
            "normalize_observations": self.normalize_observations and self.network == "mlp",
        }
        return [name for name, is_chosen in parts.items() if is_chosen]

    @property
    def rows_per_cycle(self) -> int:
        """Number of rows collected between two learning phases."""
        return self.collect_steps // self.num_envs

    @property
    def updates_per_cycle(self) -> int:
        """Number of updates in one learning phase."""
        return round(self.collect_steps * self.updates_per_step)

    @property
    def cycles_per_report(self) -> int:
        """Number of cycles, each of which collects steps and learns, in one report."""
        return max(1, (self.report_every_steps or self.collect_steps) // self.collect_steps)

    @property
    def steps_per_report(self) -> int:
        """Number of env steps of each member between two reports."""
        return self.cycles_per_report * self.collect_steps

    def to_toml(self) -> str:
        """The settings as TOML, one table per group. None is written as "none", because TOML has no null."""
        values = {name: "none" if value is None else value for name, value in self.model_dump(mode="json").items()}
        written: dict[str, Any] = {}
        for group in GROUPS:
            table = written.setdefault(group.table, {}) if group.table else written
            table.update({name: values[name] for name in group.model_fields if values[name] != {}})
        return tomli_w.dumps(written)
