"""What a checkpoint holds, how training goes on from it, and what must not have changed since. Not the files: see
`runs/checkpoint.py`."""

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
"""Settings that may change between a checkpoint and a resume: they change nothing that was done."""
WORDS = "state/tape/words"
"""The rows of the tape, in a checkpoint."""
ENVIRONMENT = "state/environment/"
PARTIAL = "state/partial/"


class Progress(NamedTuple):
    """What a checkpoint holds: the state of training, and the best agents on the way to it."""

    state: TrainState
    best: Best


def saved(progress: Progress) -> snapshot.Arrays:
    """What a checkpoint holds: everything but the rows of the tape that were never written, which are zeros."""
    arrays = snapshot.to_arrays(progress)
    return arrays | {WORDS: arrays[WORDS][: int(progress.state.tape.size)]}


def restored(loop: Loop, arrays: snapshot.Arrays) -> Progress:
    """The progress that a checkpoint's arrays hold. Raises UsageError where they are of another loop or config."""
    template = loop.template()
    # Checkpoints of earlier versions lack these numbers of the tally.
    tally = {f"state/tally/{name}": np.zeros_like(getattr(template.tally, name)) for name in LATER_TALLY}
    arrays = tally | arrays
    expected = Progress(template, best_template(template))
    # Of host environments the arrays are as long as their episodes, and of an unfinished chunk as its rows: the loop
    # knows what fits.
    environment = None
    if template.environment is None:
        environment, arrays = _taken_out(arrays, ENVIRONMENT)
        if "restorable" not in environment:
            raise UsageError(
                f"loop is now {loop.name!r}, but the checkpoint holds the environments of another loop; "
                "set loop to what it was."
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
    """Those whose name begins so, without that beginning, and the others."""
    inner = {name.removeprefix(inside): array for name, array in arrays.items() if name.startswith(inside)}
    return inner, {name: array for name, array in arrays.items() if not name.startswith(inside)}


def with_settings_of(config: Config, parts: Parts, arrays: snapshot.Arrays) -> Progress:
    """A checkpoint's progress with the numbers of another config in place of its own, which are part of the state.

    Raises UsageError where that config needs a state of another shape.
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
    """What the bits of a run depend on beside its settings: packages, and the machine's kind."""
    device = jax.local_devices()[0]
    machine = f"{platform.system()} {platform.machine()}, {device.device_kind}"
    return {name: version(name) for name in VERSIONED} | {"platform": machine}


def checkpoint_meta(config: Config) -> dict[str, Any]:
    """What a checkpoint says of the settings and the software that it was made with."""
    return {"config": config.model_dump(mode="json"), "versions": versions()}


def changes(config: Config, meta: dict[str, Any]) -> list[str]:
    """What differs from a checkpoint's meta, a clause each. What an earlier version did not note is not compared."""
    now, then = config.model_dump(mode="json"), stored_config(meta["config"]).model_dump(mode="json")
    fields = [name for name in now if name not in FREE and now[name] != then[name]]
    found = [f"{name} was {then[name]!r}, is {now[name]!r}" for name in fields]
    noted = meta["versions"]
    return found + [
        f"{name} was {noted[name]}, is {number}"
        for name, number in versions().items()
        if name in noted and number != noted[name]
    ]
