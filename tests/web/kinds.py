"""Kinds of networks, and the Q-values that the page and JAX give for the same observations."""

from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from probes.weights import weights

from qdojo.agent_page import form_of
from qdojo.build.player import build_player, network_model
from qdojo.config import make_config
from qdojo.envs.spaces import check_spaces
from qdojo.export.forward import described
from qdojo.export.html import packed
from qdojo.export.keras import keras_model
from qdojo.networks.keras import tutorial_network
from qdojo.types import Masked

COUNT = 1_000
SMALL: dict[str, Any] = {"hidden": (24, 16)}


class Env(gym.Env[Any, Any]):
    """Spaces for a network; it is never stepped."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation, action


VECTOR = spaces.Box(-3, 3, (4,), np.float32)
PICTURE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
BOARD = spaces.Box(0, 1, (10, 10, 4), np.uint8)
PLANES = spaces.Box(0, 255, (3, 10, 12), np.uint8)
THREE = spaces.Discrete(3)
BRANCHES = spaces.MultiDiscrete([2, 4, 3])

KINDS: dict[str, tuple[spaces.Space[Any], spaces.Space[Any], dict[str, Any]]] = {
    "dense with LayerNorm": (VECTOR, THREE, {}),
    "dueling and noisy": (VECTOR, THREE, {"preset": "noisy", "dueling": True, "layer_norm": False}),
    "normalised observations": (VECTOR, THREE, {"normalize_observations": True}),
    "embedded categories": (spaces.MultiDiscrete([5, 3, 7]), THREE, {"embedding": 6}),
    "a table": (spaces.Discrete(12), THREE, {"sparse_adam": True}),
    "branches of different sizes": (VECTOR, BRANCHES, {"dueling": True}),
    "frame stack": (VECTOR, THREE, {"frame_stack": 3}),
    "c51": (VECTOR, THREE, {"preset": "c51", "dueling": True, "atoms": 21}),
    "qrdqn": (VECTOR, THREE, {"preset": "qrdqn", "quantiles": 8}),
    "iqn": (VECTOR, THREE, {"preset": "iqn", "cvar": 0.5, "iqn_acting_fractions": 8}),
    "fqf": (VECTOR, THREE, {"preset": "fqf", "dueling": True, "quantiles": 6}),
    "ensemble with priors": (VECTOR, THREE, {"preset": "bootdqn", "heads": 3}),
    "noisy quantiles with a prior": (VECTOR, THREE, {"preset": "fqf", "noisy": True, "prior_scale": 2.0}),
    "lstm": (VECTOR, THREE, {"preset": "drqn"}),
    "gru, rescaled values": (VECTOR, THREE, {"preset": "r2d2", "recurrent": "gru"}),
    "recurrent iqn": (VECTOR, THREE, {"preset": "iqn", "recurrent": "lstm", "iqn_acting_fractions": 8}),
    "nature, stacked": (PICTURE, THREE, {"torso": "nature", "torso_width": 0.25, "frame_stack": 2}),
    "nature, normalised": (PICTURE, THREE, {"torso": "nature", "torso_width": 0.25, "normalize_observations": True}),
    "der": (PICTURE, THREE, {"torso": "der", "torso_width": 0.25}),
    "minatar": (BOARD, THREE, {"torso": "minatar"}),
    "impala, channels first": (PLANES, THREE, {"torso": "impala", "torso_width": 0.25, "spectral_norm": True}),
    "Keras": (VECTOR, THREE, {"network": "tutorial"}),
}


RUN = """([network, weights, observations, size, masks]) => {
  const made = networkOf(network, weightsOf(weights)), all = weightsOf(observations), q = [];
  let memory = freshMemory(made);
  for (let i = 0; i < all.length; i += size) {
    const thought = think(made, all.subarray(i, i + size), memory, masks && masks.slice());
    memory = thought.memory;
    q.push(...thought.q);
  }
  return q;
}"""


def player_of(observation: spaces.Space[Any], action: spaces.Space[Any], settings: dict[str, Any]) -> tuple[Any, ...]:
    """The config, the spaces and the player of an agent for these spaces."""
    config = make_config("some:env", **settings)
    shapes = check_spaces(Env(observation, action), "some:env", embedded="embedding" in settings)
    return config, shapes, build_player(config, shapes, network_model(config, shapes, None))


def described_player(*given: Any, key: int) -> tuple[dict[str, Any], np.ndarray]:
    """Layers and weights of the untrained agent that `player_of` gives."""
    config, shapes, player = player_of(*given)
    return described(weights(player.network, key), form_of(config, shapes))


def filled(network: Any) -> Any:
    """Parameters of a network, none of which is as it is at first; a variance is positive."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: abs(leaf) if "variance" in jax.tree_util.keystr(path) else leaf, weights(network)
    )


def computed(kind: str, anywhere: Any) -> tuple[np.ndarray, np.ndarray]:
    """Q-values of 1,000 observations, by the page and by JAX: `[observation, *branches, actions]`."""
    observation, action, settings = KINDS[kind]
    sizes = {} if "network" in settings else SMALL
    config, shapes, player = player_of(observation, action, sizes | settings)
    params = filled(player.network)
    observation.seed(0)
    seen = np.stack([shapes.encoder(observation.sample()) for _ in range(COUNT)])

    def step(memory: Any, one: Any) -> Any:
        q, memory = player.actor.values(params, Masked(one, shapes.legal) if shapes.masked else one, memory)
        return memory, player.actor.worth(q)

    def all_steps(seen: Any) -> Any:
        if config.recurrent or config.frame_stack > 1:
            return jax.lax.scan(step, player.actor.memory(), seen)[1]
        return jax.vmap(lambda one: step(player.actor.memory(), one)[1])(seen)

    expected = np.asarray(jax.jit(all_steps)(jnp.asarray(seen)))
    keras = None if config.network == "mlp" else keras_model(params, (4,), lambda: tutorial_network((4,), 3))
    network, values = described(params, form_of(config, shapes), keras)
    legal = shapes.legal.ravel().tolist() if shapes.masked else None
    flat = seen.reshape(COUNT, -1).astype(np.float32)
    found = anywhere.evaluate(RUN, [network, packed(values), packed(flat), flat.shape[1], legal])
    return np.array(found, np.float32).reshape(expected.shape), expected


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest Q-value of the same observation."""
    real = expected > -1e29
    size = np.abs(np.where(real, expected, 0)).max(axis=-1, keepdims=True)
    return float(np.abs(np.where(real, found - expected, 0) / size).max())
