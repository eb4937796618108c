"""Every setting of a run, checked before anything starts. Not for building: see `build/`. Imports no jax."""

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
    """Settings of `preset` for `env`, with `fields` on top. Raises UsageError, one sentence, for what is wrong."""
    return Config(env=env, preset=preset, **fields)


def read_config(text: str, source: str) -> Config:
    """A config from the TOML of a run directory; `source` is the file's name, for the message."""
    try:
        return stored_config(parse_settings(text))
    except (tomllib.TOMLDecodeError, UsageError) as error:
        raise UsageError(f"{source} is not a valid config: {error}") from error


def stored_config(fields: Mapping[str, Any]) -> Config:
    """The resolved settings of a run as they were stored, by this version or an earlier one; a setting that was not
    there yet has its default. Raises UsageError."""
    return Config.model_validate(of_earlier_versions(fields), context={"resolved": True})


def beyond_preset(config: Config, names: tuple[str, ...]) -> list[str]:
    """Those of the fields that have another value than their own default and what the preset says."""
    preset = preset_settings(config.preset, config.env) if config.preset in preset_tables() else {}
    usual = {name: (Config.model_fields[name].default, preset.get(name)) for name in names}
    return [name for name in names if getattr(config, name) not in usual[name]]
