"""Builds a player from what a run delivered. The description beside the weights suffices: no environment is built, no
tape is sized, and the Python objects used in training are not needed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from qdojo.build.named import takes_spaces
from qdojo.build.player import Player, build_player, network_model, seen_spaces, torso_kind
from qdojo.config import Config
from qdojo.envs.describe import described, from_description
from qdojo.envs.prepare import Preparation
from qdojo.envs.resolve import EnvSpec, resolve
from qdojo.envs.spaces import Spaces, check_spaces
from qdojo.errors import DamagedFile
from qdojo.loops.state import member_keys
from qdojo.networks.keras import model_from_json, model_to_json
from qdojo.processor import open_devices, prepare

FORMAT = 1
"""Version of the description's format; a later qdojo may write a higher one."""


class Opened(NamedTuple):
    """A trained network and a description of its environment, which has not been built."""

    spec: EnvSpec
    spaces: Spaces
    player: Player
    model: Any
    """The Keras model, or the function that builds a network, if one was given; else None."""


def description(config: Config, spec: EnvSpec, spaces: Spaces, model: Any) -> dict[str, Any]:
    """What a player needs besides weights and settings: the environment, and the Keras model if there is one.

    A model that cannot be written as JSON is omitted, and must be passed again.
    """
    architecture = None
    if model is not None and config.network != "tutorial" and not takes_spaces(model):
        architecture = model_to_json(model, seen_spaces(config, spaces).observation_shape)
    return {"format": FORMAT, "environment": described(spec), "keras_model": architecture}


def open_player(config: Config, data: Mapping[str, Any] | None, env: Any = None, network: Any = None) -> Opened:
    """The player that a description defines. Runs of earlier versions have none; then the settings alone define it.

    `env` and `network` are the objects that the run was trained with, if available; they are required if the
    description lacks them. Raises UsageError if they do not fit, DamagedFile if the description cannot be read.
    """
    if data is None:
        spec = resolve(env if env is not None else config.env, Preparation.of(config))
    else:
        if not isinstance(data.get("environment"), Mapping) or data.get("format") != FORMAT:
            raise DamagedFile(f"the description of the player is not of format {FORMAT}, which this version reads.")
        spec = from_description(data["environment"], env)
    spaces = check_spaces(spec, embedded=config.embedding is not None, observe=config.observe)
    if network is None and data is not None and data.get("keras_model") is not None:
        network = model_from_json(data["keras_model"])
    model = network_model(config, spaces, network)
    convolutions = torso_kind(config, spaces) != "dense"
    open_devices(config.shards)
    alone = config.model_copy(update={"shards": 1})  # a player does not learn
    prepare(alone, seen_spaces(config, spaces).observation_shape, spaces.num_actions, convolutions, on_host=False)
    return Opened(spec, spaces, build_player(config, spaces, model), model)


def params_template(config: Config, player: Player) -> Any:
    """Shapes and dtypes of the parameters of all members."""
    return jax.eval_shape(
        lambda: jax.vmap(player.network.init)(member_keys(config.seed, config.members, config.distinct_seeds))
    )
