"""The lock of a run: one writer at a time, told from a writer that was killed. Not who asks for it: see `directory.py`.

POSIX has `flock`. Windows has locks of bytes, which are exclusive, so there `status` takes the lock for an instant and
gives it back, as a writer would.
"""

import os
import time

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

ATTEMPTS, PAUSE_SECONDS = 10, 0.02
"""`status` holds the lock for an instant; a writer that meets it must not be refused."""
OPEN_FLAGS = os.O_RDWR if fcntl is None else os.O_RDONLY
"""How whoever asks for the status opens the file."""


def lock_exclusively(descriptor: int) -> bool:
    """Take the lock of a writer; False where another process holds it. It ends with the descriptor."""
    for _ in range(ATTEMPTS):
        if _locked(descriptor, shared=False):
            return True
        time.sleep(PAUSE_SECONDS)
    return False


def is_held(descriptor: int) -> bool:
    """Whether a writer holds the lock. Close the descriptor afterwards: it may hold the lock for that long."""
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
    """Note a descriptor that holds a lock: a process that is forked from this one closes it."""
    _held.add(descriptor)


def release(descriptor: int) -> None:
    """Give the lock back and close its file, unless a fork did."""
    if descriptor in _held:
        _held.remove(descriptor)
        os.close(descriptor)


def _forget() -> None:
    """A forked worker shares its parent's locks, and would hold them on after the parent was killed."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
