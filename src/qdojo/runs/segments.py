"""Stores the rows of a large tape in files that are written once, so that a checkpoint writes only the new rows.

Rows are numbered from the start of the run, and row r is at position `r % capacity` of the ring. A segment holds
consecutive rows and never changes. Its name holds the number of its first row, the number after its last one and its
SHA-256. A checkpoint lists the segments that hold its rows; `checkpoint.py` stores that list.
"""

import contextlib
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt32

from qdojo.errors import DamagedFile, QdojoError
from qdojo.runs.directory import sync_folder

FOLDER = "tape"
"""Folder of the segments, next to the checkpoints that share them."""
LEAST_BYTES = 64 * 2**20
"""A tape is stored in segments if it takes more than this when full."""
SEGMENT_BYTES = 256 * 2**20
"""Maximum size of a segment, unless a single row is larger. A segment is deleted only as a whole."""
BLOCK_BYTES = 16 * 2**20
"""Rows are copied from the device to a file in blocks of this size."""
MANY_SEGMENTS = 10_000
SMALL_BYTES = 2**20
"""If a checkpoint lists many segments, a save writes the newest one again with the new rows while it is small. So even
a save after every row leaves a number of files that can be listed and mapped."""
WORD = np.dtype(np.uint32)

Block = UInt32[np.ndarray, "rows ..."]


class Ring(NamedTuple):
    """The rows in memory that a checkpoint saves."""

    array: str
    """Their name among the arrays of the checkpoint."""
    shape: tuple[int, ...]
    """`[capacity, ...]`"""
    written: int
    """Number of rows ever written."""
    read: Callable[[int, int], Block]
    """`read(start, count)` returns the rows at positions `start` to `start + count`; `count` is always the same."""


class Segment(NamedTuple):
    """The rows from `first` up to but excluding `end`, and the SHA-256 of their bytes."""

    first: int
    end: int
    sha256: str

    @property
    def file(self) -> str:
        return f"{self.first:012d}-{self.end:012d}-{self.sha256[:16]}.rows"


class Listing(NamedTuple):
    """The segments that together hold the rows of a checkpoint, oldest first."""

    array: str
    shape: tuple[int, ...]
    written: int
    segments: tuple[Segment, ...]

    @property
    def row_bytes(self) -> int:
        return row_bytes(self.shape)

    @property
    def files(self) -> set[str]:
        return {segment.file for segment in self.segments}

    def without_newest(self) -> "Listing":
        """The list without the segment of the newest row, because that row has changed in memory."""
        return self._replace(segments=self.segments[:-1])


