"""Convolutions that make a vector of a picture. Not for what comes before and after them: see `inputs.py`."""

import functools
import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from qdojo.errors import UsageError
from qdojo.networks.convolving import Padding, convolve

Kind = Literal["dense", "nature", "impala"]
"""`dense`: no convolutions, the picture's numbers side by side."""

NATURE = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Channels, side and stride of each convolution: Mnih et al. (2015), methods, model architecture."""
LEAST_SIDE = 36
"""The smallest picture of which they leave anything."""
STAGES = (16, 32, 32)
"""Channels of each stage: Espeholt et al. (2018), figure 3."""
SQUARINGS = 8
"""As many as 2**8 steps of the power iteration."""
TINY = 1e-12


class Convolution(eqx.Module):
    """A convolution, its kernel divided by its spectral norm where asked."""

    kernel: Float[Array, "outputs rows columns inputs"]
    bias: Float[Array, "outputs"]
    stride: int = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)
    spectral_norm: bool = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        key: Array,
        *,
        side: int = 3,
        stride: int = 1,
        padding: Padding = "SAME",
        spectral_norm: bool = False,
    ) -> None:
        """Uniform in +-1/sqrt(numbers that one output is made of), as `Linear` has it."""
        bound = 1.0 / math.sqrt(side * side * inputs)
        kernel_key, bias_key = jax.random.split(key)
        self.kernel = jax.random.uniform(kernel_key, (outputs, side, side, inputs), minval=-bound, maxval=bound)
        self.bias = jax.random.uniform(bias_key, (outputs,), minval=-bound, maxval=bound)
        self.stride, self.padding, self.spectral_norm = stride, padding, spectral_norm

    def __call__(self, x: Float[Array, "height width inputs"]) -> Float[Array, "new_height new_width outputs"]:
        kernel = spectrally_normalized(self.kernel) if self.spectral_norm else self.kernel
        return convolve(x, kernel, self.stride, self.padding) + self.bias


def spectrally_normalized(kernel: Float[Array, "outputs *others"]) -> Float[Array, "outputs *others"]:
    """W / sigma(W). Miyato et al. (2018), equation 8; W is the kernel as a matrix with a row an output."""
    return kernel / spectral_norm(kernel.reshape(kernel.shape[0], -1))


def spectral_norm(matrix: Float[Array, "outputs inputs"]) -> Float[Array, ""]:
    """sigma(W), the largest singular value: u^T W v, with gradient u v^T. Miyato et al. (2018), sections 2.2 and 2.3.

    u and v are constants to the gradient, as in equations 9 to 12. The paper keeps u from one update to the next and
    takes one step of the power iteration each time. Here nothing is kept: squaring W W^T a few times is as many steps
    as bring u there from anywhere, and costs little, for it depends on no example. So the norm is a function of W
    alone: a target network that moves softly, a resumed run and the members of a population have no vector that could
    be of other weights.
    """
    fixed = jax.lax.stop_gradient(matrix)
    gram = _unit(fixed @ fixed.T)
    for _ in range(SQUARINGS):
        gram = _unit(gram @ gram)
    # Every column points along u by now, the one with the largest diagonal element most.
    u = _unit(gram[:, jnp.argmax(jnp.diagonal(gram))])
    v = _unit(u @ fixed)
    return jnp.maximum(jnp.vdot(u, matrix @ v), TINY)


def _unit(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return x / jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(x))), TINY)


class Nature(eqx.Module):
    """Three convolutions, each with relu. Mnih et al. (2015); the dense layer behind them is the network's `hidden`."""

    convolutions: list[Convolution]

    def __init__(self, channels: int, key: Array) -> None:
        keys = jax.random.split(key, len(NATURE))
        self.convolutions = []
        for (outputs, side, stride), k in zip(NATURE, keys, strict=True):
            self.convolutions.append(Convolution(channels, outputs, k, side=side, stride=stride, padding="VALID"))
            channels = outputs

    def __call__(self, x: Float[Array, "height width channels"]) -> Float[Array, "features"]:
        for convolution in self.convolutions:
            x = jax.nn.relu(convolution(x))
        return x.ravel()


class Residual(eqx.Module):
    """x + conv(relu(conv(relu(x)))): a block of Espeholt et al. (2018), figure 3."""

    first: Convolution
    second: Convolution

    def __init__(self, channels: int, spectral_norm: bool, key: Array) -> None:
        first, second = jax.random.split(key)
        self.first = Convolution(channels, channels, first, spectral_norm=spectral_norm)
        self.second = Convolution(channels, channels, second, spectral_norm=spectral_norm)

    def __call__(self, x: Float[Array, "height width channels"]) -> Float[Array, "height width channels"]:
        return x + self.second(jax.nn.relu(self.first(jax.nn.relu(x))))


