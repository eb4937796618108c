"""`qdojo.train` knows each setting as a keyword: `config/keywords.py` says what the declarations say.

`python tests/test_keywords.py` writes it.
"""

import inspect
import textwrap
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from qdojo import api
from qdojo.build.numbers import ALWAYS, TUTORIAL, WHERE_GIVEN
from qdojo.config import GROUPS, Config, keywords

FILE = Path(keywords.__file__)

HEAD = '''\
"""The settings as keywords of `qdojo.train`, for editors and type checkers.

Written from `fields.py` by `python tests/test_keywords.py`.
"""

from collections.abc import Sequence
from typing import Literal, TypedDict


class Settings(TypedDict, total=False):
    """All settings except those that may be objects. An omitted setting has the preset's value, or else its default."""
'''

EXPLICIT = ("env", "preset", "network", "loss")
"""Settings that are parameters of their own, since they may be given as objects, or come first."""
VARYING = {*ALWAYS, *WHERE_GIVEN, *TUTORIAL}


def written(annotation: Any) -> str:
    """An annotation as a source file has it, of what a caller may give."""
    kind, of = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return written(of[0])
    if kind in (Union, types.UnionType):
        return " | ".join(map(written, of))
    if kind is Literal:
        return "Literal[" + ", ".join(f'"{value}"' for value in of) + "]"
    if kind is tuple:
        return f"Sequence[{written(of[0])}]"
    if kind is dict:
        return f"dict[{written(of[0])}, {written(of[1])}]"
    return "None" if annotation is type(None) else str(annotation.__name__)


def source() -> str:
    """What the file says."""
    lines = [HEAD]
    for name in (name for group in GROUPS for name in group.model_fields if name not in EXPLICIT):
        field = Config.model_fields[name]
        kind = written(field.annotation)
        if name in VARYING:
            one, none, _ = kind.partition(" | None")
            kind = f"{one} | Sequence[{one}]{none}"
        several = " A list trains `seeds` members with each of its values." if name in VARYING else ""
        default = f'"{field.default}"' if isinstance(field.default, str) else field.default
        text = f'"""{" ".join(str(field.description).split())}{several} Default: {default}."""'
        lines.append(f"    {name}: {kind}")
        lines += textwrap.wrap(text, 116, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join([*lines, ""])


def test_the_file_says_what_the_declarations_say() -> None:
    assert FILE.read_text(encoding="utf-8") == source(), "run `python tests/test_keywords.py`"


def test_every_setting_is_a_keyword_of_train() -> None:
    parameters = inspect.signature(api.train).parameters
    known = get_type_hints(keywords.Settings)
    assert set(known) | set(EXPLICIT) == set(Config.model_fields)
    assert set(EXPLICIT) | set(known) <= set(parameters)
    assert {parameter.kind for parameter in [*parameters.values()][1:]} == {inspect.Parameter.KEYWORD_ONLY}
    assert parameters["learning_rate"].default == 1e-3
    assert parameters["hidden"].annotation == Sequence[int]
    assert known["learning_rate"] == float | Sequence[float]
    assert known["hidden"] == Sequence[int]


if __name__ == "__main__":
    FILE.write_text(source(), encoding="utf-8")
