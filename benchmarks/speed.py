"""Measures the speed of qdojo against limits and peer libraries: `python -m benchmarks.speed [--rows a,b,...]`.

Compared figures are measured in the same run, in turn, because the speed of machines drifts. Figures are medians with
minimum and maximum. For learning, see `benchmarks.learning`.
"""

import argparse
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import minatar, one_hot, populations, recording, screen
from benchmarks.populations import SMALL, TEN_ENVS
from benchmarks.table import Row, json_of, python
from qdojo.build.training import build
from qdojo.config import make_config
from qdojo.processor import open_devices
from qdojo.runs import checkpoint, segments
from qdojo.tape import ring
from qdojo.training import restoring

MIDDLE = {"hidden": (120, 84), "batch_size": 128}
"""The network of CleanRL and PureJaxRL."""
ZOO = {
    "loop": "host",
    "steps": 50_000,
    "hidden": (256, 256),
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "capacity_steps": 100_000,
    "warmup_steps": 1_000,
    "discount": 0.99,
    "error": "huber",
    "max_grad_norm": 10.0,
    "collect_steps": 256,
    "updates_per_step": 0.5,
    "target_tau": 1.0,
    "target_sync_updates": 128,
    "epsilon_end": 0.04,
    "epsilon_decay_steps": 8_000,
    "eval_every_steps": None,
}
"""The zoo's DQN settings for CartPole-v1, as in `peers.py`, whose target network is synced once per learning phase."""
OURS = (
    "-c",
    "import json, sys, tempfile, qdojo\n"
    "with tempfile.TemporaryDirectory() as root:\n"
    f"    run = qdojo.train('CartPole-v1', preset='dqn', root=root, seed=int(sys.argv[1]), **{ZOO!r})\n"
    "    print(json.dumps(run.result['seconds'] | run.result['eval']))",
)


class Stepper:
    """A device loop that is timed one chunk at a time, after compilation and warm-up."""

    def __init__(self, steps_a_chunk: int, **settings: Any) -> None:
        fields = TEN_ENVS | {"report_every_steps": steps_a_chunk} | settings
        self._iterations = steps_a_chunk // fields["collect_steps"]
        loop = build(make_config("CartPole-v1", "dqn", loop="device", **fields)).loop
        self._reports = loop.run(loop.init())
        for _ in range(2):  # compile, and complete the warm-up
            next(self._reports)

    def iteration_us(self) -> float:
        """Run the next chunk and return its microseconds per iteration."""
        _, report = next(self._reports)
        return report.seconds / self._iterations * 1e6


def iterations(key: str, what: str, limit: float, repeats: int, **settings: Any) -> Row:
    """Measure the time of an iteration: ten env steps and one update."""
    stepper = Stepper(20_000, **settings)
    return Row(key, what, [stepper.iteration_us() for _ in range(repeats)], "us", "limit", limit)


def floor(repeats: int, batch: int = 128, widths: tuple[int, ...] = (4, 120, 84, 2), count: int = 2_000) -> list[float]:
    """Return the microseconds of the matrix products alone in an update: forward, target's forward, backward."""
    keys = jax.random.split(jax.random.key(0), len(widths))
    shapes = itertools.pairwise(widths)
    weights = [jax.random.normal(key, shape) * 0.1 for key, shape in zip(keys, shapes, strict=False)]
    x = jax.random.normal(keys[-1], (batch, widths[0]))

    def products(weights: list[jax.Array], _: None) -> tuple[list[jax.Array], None]:
        def forward(weights: list[jax.Array], x: jax.Array) -> jax.Array:
            for weight in weights:
                x = x @ weight
            return x

        target = forward(weights, x + 1.0)
        gradient = jax.grad(lambda w: jnp.mean(jnp.square(forward(w, x) - target)))(weights)
        return [w - 1e-6 * g for w, g in zip(weights, gradient, strict=True)], None

    run = jax.jit(lambda weights: jax.lax.scan(products, weights, None, count)[0])
    jax.block_until_ready(run(weights))
    return [_timed(lambda: jax.block_until_ready(run(weights))) / count * 1e6 for _ in range(repeats)]


def capacity(key: str, what: str, repeats: int, **settings: Any) -> Row:
    """Measure the time of an iteration with a large tape relative to a small one, chunk by chunk in turn."""
    small = Stepper(20_000, **(settings | {"capacity_steps": 2_000}))
    large = Stepper(20_000, **(settings | {"capacity_steps": 1_000_000}))
    ratios = [large.iteration_us() / small.iteration_us() for _ in range(repeats)]
    return Row(key, what, ratios, "times", "limit", 1.10)


