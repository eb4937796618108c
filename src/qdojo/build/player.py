"""From a config and spaces to what plays: a network and an actor. Nothing here needs an environment, or learns."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from qdojo.agents.bootstrapped import bootstrapped, bootstrapped_actor
from qdojo.agents.categorical import c51_network
from qdojo.agents.explore import actor_of
from qdojo.agents.quantile import qrdqn_network
from qdojo.agents.recurrent import reading
from qdojo.bellman.targets import unrescaled
from qdojo.build.named import named, takes_spaces
from qdojo.config import Config, beyond_preset
from qdojo.envs.resolve import name_of
from qdojo.envs.spaces import Spaces
from qdojo.errors import UsageError
from qdojo.networks import torsos
from qdojo.networks.implicit import acting, implicit
from qdojo.networks.inputs import Design
from qdojo.networks.keras import KERAS, keras_network, tutorial_network
from qdojo.networks.mlp import mlp
from qdojo.networks.network import Network
from qdojo.networks.noisy import noisy
from qdojo.networks.own import own_network
from qdojo.networks.prior import with_prior
from qdojo.networks.recurrent import head_design, recurrent
from qdojo.networks.torsos import Kind
from qdojo.types import Actor


class Player(NamedTuple):
    """What plays an episode, and what of it a loss reads."""

    network: Network
    """All that one member learns, as Q-values."""
    actor: Actor
    outputs: Network
    """Of one head, what the loss reads: Q-values, or what describes the distribution of returns."""
    q: Network
    """The Q-values of `outputs`."""


def build_player(config: Config, spaces: Spaces, model: Any) -> Player:
    """The network that the settings name, or the Keras `model`, and how it plays in `spaces`.

    Raises UsageError for whatever does not fit together.
    """
    check_model(config, spaces, model)
    player = _player(config, _network(config, spaces, model))
    if not config.value_rescaling:
        return player
    return player._replace(actor=player.actor._replace(worth=unrescaled))


def _player(config: Config, outputs: Network) -> Player:
    q = _q_values(config, outputs)
    if config.recurrent is not None:
        read = reading(outputs)
        return Player(q, actor_of(q), read, _q_values(config, read))
    if config.heads == 1:
        return Player(q, actor_of(q), outputs, q)
    return Player(bootstrapped(q, config.heads), bootstrapped_actor(q, config.heads), outputs, q)


def network_design(config: Config, spaces: Spaces) -> Design:
    """What the layers of a network have to fit."""
    return Design(
        observation_shape=spaces.observation_shape,
        num_actions=spaces.num_actions,
        hidden=config.hidden,
        layer_norm=config.layer_norm,
        dueling=config.dueling,
        action_shape=spaces.action_shape,
        branch_sizes=() if spaces.legal.all() else tuple(spaces.legal.sum(axis=-1).tolist()),
        categories=spaces.categories,
        embedding=config.embedding or 0,
        normalized=config.normalize_observations,
        scale=spaces.observation_scale,
        torso=torso_kind(config, spaces),
        torso_width=config.torso_width,
        spectral_norm=config.spectral_norm,
    )


LEAST_PICTURE = 8
"""The shortest side of what `auto` takes for a picture."""


def torso_kind(config: Config, spaces: Spaces) -> Kind:
    """What reads the observations. Raises UsageError where it cannot, or where nothing reads its settings."""
    shape = spaces.observation_shape
    has_axes = len(shape) in (2, 3)
    *sides, _ = torsos.sides_and_channels(shape) if has_axes else (0, 0)
    is_picture = spaces.observation_dtype == "uint8" and min(sides) >= LEAST_PICTURE
    by_size: Kind = "nature" if min(sides) >= torsos.LEAST_SIDE else "impala"
    # What a preset has for pictures is idle elsewhere.
    chosen = config.torso if is_picture or beyond_preset(config, ("torso",)) else "auto"
    torso = chosen if chosen != "auto" else by_size if is_picture else "dense"
    if torso != "dense" and not has_axes:
        raise UsageError(
            f"torso is {torso!r}, but observations of shape {shape} are no pictures, which have two axes or three; "
            "leave it out."
        )
    if torso != "dense" and config.normalize_observations:
        raise UsageError(
            f"normalize_observations is set, but pictures are not normalised by torso={torso!r}; "
            "leave it out, or use torso='dense'."
        )
    torsos.features(torso, shape, config.torso_width)
    if torso != "impala" and (unread := beyond_preset(config, ("torso_width", "spectral_norm"))):
        raise UsageError(
            f"{unread[0]} is set, but only torso='impala' reads it, and observations of shape {shape} are read by "
            f"{torso!r}; leave {unread[0]} out."
        )
    return torso


def _network(config: Config, spaces: Spaces, model: Any) -> Network:
    """What one member, or one head of an ensemble, learns."""
    design = network_design(config, spaces)
    if takes_spaces(model):
        network = own_network(
            functools.partial(model, spaces),
            name_of(model),
            design.observation_shape,
            spaces.observation_dtype,
            design.q_shape,
        )
    elif model is not None:
        network = keras_network(model, design.observation_shape, design.num_actions)
    elif config.recurrent is not None:
        head = _outputs(config, head_design(design, config.distribution in IMPLICIT))
        network = recurrent(design, config.recurrent, head)
    else:
        network = _outputs(config, design)
    network = noisy(network) if config.noisy else network
    return with_prior(network, config.prior_scale) if config.prior_scale else network


IMPLICIT = ("iqn", "fqf")
"""Distributions that a quantile function describes."""


def _outputs(config: Config, design: Design) -> Network:
    """Layers that give Q-values, or what describes the distribution of returns."""
    if config.distribution in IMPLICIT:
        return implicit(design, config.quantiles if config.distribution == "fqf" else None)
    return mlp(design, {"c51": config.atoms, "qrdqn": config.quantiles}.get(config.distribution or ""))


def _q_values(config: Config, outputs: Network) -> Network:
    """The Q-values of what a network gives."""
    if config.distribution in IMPLICIT:
        return acting(outputs, config.iqn_acting_fractions, config.cvar)
    if config.distribution == "c51":
        return c51_network(outputs, support(config))
    if config.distribution == "qrdqn":
        return qrdqn_network(outputs)
    return outputs


def support(config: Config) -> Float[Array, "atoms"]:
    """The atoms of C51. Made before anything is traced: elsewhere they would be other bits."""
    return jnp.linspace(config.vmin, config.vmax, config.atoms)


def check_model(config: Config, spaces: Spaces, model: Any) -> None:
    """Whether a network of the user's own, or the tutorial's agent, can do what is asked."""
    kind = "an Equinox module" if takes_spaces(model) else "a Keras model"
    if model is not None and config.parts_of_the_mlp:
        raise UsageError(f"{config.parts_of_the_mlp[0]} is set, but the network is {kind}; leave one of them out.")
    if model is not None and (unread := beyond_preset(config, ("torso", "torso_width", "spectral_norm"))):
        raise UsageError(f"{unread[0]} is set, but the network is {kind}; leave one of them out.")
    if not spaces.action_shape or takes_spaces(model):
        return
    unable = "agent='tutorial'" if config.agent == "tutorial" else "a Keras model"
    if model is not None:
        raise UsageError(f"{unable} has one value an action, but the actions are MultiDiscrete; leave it out.")


def network_model(config: Config, spaces: Spaces, given: Any) -> Any:
    """The Keras model, or the function that builds it or an Equinox module, where the network is one; else None."""
    if given is not None or config.network == "mlp":
        return given
    if config.network == "tutorial":
        return functools.partial(tutorial_network, spaces.observation_shape, spaces.num_actions)
    if config.network == KERAS:
        raise UsageError("network is a Keras model that was given in Python; pass it again, as network=.")
    if ":" not in config.network:
        raise UsageError(f"network is {config.network!r}; use 'mlp', 'tutorial' or 'module:build'.")
    return named("network", config.network, "a Keras model or an Equinox module")
