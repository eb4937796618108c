"""Rows of the speed table for MinAtar: steps of each game in a vector, and updates of its network for one and four
members."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.screen import updates
from benchmarks.table import Row
from qdojo.envs.contract import advance, start
from qdojo.envs.native.minatar import MODULES, minatar

ENVS, STEPS = 1_000, 100
LIMIT_US = 3.0


def stepping(env_id: str) -> Callable[[], float]:
    """Compile `STEPS` random steps of `ENVS` copies; the function returned measures CPU microseconds per step."""
    env = minatar(env_id)

    def play(key: jax.Array) -> Any:
        action_key, noise_key = jax.random.split(key)
        actions = jax.random.randint(action_key, (STEPS, ENVS), 0, env.num_actions)
        noise = jax.random.bits(noise_key, (STEPS, ENVS, env.noise_words), jnp.uint32)

        def step(running: Any, given: Any) -> Any:
            running, moved = jax.vmap(partial(advance, env))(running, *given)
            return running, (moved.reward.sum(), moved.observation.sum())

        return jax.lax.scan(step, jax.vmap(partial(start, env))(noise[0]), (actions, noise))[1]

    played = jax.jit(play)
    jax.block_until_ready(played(jax.random.key(0)))

    def measure() -> float:
        began = time.process_time()
        jax.block_until_ready(played(jax.random.key(1)))
        return (time.process_time() - began) / (STEPS * ENVS) * 1e6

    return measure


def row_o(repeats: int) -> Iterable[Row]:
    """A step of each game with its observation, random words and restart, and updates on Breakout."""
    for name in MODULES:
        measure = stepping(f"MinAtar/{name}-v0")
        figures = [measure() for _ in range(repeats)]
        yield Row("o", f"{name}, CPU time of a step, {ENVS:,} copies", figures, "us", "limit", LIMIT_US)
    shape = {"shape": (10, 10, 4), "high": 1, "settings": {"hidden": (128,), "frame_stack": 1}}
    one, four = updates(torso="minatar", **shape), updates(members=4, torso="minatar", **shape)
    singles, members = [], []
    for _ in range(repeats):
        singles.append(one())
        members.append(four() / one())
    yield Row("o", "update on MinAtar's Breakout, batch 32", singles, "ms", "to see", float("inf"))
    yield Row("o", "  four members over one", members, "times", "limit", 2.5)
