"""Resolves the given settings to a complete config: they override the preset, and derived settings are filled in.

The command line merges flags, variables and files beforehand. Ranges are in `fields.py`.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import ValidationError

from qdojo.config import presets
from qdojo.config.compatibility import check_together, required, unread, unread_message
from qdojo.config.screen import by_protocol
from qdojo.config.words import no_such_preset, no_such_setting
from qdojo.errors import UsageError

if TYPE_CHECKING:
    from qdojo.config.settings import Config

Handler = Callable[[dict[str, Any]], "Config"]
"""Pydantic's own validation: makes a config from the fields."""


def resolve(kind: "type[Config]", given: Mapping[str, Any], handler: Handler, resolved: bool) -> "Config":
    """A complete config from the given settings; if `resolved`, they are already complete, as stored by a run.

    Only a resolved config may hold settings that nothing reads, because no user set those. Raises UsageError, in one
    sentence.
    """
    fields = {name: _plain(value) for name, value in without_tables(kind.tables(), given).items()}
    for name in fields:
        if name not in kind.model_fields:
            raise UsageError(no_such_setting(name, [*kind.model_fields, *kind.tables()]))
    if resolved:
        return _checked(handler, kind, fields)
    fields = _varied(kind, fields)
    preset = fields.get("preset", "default")
    if not isinstance(preset, str) or preset not in presets.preset_tables():
        raise UsageError(no_such_preset(preset, presets.preset_tables()))
    begun = presets.preset_settings(preset, fields.get("env", ""))
    protocol = by_protocol(begun | fields)
    # What the user asked for by its name is meant as a whole; the default leaves room for the preset.
    begun = begun | protocol if "atari_protocol" in fields else protocol | begun
    for name in begun:
        if name not in kind.model_fields:
            raise UsageError(no_such_setting(name, kind.model_fields))
    begun = _fitting(kind, begun, presets.preset_settings(preset, ""), _with_none(kind, fields))
    begun |= _collecting(_defaults(kind) | begun, fields)
    config = _checked(handler, kind, begun | fields)
    largest = max(config.vary.get("learning_rate", (config.learning_rate,)))
    end = max(config.vary.get("learning_rate_end", (config.learning_rate_end or 0.0,)))
    if end > largest:
        if "learning_rate_end" in fields:
            raise UsageError(
                f"learning_rate_end is {end}, but the learning rate falls, from {largest}; give a smaller "
                "learning_rate_end or a larger learning_rate."
            )
        config.__dict__["learning_rate_end"] = largest  # the preset's; a config that is used again must be valid
    # Pydantic returns the very object that it made, so complete it in place.
    config.__dict__.update(_following(config))
    idle = {name: need for name, need in unread(config).items() if name in fields}
    for name in config.vary:
        if name in idle:
            raise UsageError(f"{unread_message(config, name, idle[name])}.")
    if idle:
        without = kind(**{name: value for name, value in fields.items() if name not in idle})
        for name, need in idle.items():
            # A config file lists every field, so a value that changes nothing is not an error.
            if getattr(config, name) != getattr(without, name):
                raise UsageError(f"{unread_message(config, name, need)}.")
    return config


def _fitting(
    kind: "type[Config]", begun: dict[str, Any], own: dict[str, Any], fields: dict[str, Any]
) -> dict[str, Any]:
    """`begun` without what an environment's table adds to the preset's `own` settings and does not go with `fields`:
    it is no obstacle to a network of one's own, for example."""
    return {
        name: value
        for name, value in begun.items()
        if name in own
        or all(need.is_met(fields[need.setting]) for need in required(kind, name, value) if need.setting in fields)
    }


def _varied(kind: "type[Config]", fields: dict[str, Any]) -> dict[str, Any]:
    """Moves lists given for numeric settings into `vary`, and leaves their first values in the settings."""
    vary = dict(fields.get("vary") or {})
    for name, value in fields.items():
        if not isinstance(value, tuple | list) or not _is_number(kind.model_fields[name].annotation):
            continue
        if not value:
            raise UsageError(f"{name} is an empty list; give a number, or one per group of members.")
        if len(value) > 1:
            vary[name] = tuple(value)
    given = {name: values[0] for name, values in vary.items() if name in kind.model_fields and values}
    single = {
        name: value[0]
        for name, value in fields.items()
        if isinstance(value, tuple | list) and value and _is_number(kind.model_fields[name].annotation)
    }
    return fields | single | given | ({"vary": vary} if vary else {})


