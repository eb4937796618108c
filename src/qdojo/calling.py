"""The signature of `qdojo.train`: what `help` shows of it, and which calls it rejects. `api.py` has `train` itself."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar, get_type_hints

from qdojo.config import Config
from qdojo.config.keywords import Settings
from qdojo.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")


def one_positional(function: Callable[P, R]) -> Callable[P, R]:
    """Reject calls in the style of other libraries, such as `train("MlpPolicy", "CartPole-v1")`, with a clear error."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if len(args) > 1:
            surplus = " and ".join(map(repr, args[1:]))
            if isinstance(args[0], str) and args[0].endswith("Policy"):
                raise UsageError(
                    f"train takes only the environment by position, but {args[0]!r} is a policy; leave it out, as in "
                    f"qdojo.train({args[1]!r}): `network` and `hidden` define the network."
                )
            raise UsageError(
                f"train takes only the environment by position; pass {surplus} by name, as in "
                "qdojo.train('CartPole-v1', steps=100_000)."
            )
        return function(*args, **kwargs)

    return wrapper


def with_settings(function: Callable[P, R]) -> Callable[P, R]:
    """Show each setting as a keyword with its default to `help` and IPython, instead of `**settings`."""
    signature = inspect.signature(function)
    *own, _ = signature.parameters.values()
    settings = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=Config.model_fields[name].default, annotation=kind
        )
        for name, kind in get_type_hints(Settings).items()
    ]
    function.__signature__ = signature.replace(parameters=[*own, *settings])  # type: ignore[attr-defined]
    return function
