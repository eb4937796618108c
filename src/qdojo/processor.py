"""Chooses the number of CPU threads that JAX uses. JAX itself chooses the device."""

import math
import os
from itertools import pairwise

import jax

from qdojo.config import Config

ONE_THREAD_UPDATE = 10_000_000
"""Multiply-adds per update, summed over members, below which one thread is faster than several."""


def prepare(config: Config, observation_shape: tuple[int, ...], num_actions: int, convolutions: bool) -> None:
    """Configure JAX for a run. It has no effect if JAX has already been used in this process.

    qdojo waits for each result, so asynchronous dispatch, which takes longer than acting, is turned off. Small networks
    learn faster if XLA does not split matrix products over threads (compare `NPROC=2 python -m benchmarks.speed
    --rows a,b`). Only the variable NPROC controls this; a value that is already set is kept.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    widths = (math.prod(observation_shape), *config.hidden, num_actions)
    rows = config.burn_in_steps + config.sequence_steps + config.n_step if config.recurrent is not None else 1
    multiply_adds = config.members * config.heads * config.batch_size * rows * sum(a * b for a, b in pairwise(widths))
    # Convolutions are enough work for several threads, however small the images.
    known = config.network in ("mlp", "tutorial") and not convolutions
    if not known or multiply_adds > ONE_THREAD_UPDATE or "NPROC" in os.environ:
        return
    os.environ["NPROC"] = "1"
    try:
        jax.devices()
    finally:
        del os.environ["NPROC"]
