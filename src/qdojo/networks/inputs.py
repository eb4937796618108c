"""What all networks of qdojo's own begin with: from an observation to a vector, and where its action mask goes. Not for
what the environment shows: see `envs/spaces.py`."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from qdojo.networks import torsos
from qdojo.networks.torsos import Impala, Kind, Nature
from qdojo.types import Masked, Observation, Params

ILLEGAL = -1e30
"""The Q-value of an illegal action: below whatever is learned, and finite, so that a probability of 0 times it is 0."""
INPUTS = 2**31
"""Folded into a network's key for its inputs: `split(key, n)[i]` is `fold_in(key, i)`, so a small number would be the
key of a layer."""
MOST_DEVIATIONS = 10.0
"""Normalised numbers are cut there, so that a rare observation does no harm."""
LEAST_VARIANCE = 1e-8


class Design(NamedTuple):
    """What a network is built for, and of what."""

    observation_shape: tuple[int, ...]
    num_actions: int
    hidden: tuple[int, ...]
    layer_norm: bool
    dueling: bool = False
    action_shape: tuple[int, ...] = ()
    """() for a Discrete action, (branches,) for a MultiDiscrete one."""
    branch_sizes: tuple[int, ...] = ()
    """Actions of each branch; () where all have `num_actions`."""
    categories: tuple[int, ...] = ()
    """Where observations are int32 categories, how many each has; each gets `embedding` learned numbers."""
    embedding: int = 0
    normalized: bool = False
    """Whether observations are brought to mean 0 and deviation 1, by running statistics."""
    scale: int = 1
    """What observations are divided by: the largest number of a uint8 Box, so that they are in [0, 1]."""
    torso: Kind = "dense"
    """What reads a picture."""
    torso_width: int = 1
    spectral_norm: bool = False

    @property
    def q_shape(self) -> tuple[int, ...]:
        """Shape of the Q-values."""
        return (*self.action_shape, self.num_actions)

    @property
    def features(self) -> int:
        """Numbers that a network begins with."""
        if self.categories:
            return len(self.categories) * self.embedding
        return torsos.features(self.torso, self.observation_shape, self.torso_width)


class Statistics(eqx.Module):
    """Of the observations seen so far. They are part of the parameters and get no gradient."""

    count: Float[Array, ""]
    mean: Float[Array, "features"]
    variance: Float[Array, "features"]

    def __init__(self, features: int) -> None:
        self.count = jnp.zeros(())
        self.mean = jnp.zeros(features)
        self.variance = jnp.ones(features)

    def __call__(self, x: Float[Array, "features"]) -> Float[Array, "features"]:
        mean, variance = jax.lax.stop_gradient((self.mean, self.variance))
        scaled = (x - mean) * jax.lax.rsqrt(variance + LEAST_VARIANCE)
        return jnp.clip(scaled, -MOST_DEVIATIONS, MOST_DEVIATIONS)

    def including(self, x: Float[Array, "batch features"]) -> "Statistics":
        """These after another batch. Chan, Golub, LeVeque (1979), equations 2.1."""
        more = x.shape[0]
        total = self.count + more
        share = more / total
        apart = jnp.mean(x, axis=0) - self.mean
        variance = (1.0 - share) * self.variance + share * jnp.var(x, axis=0) + share * (1.0 - share) * apart**2
        return eqx.tree_at(
            lambda old: (old.count, old.mean, old.variance), self, (total, self.mean + share * apart, variance)
        )


class Inputs(eqx.Module):
    """A flat float32 vector: the observation's numbers, scaled and normalised where asked, what a torso makes of a
    picture, or embedded categories."""

    tables: list[Float[Array, "categories embedding"]]
    statistics: Statistics | None
    torso: Nature | Impala | None
    scale: int = eqx.field(static=True)

    def __init__(self, design: Design, key: Array) -> None:
        keys = jax.random.split(key, max(1, len(design.categories)))
        self.tables = [
            jax.random.normal(k, (n, design.embedding)) for k, n in zip(keys, design.categories, strict=False)
        ]
        self.statistics = Statistics(design.features) if design.normalized else None
        self.torso = torsos.torso(design.torso, design.observation_shape, design.torso_width, design.spectral_norm, key)
        self.scale = design.scale

    def __call__(self, observation: Observation) -> Float[Array, "features"]:
        x = plain(observation)
        if self.tables:
            return jnp.concatenate([table[i] for table, i in zip(self.tables, x.ravel(), strict=True)])
        x = self.numbers(x)
        if self.torso is not None:
            return self.torso(torsos.canvas(x))
        x = x.ravel()
        return x if self.statistics is None else self.statistics(x)

    def numbers(self, x: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
        """As float32, and those of a uint8 Box from 0 to 1."""
        x = x.astype(jnp.float32)
        return x if self.scale == 1 else x / self.scale


def observed(params: Params, observation: Observation) -> Params:
    """Parameters whose `inputs` have seen a batch of observations, `[batch, ...]` or with more leading axes."""
    statistics = params.inputs.statistics
    if statistics is None:
        return params
    x = params.inputs.numbers(plain(observation)).reshape(-1, statistics.mean.shape[0])
    return eqx.tree_at(lambda module: module.inputs.statistics, params, statistics.including(x))


def plain(observation: Observation) -> Shaped[Array, "*observation"]:
    """What was seen, without a mask."""
    return jnp.asarray(observation.observation if isinstance(observation, Masked) else observation)


def in_place(observation: Observation, x: Shaped[Array, "*other"]) -> Shaped[Array, "*other"] | Masked:
    """Something else in place of what was seen, with the mask that came with it."""
    return observation._replace(observation=x) if isinstance(observation, Masked) else x


def legal_only(q: Float[Array, "*branches actions"], observation: Observation) -> Float[Array, "*branches actions"]:
    """Q-values of which no illegal action can be the largest, nor have a share in a soft maximum."""
    return jnp.where(observation.action_mask, q, ILLEGAL) if isinstance(observation, Masked) else q
