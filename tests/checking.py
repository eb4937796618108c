"""Less work for each of the many programs that tests trace: what can be made once is made once."""

import inspect
import threading
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


def share_contexts(times: int = 50) -> None:
    """Lower that many programs of a thread in one MLIR context, as later versions of JAX do.

    To load the dialects of a context takes longer than to lower a small program. It keeps every constant that it has
    seen, so it is not used for ever.
    """
    from jax._src.interpreters import mlir

    make, of_thread = mlir.make_ir_context, threading.local()

    def shared() -> Any:
        if getattr(of_thread, "left", 0) == 0:
            of_thread.context, of_thread.left = make(), times
        of_thread.left -= 1
        return of_thread.context

    mlir.make_ir_context = shared
