"""Estimates the memory that a run needs and checks it against the free memory of the host and the device."""

import math
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax

from qdojo.agents.pqn import capacity_rows as pqn_rows
from qdojo.agents.tutorial import capacity_rows as tutorial_rows
from qdojo.build.images import smaller_images
from qdojo.config import Config
from qdojo.errors import UsageError
from qdojo.loops.sharding import Shards
from qdojo.loops.state import stored_shapes
from qdojo.tape import priority, ring
from qdojo.types import Agent

MEMORY_SHARE = 0.8
"""Fraction of the free memory that a run may use."""
CACHED_BYTES = 2_800_000
"""Bytes that one core's updates may read and write without leaving its cache, found by measuring: with larger blocks of
members, each update takes longer."""
LARGE_WEIGHTS = 20_000_000
"""Weights per member from which an update takes seconds on a CPU. The networks in the papers have up to 7 million."""
CONTROL_GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
"""Where a container reports its memory limit and its memory usage: a folder and the names of two files in it."""


def capacity_rows(config: Config) -> int:
    """Number of rows of the tape, a multiple of the rows per cycle."""
    if config.agent == "tutorial":
        return tutorial_rows(config.capacity_steps)
    if config.agent == "pqn":
        return pqn_rows(config.rows_per_cycle, config.frame_stack)
    example = config.n_step + config.frame_stack - 1
    if config.recurrent is not None:
        example += config.burn_in_steps + config.sequence_steps
    rows = max(math.ceil(config.capacity_steps / config.num_envs), example + 2)
    return math.ceil(rows / config.rows_per_cycle) * config.rows_per_cycle


class Needed(NamedTuple):
    """An estimate of the bytes that a run needs."""

    tape: int
    """The rows of the replay memory and their priorities."""
    learning: int
    """Everything else: see `needed_bytes`."""


def needed_bytes(config: Config, rows: int, observation: Any, action_shape: tuple[int, ...], agent: Agent) -> Needed:
    """Bytes that a run needs: its tape, and for each member the agent's state, copies of its weights and one batch.

    The state holds the weights, the target network's weights and the optimizer's moments. Four more copies of the
    weights are counted: the best agent so far and the one that replaces it, the gradient, and the optimizer's step.
    Activations and compiled programs are not counted. Saving and resuming copy no tape on the CPU: they write and read
    it in place, or in blocks.
    """
    memory = stored_shapes(agent)
    # Members that learn from a data set share its rows.
    members = config.members if config.dataset is None else 1
    tape = ring.size_in_bytes(rows, members, config.num_envs, observation, action_shape, memory)
    state = jax.eval_shape(agent.init, jax.eval_shape(lambda: jax.random.key(0)))
    tree = priority.size_in_bytes(rows, config.num_envs) if config.prioritized else 0
    learning = _bytes(state) - tree + 4 * _bytes(state.params) + _batch_bytes(config, observation)
    return Needed(tape + config.members * tree, config.members * learning)


def _batch_bytes(config: Config, observation: Any) -> int:
    """Bytes of the examples of one update, two float32 observations each; of PQN the observations of a whole rollout
    and its successor, as on the tape, and one minibatch as float32. Each observation is a stack of frames."""
    numbers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(observation))
    if config.agent != "pqn":
        return 2 * 4 * config.batch_size * config.frame_stack * numbers
    rows = config.num_envs * (config.rows_per_cycle + 1)
    return config.frame_stack * (rows * _bytes(observation) + 4 * math.ceil(rows / config.minibatches) * numbers)


