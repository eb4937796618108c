"""Snapshots of a run: the weights of its agents at some reports, from the untrained agent to the last one. The latest
state of training is in `checkpoint.py`.

Reports are numbered from 0, the untrained agents. Which of them are kept is a function of the number of the latest
report alone, so a resumed run keeps the same ones.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from qdojo.errors import DamagedFile, UsageError

FOLDER = "snapshots"
MOST = 64
"""Maximum number of snapshots that a run keeps."""
MOST_BYTES = 256 * 2**20
"""Maximum size in bytes of the snapshots that a run keeps. Between two checkpoints there may be twice as much."""
EARLY_SHARE = 4
"""Of at most n snapshots, up to n // EARLY_SHARE are early ones, between the evenly spaced ones."""
PARAMS = "params/"
"""Prefix of the names in a file, which are those of the delivered agents in `checkpoints/best`."""


class Snapshot(NamedTuple):
    """The weights of one member at one report."""

    step: int
    """Env steps of the member at that time; 0 is the untrained agent."""
    weights: dict[str, Shaped[np.ndarray, "..."]]
    """The parameters of its network by name, without a member axis."""


def most_kept(bytes_each: int) -> int:
    """Maximum number of snapshots that a run keeps if each takes `bytes_each` bytes; 0 if fewer than two fit."""
    fit = MOST_BYTES // max(bytes_each, 1)
    return 0 if fit < 2 else min(MOST, fit)


def kept(newest: int, most: int) -> set[int]:
    """Numbers of the reports whose snapshots are kept at report `newest`: at most `most` of them, none of which was
    dropped before.

    They are the multiples of a stride, the smallest power of two with which they fit, and some powers of two below it,
    because agents change fastest early in training.
    """
    if most == 0:
        return set()
    early, stride = most // EARLY_SHARE, 1
    while newest // stride + 1 + min(early, stride.bit_length() - 1) > most:
        stride *= 2
    between = {stride >> i for i in range(1, early + 1)} - {0}
    return {*range(0, newest + 1, stride), *(number for number in between if number <= newest)}


def path_of(directory: Path, step: int) -> Path:
    """Path of the snapshot of all members at `step` in a run directory."""
    return directory / FOLDER / f"step-{step:012d}.safetensors"


def steps(directory: Path) -> list[int]:
    """Steps of all snapshots in a run directory, in ascending order."""
    found = []
    for path in _files(directory, "step-*.safetensors"):
        name = path.name.removeprefix("step-").split(".")[0]
        with contextlib.suppress(FileNotFoundError):  # a run that is being written has just deleted it
            if name.isdecimal() and path.stat().st_size:
                found.append(int(name))
    return sorted(found)


def size_in_bytes(directory: Path, step: int) -> int:
    """Bytes of the parameters of all members in the snapshot at `step`. Raises DamagedFile if it cannot be read."""
    return sum(array.nbytes for array in _read(path_of(directory, step)).values())


def write(directory: Path, step: int, arrays: Mapping[str, Shaped[np.ndarray, "member ..."]]) -> None:
    """Write the parameters of all members, whose names begin with `PARAMS`; a kill leaves a whole file or none, but a
    power failure may leave an empty one.

    Raises OSError if it cannot be written.
    """
    target = path_of(directory, step)
    target.parent.mkdir(exist_ok=True)
    aside = target.with_name(f".tmp-{target.name}")
    try:
        save_file({name: np.array(array, order="C", copy=None) for name, array in arrays.items()}, aside)
        os.replace(aside, target)  # noqa: PTH105
    except SafetensorError as error:
        raise OSError(f"{target} cannot be written: {error}") from error
    finally:
        aside.unlink(missing_ok=True)


def delete(directory: Path, unwanted: Iterable[int]) -> None:
    """Delete the snapshots at these steps."""
    for step in unwanted:
        path_of(directory, step).unlink(missing_ok=True)


def truncate(directory: Path, after_step: int) -> None:
    """Delete all snapshots after `after_step`, and unfinished files: a run that continues there writes them again."""
    delete(directory, [step for step in steps(directory) if step > after_step])
    for aside in _files(directory, ".tmp-*"):
        aside.unlink(missing_ok=True)


def snapshots(directory: Path, member: int = 0) -> list[Snapshot]:
    """The snapshots of one member of the run in `directory`, in the order of their steps; empty if it has kept none.

    Raises UsageError if the run has no such member, DamagedFile if a snapshot cannot be read.
    """
    found = []
    for step in steps(directory):
        path = path_of(directory, step)
        try:
            arrays = _read(path)
        except FileNotFoundError:
            continue  # a run that is being written has just deleted it
        if not arrays or any(array.ndim == 0 for array in arrays.values()):
            raise DamagedFile(f"{path} holds no parameters of members.")
        members = min(len(array) for array in arrays.values())
        if not 0 <= member < members:
            raise UsageError(f"member is {member}, but {path} has members 0 to {members - 1}.")
        found.append(Snapshot(step, {name.removeprefix(PARAMS): array[member] for name, array in arrays.items()}))
    return found


def _read(path: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DamagedFile(f"{path} cannot be read as a snapshot: {error}.") from error


def _files(directory: Path, pattern: str) -> list[Path]:
    with contextlib.suppress(OSError):
        return list((directory / FOLDER).glob(pattern))
    return []
