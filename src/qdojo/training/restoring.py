"""The contents of a checkpoint, how training resumes from it, and which settings must not change. `runs/checkpoint.py`
handles the files."""

import functools
import math
import platform
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from qdojo import snapshot
from qdojo.build.training import Loop, Parts
from qdojo.config import Config, stored_config
from qdojo.errors import UsageError
from qdojo.loops.state import TrainState, member_keys
from qdojo.runs import checkpoint, history, segments
from qdojo.runs.directory import RunDirectory
from qdojo.training.selection import Best, none_best

VERSIONED = ("qdojo", "jax", "jaxlib", "equinox", "optax", "numpy", "gymnasium")
FREE = {
    "steps",
    "episodes",
    "until_solved",
    "solved_at",
    "checkpoint_every_seconds",
    "final_eval_episodes",
    "render",
    "shards",
}
"""Settings that may change between a checkpoint and a resume. All but `shards`, of which
`foreseen.py` tells, do not affect the bits of the training to come either."""
WORDS = "state/tape/words"
"""Name of the tape's rows in a checkpoint."""
READERS = "state/tape/member"
"""Name of `Tape.member` in a checkpoint, which depends on the devices that share the members now."""
TOLD_BYTES = 10**9
"""A run whose checkpoints take more than this on disk says so before it begins."""
ENVIRONMENT = "state/environment/"
PARTIAL = "state/partial/"
HYPER = re.compile(r"state/agents/(learner/)?hyper/")
"""Numeric settings of the agents."""
FORMER_MOMENTS = re.compile(r"state/agents/(optimizer|adam)/.*/(fixed|non_trainable|statistics)/")
"""Moments of fixed parameters, which checkpoints of earlier versions hold."""


class Progress(NamedTuple):
    """The contents of a checkpoint: the state of training and the best agents so far."""

    state: TrainState
    best: Best


def saved(progress: Progress, loop: Loop) -> tuple[snapshot.Arrays, segments.Ring | None]:
    """The arrays of a checkpoint, and the rows of the tape if it is so large that they are stored in segments.

    Rows that were never written are zeros, and not saved.
    """
    tape = progress.state.tape
    words = tape.words
    is_large = segments.is_large(words.shape)
    state = progress.state._replace(tape=tape._replace(words=None)) if is_large else progress.state
    arrays = snapshot.to_arrays(progress._replace(state=loop.shards.cut(state, loop.axes)))
    if is_large:
        return arrays, ring_of(words, int(tape.written), loop.shards.members)
    return arrays | {WORDS: arrays[WORDS][: int(tape.size)]}, None


def ring_of(words: jax.Array | np.ndarray, written: int, members: int) -> segments.Ring:
    """The rows of a tape; those on devices are moved to the host one block at a time."""
    time, stored, *row = words.shape

    def read(start: int, count: int) -> np.ndarray:
        rows = words[start : start + count] if isinstance(words, np.ndarray) else _rows(words, start, count)
        return np.asarray(rows)[:, :members]

    return segments.Ring(WORDS, (time, min(stored, members), *row), written, read)


