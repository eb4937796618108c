"""The presets: tables of settings that a run begins with, as data in `presets.toml`. Not for checking them."""

import tomllib
from functools import cache
from importlib import resources
from typing import Any

NO_SETTINGS = {"about", "extends", "env", "evidence"}
"""What a preset's tables say of it, beside settings: `evidence` is what an environment's figures were."""


@cache
def preset_tables() -> dict[str, Any]:
    """The presets as data: settings by preset name, and under `env` those tuned for one environment. With `extends` a
    preset begins with all settings of another."""
    return tomllib.loads(resources.files("qdojo.config").joinpath("presets.toml").read_text(encoding="utf-8"))


def preset_settings(preset: str, env: str) -> dict[str, Any]:
    """What a preset says for an environment: what it extends, then its own, each time with the tuned ones last."""
    table = preset_tables()[preset]
    inherited = preset_settings(table["extends"], env) if "extends" in table else {}
    settings = inherited | table | table.get("env", {}).get(env, {})
    return {name: value for name, value in settings.items() if name not in NO_SETTINGS}
