"""Saves named arrays and a little JSON so that a kill at any moment leaves a loadable checkpoint. The trainer converts
its state to and from these arrays.

A checkpoint is a folder: `arrays.safetensors`, `meta.json`, and `manifest.json` with the SHA-256 and size of the
other two. It is written as `.tmp-*` and renamed into place. If the name exists, the older checkpoint is called
`.old-<name>` for the instant between two renames, and every reader looks there too. Nothing is ever unpickled. The rows
of a large tape are in files that checkpoints share (`segments.py`), and `meta.json` lists them.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from qdojo.errors import DamagedFile, QdojoError, UsageError
from qdojo.runs import segments
from qdojo.runs.directory import sync_folder

ARRAYS, META, MANIFEST = "arrays.safetensors", "meta.json", "manifest.json"
_DTYPES = frozenset(
    ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
)
_STORED = {{"bool": "BOOL"}.get(name, name[0].upper() + name.lstrip("uintfloa")): np.dtype(name) for name in _DTYPES}
"""NumPy dtype by its name in safetensors."""
_MAPPED_BYTES = 2**20
"""Arrays of at least this size are memory-mapped, so that they are read only when used."""
_MANIFEST_LIMIT_BYTES = 4096
_META_LIMIT_BYTES = 64 * 2**20
_TAPE = "tape"
"""Key of the list of segments in `meta.json`."""

Arrays = dict[str, Any]
"""NumPy arrays by name; the rows of a large tape are a `segments.Rows`, which is read only where it is sliced."""


class Loaded(NamedTuple):
    """A checkpoint, one sentence for each newer checkpoint that was damaged and skipped, and its segments, if any."""

    path: Path
    arrays: Arrays
    meta: dict[str, Any]
    skipped: list[str]
    tape: segments.Listing | None = None
    identity: tuple[int, int] | None = None
    """Of the folder, as it was read."""

    def unmap(self) -> None:
        """Forget the arrays: they map files, whose room on the disk is not free before, even if they are deleted."""
        self.arrays.clear()


def step_name(steps: int) -> str:
    """Return the name of the checkpoint at `steps`; names sort in the order of steps."""
    return f"step-{steps:012d}"


def append(directory: Path, ring: segments.Ring | None, stored: segments.Listing | None) -> segments.Listing | None:
    """Store the rows of a large tape before the checkpoint that needs them: see `segments.append`. None for no ring.

    Leftovers of a killed process are deleted first.
    """
    if ring is None:
        return None
    _sweep(directory, set() if stored is None else stored.files)
    return segments.append(directory, ring, stored)


def save(
    directory: Path,
    name: str,
    arrays: Mapping[str, Shaped[np.ndarray, "..."]],
    meta: dict[str, Any],
    tape: segments.Listing | None = None,
) -> Path:
    """Save a checkpoint as `directory/name`, replacing one of that name, and return its path.

    `tape` lists the rows that `append` has stored. Saving a `step-*` checkpoint also deletes all later ones: they were
    damaged, so a resume fell back to an earlier one. `meta` is any JSON data. There may be one writer at a time, so
    hold the run's lock. Raises `QdojoError` if it cannot be written, `TypeError` for a dtype or a `meta` that cannot be
    saved; older checkpoints are then untouched.
    """
    packed = {key: _packed(key, value) for key, value in arrays.items()}
    listed = {} if tape is None else {_TAPE: segments.to_json(tape)}
    meta_bytes = json.dumps(meta | listed, ensure_ascii=False, indent=1).encode()
    target = directory / name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _settle(directory)
        aside = directory / f".tmp-{name}"
        aside.mkdir()
        save_file(packed, aside / ARRAYS)
        _sync_file(aside / ARRAYS)
        _write(aside / META, meta_bytes)
        _write(aside / MANIFEST, _manifest(aside))
        sync_folder(aside)
        if target.exists():
            os.rename(target, _displaced(target))  # noqa: PTH104
        os.rename(aside, target)  # noqa: PTH104
        sync_folder(directory)
        _delete([_displaced(target), *_given_up(target)])
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            _settle(directory)
        raise QdojoError(f"The checkpoint {target} cannot be written: {error}; earlier ones are kept.") from error
    return target


def load(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays and the meta of one checkpoint. Raises `DamagedFile`, which names the damaged file."""
    return _intact(path)[:2]


