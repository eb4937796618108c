"""What Windows lacks, taken away: `fcntl`, forks, `sysconf` and folders as files. Not a test on Windows."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
# The standard library takes these for its own choice of a system, so it goes first.
import asyncio, multiprocessing, os, pathlib, subprocess, sys, tempfile, types

locked = set()

def locking(descriptor, mode, count):
    inode = os.fstat(descriptor).st_ino
    if inode in locked:
        raise PermissionError(13, "Permission denied")
    locked.add(inode)

fake = types.ModuleType("msvcrt")
fake.locking, fake.LK_NBLCK = locking, 2
sys.modules["fcntl"], sys.modules["msvcrt"] = None, fake
del os.register_at_fork, os.sysconf
import qdojo, qdojo.api, qdojo.cli
from qdojo.errors import UsageError
from qdojo.runs.directory import create, status

run = create(pathlib.Path(sys.argv[1]), "CartPole-v1", "default", 'env = "CartPole-v1"')
with run.lock():
    assert status(run) == "running"
    try:
        with run.lock():
            pass
    except UsageError as error:
        print(error)
"""


def test_the_package_is_imported_and_runs_are_locked_without_posix(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "is being written by another process; stop that process first." in ran.stdout
