"""`signature.py` declares each setting as a keyword of `qdojo.train` and agrees with `api.py` and the settings.

`python tests/test_signature.py` generates it.
"""

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import qdojo
from qdojo import api, signature
from qdojo.build.numbers import ALWAYS, TUTORIAL, WHERE_GIVEN
from qdojo.config import GROUPS, Config

FILE = Path(signature.__file__)

HEAD = '''\
"""The declaration of `qdojo.train` with each setting as a keyword, for editors, type checkers and `help`.

Generated from `api.py` and `config/fields.py` by `python tests/test_signature.py`. `api.py` has the implementation.
"""
# ruff: noqa: E501

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
from gymnasium.vector import VectorEnv

from qdojo.config import Config
from qdojo.delivered import Run
from qdojo.envs.contract import NativeEnvironment
'''

EXPLICIT = ("env", "preset", "network", "loss")
"""Settings that `api.py` declares itself, because they come first or may also be objects."""
VARYING = {*ALWAYS, *WHERE_GIVEN, *TUTORIAL}
SETTINGS = [name for group in GROUPS for name in group.model_fields if name not in EXPLICIT]


def kind(annotation: Any) -> str:
    """Return the source text of a keyword's type, in the form that a caller may pass."""
    origin, of = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind(of[0])
    if origin in (Union, types.UnionType):
        return " | ".join(map(kind, of))
    if origin is Literal:
        return "Literal[" + ", ".join(map(value, of)) + "]"
    if origin is tuple:
        return f"Sequence[{kind(of[0])}]"
    if origin is dict:
        return f"Mapping[{kind(of[0])}, {kind(of[1])}]"
    return "None" if annotation is type(None) else str(annotation.__name__)


def value(of: Any) -> str:
    return f'"{of}"' if isinstance(of, str) else repr(of)


def setting(name: str) -> tuple[str, str]:
    """Return a setting as a parameter and as a line of the docstring."""
    field = Config.model_fields[name]
    annotation, default = kind(field.annotation), value(field.default)
    meaning = " ".join(str(field.description).split())
    if name in VARYING:
        one, none, _ = annotation.partition(" | None")
        annotation = f"{one} | Sequence[{one}]{none}"
        meaning += " A list trains `seeds` members with each of its values."
    return f"{name}: {annotation} = {default}", f"{name}: {meaning} Default: {default}."


def source() -> str:
    """Return the source of the file. Editors show only the first line about a parameter, so each takes one line."""
    tree = ast.parse(Path(api.__file__).read_text(encoding="utf-8"))
    train = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train")
    own = [*train.args.args, *train.args.kwonlyargs]
    kinds = [ast.unparse(argument.annotation) for argument in own if argument.annotation]
    values = [value(ast.literal_eval(node)) for node in [*train.args.defaults, *train.args.kw_defaults] if node]
    defaults = {argument.arg: default for argument, default in zip(own, values, strict=True)}
    settings = [setting(name) for name in SETTINGS]

    first, *rest = (f"{name}: {of} = {default}" for (name, default), of in zip(defaults.items(), kinds, strict=True))
    parameters = [first, "*", *rest, *(parameter for parameter, _ in settings)]
    doc = []
    for line in re.sub(r"\n {8}", " ", ast.get_docstring(train) or "").splitlines():
        name = line.strip().partition(":")[0]
        if name == "**settings":
            doc += [f"    {meaning}" for _, meaning in settings]
        else:
            doc.append(f"{line} Default: {defaults[name]}." if name in defaults else line)
    return "\n".join(
        [
            *[HEAD, "", "def train("],
            *(f"    {parameter}," for parameter in parameters),
            ") -> Run:",
            *textwrap.indent("\n".join(['"""' + doc[0], *doc[1:], '"""']), "    ").splitlines(),
            *["    raise NotImplementedError", ""],
        ]
    )


def test_the_file_says_what_the_declarations_say() -> None:
    assert FILE.read_text(encoding="utf-8") == source(), "run `python tests/test_signature.py`"


def test_every_setting_is_a_keyword_of_train() -> None:
    parameters = inspect.signature(qdojo.train).parameters
    assert set(Config.model_fields) <= set(parameters)
    assert {parameter.kind for parameter in [*parameters.values()][1:]} == {inspect.Parameter.KEYWORD_ONLY}
    assert parameters["learning_rate"].default == 1e-3
    assert parameters["learning_rate"].annotation == float | Sequence[float]
    assert parameters["hidden"].annotation == Sequence[int]
    assert parameters["vary"].annotation == Mapping[str, Sequence[float]]


def test_an_editor_finds_the_meaning_and_the_default_of_each_keyword() -> None:
    """Pyright shows the first docstring line that contains the name and a colon anywhere."""
    lines = (inspect.getdoc(qdojo.train) or "").splitlines()
    for name, parameter in inspect.signature(qdojo.train).parameters.items():
        shown = next(line.strip() for line in lines if f"{name}: " in line)
        assert shown.startswith(f"{name}: ")
        assert shown.endswith(f" Default: {value(parameter.default)}.")
    shown = next(line.strip() for line in lines if "warmup_steps: " in line)
    assert shown == "warmup_steps: Environment steps to collect before the first update. Default: 1000."


if __name__ == "__main__":
    FILE.write_text(source(), encoding="utf-8")
