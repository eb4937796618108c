"""All settings of one run in one frozen record. Not the settings themselves: see `fields.py`."""

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
    """All settings of one run, frozen: those given, on top of what the preset says of the environment.

    Raises UsageError, one sentence, for whatever is wrong, missing, or set for nothing. NumPy's numbers and arrays are
    taken as plain ones. The resolved copy lies in the run directory as `config.toml`.
    """

    # Of its bases, pydantic lists the fields of the last one first.
    title: ClassVar[str] = ""

    @model_validator(mode="wrap")
    @classmethod
    def _resolve(cls, given: Any, handler: resolve.Handler, info: Any) -> "Config":
        if not isinstance(given, Mapping):
            return handler(given)  # it is one already
        return resolve.resolve(cls, given, handler, bool(info.context and info.context.get("resolved")))

    @classmethod
    def tables(cls) -> set[str]:
        """The tables that a file may have."""
        return {group.table for group in GROUPS} - {""}

    @property
    def members(self) -> int:
        """Agents of the population: `seeds` of each combination of the values of `vary`."""
        return self.seeds * math.prod(len(values) for values in self.vary.values())

    @property
    def distinct_seeds(self) -> int | None:
        """After how many members their seeds begin again; None where each has its own."""
        return self.seeds if self.vary else None

    @property
    def combinations(self) -> list[dict[str, float]]:
        """Each combination of the values of `vary`; member m is of number m // seeds, and has seed + m % seeds."""
        return [dict(zip(self.vary, values, strict=True)) for values in itertools.product(*self.vary.values())]

    @property
    def parts_of_the_mlp(self) -> list[str]:
        """What was chosen that only the mlp has."""
        parts = {
            "dueling": self.dueling,
            "noisy": self.noisy,
            "recurrent": self.recurrent is not None,
            "embedding": self.embedding is not None,
            "normalize_observations": self.normalize_observations,
            f"distribution={self.distribution!r}": self.distribution is not None,
        }
        return [name for name, is_chosen in parts.items() if is_chosen]

    @property
    def beyond_keras(self) -> list[str]:
        """What was chosen that makes of the network more than layers that give Q-values."""
        parts = {
            f"distribution={self.distribution!r}": self.distribution is not None,
            "recurrent": self.recurrent is not None,
            "heads": self.heads > 1,
            "prior_scale": self.prior_scale > 0.0,
            "embedding": self.embedding is not None,
            "normalize_observations": self.normalize_observations,
        }
        return [name for name, is_chosen in parts.items() if is_chosen]

    @property
    def rows_per_cycle(self) -> int:
        """Rows that are collected between two learning phases."""
        return self.collect_steps // self.num_envs

    @property
    def updates_per_cycle(self) -> int:
        """Updates of one learning phase."""
        return round(self.collect_steps * self.updates_per_step)

    def to_toml(self) -> str:
        """The settings as TOML, a table a group. It has no null: "none" stands for it."""
        values = {name: "none" if value is None else value for name, value in self.model_dump(mode="json").items()}
        written: dict[str, Any] = {}
        for group in GROUPS:
            table = written.setdefault(group.table, {}) if group.table else written
            table.update({name: values[name] for name in group.model_fields if values[name] != {}})
        return tomli_w.dumps(written)
