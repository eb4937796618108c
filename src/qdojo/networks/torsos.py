"""Convolutional torsos, which turn an image into a vector. `inputs.py` connects them to the rest of a network."""

import functools
import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from qdojo.errors import UsageError
from qdojo.networks.convolving import Padding, convolve

Kind = Literal["dense", "nature", "der", "compact", "minatar", "impala"]
"""`dense` has no convolutions: it flattens the image."""

PLAIN: dict[str, tuple[tuple[int, int, int], ...]] = {
    "nature": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
    "der": ((32, 5, 5), (64, 5, 5)),
    "compact": ((32, 5, 5), (64, 3, 2)),
    "minatar": ((16, 3, 1),),
}
"""Channels, kernel side and stride of each convolution. Mnih et al. (2015), methods, model architecture; for `der`, the
Data-Efficient Rainbow, van Hasselt et al. (2019), appendix E; for `compact`, the same with a finer second layer, which
leaves 5 x 5 places of an image of 42 x 42 instead of 2 x 2; and for `minatar`, Young and Tian (2019), section 3."""
PADDINGS: dict[str, Padding] = {"nature": "VALID", "der": "SAME", "compact": "SAME", "minatar": "VALID"}
"""Without padding, `der` would not see the last 9 of 84 rows and columns, where a player's paddle is in Pong."""
LEAST_SIDES = {"nature": 36, "der": 1, "compact": 1, "minatar": 3, "impala": 1}
"""Shortest side of an image for which a torso leaves any output."""
STAGES = (16, 32, 32)
"""Channels of each stage: Espeholt et al. (2018), figure 3."""
SQUARINGS = 8
"""Squarings of W W^T, equivalent to 2**8 steps of the power iteration."""
TINY = 1e-12


class Convolution(eqx.Module):
    """A convolution, optionally with spectral normalisation of its kernel."""

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
        """Uniform in +-1/sqrt(inputs of one output), as in `Linear`."""
        bound = 1.0 / math.sqrt(side * side * inputs)
        kernel_key, bias_key = jax.random.split(key)
        self.kernel = jax.random.uniform(kernel_key, (outputs, side, side, inputs), minval=-bound, maxval=bound)
        self.bias = jax.random.uniform(bias_key, (outputs,), minval=-bound, maxval=bound)
        self.stride, self.padding, self.spectral_norm = stride, padding, spectral_norm

    def __call__(self, x: Float[Array, "height width inputs"]) -> Float[Array, "new_height new_width outputs"]:
        kernel = spectrally_normalized(self.kernel) if self.spectral_norm else self.kernel
        return convolve(x, kernel, self.stride, self.padding) + self.bias


def spectrally_normalized(kernel: Float[Array, "outputs *others"]) -> Float[Array, "outputs *others"]:
    """W / sigma(W). Miyato et al. (2018), equation 8; W is the kernel as a matrix with one row per output."""
    return kernel / spectral_norm(kernel.reshape(kernel.shape[0], -1))


def spectral_norm(matrix: Float[Array, "outputs inputs"]) -> Float[Array, ""]:
    """sigma(W), the largest singular value: u^T W v, with gradient u v^T. Miyato et al. (2018), sections 2.2 and 2.3.

    The gradient treats u and v as constants, as in equations 9 to 12. The paper keeps u between updates and takes one
    step of the power iteration per update. Here nothing is kept: squaring W W^T a few times equals enough steps to
    converge from any start, and is cheap because it does not depend on the batch. So the norm is a function of W
    alone, and no stored vector can belong to other weights, as it might after a soft target update or in a resumed
    run.
    """
    fixed = jax.lax.stop_gradient(matrix)
    gram = _unit(fixed @ fixed.T)
    for _ in range(SQUARINGS):
        gram = _unit(gram @ gram)
    # Every column now points along u; the one with the largest diagonal element has the least rounding error.
    u = _unit(gram[:, jnp.argmax(jnp.diagonal(gram))])
    v = _unit(u @ fixed)
    return jnp.maximum(jnp.vdot(u, matrix @ v), TINY)


