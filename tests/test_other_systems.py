"""Nothing at import needs Linux: in a process from which what Windows lacks has been taken away."""

import subprocess
import sys
from pathlib import Path

WITHOUT_POSIX = """
import os, pkgutil, signal, sys, types
import gymnasium, jax, matplotlib.pyplot, rich.live  # these look after themselves

for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"):
    sys.modules[name] = None
for name in ("fork", "register_at_fork", "sysconf", "getuid", "getpgid", "killpg", "sched_getaffinity"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGALRM"):
    delattr(signal, name)
held = set()

def locking(descriptor, mode, size):
    place = os.fstat(descriptor).st_ino
    if place in held:
        raise PermissionError(13, "Permission denied")
    held.add(place)

sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=locking)

import qdojo

for module in pkgutil.walk_packages(qdojo.__path__, "qdojo."):
    if module.name != "qdojo.__main__":
        __import__(module.name)

from qdojo.build.memory import free_bytes
from qdojo.runs.lock import OPEN_FLAGS, is_held, lock_exclusively

lock = os.open(sys.argv[1], OPEN_FLAGS | os.O_CREAT)
assert lock_exclusively(lock) and not lock_exclusively(lock) and is_held(lock)
assert free_bytes() > 0
print("imported")
"""


def test_every_module_is_imported_without_what_only_posix_has(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_POSIX, str(tmp_path / ".lock")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "imported"
