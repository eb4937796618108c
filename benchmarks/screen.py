"""Rows of the speed table for learning from the screen: updates on stacked frames, and steps of an Atari game."""

import statistics
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.spaces import Box, Discrete

from benchmarks.table import Row, json_of
from qdojo.build.memory import capacity_rows
from qdojo.build.player import build_player
from qdojo.build.training import build_agent
from qdojo.config import make_config
from qdojo.envs.resolve import resolve
from qdojo.envs.spaces import check_spaces
from qdojo.loops.learning import Rhythm, improve
from qdojo.loops.sharding import Shards
from qdojo.networks import convolving
from qdojo.processor import cores
from qdojo.tape import ring
from qdojo.types import Clock

UPDATES = 8
"""Updates per measurement."""
SETTINGS = {"hidden": (512,), "batch_size": 32, "frame_stack": 4, "capacity_steps": 20_000, "num_envs": 1}
STEPS = 2_000
"""Agent steps per measurement of an environment."""
GAME = "ALE/Pong-v5"


def updates(
    members: int = 1,
    torso: str = "nature",
    shape: tuple[int, ...] = (84, 84),
    high: int = 255,
    settings: dict[str, Any] = SETTINGS,
) -> Callable[[], float]:
    """Compile `UPDATES` updates of plain DQN on images; the function returned measures ms per update.

    Several members share the cores, as in a run.
    """
    shards = Shards(members, cores())
    config = make_config("frames", "dqn", torso=torso, **SETTINGS | settings)
    seen = SimpleNamespace(action_space=Discrete(6), observation_space=Box(0, high, shape, np.uint8))
    spaces = check_spaces(seen, "frames")
    agent = build_agent(config, spaces, build_player(config, spaces, None))
    rows = capacity_rows(config)
    tape = ring.empty(rows, members, 1, jax.ShapeDtypeStruct(shape, jnp.uint8))
    frames = jax.random.bits(jax.random.key(0), tape.words.shape, jnp.uint32)
    # No row ends an episode, and all rewards are zero.
    words = frames.at[..., ring.ENDING].set(0).at[..., ring.REWARD].set(0)
    tape = shards.placed(tape._replace(words=words, written=jnp.int32(rows)), ring.AXES)
    agents = shards.placed(jax.vmap(agent.init)(jax.random.split(jax.random.key(1), members)), 0)
    noise = jax.random.bits(jax.random.key(2), (UPDATES, members, agent.update_words), jnp.uint32)
    noise = shards.placed(noise, 1)
    clock = Clock(jnp.int32(rows), jnp.int32(0))

    def learn(agents: Any, tape: Any, noise: Any) -> Any:
        return improve(agent, Rhythm(1, UPDATES, 0), agents, tape, clock, noise)[0]

    learned = jax.jit(shards.over(learn, (0, ring.AXES, 1), 0)).lower(agents, tape, noise).compile()
    jax.block_until_ready(learned(agents, tape, noise))

    def measure() -> float:
        began = time.perf_counter()
        jax.block_until_ready(learned(agents, tape, noise))
        return (time.perf_counter() - began) / UPDATES * 1e3

    return measure


def row_h(repeats: int) -> Iterable[Row]:
    """One update of DQN with the network of Mnih et al. (2015) and batch size 32, compared with PyTorch."""
    ours, infinite = updates(), float("inf")
    products = convolving.by_products
    try:
        convolving.by_products = convolving.by_xla
        with_xla = updates()
    finally:
        convolving.by_products = products
    compared = (
        ("the same with XLA's convolution, over ours", with_xla, ("aim", 15.0, False)),
        ("four members over one", updates(members=4), ("limit", 2.2, True)),
        ("the `der` torso over Nature", updates(torso="der"), ("to see", infinite, True)),
        ("the same on images of 42 x 42", updates(torso="der", shape=(42, 42)), ("to see", infinite, True)),
    )
    one, peer, ratios = [], [], [[] for _ in compared]
    for _ in range(repeats):
        one.append(ours())
        peer.append(min(json_of("-m", "benchmarks.screen_peers", "update", "--threads", str(n)) for n in (1, 2)))
        for found, (_, other, _) in zip(ratios, compared, strict=True):
            found.append(other() / ours())
    yield Row("h", "update on frames, Nature, batch 32", one, "ms", "1.3 x torch", 1.3 * statistics.median(peer))
    for found, (what, _, bound) in zip(ratios, compared, strict=True):
        yield Row("h", f"  {what}", found, "times", *bound)


def row_i(repeats: int) -> Iterable[Row]:
    """Agent steps of Pong per CPU-second with preprocessing, compared with the bare emulator and other libraries."""
    env = resolve(GAME).make()
    env.reset(seed=0)

    def ours() -> float:
        began = time.process_time()
        for step in range(STEPS):
            *_, terminated, truncated, _ = env.step(step % 6)
            if terminated or truncated:
                env.reset()
        return STEPS / (time.process_time() - began)

    peers: dict[str, list[float]] = {"emulator": [], "gymnasium": [], "sb3": []}
    figures = []
    for _ in range(repeats):
        figures.append(ours())
        for peer, found in peers.items():
            found.append(json_of("-m", "benchmarks.screen_peers", peer, "--steps", str(STEPS)))
    for peer, told, share in (
        ("emulator", "0.7 x emulator alone", 0.7),
        ("gymnasium", "Gymnasium's wrappers, as CleanRL has them", 1.0),
        ("sb3", "Stable-Baselines3", 1.0),
    ):
        limit = share * statistics.median(peers[peer])
        yield Row("i", "Pong, agent steps per CPU-second", figures, "steps/s", told, limit, less=False)
