"""The signature of `qdojo.train` and clear errors for positional arguments. `api.py` has `train` itself."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from qdojo.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")


def declared_by(declaration: Callable[P, R]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Give a function the signature and docstring of `declaration`, and allow only one positional argument.

    Other calls raise UsageError, including calls in the style of other libraries: `train("MlpPolicy", "CartPole-v1")`.
    """

    def declared(function: Callable[..., R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            if len(args) > 1:
                surplus = " and ".join(map(repr, args[1:]))
                if isinstance(args[0], str) and args[0].endswith("Policy"):
                    raise UsageError(
                        f"train takes only the environment by position, but {args[0]!r} is a policy; leave it out, as "
                        f"in qdojo.train({args[1]!r}): `network` and `hidden` define the network."
                    )
                raise UsageError(
                    f"train takes only the environment by position; pass {surplus} by name, as in "
                    "qdojo.train('CartPole-v1', steps=100_000)."
                )
            return function(*args, **kwargs)

        wrapper.__signature__ = inspect.signature(declaration)  # type: ignore[attr-defined]
        wrapper.__doc__ = declaration.__doc__
        return wrapper

    return declared
