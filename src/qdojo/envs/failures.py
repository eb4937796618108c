"""Describes environment failures in words. `trial.py` and `doctor.py` check for them."""

import contextlib
import shlex
from typing import Any

from qdojo.envs.encoders import BadValueError


class CallError(Exception):
    """A call into an environment other than `reset` or `step` raised; the text names it: 'its factory raised ...'."""


class CopyError(Exception):
    """A failure of one copy, or of all copies if `copy` is None; the text fits after 'failed: '."""

    def __init__(self, copy: int | None, what: str) -> None:
        super().__init__(what)
        self.copy = copy
        self.what = what


GAVE = "it returned "
"""Begins the description of every invalid value that an environment returned, and of no other failure."""


def doctor_hint(name: str, what: str) -> str:
    """Return '; `qdojo doctor NAME` says how to fix it' if the doctor can say more about `what`, else ''."""
    # An anonymous callable cannot be named on a command line.
    is_examined = what.startswith(GAVE) and "<" not in name
    return f"; `qdojo doctor {shlex.quote(name)}` says how to fix it" if is_examined else ""


def describe(error: BaseException) -> str:
    """Describe an exception as a clause: what the environment returned, or the type and first line of its exception."""
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, BadValueError):
        return GAVE + first
    if isinstance(error, CallError):
        return first
    return f"it raised {type(error).__name__}: {first}" if first else f"it raised {type(error).__name__}"


def close_quietly(env: Any) -> None:
    """Close an environment or a vector, ignoring errors. `try_out` rejects an environment whose `close` raises before a
    run begins; later, the results matter more."""
    with contextlib.suppress(Exception, SystemExit):
        env.close()
