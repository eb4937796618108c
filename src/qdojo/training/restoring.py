"""The contents of a checkpoint, how training resumes from it, and which settings must not change. `runs/checkpoint.py`
handles the files."""

import functools
import platform
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import numpy as np

from qdojo import snapshot
from qdojo.build.training import Loop, Parts
from qdojo.config import Config, stored_config
from qdojo.errors import UsageError
from qdojo.loops.state import TrainState, member_keys
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
}
"""Settings that may change between a checkpoint and a resume, because they do not affect past training."""
WORDS = "state/tape/words"
"""Name of the tape's rows in a checkpoint."""
ENVIRONMENT = "state/environment/"
PARTIAL = "state/partial/"


class Progress(NamedTuple):
    """The contents of a checkpoint: the state of training and the best agents so far."""

    state: TrainState
    best: Best


def saved(progress: Progress) -> snapshot.Arrays:
    """The arrays of a checkpoint: everything except rows of the tape that were never written, which are zeros."""
    arrays = snapshot.to_arrays(progress)
    return arrays | {WORDS: arrays[WORDS][: int(progress.state.tape.size)]}


def restored(loop: Loop, arrays: snapshot.Arrays) -> Progress:
    """The progress stored in a checkpoint's arrays. Raises UsageError if they belong to another loop or config."""
    template = loop.template()
    # Checkpoints of earlier versions lack these fields of the tally.
    tally = {f"state/tally/{name}": np.zeros_like(getattr(template.tally, name)) for name in LATER_TALLY}
    arrays = tally | arrays
    expected = Progress(template, best_template(template))
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


def _taken_out(arrays: snapshot.Arrays, inside: str) -> tuple[snapshot.Arrays, snapshot.Arrays]:
    """The arrays whose names begin with `inside`, without that prefix, and all other arrays."""
    inner = {name.removeprefix(inside): array for name, array in arrays.items() if name.startswith(inside)}
    return inner, {name: array for name, array in arrays.items() if not name.startswith(inside)}


def with_settings_of(config: Config, parts: Parts, arrays: snapshot.Arrays) -> Progress:
    """A checkpoint's progress with the numeric settings of another config, which are part of the state.

    Raises UsageError if that config requires a state of another shape.
    """
    agents = jax.vmap(parts.agent.init)(member_keys(config.seed, config.members, config.distinct_seeds), parts.numbers)
    fresh = snapshot.to_arrays({"state": {"agents": agents}})
    changed = arrays | {name: array for name, array in fresh.items() if name.startswith("state/agents/hyper/")}
    return restored(parts.loop, changed)


def best_template(template: TrainState) -> Best:
    """Shapes and dtypes of the best agents."""
    return jax.eval_shape(none_best, template.agents.params)


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
