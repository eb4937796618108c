"""Converts trained networks to Keras models and saves them as files. For reading weights, see `networks/weights.py`."""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from qdojo.errors import QdojoError, UsageError
from qdojo.networks.keras import KerasParams, with_params
from qdojo.networks.keras_dense import mlp_as_keras
from qdojo.networks.mlp import MLP
from qdojo.networks.noisy import Noisy
from qdojo.runs.directory import sync_folder

if TYPE_CHECKING:
    import keras

    from qdojo.networks.keras import ModelOrBuild

SUFFIXES = (".keras", ".weights.h5")


def keras_model(
    params: MLP | Noisy | KerasParams, observation_shape: tuple[int, ...], model_or_build: "ModelOrBuild | None" = None
) -> "keras.Model":
    """Return a plain Keras model of one member's trained network; a Keras network needs the model that it came from.

    Raises `UsageError` if a Keras network comes without its model, or if the two do not match.
    """
    plain = params.mean if isinstance(params, Noisy) else params
    if isinstance(plain, MLP):
        return mlp_as_keras(plain, observation_shape)
    if model_or_build is None:
        raise UsageError(
            "This agent's network is a Keras model of your own; pass the model or the function that builds it."
        )
    return with_params(model_or_build, plain, observation_shape)


def export(model: "keras.Model", path: Path) -> None:
    """Save a model as `.keras`, or its weights as `.weights.h5`, atomically.

    Raises `UsageError` for another suffix or a folder that does not exist, `QdojoError` if it cannot be written.
    """
    if not path.name.endswith(SUFFIXES):
        raise UsageError(f"Cannot export to {path}: the name must end with {' or '.join(SUFFIXES)}.")
    if not path.parent.is_dir():
        raise UsageError(f"Cannot export to {path}: the folder {path.parent} does not exist.")
    aside = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with warnings.catch_warnings():
            # Keras's own variables trigger this warning under NumPy 2; users can do nothing about it.
            warnings.simplefilter("ignore", DeprecationWarning)
            if path.name.endswith(".keras"):
                model.save(aside)
            else:
                model.save_weights(aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise QdojoError(f"Cannot export to {path}: {error}.") from error
    finally:
        aside.unlink(missing_ok=True)