def check_memory(
    config: Config,
    rows: int,
    observation: Any,
    action_shape: tuple[int, ...],
    agent: Agent,
    shards: Shards,
    stepped_on_host: bool,
) -> bool:
    """Returns whether the tape is in the host's memory although there is a device with memory of its own.

    Usually the tape and the agents are on the devices, each of which has those of its own members, or all rows of a
    data set; then a checkpoint needs a copy on the host. If environments are stepped on the host, and a replay memory
    fits there but not on a single device, it stays there. Raises UsageError if a run does not fit.
    """
    every = needed_bytes(config, rows, observation, action_shape, agent)
    may_wait = stepped_on_host and config.agent == "dqn" and config.dataset is None
    on_device, on_host = free_on_device(), free_bytes()
    places, stays = {"": (on_host, _of(every, config, shards.slots, shards.count))}, False
    if on_device is not None:
        where = " on each device" if shards.count > 1 else " on the device"
        share = _of(every, config, shards.each, 1)
        stays = may_wait and shards.count == 1 and _fits(every, on_host) and not _fits(share, on_device)
        share = share._replace(tape=0) if stays else share
        places = {where: (on_device, share), " on the host": (on_host, every)}
    for where, (free, needed) in places.items():
        if _fits(needed, free):
            continue
        usable = free * MEMORY_SHARE
        there = f"only {usable / 1e9:,.1f} of the {free / 1e9:,.1f} GB free{where} may be used"
        if config.agent == "pqn":
            raise UsageError(
                f"A rollout of {config.collect_steps:,} steps and the network need "
                f"{(needed.tape + needed.learning) / 1e9:,.1f} GB for {config.members} member(s), but {there}; use "
                "fewer seeds, a smaller num_envs, collect_steps, frame_stack or hidden, or smaller observations "
                "(resize images or convert them to greyscale)."
            )
        if needed.learning > usable / 2 and needed.learning > needed.tape:
            raise UsageError(
                f"The {weights(agent):,} weights of the network need {needed.learning / 1e9:,.1f} GB for "
                f"{config.members} member(s), with optimizer, copies and a batch of {config.batch_size:,}, but "
                f"{there}; use fewer seeds, a smaller hidden or batch_size, or smaller observations (resize images or "
                "convert them to greyscale)."
            )
        # The tape is rounded up to whole cycles, so a size at the exact limit would exceed it.
        smaller = smaller_images(config, observation, needed.tape)
        fits = int(config.capacity_steps * (usable - needed.learning) / needed.tape) - config.collect_steps
        raise UsageError(
            f"capacity_steps={config.capacity_steps:,} for {config.members} member(s) needs "
            f"{(needed.tape + needed.learning) / 1e9:,.1f} GB, but {there}; "
            f"use capacity_steps={max(fits, 1):,} or less{'' if smaller is None else f'; {smaller}'}."
        )
    return stays


def _fits(needed: Needed, free: int) -> bool:
    return needed.tape + needed.learning <= free * MEMORY_SHARE


def at_once(config: Config, observation: Any, agent: Agent) -> int:
    """Members that may learn at once on one device so that an update stays in a core's cache; at least one.

    An update reads and writes about six arrays as large as the weights (the target network's, two moments, the gradient
    and the step) and for each example four as large as its layers. On an accelerator, all members learn at once.
    """
    if jax.default_backend() != "cpu":
        return config.members
    layers = sum(config.hidden) + config.frame_stack * sum(math.prod(x.shape) for x in jax.tree.leaves(observation))
    minibatch = config.num_envs * config.rows_per_cycle // config.minibatches
    examples = minibatch if config.agent == "pqn" else config.batch_size
    return max(1, CACHED_BYTES // (4 * (6 * weights(agent) + 4 * examples * layers)))


def _of(every: Needed, config: Config, members: int, copies: int) -> Needed:
    """The bytes for this number of the members, and of copies of a data set."""
    tape = every.tape * copies if config.dataset is not None else every.tape * members // config.members
    return Needed(tape, every.learning * members // config.members)


def weights(agent: Agent) -> int:
    """Number of weights of one member."""
    state = jax.eval_shape(agent.init, jax.eval_shape(lambda: jax.random.key(0)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))


def told_of_size(agent: Agent, observation_shape: tuple[int, ...]) -> str | None:
    """A notice for the user if the network is so large that an update takes seconds, else None."""
    count = weights(agent)
    if count < LARGE_WEIGHTS:
        return None
    return (
        f"the network has {count:,} weights for observations of shape {list(observation_shape)}, so each update will "
        "be slow; make images smaller (gymnasium.wrappers.ResizeObservation, GrayscaleObservation), with dtype uint8 "
        "and shape [height, width, channels] so that convolutions process them, or use a smaller hidden."
    )


def told_of_place(config: Config) -> str:
    """A notice for the user that the tape is not on the device."""
    return (
        f"the replay memory of {config.capacity_steps:,} steps does not fit into the memory of the device, so it stays "
        "in the host's, and every update waits for its batch; updates are faster with a capacity_steps that fits."
    )


def free_on_device() -> int | None:
    """Free bytes of memory on the default device; None if it uses the host's memory."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))


def free_bytes() -> int:
    """Free bytes of host memory, limited by the container that this process runs in."""
    return min([_free_of_host(), *_free_of_container()])


def _free_of_host() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        if not hasattr(os, "sysconf"):
            return sys.maxsize  # Windows, where the standard library cannot tell
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_of_container() -> list[int]:
    """Free bytes under the limit of each control group (version 2 or 1) that sets one."""
    found = []
    for folder, limit, usage in CONTROL_GROUPS:
        try:
            most, used = ((folder / name).read_text(encoding="ascii").strip() for name in (limit, usage))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            # The kernel frees inactive file pages when memory is needed.
            cached = int(stat.get("inactive_file", 0))
            found += [] if most == "max" else [max(0, int(most) - int(used) + cached)]
        except (OSError, ValueError):
            continue
    return found


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
