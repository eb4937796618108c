"""The input layers that all built-in networks share: they turn an observation into a vector and apply its action mask.
`envs/spaces.py` describes the observations themselves."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from qdojo.networks import torsos
from qdojo.networks.torsos import Convolutions, Impala, Kind
from qdojo.observations import plain
from qdojo.types import Masked, Observation, Params

ILLEGAL = -1e30
"""Q-value of an illegal action: below any learned value, and finite, so that its product with probability 0 is 0."""
INPUTS = 2**31
"""Folded into a network's key to get the key of its inputs. It is large because `split(key, n)[i]` equals
`fold_in(key, i)`, so a small number would repeat the key of a layer."""
MOST_DEVIATIONS = 10.0
"""Normalised observations are clipped to this many standard deviations, so that outliers do no harm."""
LEAST_VARIANCE = 1e-8
LEAST_VARIANCE_OF_PIXELS = 4e-4
"""That of a deviation of 5 in 255. A pixel that hardly ever changes would otherwise be the largest input when it does,
as where a ball passes that had not been there before."""


class Design(NamedTuple):
    """The sizes and options that a network is built from."""

    observation_shape: tuple[int, ...]
    num_actions: int
    hidden: tuple[int, ...]
    layer_norm: bool
    dueling: bool = False
    action_shape: tuple[int, ...] = ()
    """() for a Discrete action, (branches,) for a MultiDiscrete one."""
    branch_sizes: tuple[int, ...] = ()
    """Number of actions in each branch; () if every branch has `num_actions`."""
    categories: tuple[int, ...] = ()
    """For observations of int32 categories, the number of categories of each component; else (). Each component gets a
    learned embedding of size `embedding`."""
    embedding: int = 0
    one_hot: bool = False
    """Whether at most one number that reaches the first hidden layer is not zero, which then looks up its weights."""
    table: bool = False
    """Whether that layer is a `Table`."""
    normalized: bool = False
    """Whether running statistics normalise observations to mean 0 and standard deviation 1."""
    scale: int = 1
    """Divisor of observations: the upper bound of a uint8 Box, which scales them to [0, 1], else 1."""
    channels_first: bool = False
    """Whether the first axis of an image holds its channels."""
    torso: Kind = "dense"
    """The convolutions that process images, or `dense` for none."""
    torso_width: float = 1.0
    spectral_norm: bool = False

    @property
    def q_shape(self) -> tuple[int, ...]:
        """Shape of the Q-values."""
        return (*self.action_shape, self.num_actions)

    @property
    def features(self) -> int:
        """Size of the vector that `Inputs` passes to the first hidden layer."""
        if self.categories:
            return len(self.categories) * self.embedding
        if self.torso == "dense":
            return math.prod(self.observation_shape)
        height, width, _ = self.image
        return torsos.features(self.torso, height, width, self.torso_width)

    @property
    def image(self) -> tuple[int, int, int]:
        """Height, width and channels of an observation that is an image."""
        return torsos.sides_and_channels(self.observation_shape, self.channels_first)


class Statistics(eqx.Module):
    """Running mean and variance of each number of the observations seen so far. They are parameters without a gradient.

    Of images they are those of each pixel (Burda et al., 2019, section 2.4), so what never moves becomes zero.
    """

    count: Float[Array, ""]
    mean: Float[Array, "features"]
    variance: Float[Array, "features"]
    least_variance: float = eqx.field(static=True)

    def __init__(self, features: int, least_variance: float = LEAST_VARIANCE) -> None:
        self.count = jnp.zeros(())
        self.mean = jnp.zeros(features)
        self.variance = jnp.ones(features)
        self.least_variance = least_variance

    def __call__(self, x: Float[Array, "features"]) -> Float[Array, "features"]:
        mean, variance = jax.lax.stop_gradient((self.mean, self.variance))
        scaled = (x - mean) * jax.lax.rsqrt(variance + self.least_variance)
        return jnp.clip(scaled, -MOST_DEVIATIONS, MOST_DEVIATIONS)

    def including(self, x: Float[Array, "batch features"]) -> "Statistics":
        """The statistics updated with another batch. Chan, Golub, LeVeque (1979), equations 2.1."""
        more = x.shape[0]
        total = self.count + more
        share = more / total
        mean = _mean_of_rows(x)
        apart, spread = mean - self.mean, _mean_of_rows(jnp.square(x - mean[None]))
        variance = (1.0 - share) * self.variance + share * spread + share * (1.0 - share) * apart**2
        return eqx.tree_at(
            lambda old: (old.count, old.mean, old.variance), self, (total, self.mean + share * apart, variance)
        )


def _mean_of_rows(x: Float[Array, "batch features"]) -> Float[Array, "features"]:
    """Mean over the batch, whose halves are added up: for images, XLA's CPU backend takes six times as long to reduce
    the first axis."""
    rows = x.shape[0]
    x = jnp.pad(x, ((0, (1 << (rows - 1).bit_length()) - rows), (0, 0)))
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        x = x[:half] + x[half:]
    return x[0] / rows


class Inputs(eqx.Module):
    """Turns an observation into a flat float32 vector: its values, scaled and normalised if configured; a torso's
    features of an image; or the embeddings of its categories."""

    tables: list[Float[Array, "categories embedding"]]
    statistics: Statistics | None
    torso: Convolutions | Impala | None
    scale: int = eqx.field(static=True)
    channels_first: bool = eqx.field(static=True)

    def __init__(self, design: Design, key: Array) -> None:
        keys = jax.random.split(key, max(1, len(design.categories)))
        self.tables = [
            jax.random.normal(k, (n, design.embedding)) for k, n in zip(keys, design.categories, strict=False)
        ]
        is_image = design.torso != "dense"
        least = LEAST_VARIANCE_OF_PIXELS if is_image else LEAST_VARIANCE
        self.statistics = Statistics(math.prod(design.observation_shape), least) if design.normalized else None
        channels = design.image[-1] if is_image else 0
        self.torso = torsos.torso(design.torso, channels, design.torso_width, design.spectral_norm, key)
        self.scale, self.channels_first = design.scale, design.channels_first

    def __call__(self, observation: Observation) -> Float[Array, "features"]:
        x = plain(observation)
        if self.tables:
            return jnp.concatenate([table[i] for table, i in zip(self.tables, x.ravel(), strict=True)])
        x = self.numbers(x)
        if self.statistics is not None:
            x = self.statistics(x.ravel()).reshape(x.shape)
        return x.ravel() if self.torso is None else self.torso(torsos.canvas(x, self.channels_first))

    def numbers(self, x: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
        """`x` as float32, divided by `scale`, so that the values of a uint8 Box lie in [0, 1]."""
        x = x.astype(jnp.float32)
        return x if self.scale == 1 else x / self.scale


def observed(params: Params, observation: Observation) -> Params:
    """Parameters whose `inputs` statistics include these observations, `[batch, ...]` or with more leading axes."""
    statistics = params.inputs.statistics
    if statistics is None:
        return params
    x = params.inputs.numbers(plain(observation)).reshape(-1, statistics.mean.shape[0])
    return eqx.tree_at(lambda module: module.inputs.statistics, params, statistics.including(x))


def legal_only(q: Float[Array, "*branches actions"], observation: Observation) -> Float[Array, "*branches actions"]:
    """Q-values with illegal actions at `ILLEGAL`, so that no maximum or softmax picks one of them."""
    return jnp.where(observation.action_mask, q, ILLEGAL) if isinstance(observation, Masked) else q