def _is_number(annotation: Any) -> bool:
    """Whether a setting's type allows a single number."""
    kinds = {annotation, *get_args(annotation)}
    kinds |= {part for kind in kinds for part in get_args(kind)}
    return bool(kinds & {int, float}) and tuple not in {get_origin(kind) for kind in kinds}


def _defaults(kind: "type[Config]") -> dict[str, Any]:
    return {name: field.default for name, field in kind.model_fields.items() if not field.is_required()}


def without_tables(tables: set[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a file as one flat mapping, whether they are in `tables` or not.

    Raises UsageError if a setting is given twice, or if a table's name has a value that is not a table.
    """
    flat: dict[str, Any] = {}
    for name, value in given.items():
        if name in tables and not isinstance(value, Mapping):
            raise UsageError(f"{name} is a table of settings, not a setting; docs/settings.md lists its settings.")
        entries = value if name in tables else {name: value}
        for entry, setting in entries.items():
            if entry in flat:
                raise UsageError(f"{entry} is given twice, in two tables; leave one out.")
            flat[entry] = setting
    return flat


def _plain(value: Any) -> Any:
    """NumPy's and JAX' numbers and arrays as plain Python values; other values unchanged."""
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _with_none(kind: "type[Config]", fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with None for the word `none`, where that is allowed."""
    may_be_none = {name for name, field in kind.model_fields.items() if type(None) in get_args(field.annotation)}
    # A flag that takes several words yields a list with a single word.
    nothing = ("none", ["none"], ("none",))
    return {name: None if name in may_be_none and value in nothing else value for name, value in fields.items()}


def _checked(handler: Handler, kind: "type[Config]", fields: dict[str, Any]) -> "Config":
    try:
        config = handler(_with_none(kind, fields))
        check_together(config)
    except ValidationError as error:
        raise UsageError(_sentence(error)) from error
    except ValueError as error:
        raise UsageError(f"{error}.") from error
    return config


def _collecting(begun: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """`collect_steps` and `updates_per_step` adapted to a given `num_envs`, if `fields` do not set `collect_steps`.

    collect_steps is the preset's, rounded up to a multiple of num_envs (and, for pqn, of its minibatches).
    updates_per_step is the preset's if that gives a whole number of updates per cycle. Otherwise it is adjusted to the
    nearest whole number (rounding halves up) of at least 1, or to 1 for pqn, which learns once per collection.
    """
    chosen = begun | fields
    envs, parts = chosen["num_envs"], chosen["minibatches"] if chosen["agent"] == "pqn" else 1
    if "num_envs" not in fields or "collect_steps" in fields:
        return {}
    if not all(isinstance(number, int) and number >= 1 for number in (envs, parts)):
        return {}  # the validation of the field reports the error
    unit = math.lcm(envs, parts)
    collected = math.ceil(chosen["collect_steps"] / unit) * unit
    derived: dict[str, Any] = {"collect_steps": collected}
    if "updates_per_step" not in fields:
        updates = collected * chosen["updates_per_step"]
        whole = 1 if chosen["agent"] == "pqn" else max(1, math.floor(updates + 0.5))
        if abs(updates - whole) > 1e-5:
            derived["updates_per_step"] = whole / collected
    return derived


def _following(config: "Config") -> dict[str, Any]:
    """Derived settings with explicit values, so that resuming with another budget does not change them."""
    changes: dict[str, Any] = {}
    if config.priority_beta_steps is None:
        changes["priority_beta_steps"] = config.steps
    if config.learning_rate_decay_steps is None:
        changes["learning_rate_decay_steps"] = config.steps
    if config.render == "human":
        changes["loop"] = "host"
    if config.report_every_steps is None:
        # A window shows about 50 steps per second, and Ctrl-C is handled between reports. The first rows of a chunk do
        # not overlap with learning, so a chunk should be long compared to a learning phase.
        most = 50 if config.render == "human" else max(1_000, 20 * config.collect_steps)
        longest = min(config.eval_every_steps or config.steps, most)
        cycles = math.ceil(config.steps / config.collect_steps)
        chunks = math.ceil(config.steps / longest)
        changes["report_every_steps"] = math.ceil(cycles / chunks) * config.collect_steps
    elif config.report_every_steps >= (config.eval_every_steps or math.inf) + config.collect_steps:
        # Evaluations happen between chunks, so a chunk must not be longer than the interval between evaluations. An
        # automatic value may exceed it by less than collect_steps, because it is rounded up.
        changes["report_every_steps"] = (
            max(1, (config.eval_every_steps or 0) // config.collect_steps) * config.collect_steps
        )
    return changes


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{field} is missing."
    return f"{field} is {first['input']!r}: {message[0].lower()}{message[1:]}."
