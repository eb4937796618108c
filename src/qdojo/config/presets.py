"""The presets: named tables of initial settings, stored in `presets.toml`. `resolve.py` checks the settings."""

import tomllib
from functools import cache
from importlib import resources
from typing import Any

NO_SETTINGS = {"about", "extends", "env", "evidence"}
"""Entries of a preset's tables that are not settings; `evidence` holds the measured results for an environment."""


@cache
def preset_tables() -> dict[str, Any]:
    """The presets by name: their settings, and under `env` the settings tuned for environments, by id or by the
    beginning of an id before a `*`. A preset with `extends` starts from all settings of another preset."""
    return tomllib.loads(resources.files("qdojo.config").joinpath("presets.toml").read_text(encoding="utf-8"))


def preset_settings(preset: str, env: str) -> dict[str, Any]:
    """The settings of a preset for an environment. Its own override those it extends, and tuned ones override both."""
    table = preset_tables()[preset]
    inherited = preset_settings(table["extends"], env) if "extends" in table else {}
    settings = inherited | table
    for pattern, tuned in table.get("env", {}).items():
        if env == pattern or (pattern.endswith("*") and env.startswith(pattern[:-1])):
            settings |= tuned
    return {name: value for name, value in settings.items() if name not in NO_SETTINGS}
