"""Options that several verbs share, and the flags made from the fields of Config. Not for what a verb does."""

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

from qdojo.config import Config


def _unrounded(annotation: Any) -> Callable[[Any, Sequence[Token]], Any]:
    """The converter of a flag for integers: one with a fraction is refused, where cyclopts would round it."""

    def converted(_: Any, tokens: Sequence[Token]) -> Any:
        for token in tokens:
            with contextlib.suppress(ValueError):
                if not float(token.value).is_integer():
                    raise CoercionError(token=token, target_type=int)
        return convert(annotation, tokens)

    return converted


RunName = Annotated[str, Parameter(help="A run: its path, its name, the start of its name, or `last`.")]
RunsFolder = Annotated[
    Path, Parameter(name="--runs", env_var="QDOJO_RUNS", show_env_var=False, help="The folder that holds the runs.")
]
Json = Annotated[
    bool,
    Parameter(
        name="--json", negative="", help="Print one JSON object on stdout and no other data.", show_default=False
    ),
]
Member = Annotated[
    int | None,
    Parameter(
        converter=_unrounded(int | None),
        help="Which member of the population; by default the one with the best evaluation.",
    ),
]
Count = Annotated[int, Parameter(converter=_unrounded(int), validator=validators.Number(gte=1))]
Seed = Annotated[int, Parameter(converter=_unrounded(int), validator=validators.Number(gte=0, lt=2**31))]

RUNS = Path("runs")
NAMED = ("env", "preset")
"""Fields that `train` takes by a parameter of its own."""
SETTINGS = Group(
    "Settings",
    help="Each is also read from an environment variable, QDOJO_<NAME>. A flag goes before that, that before --config, "
    "that before the preset. In brackets: the default where no preset says otherwise.",
    sort_key=1,
)


def env_var(field: str) -> str:
    """The environment variable that gives a field."""
    return f"QDOJO_{field.upper()}"


def _flag(name: str, field: FieldInfo) -> Any:
    default = field.default
    told = "none" if default is None else " ".join(map(str, default)) if isinstance(default, tuple) else default
    annotation = _bare(field.annotation)
    holds_many = tuple in (typing.get_origin(part) for part in (annotation, *typing.get_args(annotation)))
    holds_integers = int in (annotation, *typing.get_args(annotation))
    return Annotated[
        annotation,
        Parameter(
            group=SETTINGS,
            help=f"{field.description} [{told}]",
            env_var=env_var(name),
            show_env_var=False,
            show_choices=False,
            consume_multiple=1 if holds_many else False,
            negative_iterable="",
            converter=_unrounded(annotation) if holds_integers else None,
        ),
    ]


def _bare(annotation: Any) -> Any:
    """A type without its ranges: those are for Config to check, in one place and in the same words everywhere."""
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
    Fields = TypedDict(
        "Fields",
        {name: _flag(name, field) for name, field in Config.model_fields.items() if name not in NAMED},
        total=False,
    )
"""Those fields of Config that were given, by flag or by environment variable; the others have no entry."""
