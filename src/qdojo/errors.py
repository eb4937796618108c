"""The errors that qdojo raises deliberately. Their messages are one sentence that names the field and the fix."""

from collections.abc import Callable
from typing import Any


class QdojoError(Exception):
    """Something failed for a known reason; the message is written for the user (exit 1)."""


class UsageError(QdojoError):
    """The request itself is wrong: a name, a value, a file, an environment (exit 2)."""


class EnvironmentFailure(QdojoError):
    """An environment raised an exception, died, or violated its contract during a run (exit 1)."""


class DamagedFile(QdojoError):
    """A file of a run is missing, truncated or altered; the message names it (exit 2)."""


def tried(what: str, call: Callable[[], Any]) -> Any:
    """The result of a user's own code. Turns any exception from it into a UsageError that calls the code `what`."""
    try:
        return call()
    except Exception as error:
        first = (str(error).splitlines() or [""])[0].rstrip(". ")
        raise UsageError(f"{what} raised {type(error).__name__}: {first}; correct it.") from error
