"""Builds a player, a network and an actor, from a config and spaces. It needs no environment and no training parts."""

import functools
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from qdojo.agents.bootstrapped import bootstrapped, bootstrapped_actor
from qdojo.agents.categorical import c51_network
from qdojo.agents.explore import actor_of
from qdojo.agents.quantile import qrdqn_network
from qdojo.agents.recurrent import reading
from qdojo.agents.stacking import stacking
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
from qdojo.observations import channels_first, stacked_shape
from qdojo.types import Actor


class Player(NamedTuple):
    """The network and actor that play an episode, and the outputs that a loss reads."""

    network: Network
    """The whole network of one member, which returns Q-values."""
    actor: Actor
    outputs: Network
    """One head as the loss reads it: Q-values, or the parameters of the return distribution."""
    q: Network
    """The Q-values computed from `outputs`."""


def build_player(config: Config, spaces: Spaces, model: Any) -> Player:
    """A player with the network that the settings describe, or with the user's `model`, for these `spaces`.

    Raises UsageError if settings, model and spaces do not fit together.
    """
    check_model(config, spaces, model)
    player = _player(config, _network(config, spaces, model))
    if config.frame_stack > 1:
        shape, dtype = spaces.observation_shape, spaces.observation_dtype
        player = player._replace(actor=stacking(player.actor, config.frame_stack, shape, dtype))
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
    """The sizes and options of a network for this config and these spaces."""
    torso = torso_kind(config, spaces)
    unchanged = torso == "dense" and config.frame_stack == 1 and not config.normalize_observations
    one_hot = spaces.one_hot and unchanged
    if config.sparse_adam and not one_hot:
        raise UsageError(
            "sparse_adam is set, but the observations that reach the first hidden layer are not one-hot; leave "
            "sparse_adam out."
        )
    return Design(
        observation_shape=stacked_shape(spaces.observation_shape, config.frame_stack),
        num_actions=spaces.num_actions,
        hidden=config.hidden,
        layer_norm=config.layer_norm,
        dueling=config.dueling,
        action_shape=spaces.action_shape,
        branch_sizes=() if spaces.legal.all() else tuple(spaces.legal.sum(axis=-1).tolist()),
        categories=spaces.categories * config.frame_stack,
        embedding=config.embedding or 0,
        one_hot=one_hot,
        table=config.sparse_adam,
        normalized=config.normalize_observations,
        scale=spaces.observation_scale,
        channels_first=channels_first(spaces.observation_shape),
        torso=torso,
        torso_width=config.torso_width,
        spectral_norm=config.spectral_norm,
    )


def seen_spaces(config: Config, spaces: Spaces) -> Spaces:
    """The spaces with the observations that the network sees, which are stacks if `frame_stack` is set."""
    design_shape = stacked_shape(spaces.observation_shape, config.frame_stack)
    return replace(spaces, observation_shape=design_shape, categories=spaces.categories * config.frame_stack)


LEAST_PICTURE = 8
"""Shortest side of an observation that `torso='auto'` treats as an image."""


def torso_kind(config: Config, spaces: Spaces) -> Kind:
    """The torso for these observations. Raises UsageError if it cannot process them or ignores a setting of torsos."""
    shape = spaces.observation_shape
    has_axes = len(shape) in (2, 3)
    height, width, _ = torsos.sides_and_channels(shape, channels_first(shape)) if has_axes else (0, 0, 0)
    is_picture = spaces.observation_dtype == "uint8" and min(height, width) >= LEAST_PICTURE
    by_size: Kind = "nature" if min(height, width) >= torsos.LEAST_SIDES["nature"] else "impala"
    # A preset's torso applies to images only.
    chosen = config.torso if is_picture or beyond_preset(config, ("torso",)) else "auto"
    torso = chosen if chosen != "auto" else by_size if is_picture else "dense"
    if torso != "dense" and not has_axes:
        raise UsageError(
            f"torso is {torso!r}, but observations of shape {shape} are not images, which have two or three axes; "
            "leave torso out."
        )
    if torso != "dense":
        torsos.features(torso, height, width, config.torso_width)
    idle = ("torso_width", "spectral_norm") if torso == "dense" else () if torso == "impala" else ("spectral_norm",)
    if unread := beyond_preset(config, idle):
        raise UsageError(
            f"{unread[0]} is set, but nothing reads it with torso={torso!r}, which observations of shape {shape} use; "
            f"leave {unread[0]} out."
        )
    return torso


def _network(config: Config, spaces: Spaces, model: Any) -> Network:
    """The network of one member, or of one head of an ensemble."""
    design = network_design(config, spaces)
    if takes_spaces(model):
        network = own_network(
            functools.partial(model, seen_spaces(config, spaces)),
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
"""Values of `distribution` that use an implicit quantile network."""


def _outputs(config: Config, design: Design) -> Network:
    """A network that returns Q-values, or the parameters of the return distribution."""
    if config.distribution in IMPLICIT:
        return implicit(design, config.quantiles if config.distribution == "fqf" else None)
    return mlp(design, {"c51": config.atoms, "qrdqn": config.quantiles}.get(config.distribution or ""))


def _q_values(config: Config, outputs: Network) -> Network:
    """A network that returns the Q-values computed from `outputs`."""
    if config.distribution in IMPLICIT:
        return acting(outputs, config.iqn_acting_fractions, config.cvar)
    if config.distribution == "c51":
        return c51_network(outputs, support(config))
    if config.distribution == "qrdqn":
        return qrdqn_network(outputs)
    return outputs


def support(config: Config) -> Float[Array, "atoms"]:
    """The atoms of C51. Call it outside any trace: compiled code might round them differently."""
    return jnp.linspace(config.vmin, config.vmax, config.atoms)


def check_model(config: Config, spaces: Spaces, model: Any) -> None:
    """Raises UsageError if a user's network, or the tutorial agent, does not support the settings or the spaces."""
    kind = "an Equinox module" if takes_spaces(model) else "a Keras model"
    if model is not None and config.parts_of_the_mlp:
        raise UsageError(f"{config.parts_of_the_mlp[0]} is set, but the network is {kind}; leave one of them out.")
    idle = ("torso", "torso_width", "spectral_norm", "normalize_observations")
    if model is not None and (unread := beyond_preset(config, idle)):
        raise UsageError(f"{unread[0]} is set, but the network is {kind}; leave one of them out.")
    if not spaces.action_shape or takes_spaces(model):
        return
    unable = "agent='tutorial'" if config.agent == "tutorial" else "a Keras model"
    if model is not None:
        raise UsageError(f"{unable} has one value per action, but the actions are MultiDiscrete; leave it out.")


def network_model(config: Config, spaces: Spaces, given: Any) -> Any:
    """The Keras model, or the function that builds a Keras model or an Equinox module, if one is used; else None."""
    if given is not None or config.network == "mlp":
        return given
    if config.network == "tutorial":
        return functools.partial(tutorial_network, spaces.observation_shape, spaces.num_actions)
    if config.network == KERAS:
        raise UsageError("network is a Keras model that was given in Python; pass it again, as network=.")
    if ":" not in config.network:
        raise UsageError(f"network is {config.network!r}; use 'mlp', 'tutorial' or 'module:build'.")
    return named("network", config.network, "a Keras model or an Equinox module")
