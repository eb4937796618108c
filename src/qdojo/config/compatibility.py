"""Which settings can be combined. Each setting in `fields.py` declares its needs; checks, messages and tables use them.

Ranges of single values are in the types of the fields.
"""

import enum
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qdojo.config.screen import check_screen

if TYPE_CHECKING:
    from qdojo.config.settings import Config


class Switch(enum.Enum):
    """Stands for all values that turn a setting on, or for those that leave it off: None, False and 0."""

    ON = True
    OFF = False


ON, OFF = Switch.ON, Switch.OFF


@dataclass(frozen=True)
class Need:
    """A need of another setting: `setting` must have one of `values`."""

    setting: str
    values: tuple[Any, ...] | Switch

    def is_met(self, value: Any) -> bool:
        """Whether `value` of the needed setting meets this need."""
        return bool(value) is self.values.value if isinstance(self.values, Switch) else value in self.values

    def fix(self, name: str) -> str:
        """The advice in a message if `name` has this need and it is not met."""
        if isinstance(self.values, Switch):
            return "leave one of them out" if self.values is OFF else f"set {self.setting}, or leave {name} out"
        wanted = " or ".join(f"{self.setting}={value!r}" for value in self.values)
        # Another agent requires several settings, which a preset provides.
        return f"use {'a preset with ' if self.setting == 'agent' else ''}{wanted}, or leave {name} out"

    def told(self) -> str:
        """The need as in a table: `distribution=c51`."""
        if isinstance(self.values, Switch):
            return f"no {self.setting}" if self.values is OFF else self.setting
        return f"{self.setting}={'/'.join(map(str, self.values))}"


@dataclass(frozen=True)
class ReadWith:
    """Annotation of a setting that nothing reads unless all needs are met. A preset may set it nevertheless."""

    needs: tuple[Need, ...]


@dataclass(frozen=True)
class GoesWith:
    """Annotation of a setting that is refused unless it has its default or all needs are met, even in a preset."""

    needs: tuple[Need, ...]
    applies: Callable[[Any], bool] = lambda value: True
    """(value) -> whether this value of the setting has these needs."""


def read_with(**needed: Any) -> ReadWith:
    """Declares that nothing reads the setting unless each setting in `needed` has the value, or one of a tuple."""
    return ReadWith(_needs(needed))


def goes_with(**needed: Any) -> GoesWith:
    """Declares that the setting, if not at its default, needs each of `needed` to have the value, or one of a tuple."""
    return GoesWith(_needs(needed))


def where(applies: Callable[[Any], bool], goes: GoesWith) -> GoesWith:
    """`goes`, restricted to the values of the setting for which `applies` is true."""
    return replace(goes, applies=applies)


def _needs(needed: dict[str, Any]) -> tuple[Need, ...]:
    return tuple(Need(setting, _values(values)) for setting, values in needed.items())


def _values(values: Any) -> tuple[Any, ...] | Switch:
    if isinstance(values, bool):
        return Switch(values)
    return values if isinstance(values, tuple | Switch) else (values,)


def needs_of(config: "Config | type[Config]", name: str, kind: type[ReadWith] | type[GoesWith]) -> tuple[Need, ...]:
    """The needs of one kind that the field `name` declares."""
    fields = (config if isinstance(config, type) else type(config)).model_fields
    return tuple(need for note in fields[name].metadata if isinstance(note, kind) for need in note.needs)


def needed(config: "Config | type[Config]", name: str) -> tuple[Need, ...]:
    """All needs that the field `name` declares, of both kinds."""
    return tuple(dict.fromkeys(need for kind in (ReadWith, GoesWith) for need in needs_of(config, name, kind)))


def required(kind: "type[Config]", name: str, value: Any) -> Iterator[Need]:
    """The needs without which this value of the field `name` is refused."""
    for note in kind.model_fields[name].metadata:
        if isinstance(note, GoesWith) and note.applies(value):
            yield from note.needs


def unread(config: "Config") -> dict[str, Need]:
    """The settings that nothing reads with this config, each with the need that is not met."""
    found: dict[str, Need] = {}
    for name in type(config).model_fields:
        for need in needs_of(config, name, ReadWith):
            if not need.is_met(getattr(config, need.setting)):
                found.setdefault(name, need)
    return found


def unread_message(config: "Config", name: str, need: Need) -> str:
    """A message that setting `name` has no effect, with the fix."""
    return f"{name} is set, but nothing reads it with {_told(config, need.setting)}; {need.fix(name)}"


