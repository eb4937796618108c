"""How JAX uses the threads of this machine. Not for which device a run is on: JAX decides that."""

import math
import os
from itertools import pairwise

import jax

from qdojo.config import Config

ONE_THREAD_UPDATE = 10_000_000
"""Multiply-adds of an update, those of all members together, below which one thread is faster than several."""


def prepare(config: Config, observation_shape: tuple[int, ...], num_actions: int, convolutions: bool) -> None:
    """Settings for a run, where JAX has not been used yet in this process; later they change nothing.

    qdojo waits for each result, so JAX need not hand a call to a thread of its own, which takes longer than acting.
    Small networks learn faster where XLA does not split their products (compare `NPROC=2 python -m benchmarks.speed
    --rows a,b`), which only NPROC tells it; one that is set already is left as it is.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    widths = (math.prod(observation_shape), *config.hidden, num_actions)
    rows = config.burn_in_steps + config.sequence_steps + config.n_step if config.recurrent is not None else 1
    multiply_adds = config.members * config.heads * config.batch_size * rows * sum(a * b for a, b in pairwise(widths))
    # Convolutions are work enough for several threads, however small the pictures.
    known = config.network in ("mlp", "tutorial") and not convolutions
    if not known or multiply_adds > ONE_THREAD_UPDATE or "NPROC" in os.environ:
        return
    os.environ["NPROC"] = "1"
    try:
        jax.devices()
    finally:
        del os.environ["NPROC"]
