"""Speed of populations on several cores: rows of `benchmarks.speed`.

Each measurement has a process of its own, because JAX counts the cores once: `python -m benchmarks.populations
--members N --shards N` measures one.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.table import Row, json_of
from qdojo import processor
from qdojo.build.training import build
from qdojo.config import make_config

SMALL: dict[str, Any] = {"hidden": (24, 24), "batch_size": 32}
"""The tutorial's network."""
TEN_ENVS: dict[str, Any] = {
    "num_envs": 10,
    "collect_steps": 10,
    "updates_per_step": 0.1,
    "capacity_steps": 10_000,
    "warmup_steps": 1_000,
    "target_tau": 1.0,
    "target_sync_updates": 100,
    "eval_every_steps": None,
}
UPDATES = TEN_ENVS | SMALL
PUREJAX = UPDATES | {
    "steps": 100_000,
    "hidden": (120, 84),
    "layer_norm": False,
    "double": False,
    "error": "mse",
    "batch_size": 128,
    "warmup_steps": 10_000,
    "learning_rate": 2.5e-4,
    "discount": 0.99,
    "max_grad_norm": None,
    "epsilon_end": 0.05,
    "epsilon_decay_steps": 250_000,
    "target_sync_updates": 50,
    "seeds": 64,
    "final_eval_episodes": 1,
    "eval_episode_steps": 500,
}
"""PureJaxRL's settings, as in `purejax.py`. Both exclude evaluations, but for the one episode at qdojo's end."""
OURS = (
    "-c",
    "import json, sys, tempfile, qdojo\n"
    "with tempfile.TemporaryDirectory() as root:\n"
    f"    run = qdojo.train('CartPole-v1', preset='dqn', root=root, progress=False, **{PUREJAX!r})\n"
    "    print(json.dumps(run.result['seconds']))",
)
STEPS_A_CHUNK = 5_000


def row_l(repeats: int) -> Iterable[Row]:
    """Measure whole processes of 64 members with PureJaxRL's settings, compilation included, in turn with PureJaxRL."""
    ours, theirs = [], []
    for _ in range(repeats):
        for times, command in ((ours, OURS), (theirs, ("-m", "benchmarks.purejax"))):
            with tempfile.TemporaryDirectory() as cache:
                began = time.perf_counter()
                json_of(*command, XDG_CACHE_HOME=cache)
                times.append(time.perf_counter() - began)
    yield Row("l", f"64 seeds, 100,000 steps, {processor.cores()} cores", ours, "s", "to see", float("inf"))
    yield Row("l", "  PureJaxRL's algorithm", theirs, "s", "to see", float("inf"))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    yield Row("l", "  over PureJaxRL's time", ratios, "times", "limit", 0.55)


def row_m(repeats: int) -> Iterable[Row]:
    """Compare the updates per second of all cores with those of one, in turn, for several sizes of a population."""
    cores = processor.cores()
    for members in (16, 64, 256):
        pairs = [(measured(members, cores), measured(members, 1)) for _ in range(repeats)]
        for name, what in (("rate", "speed"), ("free_rate", "if no other process used them")):
            ratios = [sharded[name] / alone[name] for sharded, alone in pairs]
            yield Row("m", f"{members} members: {cores} shards over one, {what}", ratios, "times", "limit", 1.8, False)


def row_n(repeats: int) -> Iterable[Row]:
    """Measure the updates per second of 64 members on 1, 2, 4, ... cores of this machine."""
    counts = [2**k for k in range(10) if 2**k <= processor.cores()]
    for count in counts:
        rates = [measured(64, count)["rate"] for _ in range(repeats)]
        yield Row("n", f"64 members on {count} shard(s)", rates, "updates/s", "to see", 0.0, less=False)


def measured(members: int, shards: int) -> dict[str, float]:
    """The updates per second of all members together, measured in a process of its own."""
    result: dict[str, float] = json_of(
        "-m", "benchmarks.populations", "--members", str(members), "--shards", str(shards)
    )
    return result


def main() -> None:
    """Measure one population and print its updates per second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--chunks", type=int, default=3)
    parser.add_argument("--hidden", type=int, nargs="+", default=UPDATES["hidden"])
    parser.add_argument("--batch-size", type=int, default=UPDATES["batch_size"])
    arguments = parser.parse_args()
    processor.open_devices(arguments.shards)
    settings = UPDATES | {
        "report_every_steps": STEPS_A_CHUNK,
        "seeds": arguments.members,
        "shards": arguments.shards,
        "hidden": tuple(arguments.hidden),
        "batch_size": arguments.batch_size,
    }
    loop = build(make_config("CartPole-v1", "dqn", loop="device", **settings)).loop
    reports = loop.run(loop.init())
    for _ in range(2):  # compile, and complete the warm-up
        next(reports)
    updates, seconds = arguments.members * STEPS_A_CHUNK // 10, []
    began = {task.name: _ran(task) for task in Path("/proc/self/task").iterdir()}
    for _ in range(arguments.chunks):
        report = next(reports)[1]
        assert report is not None
        seconds.append(report.seconds)
    ran = sum(_ran(task) - began.get(task.name, 0.0) for task in Path("/proc/self/task").iterdir())
    rate = updates * len(seconds) / sum(seconds)
    # The shards have equal work, so without other processes each core would run for its share of the CPU seconds.
    free = updates * len(seconds) / (ran / loop.shards.count)
    print(json.dumps({"rate": rate, "free_rate": free}))


def _ran(task: Path) -> float:
    """CPU seconds of a thread, which other processes on the machine distort little."""
    return int(task.joinpath("schedstat").read_text().split()[0]) / 1e9


if __name__ == "__main__":
    main()