@dataclass(frozen=True)
class Rows:
    """The rows of a tape in the order of the ring, as an array whose files are read only where it is sliced."""

    row_shape: tuple[int, ...]
    pieces: tuple[UInt32[np.ndarray, "_ ..."], ...]
    dtype = WORD

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), *self.row_shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return sum(piece.nbytes for piece in self.pieces)

    def __len__(self) -> int:
        return sum(len(piece) for piece in self.pieces)

    def __getitem__(self, rows: slice) -> Block:
        """Consecutive rows. Those of a single file are not copied."""
        start, stop, step = rows.indices(len(self))
        assert step == 1, "a slice of consecutive rows"
        found, at = [np.empty((0, *self.row_shape), WORD)], 0
        for piece in self.pieces:
            part = piece[max(start - at, 0) : max(stop - at, 0)]
            found += [part] if len(part) else []
            at += len(piece)
        return found[-1] if len(found) <= 2 else np.concatenate(found)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows in memory. Slices are better for a tape that may be large."""
        return np.array(self[:], dtype=dtype, copy=copy)


def row_bytes(shape: tuple[int, ...]) -> int:
    """Size of one row of a ring of this shape."""
    return math.prod(shape[1:]) * WORD.itemsize


def is_large(shape: tuple[int, ...]) -> bool:
    """Whether a ring of this shape is stored in segments rather than in each checkpoint."""
    return shape[0] * row_bytes(shape) > LEAST_BYTES


def append(directory: Path, ring: Ring, stored: Listing | None) -> Listing:
    """Store the rows of `ring` that `stored` lacks under `directory`, and list all segments of its rows.

    `stored` lists segments whose rows are still as they were written; if a file is gone or was cut, its rows are
    written again. Raises QdojoError if the rows cannot be written.
    """
    folder = directory / FOLDER
    oldest = max(0, ring.written - ring.shape[0])
    known = () if stored is None else stored.segments
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            sync_folder(directory)
        size = row_bytes(ring.shape)
        kept = [s for s in known if s.end > oldest and _size(folder / s.file) == (s.end - s.first) * size]
        if len(kept) >= MANY_SEGMENTS and (kept[-1].end - kept[-1].first) * size < SMALL_BYTES:
            kept.pop()
        new = [_write(folder, ring, *rows) for rows in _lacking(kept, oldest, ring.written, size)]
        if new:
            sync_folder(folder)
    except OSError as error:
        raise QdojoError(f"The tape cannot be written to {folder}: {error}; earlier checkpoints are kept.") from error
    return Listing(ring.array, ring.shape, ring.written, tuple(sorted([*kept, *new])))


def sweep(directory: Path, needed: set[str]) -> None:
    """Delete all files in the folder of segments that are not named in `needed`."""
    for path in (directory / FOLDER).glob("*"):
        if path.name not in needed:
            with contextlib.suppress(OSError):
                path.unlink()


def to_json(listing: Listing) -> dict[str, Any]:
    """The list as JSON data."""
    segments = [
        {"file": s.file, "rows": [s.first, s.end], "bytes": (s.end - s.first) * listing.row_bytes, "sha256": s.sha256}
        for s in listing.segments
    ]
    return {"array": listing.array, "shape": list(listing.shape), "written": listing.written, "segments": segments}


def from_json(data: Any) -> Listing:
    """The list that `to_json` wrote. Raises ValueError if it does not list every row of a ring exactly once."""
    try:
        shape, written = tuple(data["shape"]), data["written"]
        segments = tuple(_segment(each) for each in data["segments"])
        listing = Listing(data["array"], shape, written, segments)
        if not isinstance(listing.array, str) or not all(type(number) is int for number in (*shape, written)):
            raise ValueError("a field is of the wrong type")
        if not all(re.fullmatch("[0-9a-f]{64}", s.sha256) for s in segments):
            raise ValueError("a checksum is not a SHA-256")
        if len(shape) < 2 or min(shape) < 1 or written < 0 or any(not 0 <= s.first < s.end for s in segments):
            raise ValueError("a number is out of range")
        if to_json(listing) != data:
            raise ValueError("its fields contradict each other")
    except (KeyError, TypeError, IndexError, OverflowError) as error:
        raise ValueError(f"it lacks a field ({error!r})") from error
    ends = [max(0, written - shape[0]), *(s.end for s in segments)]
    starts = [*(s.first for s in segments), written]
    # The oldest segment may begin with rows that were overwritten since.
    if starts[0] > ends[0] or (segments and segments[0].end <= ends[0]) or starts[1:] != ends[1:]:
        raise ValueError("its segments do not hold each row exactly once")
    return listing


def _segment(data: Any) -> Segment:
    first, end = data["rows"]
    if type(first) is not int or type(end) is not int:
        raise ValueError("a row number is not an integer")
    return Segment(first, end, data["sha256"])


def opened(directory: Path, listing: Listing) -> Rows:
    """The rows of a list, which are verified now and read later. Raises DamagedFile, which names the damaged file."""
    capacity, row_shape = listing.shape[0], listing.shape[1:]
    oldest = max(0, listing.written - capacity)
    pieces = []
    for segment in listing.segments:
        path, rows = directory / FOLDER / segment.file, segment.end - segment.first
        _verify(path, rows * listing.row_bytes, segment.sha256)
        whole = np.asarray(np.memmap(path, WORD, "r", shape=(rows, *row_shape)))
        for first, end in _unwrapped(max(segment.first, oldest), segment.end, capacity):
            pieces.append((first % capacity, whole[first - segment.first : end - segment.first]))
    return Rows(row_shape, tuple(piece for _, piece in sorted(pieces, key=lambda each: each[0])))


def _verify(path: Path, size: int, sha256: str) -> None:
    if not path.is_file():
        raise DamagedFile(f"{path} is missing.")
    if (found := path.stat().st_size) != size:
        raise DamagedFile(f"{path} has {found} bytes where its checkpoint says {size}: it was cut or altered.")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise DamagedFile(f"{path} was altered: its SHA-256 is not the one in its checkpoint.")


def _lacking(kept: list[Segment], oldest: int, written: int, size: int) -> Iterator[tuple[int, int]]:
    """The rows from `oldest` to `written` that no segment holds, in stretches of at most a segment's size."""
    most, at = max(1, SEGMENT_BYTES // size), oldest
    for first, end in [*((s.first, s.end) for s in kept), (written, written)]:
        for start in range(at, first, most):
            yield start, min(start + most, first)
        at = max(at, end)


def _unwrapped(first: int, end: int, capacity: int) -> Iterator[tuple[int, int]]:
    """The rows in stretches that do not cross the end of the ring."""
    while first < end:
        stop = min(end, (first // capacity + 1) * capacity)
        yield first, stop
        first = stop


def _blocks(ring: Ring, first: int, end: int) -> Iterator[Block]:
    capacity = ring.shape[0]
    count = min(capacity, max(1, BLOCK_BYTES // row_bytes(ring.shape)))
    for start, stop in _unwrapped(first, end, capacity):
        for row in range(start, stop, count):
            # Reads of one size need one compiled program, so a read near the end of the ring begins earlier.
            at = min(row % capacity, capacity - count)
            skipped = row % capacity - at
            yield ring.read(at, count)[skipped : skipped + min(count, stop - row)]


def _write(folder: Path, ring: Ring, first: int, end: int) -> Segment:
    aside, digest = folder / f".tmp-{first:012d}", hashlib.sha256()
    try:
        with aside.open("wb") as file:
            for block in _blocks(ring, first, end):
                content = np.ascontiguousarray(block).reshape(-1).data
                digest.update(content)
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        segment = Segment(first, end, digest.hexdigest())
        os.replace(aside, folder / segment.file)  # noqa: PTH105
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    return segment


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
