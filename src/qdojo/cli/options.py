"""Options shared by several verbs, and the flags generated from the fields of Config."""

import contextlib
import functools
import operator
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

from cyclopts import CoercionError, Group, Parameter, Token, convert, validators
from pydantic.fields import FieldInfo

from qdojo.config import FIRST, GROUPS, Config, needed


def _unrounded(annotation: Any) -> Callable[[Any, Sequence[Token]], Any]:
    """Return a converter for an integer flag that rejects fractions, which cyclopts would round."""

    def converted(_: Any, tokens: Sequence[Token]) -> Any:
        for token in tokens:
            with contextlib.suppress(ValueError):
                if not float(token.value).is_integer():
                    raise CoercionError(token=token, target_type=int)
        return convert(annotation, tokens)

    return converted


def _listed(convert_one: Callable[[Any, Sequence[Token]], Any]) -> Callable[[Any, Sequence[Token]], Any]:
    """Return a converter for a float flag that also accepts a list: `1e-4,3e-4` gives one value to each group."""

    def converted(kind: Any, tokens: Sequence[Token]) -> Any:
        if len(tokens) != 1 or "," not in tokens[0].value:
            return convert_one(kind, tokens)
        return [convert_one(kind, [tokens[0].evolve(value=value)]) for value in tokens[0].value.split(",")]

    return converted


RunName = Annotated[str, Parameter(help="A run: path, name, start of its name, or `last`.")]
RunsFolder = Annotated[
    Path, Parameter(name="--runs", env_var="QDOJO_RUNS", show_env_var=False, help="Folder that holds the runs.")
]
Json = Annotated[
    bool,
    Parameter(name="--json", negative="", help="Print the result as one JSON object on stdout.", show_default=False),
]
Member = Annotated[
    int | None,
    Parameter(
        converter=_unrounded(int | None),
        help="Member of the population to use; by default the one with the best evaluation.",
    ),
]
Count = Annotated[int, Parameter(converter=_unrounded(int), validator=validators.Number(gte=1))]
Seed = Annotated[int, Parameter(converter=_unrounded(int), validator=validators.Number(gte=0, lt=2**31))]

RUNS = Path("runs")
NAMED = ("env", "preset", "vary")
"""Fields without a generated flag: `train` has parameters for them, or derives them from lists of other fields."""
FIRST_PANEL = Group(
    "1. Settings that matter most",
    help="Each setting can also be given by an environment variable, QDOJO_<NAME>. A flag overrides the variable, the "
    "variable overrides the --config file, and the file overrides the preset. Brackets show the default, unless the "
    "preset sets another. FLOAT may be a list, as in 1e-4,3e-4: `seeds` members are trained with each value.",
    sort_key=1,
)
PANELS = {group: Group(f"{number}. {group.title}", sort_key=number) for number, group in enumerate(GROUPS, start=2)}
"""The help panel of each group of settings."""


def env_var(field: str) -> str:
    """Return the environment variable that sets a field."""
    return f"QDOJO_{field.upper()}"


def _flag(name: str, field: FieldInfo, panel: Group) -> Any:
    default = field.default
    told = "none" if default is None else " ".join(map(str, default)) if isinstance(default, tuple) else default
    # Requirements that hold by default are left out here; docs/settings.md lists all of them.
    unusual = [
        need.told() for need in needed(Config, name) if not need.is_met(Config.model_fields[need.setting].default)
    ]
    needs = f"; needs {' and '.join(unusual)}" if unusual else ""
    about = " ".join((field.description or "").split())
    annotation = _bare(field.annotation)
    holds_many = tuple in (typing.get_origin(part) for part in (annotation, *typing.get_args(annotation)))
    may_differ = float in (annotation, *typing.get_args(annotation))
    return Annotated[
        annotation | list[float] if may_differ else annotation,
        Parameter(
            group=panel,
            help=f"{about} [{told}{needs}]",
            env_var=env_var(name),
            show_env_var=False,
            show_choices=False,
            consume_multiple=1 if holds_many else False,
            negative_iterable="",
            converter=_converter(annotation),
        ),
    ]


def _converter(annotation: Any) -> Callable[[Any, Sequence[Token]], Any] | None:
    kinds = {annotation, *typing.get_args(annotation)}
    if float in kinds:
        return _listed(lambda kind, tokens: convert(annotation, tokens))
    return _unrounded(annotation) if int in kinds else None


def _flags() -> dict[str, Any]:
    """Return a flag for each setting, in the order of the help."""
    panels = dict.fromkeys(FIRST, FIRST_PANEL)
    for group, panel in PANELS.items():
        panels |= {name: panel for name in group.model_fields if name not in (*NAMED, *FIRST)}
    return {name: _flag(name, Config.model_fields[name], panel) for name, panel in panels.items()}


def _bare(annotation: Any) -> Any:
    """Return a type without its ranges, because Config checks them in one place, with the same message everywhere."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _bare(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, (_bare(argument) for argument in arguments))
    if origin is tuple:
        return types.GenericAlias(tuple, (_bare(arguments[0]), ...))
    return annotation


if typing.TYPE_CHECKING:
    Fields = dict[str, Any]
else:
    Fields = TypedDict("Fields", _flags(), total=False)
"""The fields of Config that a flag or an environment variable sets; the others have no entry."""
