"""Reads files of settings from this and earlier versions. `resolve.py` makes a config of them."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdojo.config.resolve import without_tables
from qdojo.config.settings import Config
from qdojo.errors import UsageError

RENAMED = {"epsilon_decay": "epsilon_decay_factor"}
"""Old names of settings in files of earlier versions, and their current names."""


def of_earlier_versions(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a file under their current names. Files of earlier versions had no tables."""
    found = {RENAMED.get(name, name): value for name, value in fields.items()}
    # In IQN, `quantiles` once meant the fractions that acting averages over.
    if found.get("distribution") == "iqn" and "quantiles" in found and "iqn_acting_fractions" not in found:
        found["iqn_acting_fractions"] = found.pop("quantiles")
    return found


def parse_settings(text: str) -> dict[str, Any]:
    """The settings in a TOML text, in tables or not. Raises tomllib.TOMLDecodeError."""
    return without_tables(Config.tables(), of_earlier_versions(tomllib.loads(text)))


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a user's file. Raises UsageError if it cannot be read."""
    try:
        return parse_settings(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not TOML: {error}.") from error
