"""From what was given to a whole config: a flag, over a variable, over a file, over the preset; what follows from what.

Flags and variables come merged from the command line. Not for ranges: see `fields.py`.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import ValidationError

from qdojo.config import presets
from qdojo.config.compatibility import check_together, unread, unread_message
from qdojo.config.screen import by_protocol
from qdojo.config.words import no_such_preset, no_such_setting
from qdojo.errors import UsageError

if TYPE_CHECKING:
    from qdojo.config.settings import Config

Handler = Callable[[dict[str, Any]], "Config"]
"""Pydantic's own validation of the fields: makes the config of them."""


def resolve(kind: "type[Config]", given: Mapping[str, Any], handler: Handler, resolved: bool) -> "Config":
    """A whole config of the settings that were given, which are all of them where it was `resolved` before.

    Only then may there be some that nothing reads, since no person has set those. Raises UsageError, one sentence.
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
    for name in begun:
        if name not in kind.model_fields:
            raise UsageError(no_such_setting(name, kind.model_fields))
    begun |= _collecting(_defaults(kind) | begun, fields)
    config = _checked(handler, kind, begun | fields)
    # The one that pydantic has made is the one that it hands out, so it is completed in place.
    config.__dict__.update(_following(config))
    idle = {name: need for name, need in unread(config).items() if name in fields}
    for name in config.vary:
        if name in idle:
            raise UsageError(f"{unread_message(config, name, idle[name])}.")
    if idle:
        without = kind(**{name: value for name, value in fields.items() if name not in idle})
        for name, need in idle.items():
            # A config file names every field, so that what changes nothing is no mistake.
            if getattr(config, name) != getattr(without, name):
                raise UsageError(f"{unread_message(config, name, need)}.")
    return config


def _varied(kind: "type[Config]", fields: dict[str, Any]) -> dict[str, Any]:
    """Settings where one that is a number was given as a list: its first value, and all of them in `vary`."""
    vary = dict(fields.get("vary") or {})
    for name, value in fields.items():
        if not isinstance(value, tuple | list) or not _is_number(kind.model_fields[name].annotation):
            continue
        if not value:
            raise UsageError(f"{name} is an empty list; give a number, or one for each group of members.")
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
    """Whether a setting is one number, or may be."""
    kinds = {annotation, *get_args(annotation)}
    kinds |= {part for kind in kinds for part in get_args(kind)}
    return bool(kinds & {int, float}) and tuple not in {get_origin(kind) for kind in kinds}


def _defaults(kind: "type[Config]") -> dict[str, Any]:
    return {name: field.default for name, field in kind.model_fields.items() if not field.is_required()}


def without_tables(tables: set[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a file, whether they stand in `tables` or not.

    Raises UsageError for one that is there twice, and for a value where a table belongs.
    """
    flat: dict[str, Any] = {}
    for name, value in given.items():
        if name in tables and not isinstance(value, Mapping):
            raise UsageError(f"{name} is a table of settings, not a setting; give those that docs/settings.md lists.")
        entries = value if name in tables else {name: value}
        for entry, setting in entries.items():
            if entry in flat:
                raise UsageError(f"{entry} is given twice, in two tables; leave one out.")
            flat[entry] = setting
    return flat


def _plain(value: Any) -> Any:
    """A number or an array of NumPy, or of JAX, as Python's own."""
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _checked(handler: Handler, kind: "type[Config]", fields: dict[str, Any]) -> "Config":
    may_be_none = {name for name, field in kind.model_fields.items() if type(None) in get_args(field.annotation)}
    # A flag that takes several words gives a list of one.
    nothing = ("none", ["none"], ("none",))
    given = {name: None if name in may_be_none and value in nothing else value for name, value in fields.items()}
    try:
        config = handler(given)
        check_together(config)
    except ValidationError as error:
        raise UsageError(_sentence(error)) from error
    except ValueError as error:
        raise UsageError(f"{error}.") from error
    return config


def _collecting(begun: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """How much is collected and learned at a time by another `num_envs`, where `fields` do not give `collect_steps`.

    collect_steps is that of the preset, rounded up to a multiple of num_envs (and, of pqn, of its minibatches).
    updates_per_step is that of the preset if this makes a whole number of updates, else that of the nearest whole
    number, of two as near the greater, and at least 1 (of pqn, which learns once after each collection, 1).
    """
    chosen = begun | fields
    envs, parts = chosen["num_envs"], chosen["minibatches"] if chosen["agent"] == "pqn" else 1
    if "num_envs" not in fields or "collect_steps" in fields:
        return {}
    if not all(isinstance(number, int) and number >= 1 for number in (envs, parts)):
        return {}  # the field's own check says what is wrong
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
    """Settings that follow from others, written out, so that a resume with another budget changes none of them."""
    changes: dict[str, Any] = by_protocol(config)
    if config.learning_rate_end is None:
        changes["learning_rate_end"] = config.learning_rate
    if config.priority_beta_steps is None:
        changes["priority_beta_steps"] = config.steps
    if config.learning_rate_decay_steps is None:
        changes["learning_rate_decay_steps"] = config.steps
    if config.render == "human":
        changes["loop"] = "host"
    if config.report_every_steps is None:
        # A window shows some 50 steps a second, and Ctrl-C is heard between reports. The first rows of a chunk are not
        # collected while something is learned, so it is long beside a learning phase.
        most = 50 if config.render == "human" else max(1_000, 20 * config.collect_steps)
        longest = min(config.eval_every_steps or config.steps, most)
        cycles = math.ceil(config.steps / config.collect_steps)
        chunks = math.ceil(config.steps / longest)
        changes["report_every_steps"] = math.ceil(cycles / chunks) * config.collect_steps
    elif config.report_every_steps >= (config.eval_every_steps or math.inf) + config.collect_steps:
        # Evaluations come between chunks, and a chunk ends with a report. One of its own choice is rounded up.
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
