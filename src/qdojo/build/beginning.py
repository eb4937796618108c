"""Initial weights that members load instead of drawing their own: from a Keras file or from the delivered agent of a
run."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from qdojo import snapshot, wording
from qdojo.config import Config, is_keras_file
from qdojo.errors import DamagedFile, UsageError
from qdojo.networks.keras_dense import read_weights
from qdojo.networks.network import Network
from qdojo.runs import checkpoint
from qdojo.runs.directory import RunDirectory
from qdojo.types import Params


class Beginning(NamedTuple):
    """The initial parameters of every member."""

    params: Params
    told: str | None
    """A sentence for the user about what is carried over and what is not, or None if nothing needs saying."""


def beginning(config: Config, network: Network) -> Beginning | None:
    """The weights that the setting `weights` names; None if each member draws its own.

    Raises UsageError if they do not fit the network or the run does not exist, DamagedFile if the run's agent cannot be
    read.
    """
    if config.weights is None:
        return None
    if is_keras_file(config.weights):
        return Beginning(read_weights(config.weights, network), None)
    return _of_run(RunDirectory(Path(config.weights)), network)


def _of_run(run: RunDirectory, network: Network) -> Beginning:
    """The weights of the best member that a run delivered."""
    if not run.best_path.is_dir():
        raise UsageError(f"weights is {run.path}, which has delivered no agent; name a run, or a Keras file (.h5).")
    arrays, _ = checkpoint.load(run.best_path)
    if "score" not in arrays or arrays["score"].ndim != 1 or not arrays["score"].size:
        raise DamagedFile(f"{run.best_path} holds no agents.")
    member = int(np.argmax(arrays["score"]))
    needed: dict[str, Any] = {"params": jax.eval_shape(network.init, jax.eval_shape(lambda: jax.random.key(0)))}
    found = {name: array[member] for name, array in arrays.items() if name.startswith("params/") and array.ndim}
    try:
        params = snapshot.from_arrays(needed, found)["params"]
    except UsageError as error:
        told = str(error).replace("in the checkpoint", f"in {run.path}").replace("this config", "this network")
        raise UsageError(f"weights is {run.path}, whose network has another shape: {told}") from error
    score = float(arrays["score"][member])
    of = f"member {member} of {run.path}" if arrays["score"].size > 1 else str(run.path)
    judged = f" (greedy score {wording.score(score)})" if np.isfinite(score) else ""
    return Beginning(
        params,
        f"every member starts from the weights of {of}{judged} and from nothing else: the replay memory is empty, the "
        "optimizer is new, and exploration starts at its final value.",
    )
