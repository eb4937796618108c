"""User-defined functions, given as `module:name`. `envs/resolve.py` resolves environments."""

import inspect
from collections.abc import Callable
from typing import Any

from qdojo.envs.resolve import import_module
from qdojo.errors import UsageError


def named(setting: str, name: str, needed: str) -> Callable[..., Any]:
    """The function that `setting` names as `module:name`; messages say that it returns `needed`. Raises UsageError if
    it does not exist."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise UsageError(f"{setting} is {name!r}; name a function that returns {needed} as `module:name`.")
    found: Any = import_module(module, name)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(
            f"{setting} is {name!r}, but {module} has no function {attribute!r} that returns {needed}; if it was given "
            f"in Python, pass it as {setting}=."
        )
    return found


def takes_spaces(function: Any) -> bool:
    """Whether a function that builds a network takes the spaces and a key, so that it builds an Equinox module. A
    function that builds a Keras model takes no arguments."""
    if not inspect.isfunction(function) and not inspect.ismethod(function):
        return False
    parameters = inspect.signature(function).parameters.values()
    return len([each for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD]) == 2
