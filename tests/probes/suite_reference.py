"""Records episodes of the package `bsuite` for `tests/envs/test_suite_environments.py`. Run it by hand:

    pip install bsuite==0.3.6
    python tests/probes/suite_reference.py

Every other episode is played at random; in deep sea, the others go right, and find the treasure.
"""

from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).parent.parent / "fixtures" / "suite.npz"
STEPS = 400


def reference(name: str) -> Any:
    """The environment of the suite that is called `name` here."""
    from bsuite.experiments.catch import catch
    from bsuite.experiments.deep_sea import deep_sea, sweep
    from bsuite.experiments.memory_len import memory_len

    size = int("0" + "".join(filter(str.isdigit, name)))
    if name.startswith("DeepSea"):
        return deep_sea.load(**next(settings for settings in sweep.SETTINGS if settings["size"] == size))
    return memory_len.load(size, seed=0) if size else catch.load(seed=0)


def drawn(env: Any) -> int:
    """What the episode has drawn: the bit of a memory chain, the column of catch's ball; deep sea draws nothing."""
    return int(env._context[0]) if hasattr(env, "_context") else getattr(env, "_ball_x", 0)


def record(name: str) -> dict[str, np.ndarray]:
    """Steps, of which the first of each episode is its reset."""
    env, rng, rows, episode = reference(name), np.random.default_rng(0), [], 0
    while len(rows) < STEPS:
        moved, action = env.reset(), 0
        while True:
            rows.append((moved.first(), action, drawn(env), moved.observation, moved.reward or 0.0, moved.last()))
            if moved.last():
                break
            action = int(rng.integers(env.action_spec().num_values))
            if name.startswith("DeepSea") and episode % 2:
                action = int(env._action_mapping[env._row, env._column])
            moved = env.step(action)
        episode += 1
    names = ("starts", "actions", "draws", "observations", "rewards", "terminated")
    return {column: np.array(values) for column, values in zip(names, zip(*rows, strict=True), strict=True)}


def main() -> None:
    """Record all of them in one file."""
    names = ("DeepSea10", "DeepSea20", "MemoryChain2", "MemoryChain30", "Catch")
    records = {f"{name}.{column}": values for name in names for column, values in record(name).items()}
    np.savez_compressed(FILE, **records)
    print(f"{FILE.name}: {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
