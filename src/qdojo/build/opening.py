"""From what a run delivered to what plays it: by the description beside the weights, without building an environment,
sizing a tape, or asking for the objects of Python that it was trained with."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from qdojo.build.named import takes_spaces
from qdojo.build.player import Player, build_player, network_model, torso_kind
from qdojo.config import Config
from qdojo.envs.describe import described, from_description
from qdojo.envs.resolve import EnvSpec, resolve
from qdojo.envs.spaces import Spaces, check_spaces
from qdojo.errors import DamagedFile
from qdojo.loops.state import member_keys
from qdojo.networks.keras import model_from_json, model_to_json
from qdojo.processor import prepare

FORMAT = 1
"""Of the description; a greater one was written by a later version."""


class Opened(NamedTuple):
    """A trained network and what it plays in. No environment has been built."""

    spec: EnvSpec
    spaces: Spaces
    player: Player
    model: Any
    """The Keras model, or the function that builds it, where the network is one; else None."""


def description(config: Config, spec: EnvSpec, spaces: Spaces, model: Any) -> dict[str, Any]:
    """What the delivered weights need to play, beside the settings: the environment, and the Keras model if any.

    A model that cannot be written as JSON is left out, and has to be given again.
    """
    architecture = None
    if model is not None and config.network != "tutorial" and not takes_spaces(model):
        architecture = model_to_json(model, spaces.observation_shape)
    return {"format": FORMAT, "environment": described(spec), "keras_model": architecture}


def open_player(config: Config, data: Mapping[str, Any] | None, env: Any = None, network: Any = None) -> Opened:
    """The player of a description, or, for runs of earlier versions, which have none, of the settings alone.

    `env` and `network` are the objects that the run was trained with, where they are at hand; without a description of
    them they are needed. Raises UsageError where they do not fit, DamagedFile where the description cannot be read.
    """
    if data is None:
        spec = resolve(env if env is not None else config.env)
    else:
        if not isinstance(data.get("environment"), Mapping) or data.get("format") != FORMAT:
            raise DamagedFile(f"the description of the player is not of format {FORMAT}, which this version reads.")
        spec = from_description(data["environment"], env)
    spaces = check_spaces(spec, embedded=config.embedding is not None, observe=config.observe)
    if network is None and data is not None and data.get("keras_model") is not None:
        network = model_from_json(data["keras_model"])
    model = network_model(config, spaces, network)
    convolutions = torso_kind(config, spaces) != "dense"
    prepare(config, spaces.observation_shape, spaces.num_actions, convolutions)
    return Opened(spec, spaces, build_player(config, spaces, model), model)


def params_template(config: Config, player: Player) -> Any:
    """Shapes and dtypes of the parameters of all members."""
    return jax.eval_shape(lambda: jax.vmap(player.network.init)(member_keys(config.seed, config.seeds)))
