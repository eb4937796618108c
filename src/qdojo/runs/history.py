"""Snapshots of a run: the weights of its agents at some reports, from the untrained agent to the last one. The latest
state of training is in `checkpoint.py`.

Snapshots that are written together share a file, a pack: a file for each would cost a small and fast agent much time.

Reports are numbered from 0, the untrained agents. Which of them are kept is a function of the number of the latest
report alone, so a resumed run keeps the same ones.
"""

import contextlib
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from qdojo.errors import DamagedFile, UsageError

FOLDER = "snapshots"
MOST = 64
"""Maximum number of snapshots that a run keeps."""
MOST_BYTES = 256 * 2**20
"""Maximum size in bytes of the snapshots that a run keeps. Between two checkpoints there may be twice as much, and one
pack while it is written again."""
EARLY_SHARE = 4
"""Of at most n snapshots, up to n // EARLY_SHARE are early ones, between the evenly spaced ones."""
STEPS = "steps"
"""Name of the array of steps in a pack."""
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
    stride = _stride(newest, most)
    between = {stride >> i for i in range(1, most // EARLY_SHARE + 1)} - {0}
    return {*range(0, newest + 1, stride), *(number for number in between if number <= newest)}


def is_kept(newest: int, most: int) -> bool:
    """Whether `newest` is one of `kept(newest, most)`, in less time."""
    return most > 0 and newest % _stride(newest, most) == 0


def _stride(newest: int, most: int) -> int:
    stride = 1
    while newest // stride + 1 + min(most // EARLY_SHARE, stride.bit_length() - 1) > most:
        stride *= 2
    return stride


def path_of(directory: Path, step: int) -> Path:
    """Path of the pack in a run directory whose first snapshot was that at `step`."""
    return directory / FOLDER / f"step-{step:012d}.safetensors"


def steps(directory: Path) -> list[int]:
    """Steps of all snapshots in a run directory, in ascending order. Raises DamagedFile if a pack cannot be read."""
    return sorted(step for _, steps in _packs(directory) for step in steps)


def size_in_bytes(directory: Path) -> int:
    """Bytes of the parameters of all members in a snapshot; 0 if there is none. Raises DamagedFile if a pack cannot be
    read."""
    sizes = (sum(array[0].nbytes for array in _parameters(pack).values()) for pack, _ in _packs(directory))
    return next(sizes, 0)


def write(pack: Path, steps: Sequence[int], arrays: Mapping[str, Shaped[np.ndarray, "snapshot member ..."]]) -> None:
    """Write the snapshots at these steps, with names that begin with `PARAMS`, into a pack; a kill leaves a whole file
    or none, but a power failure may leave an empty one.

    Raises OSError if it cannot be written.
    """
    pack.parent.mkdir(exist_ok=True)
    aside = pack.with_name(f".tmp-{pack.name}")
    try:
        whole = {name: np.array(array, order="C", copy=None) for name, array in arrays.items()}
        save_file(whole | {STEPS: np.array(steps, np.int64)}, aside)
        os.replace(aside, pack)  # noqa: PTH105
    except SafetensorError as error:
        raise OSError(f"{pack} cannot be written: {error}") from error
    finally:
        aside.unlink(missing_ok=True)


def delete(directory: Path, unwanted: Container[int]) -> None:
    """Delete the snapshots at these steps: packs that hold others too are written again without them."""
    for pack, steps in _packs(directory):
        left = [at for at, step in enumerate(steps) if step not in unwanted]
        if not left:
            pack.unlink(missing_ok=True)
        elif len(left) < len(steps):
            arrays = {name: array[left] for name, array in _parameters(pack).items()}
            write(pack, [steps[at] for at in left], arrays)


def truncate(directory: Path, after_step: int) -> None:
    """Delete all snapshots after `after_step`, and unfinished files: a run that continues there writes them again."""
    delete(directory, [step for step in steps(directory) if step > after_step])
    for aside in _files(directory, ".tmp-*"):
        aside.unlink(missing_ok=True)


def snapshots(directory: Path, member: int = 0) -> list[Snapshot]:
    """The snapshots of one member of the run in `directory`, in the order of their steps; empty if it has kept none.

    Raises UsageError if the run has no such member, DamagedFile if a pack cannot be read.
    """
    found = []
    for pack, steps in _packs(directory):
        try:
            arrays = _parameters(pack)
        except FileNotFoundError:
            continue  # a run that is being written has just deleted it
        members = min(array.shape[1] for array in arrays.values())
        if not 0 <= member < members:
            raise UsageError(f"member is {member}, but {pack} has members 0 to {members - 1}.")
        for at, step in enumerate(steps):
            weights = {name.removeprefix(PARAMS): array[at, member] for name, array in arrays.items()}
            found.append(Snapshot(step, weights))
    return sorted(found, key=lambda snapshot: snapshot.step)


def _packs(directory: Path) -> Iterator[tuple[Path, list[int]]]:
    """Path and steps of each pack that is not empty. Its parameters, which may be many, are not read."""
    for pack in _files(directory, "step-*.safetensors"):
        try:
            if not pack.stat().st_size:
                continue  # as a power failure may leave it
            with _read(pack), safe_open(pack, framework="np") as file:
                held = file.get_tensor(STEPS).tolist() if STEPS in file.keys() else [_first_step(pack)]  # noqa: SIM118
        except FileNotFoundError:
            continue  # a run that is being written has just deleted it
        yield pack, held


def _first_step(pack: Path) -> int:
    """The step in its name: files of earlier versions hold this one snapshot alone."""
    return int(pack.stem.removeprefix("step-"))


def _parameters(pack: Path) -> dict[str, Shaped[np.ndarray, "snapshot member ..."]]:
    with _read(pack):
        arrays = load_file(pack)
    if STEPS in arrays:
        del arrays[STEPS]
    else:
        arrays = {name: array[None] for name, array in arrays.items()}
    if not arrays or any(array.ndim < 2 for array in arrays.values()):
        raise DamagedFile(f"{pack} holds no parameters of members.")
    return arrays


@contextlib.contextmanager
def _read(pack: Path) -> Iterator[None]:
    """Raise DamagedFile if the pack cannot be read, but FileNotFoundError if it is gone."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DamagedFile(f"{pack} cannot be read as snapshots: {error}.") from error


def _files(directory: Path, pattern: str) -> list[Path]:
    with contextlib.suppress(OSError):
        return list((directory / FOLDER).glob(pattern))
    return []