@functools.partial(jax.jit, static_argnums=2)
def _rows(words: jax.Array, start: jax.Array, count: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(words, start, count)


def save_delivered(run: RunDirectory, best: Best, meta: dict[str, Any], parts: Parts) -> None:
    """Save the agents that a run delivers, with the description needed to play them."""
    described = meta | {"player": parts.description}
    checkpoint.save(run.checkpoints_path, run.best_path.name, snapshot.to_arrays(best), described)


def restored(loop: Loop, arrays: checkpoint.Arrays) -> Progress:
    """The progress stored in a checkpoint's arrays. Raises UsageError if they belong to another loop or config."""
    template = loop.template()
    # Checkpoints of earlier versions lack these fields of the tally.
    tally = {f"state/tally/{name}": np.zeros_like(getattr(template.tally, name)) for name in LATER_TALLY}
    readers = loop.shards.readers(template.tape.words.shape[1]).astype(template.tape.member.dtype)
    arrays = tally | arrays | {READERS: readers}
    expected = Progress(template, best_template(template, loop.shards.members))
    former = set(filter(FORMER_MOMENTS.match, arrays.keys() - snapshot.names(expected)))
    arrays = {name: array for name, array in arrays.items() if name not in former}
    # The arrays of host environments grow with their episodes, and those of an unfinished chunk with its rows, so the
    # template cannot check them.
    environment = None
    if template.environment is None:
        environment, arrays = _taken_out(arrays, ENVIRONMENT)
        if "restorable" not in environment:
            raise UsageError(
                f"loop is now {loop.name!r}, but the checkpoint holds the environments of another loop; "
                "set loop to its former value."
            )
    elif any(name == f"{ENVIRONMENT}restorable" for name in arrays):
        raise UsageError(
            f"loop is now {loop.name!r}, but the checkpoint holds the environments of the host loop; set loop='host'."
        )
    partial, arrays = _taken_out(arrays, PARTIAL)
    loop.check_partial(partial)
    progress = snapshot.from_arrays(expected, arrays, filled_up=(WORDS,))
    state = progress.state._replace(partial=partial or None)
    return progress._replace(state=state if environment is None else state._replace(environment=environment))


LATER_TALLY = ("longest", "largest_reward")
"""Fields of the tally that were added after the first version."""


def _taken_out(arrays: checkpoint.Arrays, inside: str) -> tuple[checkpoint.Arrays, checkpoint.Arrays]:
    """The arrays whose names begin with `inside`, without that prefix, and all other arrays."""
    inner = {name.removeprefix(inside): array for name, array in arrays.items() if name.startswith(inside)}
    return inner, {name: array for name, array in arrays.items() if not name.startswith(inside)}


def with_settings_of(config: Config, parts: Parts, arrays: checkpoint.Arrays) -> Progress:
    """A checkpoint's progress with the numeric settings of another config, which are part of the state.

    Raises UsageError if that config requires a state of another shape.
    """
    agents = jax.vmap(parts.agent.init)(member_keys(config.seed, config.members, config.distinct_seeds), parts.numbers)
    fresh = snapshot.to_arrays({"state": {"agents": agents}})
    changed = arrays | {name: array for name, array in fresh.items() if HYPER.match(name)}
    return restored(parts.loop, changed)


def best_template(template: TrainState, members: int) -> Best:
    """Shapes and dtypes of the best agents."""
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((members, *leaf.shape[1:]), leaf.dtype), template.agents.params
    )
    return jax.eval_shape(none_best, params)


def disk_bytes(config: Config, template: TrainState) -> int:
    """Bytes that a run's checkpoints and snapshots take on disk at least: three checkpoints are kept while a fourth is
    written.

    A large tape is stored once, in segments. The rows written between the kept checkpoints, whose number depends on the
    speed of training, come on top. The rows of a data set are not counted, because it has not been read yet.
    """
    capacity = template.tape.capacity
    rows = 0 if config.dataset is not None else min(capacity, math.ceil(config.steps / config.num_envs))
    words = template.tape.words
    tape = rows * segments.row_bytes(words.shape)
    best = _bytes(best_template(template, config.members))
    each = _bytes(template.agents) + _bytes(template.memory) + best
    snapshot_bytes = _bytes(template.agents.params)
    most = history.most_kept(snapshot_bytes)
    kept = snapshot_bytes * len(history.kept(config.steps // config.steps_per_report, most))
    if segments.is_large(words.shape):
        return tape + 4 * each + 2 * best + kept
    return 4 * (tape + each) + 2 * best + kept


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def told_of_disk(config: Config, loop: Loop, root: Path) -> list[str]:
    """A notice if the checkpoints of a new run under `root` will take much of the disk.

    Raises UsageError if they do not fit.
    """
    needed = disk_bytes(config, loop.template())
    existing = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UsageError(
            f"The checkpoints and snapshots of this run take {needed / 1e9:,.1f} GB, but only {free / 1e9:,.1f} GB are "
            f"free in {root}; free some space, choose a folder on another disk (--runs), or lower capacity_steps."
        )
    if needed < TOLD_BYTES:
        return []
    return [f"the checkpoints and snapshots of this run will take about {needed / 1e9:,.1f} GB in {root}."]


@functools.cache
def versions() -> dict[str, str]:
    """Everything besides settings that the bits of a run depend on: package versions and the kind of machine."""
    device = jax.local_devices()[0]
    machine = f"{platform.system()} {platform.machine()}, {device.device_kind}"
    return {name: version(name) for name in VERSIONED} | {"platform": machine}


def checkpoint_meta(config: Config) -> dict[str, Any]:
    """The metadata of a checkpoint: the settings and the software versions of its run."""
    return {"config": config.model_dump(mode="json"), "versions": versions()}


def changes(config: Config, meta: dict[str, Any]) -> list[str]:
    """Differences from a checkpoint's metadata, one clause each. Versions that it does not record are not compared."""
    now, then = config.model_dump(mode="json"), stored_config(meta["config"]).model_dump(mode="json")
    fields = [name for name in now if name not in FREE and now[name] != then[name]]
    found = [f"{name} was {then[name]!r}, is {now[name]!r}" for name in fields]
    noted = meta["versions"]
    return found + [
        f"{name} was {noted[name]}, is {number}"
        for name, number in versions().items()
        if name in noted and number != noted[name]
    ]
