"""Recorded games of the package `minatar`, as `minatar_reference.py` has written them: words and observations."""

from functools import cache

import numpy as np
from probes.minatar_reference import FOLDER, REAL

from qdojo.envs.native.minatar import MODULES, minatar

IDS = {module: name for name, module in MODULES.items()}
RECORDS = sorted(path.stem for path in FOLDER.glob("*.npz"))


@cache
def recorded(record: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A record, and its observations `[step, 10, 10, channels]`."""
    with np.load(FOLDER / f"{record}.npz") as file:
        rows = dict(file)
    shape = minatar(f"MinAtar/{IDS[record.rpartition('_')[0]]}-v0").observation_shape
    bits = np.bitwise_xor.accumulate(rows["changes"], axis=0)
    shown = np.unpackbits(bits, axis=1)[:, : np.prod(shape)].reshape(-1, *shape)
    return rows, shown


def words(game: str, draws: np.ndarray) -> np.ndarray:
    """The random words that lead to the recorded draws: of a real number only the side of its threshold counts."""
    real = np.zeros(len(draws), bool)
    real[[0, *(1 + column for column in REAL[game])]] = True
    return np.where(real, draws.T * np.uint32(0x01010101), draws.T).astype(np.uint32)
