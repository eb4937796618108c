"""The directory of one run: its name, file paths, lock and status. For the content of the files, see `metrics`,
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

config.toml       every setting of the run, fully resolved (TOML)
metrics.sqlite    episodes, metrics and evaluations of each member (SQLite, tables of those names;
                  `-wal` and `-shm` beside it belong to it while the run is written)
checkpoints/      step-<steps>/ the last states that training can resume from, best/ the best agent so far;
                  each holds arrays.safetensors, meta.json and manifest.json (SHA-256 and size of the other two);
                  tape/ holds the rows of a large replay memory as 32-bit words, in files that meta.json lists
snapshots/        step-<steps>.safetensors: the weights of all members while they learned
curve.png         the learning curve
result.json       how the run ended and its scores; missing until it ends
cartpole_weight.weights.h5   the Keras weights of a run with the tutorial preset
.lock             locked by the process that writes this run; the file alone means nothing
"""


@dataclass(frozen=True)
class RunDirectory:
    """The paths of a run's files; the files themselves may not exist yet."""

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
        """Lock the run for writing. The lock ends with the process, so a killed run needs no cleanup.

        Raises `UsageError` if another writer holds the lock, or the directory cannot be written.
        """
        try:
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(f"The run {self.path} cannot be written: {error.strerror}.") from error
        hold(descriptor)
        try:
            if not lock_exclusively(descriptor):
                raise UsageError(f"The run {self.path} is being written by another process; stop that process first.")
            yield
        finally:
            release(descriptor)


def create(root: Path, env_id: str, preset: str, config_toml: str) -> RunDirectory:
    """Create `<root>/<env>-<preset>-<YYYYmmdd-HHMMSS>` with its config and README; an error leaves nothing behind.

    Raises `UsageError` if `root` cannot be written or is full.
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
            f"No run can be created in {root}: {error.strerror}; choose a writable directory that has free space."
        ) from error
    return run


def _plain(name: str) -> str:
    """Reduce a name to letters of any script, digits and dots, short enough for every file system."""
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
    """Replace the settings of a run but keep the file's timestamp, which orders the list of runs.

    Raises `UsageError` if they cannot be written; the old settings are then kept.
    """
    made = run.config_path.stat()
    try:
        write_atomically(run.config_path, config_toml.encode())
    except OSError as error:
        raise UsageError(
            f"{run.config_path} cannot be written: {error.strerror}; free some space or change the permissions."
        ) from error
    os.utime(run.config_path, ns=(made.st_atime_ns, made.st_mtime_ns))


def list_runs(root: Path) -> list[RunDirectory]:
    """Return every run under `root`, oldest first; empty if `root` does not exist. Raises `UsageError` for a file."""
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file, not a folder of runs; name a folder.")
    dated = []
    for config in root.glob("*/config.toml"):
        with contextlib.suppress(OSError):
            dated.append((config.stat().st_mtime_ns, config.parent))
    return [RunDirectory(path) for _, path in sorted(dated)]


def find(root: Path, name: str) -> RunDirectory:
    """Return the run that `name` refers to: a path, a run's name under `root`, the start of exactly one, or `last`.

    Raises `UsageError`, with the most similar names, if there is no such run or more than one. A path may point
    anywhere, so a caller that does not trust `name` must look it up in `list_runs` instead.
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
    """Return the result that the trainer wrote when the run ended; None if it has not ended. Raises `DamagedFile`."""
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
    """Return `running` if the run is being written now, else how it ended; a killed run counts as `interrupted`."""
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
    """Write a small file so that even after a power failure `path` holds either all of `content` or its old content."""
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
    """Make the file names in `folder` durable through a power failure; the content is synced by each file's writer."""
    if os.name == "nt":
        return  # Windows cannot open folders
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
