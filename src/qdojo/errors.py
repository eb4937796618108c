"""The errors qdojo raises on purpose: one sentence each, naming the field and the fix."""

from collections.abc import Callable
from typing import Any


class QdojoError(Exception):
    """Something failed for a reason that qdojo understands; the message is for a person (exit 1)."""


class UsageError(QdojoError):
    """The request itself is wrong: a name, a value, a file, an environment (exit 2)."""


class EnvironmentFailure(QdojoError):
    """An environment raised, died, or broke its own contract in the middle of a run (exit 1)."""


class DamagedFile(QdojoError):
    """A file of a run is missing, truncated or altered; the message names it (exit 2)."""


def tried(what: str, call: Callable[[], Any]) -> Any:
    """What a user's own code gives. Raises UsageError, which names `what` it is, for anything that comes out of it."""
    try:
        return call()
    except Exception as error:
        first = (str(error).splitlines() or [""])[0].rstrip(". ")
        raise UsageError(f"{what} raised {type(error).__name__}: {first}; mend it.") from error