def _unit(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return x / jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(x))), TINY)


class Convolutions(eqx.Module):
    """Convolutions with ReLU, one after the other: those of `PLAIN`, with `width` times as many channels."""

    convolutions: list[Convolution]

    def __init__(self, inputs: int, kind: str, width: float, key: Array) -> None:
        keys = jax.random.split(key, len(PLAIN[kind]))
        self.convolutions = []
        for (channels, side, stride), k in zip(PLAIN[kind], keys, strict=True):
            outputs = widened(channels, width)
            self.convolutions.append(Convolution(inputs, outputs, k, side=side, stride=stride, padding=PADDINGS[kind]))
            inputs = outputs

    def __call__(self, x: Float[Array, "height width channels"]) -> Float[Array, "features"]:
        for layer in self.convolutions:
            x = jax.nn.relu(layer(x))
        return x.ravel()


def widened(channels: int, width: float) -> int:
    """`width` times as many channels, at least one."""
    return max(1, round(channels * width))


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
    """A convolution, 3 x 3 max pooling with stride 2, and two residual blocks."""

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
    """3 x 3 max pooling with stride 2; the sides are halved and rounded up.

    It pools one axis after the other with slices, because on XLA's CPU backend the gradient of `reduce_window` takes
    a quarter of an update.
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
    """Three stages and ReLU. Espeholt et al. (2018), figure 3; the dense layer after them is the network's `hidden`.

    `width` multiplies the channels; the residual blocks optionally use spectral normalisation: Clark et al. (2024).
    """

    stages: list[Stage]

    def __init__(self, channels: int, width: float, spectral_norm: bool, key: Array) -> None:
        self.stages = []
        for outputs, k in zip(STAGES, jax.random.split(key, len(STAGES)), strict=True):
            self.stages.append(Stage(channels, widened(outputs, width), spectral_norm, k))
            channels = widened(outputs, width)

    def __call__(self, x: Float[Array, "height width channels"]) -> Float[Array, "features"]:
        for stage in self.stages:
            x = stage(x)
        return jax.nn.relu(x).ravel()


def sides_and_channels(shape: tuple[int, ...], channels_first: bool) -> tuple[int, int, int]:
    """Height, width and channels of an image with two or three axes; two axes mean one channel."""
    first, second, *third = shape
    if channels_first:
        return second, third[0], first
    return first, second, third[0] if third else 1


def canvas(picture: Shaped[Array, "*picture"], channels_first: bool) -> Shaped[Array, "height width channels"]:
    """The image with its channels last."""
    sides_and_channels_last = sides_and_channels(picture.shape, channels_first)
    return (jnp.moveaxis(picture, 0, -1) if channels_first else picture).reshape(sides_and_channels_last)


def torso(kind: Kind, channels: int, width: float, spectral_norm: bool, key: Array) -> Convolutions | Impala | None:
    """The torso for images with this many channels; None for `dense`. Only `Impala` uses `spectral_norm`."""
    if kind == "dense":
        return None
    return Impala(channels, width, spectral_norm, key) if kind == "impala" else Convolutions(channels, kind, width, key)


def features(kind: Kind, height: int, width: int, multiplier: float) -> int:
    """Number of features that a torso makes of an image, with `multiplier` times as many channels.

    Raises UsageError if the image is too small.
    """
    sides, least = [height, width], LEAST_SIDES[kind]
    if min(sides) < least:
        raise UsageError(
            f"torso is {kind!r}, but an image of {height} x {width} is too small; it needs at least "
            f"{least} x {least}; use torso='impala'."
        )
    if kind == "impala":
        for _ in STAGES:
            sides = [math.ceil(side / 2) for side in sides]
        return math.prod(sides) * widened(STAGES[-1], multiplier)
    for _, side, stride in PLAIN[kind]:
        lost = 0 if PADDINGS[kind] == "SAME" else side - 1
        sides = [math.ceil((length - lost) / stride) for length in sides]
    return math.prod(sides) * widened(PLAIN[kind][-1][0], multiplier)