def _intact(path: Path) -> tuple[Arrays, dict[str, Any], segments.Listing | None]:
    while True:
        seen = _identity(path)
        try:
            return _load(path if path.is_dir() or not _displaced(path).is_dir() else _displaced(path))
        except DamagedFile:
            # A reader may have seen half of the old and half of the new checkpoint while a trainer was writing.
            if _identity(path) == seen:
                raise


def load_latest(directory: Path, read: Loaded | None = None) -> Loaded:
    """Return the newest intact `step-*` checkpoint, and why newer ones were skipped.

    If it is the one that was `read` before, that is returned, and its files are not verified again.

    Raises `UsageError` if there is no checkpoint, `DamagedFile` if all are damaged.
    """
    skipped: list[str] = []
    for path in reversed(_steps(directory)):
        identity = _identity(path)
        if read is not None and (path, identity) == (read.path, read.identity):
            return read
        try:
            arrays, meta, tape = _intact(path)
            return Loaded(path, arrays, meta, skipped, tape, identity)
        except DamagedFile as error:
            skipped.append(str(error))
    if skipped:
        raise DamagedFile(" ".join(["No checkpoint can be loaded.", *skipped]))
    raise UsageError(f"{directory} holds no checkpoint yet; train the agent again.")


def exists(directory: Path) -> bool:
    """Return whether there is a `step-*` checkpoint, intact or damaged."""
    return bool(_steps(directory))


def prune(directory: Path, keep: int = 3) -> None:
    """Delete all but the newest `keep` checkpoints named `step-*`, and the segments that none of these needs.

    Call it only after a successful `save`.
    """
    _delete(_steps(directory)[:-keep])
    _sweep(directory, set())


def _sweep(directory: Path, needed: set[str]) -> None:
    """Delete the segments that neither `needed` nor a checkpoint names."""
    needed = set(needed)
    try:
        for pattern in ("step-*", ".old-step-*"):
            for folder in directory.glob(pattern):
                # A checkpoint that cannot be loaded needs no segments.
                with contextlib.suppress(ValueError, RecursionError, DamagedFile, FileNotFoundError):
                    meta = _meta(folder)
                    needed |= segments.from_json(meta[_TAPE]).files if _TAPE in meta else set()
    except OSError:
        return  # it may be readable later
    segments.sweep(directory, needed)


