"""Checks of types and shapes at run time, made once for each definition."""

import inspect
from collections.abc import Callable
from typing import Any

from beartype import beartype

MADE: dict[tuple[str, ...], Callable[..., Any]] = {}


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype(function)`, or what it was for the last function with this name and signature.

    jaxtyping asks for it each time that a nested function is defined, with an empty function of the same signature,
    and a check takes milliseconds to make.
    """
    key = function.__module__, function.__qualname__, str(inspect.signature(function))
    if key not in MADE:
        MADE[key] = beartype(function)
    return MADE[key]
