"""Functions of a user's own, given as objects or by `module:name`. Not for environments: see `envs/resolve.py`."""

import inspect
from collections.abc import Callable
from typing import Any

from qdojo.envs.resolve import import_module
from qdojo.errors import UsageError


def named(setting: str, name: str, needed: str) -> Callable[..., Any]:
    """The function that a setting names as `module:name`, which returns what is `needed`. Raises UsageError where there
    is none."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise UsageError(f"{setting} is {name!r}; write `module:name` of a function that returns {needed}.")
    found: Any = import_module(module, name)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(
            f"{setting} is {name!r}, but {module} has no function {attribute!r} that returns {needed}; pass it as "
            f"{setting}= where it was given in Python."
        )
    return found


def takes_spaces(function: Any) -> bool:
    """Whether a network's function is one of the spaces and a key, for an Equinox module; one for a Keras model takes
    no arguments."""
    if not inspect.isfunction(function) and not inspect.ismethod(function):
        return False
    parameters = inspect.signature(function).parameters.values()
    return len([each for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD]) == 2
