"""The folder of one run: its name, its files, its lock, its status. Not what lies in those files: see `metrics`,
`checkpoint` and `plots`.
"""

import contextlib
import difflib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, cast

from qdojo.errors import DamagedFile, UsageError
from qdojo.runs.lock import OPEN_FLAGS, hold, is_held, lock_exclusively, release
from qdojo.runs.result import Result

Status = Literal["running", "finished", "interrupted", "failed", "damaged"]

README = """\
This folder is one training run of qdojo. Every file can be read without qdojo.

config.toml       every setting of the run, as it was resolved (TOML)
metrics.sqlite    episodes, metrics and evaluations of each member (SQLite, tables of those names;
                  `-wal` and `-shm` beside it belong to it while the run is written)
checkpoints/      step-<steps>/ the last states that training can go on from, best/ the best agent so far;
                  each holds arrays.safetensors, meta.json and manifest.json (SHA-256 and size of the other two)
curve.png         the learning curve
result.json       how the run ended and what it reached; not there before it ends
cartpole_weight.weights.h5   the Keras weights of a run with the tutorial preset
.lock             held by the process that writes this run; an unheld one means nothing
"""


@dataclass(frozen=True)
class RunDirectory:
    """Where each file of a run lies; the files themselves may not be there yet."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config_path(self) -> Path:
        return self.path / "config.toml"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.sqlite"

    @property
    def checkpoints_path(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best_path(self) -> Path:
        return self.checkpoints_path / "best"

    @property
    def curve_path(self) -> Path:
        return self.path / "curve.png"

    @property
    def result_path(self) -> Path:
        return self.path / "result.json"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing. The lock ends with the process, so a killed run needs no mending.

        Raises `UsageError` where another writer holds it, or the folder cannot be written.
        """
        try:
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(f"The run {self.path} cannot be written: {error.strerror}.") from error
        hold(descriptor)
        try:
            if not lock_exclusively(descriptor):
                raise UsageError(f"The run {self.path} is being written by another process; stop that one first.")
            yield
        finally:
            release(descriptor)


def create(root: Path, env_id: str, preset: str, config_toml: str) -> RunDirectory:
    """Make `<root>/<env>-<preset>-<YYYYmmdd-HHMMSS>` with its config and README, and nothing at all on an error.

    Raises `UsageError` where `root` cannot be written or is full.
    """
    made: list[Path] = []
    run = None
    try:
        made = [folder for folder in (root, *root.parents) if not folder.exists()]
        root.mkdir(parents=True, exist_ok=True)
        run = _claim(root, f"{_plain(env_id)}-{_plain(preset)}-{datetime.now():%Y%m%d-%H%M%S}")
        run.checkpoints_path.mkdir()
        write_atomically(run.path / "README.txt", README.encode())
        write_atomically(run.config_path, config_toml.encode())
    except OSError as error:
        if run is not None:
            shutil.rmtree(run.path, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise UsageError(
            f"No run can be made in {root}: {error.strerror}; name a directory that can be written and has room."
        ) from error
    return run


def _plain(name: str) -> str:
    """A part of a folder's name: letters of any script, digits, dots; short enough for every file system."""
    letters = re.sub(r"[^\w.]+", "-", unicodedata.normalize("NFC", name))
    return letters.strip("-.")[:30] or "run"


def _claim(root: Path, name: str) -> RunDirectory:
    copy = 1
    while True:
        path = root / (name if copy == 1 else f"{name}-{copy}")
        try:
            path.mkdir()
            return RunDirectory(path)
        except FileExistsError:
            copy += 1


def replace_config(run: RunDirectory, config_toml: str) -> None:
    """Give a run other settings; among the others it keeps its place, which is when it was made.

    Raises `UsageError` where they cannot be written; the old ones are then still there.
    """
    made = run.config_path.stat()
    try:
        write_atomically(run.config_path, config_toml.encode())
    except OSError as error:
        raise UsageError(f"{run.config_path} cannot be written: {error.strerror}; make room or give access.") from error
    os.utime(run.config_path, ns=(made.st_atime_ns, made.st_mtime_ns))


def list_runs(root: Path) -> list[RunDirectory]:
    """Every run under `root`, the oldest first; none where `root` does not exist. Raises `UsageError` for a file."""
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file, not a folder of runs; name a folder.")
    dated = []
    for config in root.glob("*/config.toml"):
        with contextlib.suppress(OSError):
            dated.append((config.stat().st_mtime_ns, config.parent))
    return [RunDirectory(path) for _, path in sorted(dated)]


def find(root: Path, name: str) -> RunDirectory:
    """The run that `name` means: a path, a run's name under `root`, the start of exactly one name, or `last`.

    Raises `UsageError`, with the nearest names, where there is no such run or more than one. A path may lead
    anywhere, so a caller that does not trust `name` looks it up in `list_runs` instead.
    """
    runs = list_runs(root)
    if not runs and not (name and Path(name).is_dir()):
        raise UsageError(f"There is no run called {name!r}: {root} holds no runs yet; start one with `qdojo train`.")
    if name == "last":
        return runs[-1]
    for path in (root / name, Path(name)):
        if name and path.is_dir():
            if not (path / "config.toml").is_file():
                raise UsageError(f"{path} is not a run: it holds no config.toml.")
            return RunDirectory(path)
    starts = [run for run in runs if name and run.name.startswith(name)]
    if len(starts) == 1:
        return starts[0]
    if starts:
        listed = ", ".join(run.name for run in starts[-5:])
        raise UsageError(f"{name!r} is the start of {len(starts)} runs: {listed}; write more of the name.")
    near = difflib.get_close_matches(name, [run.name for run in runs], n=3, cutoff=0.4) or [runs[-1].name]
    raise UsageError(f"There is no run called {name!r} in {root}; did you mean {' or '.join(near)}?")


def read_result(run: RunDirectory) -> Result | None:
    """What the trainer wrote when the run ended, or None where it has not. Raises `DamagedFile`."""
    try:
        result = json.loads(run.result_path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFile(f"{run.result_path} cannot be read: {error}.") from error
    if not isinstance(result, dict) or result.get("status") not in ("finished", "interrupted", "failed"):
        raise DamagedFile(f"{run.result_path} does not say how the run ended.")
    return cast(Result, result)


def status(run: RunDirectory) -> Status:
    """Whether the run is being written now and, if not, how it ended; killed without a word is `interrupted`."""
    if _is_locked(run):
        return "running"
    try:
        result = read_result(run)
    except DamagedFile:
        return "damaged"
    return "interrupted" if result is None else result["status"]


def _is_locked(run: RunDirectory) -> bool:
    try:
        descriptor = os.open(run.path / ".lock", OPEN_FLAGS)
    except OSError:
        return False
    try:
        return is_held(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that `path` holds all of `content`, or what it held before, whenever power fails."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` last through a power failure; files are synced by whoever writes them."""
    if os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