def row_a(repeats: int) -> Iterable[Row]:
    yield iterations("a", "24-24, batch 32, 10 envs, an update in 10 steps", 45.0, repeats, **SMALL)


def row_b(repeats: int) -> Iterable[Row]:
    yield iterations("b", "120-84, batch 128, 10 envs, an update in 10 steps", 330.0, repeats, **MIDDLE)
    yield Row("b", "  of which the matrix products alone (the floor)", floor(repeats), "us", "limit", 330.0)


def row_c(repeats: int) -> Iterable[Row]:
    """Compare the host loop, with the zoo's settings and without evaluations, with Stable-Baselines3 and sbx, in turn.

    Torch with two threads becomes very slow as soon as another process uses a core, so Stable-Baselines3 also runs with
    one thread, and its faster run counts. The seconds of sbx include its compilation; qdojo's do not.
    """
    ratios: dict[str, list[float]] = {"sb3": [], "sbx": []}
    speeds = []
    for seed in range(repeats):
        ours = json_of(*OURS, str(seed))["train"]
        speeds.append(ZOO["steps"] / ours)
        peer = ("-m", "benchmarks.peers", "--seed", str(seed))
        fastest = min(json_of(*peer, "sb3")["seconds"], json_of(*peer, "sb3", "--threads", "1")["seconds"])
        ratios["sb3"].append(fastest / ours)
        ratios["sbx"].append(json_of(*peer, "sbx")["seconds"] / ours)
    yield Row("c", "zoo's CartPole on the host loop, speed", speeds, "steps/s", "to see", 0.0, less=False)
    yield Row("c", "  times the speed of Stable-Baselines3", ratios["sb3"], "times", "limit", 5.0, less=False)
    yield Row("c", "  times the speed of sbx", ratios["sbx"], "times", "peer", 1.0, less=False)


def row_d(repeats: int) -> Iterable[Row]:
    """Measure whole processes from the shell command to a greedy mean of 475 over 100 episodes, one seed each."""
    cold, warm, means = [], [], []
    for seed in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for times in (cold, warm):
                began = time.perf_counter()
                command = ("-m", "qdojo", "train", "CartPole-v1", "--until-solved", "--seed", str(seed), "--json")
                result = json_of(*command, "--runs", f"{folder}/runs", XDG_CACHE_HOME=folder)
                times.append(time.perf_counter() - began)
            means.append(result["eval"]["mean"][0])
    yield Row("d", "train --until-solved, empty compilation cache", cold, "s", "limit", 15.0)
    yield Row("d", "train --until-solved, warm compilation cache", warm, "s", "limit", 10.0)
    yield Row("d", "  greedy mean of what it delivers", means, "", "limit", 475.0, less=False)


def row_e(repeats: int) -> Iterable[Row]:
    yield capacity("e", "24-24: tape of 1,000,000 steps over one of 2,000", repeats, **SMALL)
    yield capacity("e", "120-84: tape of 1,000,000 steps over one of 2,000", repeats, **MIDDLE)


def row_f(repeats: int) -> Iterable[Row]:
    times = [_timed(lambda: python("-m", "qdojo", "--help")) for _ in range(repeats)]
    yield Row("f", "qdojo --help", times, "s", "limit", 0.5)
    program = "import runpy, sys; sys.argv = ['qdojo', '--help']\ntry: runpy.run_module('qdojo', run_name='__main__')\n"
    program += "except SystemExit: pass\nprint(len({'jax', 'keras'} & set(sys.modules)))"
    loaded = float(python("-c", program).splitlines()[-1])
    yield Row("f", "  of jax and keras, how many it imports", [loaded], "", "limit", 0.0)