def check_together(config: "Config") -> None:
    """Raises ValueError, in one clause, if settings cannot be combined."""
    set_ones = [name for name, field in type(config).model_fields.items() if getattr(config, name) != field.default]
    lacking = [
        (name, need)
        for name in set_ones
        for need in required(type(config), name, getattr(config, name))
        if not need.is_met(getattr(config, need.setting))
    ]
    # Most other needs depend on the agent, so report it first.
    for name, need in sorted(lacking, key=lambda pair: pair[1].setting != "agent"):
        which = "needs" if need.values is ON else "does not go with"
        other = need.setting if need.values is ON else _told(config, need.setting)
        raise ValueError(f"{_told(config, name)} {which} {other}; {need.fix(name)}")
    check_screen(config)
    _check_rhythm(config)
    _check_layers(config)
    _check_exploration(config)
    if config.loss in ("mse", "huber"):
        raise ValueError(f"loss is {config.loss!r}, but it names a user's own function; use error={config.loss!r}")
    if config.batch_size > config.capacity_steps:
        raise ValueError(f"batch_size is {config.batch_size}, more than capacity_steps={config.capacity_steps} holds")
    if config.vmin >= config.vmax:
        raise ValueError(f"vmin is {config.vmin:g}, but it must be below vmax={config.vmax:g}")
    if config.render == "human" and config.num_envs * config.members > 1:
        raise ValueError(
            f"render='human' shows one environment, but seeds={config.seeds} and num_envs={config.num_envs} "
            f"make {config.members * config.num_envs}; use one of each, or leave render out"
        )


def _told(config: "Config", name: str) -> str:
    value = getattr(config, name)
    return f"{name}={list(value) if isinstance(value, tuple) else value!r}"


def _check_rhythm(config: "Config") -> None:
    """Raises ValueError unless a cycle consists of whole rows and whole updates."""
    if config.collect_steps % config.num_envs:
        raise ValueError(
            f"collect_steps is {config.collect_steps}, which is not a multiple of num_envs={config.num_envs}; "
            f"use {math.ceil(config.collect_steps / config.num_envs) * config.num_envs}"
        )
    updates = config.collect_steps * config.updates_per_step
    # Allow for rounding: 1/3 is given with a few digits, and 49 * (1/49) is not 1.
    if round(updates) < 1 or abs(updates - round(updates)) > 1e-5:
        raise ValueError(
            f"collect_steps * updates_per_step is {updates:g}, but it must be a whole number of updates; "
            f"use updates_per_step={max(1, round(updates)) / config.collect_steps:.12g}"
        )
    rhythm = (config.num_envs, config.collect_steps, config.updates_per_step)
    if config.agent == "tutorial" and rhythm != (1, 1, 1.0):
        raise ValueError(
            f"agent='tutorial' needs num_envs=1, collect_steps=1 and updates_per_step=1, not {config.num_envs}, "
            f"{config.collect_steps} and {config.updates_per_step:g}; use preset='tutorial'"
        )
    if config.agent == "pqn" and config.updates_per_cycle != 1:
        raise ValueError(
            f"agent='pqn' learns once after each collection; use updates_per_step={1 / config.collect_steps:.12g}"
        )
    if config.agent == "pqn" and config.collect_steps % config.minibatches:
        raise ValueError(
            f"minibatches is {config.minibatches}, which does not divide collect_steps={config.collect_steps}"
        )


def _check_layers(config: "Config") -> None:
    """Raises ValueError if there are too few hidden layers for the other settings."""
    if config.dueling and not config.hidden:
        raise ValueError("dueling needs a hidden layer for each stream; set hidden")
    if config.recurrent is not None and not config.hidden:
        raise ValueError("recurrent needs a hidden layer, because the last one is the memory; set hidden")
    if config.distribution in ("iqn", "fqf") and config.recurrent is None and len(config.hidden) < 2:
        raise ValueError(
            f"distribution={config.distribution!r} needs at least two hidden layers, not hidden={list(config.hidden)}"
        )
    # Streams, and what follows the fractions, have a last hidden layer of their own.
    own = config.dueling or config.distribution in ("iqn", "fqf")
    if config.sparse_adam and len(config.hidden) <= own:
        least = "two hidden layers" if own else "a hidden layer"
        raise ValueError(f"sparse_adam needs {least}, not hidden={list(config.hidden)}; leave it out, or set hidden")


def _check_exploration(config: "Config") -> None:
    """Raises ValueError if the schedule of epsilon is impossible."""
    if config.epsilon_end > config.epsilon_start:
        raise ValueError(f"epsilon_end is {config.epsilon_end}, above epsilon_start={config.epsilon_start}")
    if config.epsilon_schedule == "exponential" and config.epsilon_end == 0.0 and config.epsilon_start > 0.0:
        raise ValueError("epsilon_end is 0, which exponential decay never reaches; use 0.001, or a linear schedule")
    if config.epsilon_ladder > 0.0 and config.num_envs == 1:
        raise ValueError("epsilon_ladder is set, but it needs more than num_envs=1 copy; set num_envs")
