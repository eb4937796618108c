"""How what an environment did wrong is put into words. Not for checking it: see `trial.py` and `doctor.py`."""

import contextlib
import shlex
from typing import Any

from qdojo.envs.encoders import BadValueError


class CallError(Exception):
    """A call into an environment other than `reset` and `step` raised; the text names it: 'its factory raised ...'."""


class CopyError(Exception):
    """What went wrong in which copy (None: in all of them); the text fits after 'failed: '."""

    def __init__(self, copy: int | None, what: str) -> None:
        super().__init__(what)
        self.copy = copy
        self.what = what


GAVE = "it gave "
"""How the description of a broken promise begins, and no other."""


def doctor_hint(name: str, what: str) -> str:
    """Where a person finds how to mend `what`, after a semicolon; nothing where the doctor has no more to say."""
    # A callable without a name of its own cannot be named on a command line.
    is_examined = what.startswith(GAVE) and "<" not in name
    return f"; `qdojo doctor {shlex.quote(name)}` says how to mend it" if is_examined else ""


def describe(error: BaseException) -> str:
    """An exception as a clause: what the environment gave, or what it raised and the first line of that."""
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, BadValueError):
        return GAVE + first
    if isinstance(error, CallError):
        return first
    return f"it raised {type(error).__name__}: {first}" if first else f"it raised {type(error).__name__}"


def close_quietly(env: Any) -> None:
    """Close an environment or a vector. One whose `close` raises is refused before a run begins; later, what was played
    is worth more."""
    with contextlib.suppress(Exception, SystemExit):
        env.close()