VARIANTS: dict[str, dict[str, Any]] = {
    "double": {"double": True},
    "nstep": {"n_step": 3},
    "dueling": {"dueling": True},
    "prioritized, 1,000,000 rows": {"prioritized": True, "capacity_steps": 1_000_000},
    "noisy": {"noisy": True},
    "munchausen": {"munchausen": True},
    "c51": {"distribution": "c51"},
    "qrdqn": {"distribution": "qrdqn"},
    "iqn": {"distribution": "iqn"},
    "fqf": {"distribution": "fqf", "quantiles": 4},
    "cql": {"distribution": "qrdqn", "conservative": 1.0},
    "bootdqn, 10 heads": {"heads": 10, "prior_scale": 3.0},
    "drqn, batch 16 of 20": {"recurrent": "lstm", "stored_state": False, "batch_size": 16},
    "r2d2, batch 16 of 10 + 20": {
        "recurrent": "lstm",
        "batch_size": 16,
        "burn_in_steps": 10,
        "dueling": True,
        "double": True,
        "prioritized": True,
        "value_rescaling": True,
    },
    "rainbow": {
        "double": True,
        "n_step": 3,
        "dueling": True,
        "prioritized": True,
        "noisy": True,
        "distribution": "c51",
    },
    "btr": {
        "n_step": 3,
        "dueling": True,
        "prioritized": True,
        "noisy": True,
        "munchausen": True,
        "distribution": "iqn",
    },
}
"""The settings that each algorithm adds to `dqn`."""
LIMITS = {"prioritized, 1,000,000 rows": 2.0, "c51": 4.0, "iqn": 4.0, "fqf": 4.0}


def row_g(repeats: int) -> Iterable[Row]:
    plain = Stepper(2_000, **SMALL)
    for name, settings in VARIANTS.items():
        member = Stepper(2_000, **SMALL | settings)
        times = [member.iteration_us() / plain.iteration_us() for _ in range(repeats)]
        yield Row("g", f"24-24: {name} over dqn", times, "times", "limit", LIMITS.get(name, math.inf))


PIXELS = (84, 84)
ROWS_A_MINUTE = 60_000
"""Rows that training writes between two saves, at 1,000 steps/s."""


def row_j(repeats: int, capacity: int = 1_000_000) -> Iterable[Row]:
    """Measure saves of a full tape of frames: the first writes every row, later ones the rows of a minute."""
    frame = jax.ShapeDtypeStruct(PIXELS, jnp.uint8)
    tape = ring.empty(capacity, 1, 1, frame)
    words = jax.block_until_ready(jnp.ones_like(tape.words))
    gigabytes = words.nbytes / 1e9
    del tape

    def save(folder: Path, written: int, stored: segments.Listing | None) -> segments.Listing:
        tape = segments.append(folder, restoring.ring_of(words, written), stored)
        checkpoint.save(folder, checkpoint.step_name(written), {}, {}, tape)
        checkpoint.prune(folder)
        return tape

    first, later = [], []
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder, written, stored = Path(name), capacity, None
        for _ in range(repeats + 1):
            began = time.perf_counter()
            stored = save(folder, written, stored)
            (later if first else first).append(time.perf_counter() - began)
            written += ROWS_A_MINUTE
    yield Row("j", f"first save of a tape of {gigabytes:.1f} GB, {capacity:,} frames", first, "s", "to see", math.inf)
    yield Row("j", f"  a save with {ROWS_A_MINUTE:,} new rows", later, "s", "to see", math.inf)
    yield Row("j", "  its share of a minute", [seconds / 0.6 for seconds in later], "%", "limit", 5.0)


ROWS: dict[str, Callable[[int], Iterable[Row]]] = {
    "a": row_a,
    "b": row_b,
    "c": row_c,
    "d": row_d,
    "e": row_e,
    "f": row_f,
    "g": row_g,
    "h": screen.row_h,
    "i": screen.row_i,
    "j": row_j,
    "k": recording.row_k,
    "l": populations.row_l,
    "m": populations.row_m,
    "n": populations.row_n,
    "o": minatar.row_o,
    "p": one_hot.row_p,
}


def _timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Measure the named rows and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="a,b,c,d,e,f,g,h,i", help="letters of the rows to measure")
    parser.add_argument("--repeats", type=int, help="number of measurements per row, instead of the row's default")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    open_devices(None)  # as commands do
    repeats = {"a": 15, "b": 15, "c": 3, "d": 10, "e": 15, "f": 5, "g": 15, "h": 5, "i": 5, "j": 3, "k": 5}
    repeats |= {"l": 3, "m": 3, "n": 3, "o": 5, "p": 5}
    found = []
    for key in arguments.rows.split(","):
        for row in ROWS[key](arguments.repeats or repeats[key]):
            found.append(row)
            print(row.line(), flush=True)
    if arguments.json:
        rows = [row._asdict() | {"median": row.median, "holds": row.holds} for row in found]
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
