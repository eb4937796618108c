"""Files of settings, of this version and of earlier ones. Not for what they lead to: see `resolve.py`."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdojo.config.resolve import without_tables
from qdojo.config.settings import Config
from qdojo.errors import UsageError

RENAMED = {"epsilon_decay": "epsilon_decay_factor"}
"""Settings of files that earlier versions wrote, and what they are called now."""


def of_earlier_versions(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a file, in today's words where an earlier version wrote it, which had no tables."""
    found = {RENAMED.get(name, name): value for name, value in fields.items()}
    # `quantiles` of IQN were once those that acting takes the mean of.
    if found.get("distribution") == "iqn" and "quantiles" in found and "iqn_acting_fractions" not in found:
        found["iqn_acting_fractions"] = found.pop("quantiles")
    return found


def parse_settings(text: str) -> dict[str, Any]:
    """The settings in a TOML file, grouped or not. Raises tomllib.TOMLDecodeError."""
    return without_tables(Config.tables(), of_earlier_versions(tomllib.loads(text)))


def read_settings(path: Path) -> dict[str, Any]:
    """Settings that a person wrote in a file. Raises UsageError where it cannot be read."""
    try:
        return parse_settings(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not TOML: {error}.") from error
