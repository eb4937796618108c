"""The lock of a run: it allows one writer at a time, and a killed writer releases it. `directory.py` uses it.

POSIX has `flock`. Windows only has exclusive byte locks, so there `status` takes the lock for an instant and releases
it again, as a writer would.
"""

import os
import time

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

ATTEMPTS, PAUSE_SECONDS = 10, 0.02
"""`status` holds the lock for an instant, so a writer retries before it gives up."""
OPEN_FLAGS = os.O_RDWR if fcntl is None else os.O_RDONLY
"""Flags with which `status` opens the lock file."""


def lock_exclusively(descriptor: int) -> bool:
    """Take the writer's lock; return False if another process holds it. Closing the descriptor releases it."""
    for _ in range(ATTEMPTS):
        if _locked(descriptor, shared=False):
            return True
        time.sleep(PAUSE_SECONDS)
    return False


def is_held(descriptor: int) -> bool:
    """Return whether a writer holds the lock. Close the descriptor afterwards: it may hold the lock until then."""
    return not _locked(descriptor, shared=True)


def _locked(descriptor: int, shared: bool) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        else:
            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    return True


_held: set[int] = set()


def hold(descriptor: int) -> None:
    """Register a descriptor that holds a lock, so that forked processes close it."""
    _held.add(descriptor)


def release(descriptor: int) -> None:
    """Release the lock by closing its file, unless this is a fork that has closed it already."""
    if descriptor in _held:
        _held.remove(descriptor)
        os.close(descriptor)


def _forget() -> None:
    """Close the inherited locks in a forked worker, which would otherwise keep them after the parent was killed."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
