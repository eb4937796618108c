"""The settings of a run, validated before anything starts. `build/` builds objects from them. Imports no jax."""

import tomllib
from collections.abc import Mapping
from typing import Any

from qdojo.config.compatibility import needed as needed
from qdojo.config.fields import FIRST as FIRST
from qdojo.config.fields import GROUPS as GROUPS
from qdojo.config.fields import is_keras_file as is_keras_file
from qdojo.config.files import of_earlier_versions, parse_settings
from qdojo.config.files import read_settings as read_settings
from qdojo.config.presets import NO_SETTINGS as NO_SETTINGS
from qdojo.config.presets import preset_settings, preset_tables
from qdojo.config.settings import Config as Config
from qdojo.errors import UsageError


def make_config(env: str, preset: str = "default", **fields: Any) -> Config:
    """Settings of `preset` for `env`, overridden by `fields`. Raises UsageError, in one sentence, if any is invalid."""
    return Config(env=env, preset=preset, **fields)


def read_config(text: str, source: str) -> Config:
    """A config from the TOML text of a run directory; error messages name the file as `source`. Raises UsageError."""
    try:
        return stored_config(parse_settings(text))
    except (tomllib.TOMLDecodeError, UsageError) as error:
        raise UsageError(f"{source} is not a valid config: {error}") from error


def stored_config(fields: Mapping[str, Any]) -> Config:
    """A config from the resolved settings that a run stored, with this or an earlier version; settings that did not
    exist then get their defaults. Raises UsageError."""
    return Config.model_validate(of_earlier_versions(fields), context={"resolved": True})


def beyond_preset(config: Config, names: tuple[str, ...]) -> list[str]:
    """The fields among `names` whose value is neither the default nor the preset's value."""
    preset = preset_settings(config.preset, config.env) if config.preset in preset_tables() else {}
    usual = {name: (Config.model_fields[name].default, preset.get(name)) for name in names}
    return [name for name in names if getattr(config, name) not in usual[name]]