class Stage(eqx.Module):
    """A convolution, a maximum over 3 x 3 at every second place, and two residual blocks."""

    convolution: Convolution
    blocks: list[Residual]

    def __init__(self, inputs: int, outputs: int, spectral_norm: bool, key: Array) -> None:
        of_convolution, *of_blocks = jax.random.split(key, 3)
        self.convolution = Convolution(inputs, outputs, of_convolution)
        self.blocks = [Residual(outputs, spectral_norm, k) for k in of_blocks]

    def __call__(self, x: Float[Array, "height width inputs"]) -> Float[Array, "new_height new_width outputs"]:
        x = pooled(self.convolution(x))
        for block in self.blocks:
            x = block(x)
        return x


def pooled(x: Float[Array, "height width channels"]) -> Float[Array, "new_height new_width channels"]:
    """The maximum over 3 x 3 at every second place, with sides half as long, rounded up.

    One axis after the other, and by slices: the gradient of `reduce_window` takes XLA's CPU backend a quarter of an
    update.
    """
    return _pooled(_pooled(x, 0), 1)


def _pooled(x: Float[Array, "height width channels"], axis: int) -> Float[Array, "new_height new_width channels"]:
    length = x.shape[axis]
    places = math.ceil(length / 2)
    beyond = 2 * places + 1 - length
    around = [(0, 0, 0)] * x.ndim
    around[axis] = (beyond // 2, beyond - beyond // 2, 0)
    padded = jax.lax.pad(x, -jnp.inf, around)
    of_windows = [jax.lax.slice_in_dim(padded, i, i + 2 * places - 1, 2, axis) for i in range(3)]
    return functools.reduce(jnp.maximum, of_windows)


class Impala(eqx.Module):
    """Three stages and relu. Espeholt et al. (2018), figure 3; the dense layer behind them is the network's `hidden`.

    `width` times as many channels, and spectral normalisation in the residual blocks: Clark et al. (2024).
    """

    stages: list[Stage]

    def __init__(self, channels: int, width: int, spectral_norm: bool, key: Array) -> None:
        self.stages = []
        for outputs, k in zip(STAGES, jax.random.split(key, len(STAGES)), strict=True):
            self.stages.append(Stage(channels, width * outputs, spectral_norm, k))
            channels = width * outputs

    def __call__(self, x: Float[Array, "height width channels"]) -> Float[Array, "features"]:
        for stage in self.stages:
            x = stage(x)
        return jax.nn.relu(x).ravel()


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether the channels come first: of three axes the smaller of the first and the last, else the last."""
    return len(shape) == 3 and shape[0] < shape[-1]


def sides_and_channels(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and channels of a picture of two or three axes; of two axes there is one channel."""
    first, second, *third = shape
    if channels_first(shape):
        return second, third[0], first
    return first, second, third[0] if third else 1


def canvas(picture: Shaped[Array, "*picture"]) -> Shaped[Array, "height width channels"]:
    """The picture with its channels last."""
    if channels_first(picture.shape):
        picture = jnp.moveaxis(picture, 0, -1)
    return picture.reshape(sides_and_channels(picture.shape))


def torso(kind: Kind, shape: tuple[int, ...], width: int, spectral_norm: bool, key: Array) -> Nature | Impala | None:
    """What reads pictures of this shape; None for `dense`. `width` and `spectral_norm` are those of `Impala`."""
    if kind == "dense":
        return None
    channels = sides_and_channels(shape)[-1]
    return Nature(channels, key) if kind == "nature" else Impala(channels, width, spectral_norm, key)


def features(kind: Kind, shape: tuple[int, ...], width: int) -> int:
    """Numbers that a torso makes of an observation. Raises UsageError where `nature` would leave none."""
    if kind == "dense":
        return math.prod(shape)
    *sides, _ = sides_and_channels(shape)
    if kind == "impala":
        for _ in STAGES:
            sides = [math.ceil(side / 2) for side in sides]
        return math.prod(sides) * STAGES[-1] * width
    if min(sides) < LEAST_SIDE:
        raise UsageError(
            f"torso is 'nature', but a picture of {sides[0]} x {sides[1]} is too small for it, which needs "
            f"{LEAST_SIDE} x {LEAST_SIDE}; use torso='impala'."
        )
    for _, side, stride in NATURE:
        sides = [(length - side) // stride + 1 for length in sides]
    return math.prod(sides) * NATURE[-1][0]