def _packed(name: str, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    if array.dtype.name not in _DTYPES:
        raise TypeError(
            f"The array {name!r} is of dtype {array.dtype}; a checkpoint holds {', '.join(sorted(_DTYPES))}."
        )
    return np.array(array, order="C", copy=None)  # ascontiguousarray would give a scalar an axis


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _manifest(folder: Path) -> bytes:
    """Return the exact bytes that the manifest must hold if both files are as they were saved."""
    files = {}
    for name in (ARRAYS, META):
        with (folder / name).open("rb") as file:
            files[name] = {
                "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                "bytes": os.fstat(file.fileno()).st_size,
            }
    return json.dumps(files, indent=1).encode()


def _displaced(target: Path) -> Path:
    return target.with_name(f".old-{target.name}")


def _settle(directory: Path) -> None:
    """Clean up after a killed writer: restore a checkpoint that was being replaced, and delete half-written ones."""
    for old in directory.glob(".old-*"):
        target = directory / old.name.removeprefix(".old-")
        if target.exists():
            shutil.rmtree(old)
        else:
            os.rename(old, target)  # noqa: PTH104
    for aside in directory.glob(".tmp-*"):
        shutil.rmtree(aside)


def _given_up(target: Path) -> list[Path]:
    return [path for path in _steps(target.parent) if target.name.startswith("step-") and path.name > target.name]


def _delete(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _steps(directory: Path) -> list[Path]:
    names = {
        path.name.removeprefix(".old-") for pattern in ("step-*", ".old-step-*") for path in directory.glob(pattern)
    }
    return [directory / name for name in sorted(names)]


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _load(folder: Path) -> tuple[Arrays, dict[str, Any], segments.Listing | None]:
    try:
        _verify(folder)
        # The manifest protects against accidents, not against attacks, so the readers below trust nothing either.
        arrays = _mapped(folder / ARRAYS)
        meta = _meta(folder)
        tape = _listing(folder, meta.pop(_TAPE), arrays) if _TAPE in meta else None
        if tape is not None:
            arrays[tape.array] = segments.opened(folder.parent, tape)
    except OSError as error:
        raise DamagedFile(f"{error.filename or folder} cannot be read: {error.strerror}.") from error
    except SafetensorError as error:
        raise DamagedFile(f"{folder / ARRAYS} is not a safetensors file: {error}.") from error
    except KeyError as error:
        raise DamagedFile(f"{folder / ARRAYS} holds an array of the unknown type {error}.") from error
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{folder / META} is not JSON: {error}.") from error
    return arrays, meta, tape


def _meta(folder: Path) -> dict[str, Any]:
    if (folder / META).stat().st_size > _META_LIMIT_BYTES:
        raise DamagedFile(f"{folder / META} is too large.")
    meta = json.loads((folder / META).read_bytes())
    if not isinstance(meta, dict):
        raise DamagedFile(f"{folder / META} is not a JSON object.")
    return meta


def _listing(folder: Path, data: Any, arrays: Arrays) -> segments.Listing:
    try:
        listing = segments.from_json(data)
        if listing.array in arrays:
            raise ValueError(f"{listing.array} is in {ARRAYS} too")
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{folder / META} does not list the segments of the tape: {error}.") from error
    return listing


def _mapped(path: Path) -> Arrays:
    """Return the arrays of a safetensors file; large ones are memory-mapped and read only when used."""
    with safe_open(path, framework="np"):
        pass  # it rejects a header whose arrays do not fill the file without gaps
    whole = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(whole[:8].tobytes(), "little")
    header = json.loads(whole[8:start].tobytes())
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (start + offset for offset in entry["data_offsets"])
        array = np.asarray(whole[begin:end]).view(_STORED[entry["dtype"]]).reshape(entry["shape"])
        arrays[name] = array if array.nbytes >= _MAPPED_BYTES else array.copy()
    return arrays


def _verify(folder: Path) -> None:
    if not folder.is_dir():
        raise DamagedFile(f"{folder} is missing.")
    for name in (ARRAYS, META, MANIFEST):
        if not (folder / name).is_file():
            raise DamagedFile(f"{folder / name} is missing.")
        if (folder / name).stat().st_size == 0:
            raise DamagedFile(f"{folder / name} is empty.")
    with (folder / MANIFEST).open("rb") as file:
        written = file.read(_MANIFEST_LIMIT_BYTES + 1)
    if len(written) > _MANIFEST_LIMIT_BYTES:
        raise DamagedFile(f"{folder / MANIFEST} is too large to be a manifest.")
    found = _manifest(folder)
    if written != found:
        raise DamagedFile(_difference(folder, written, json.loads(found)))


def _difference(folder: Path, written: bytes, found: dict[str, dict[str, Any]]) -> str:
    """Say which file was changed, as far as the manifest and the files tell."""
    with contextlib.suppress(ValueError, RecursionError, TypeError, AttributeError, KeyError):
        saved = json.loads(written)
        for name, is_now in found.items():
            if saved[name]["bytes"] != is_now["bytes"]:
                return (
                    f"{folder / name} has {is_now['bytes']} bytes where {MANIFEST} says {saved[name]['bytes']}: "
                    "one of the two was cut short or altered."
                )
            if saved[name]["sha256"] != is_now["sha256"]:
                return f"{folder / name} was altered: its SHA-256 is not the one in {MANIFEST}."
    return f"{folder / MANIFEST} was altered."
