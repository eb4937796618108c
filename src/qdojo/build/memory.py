"""The memory that a run needs, and the memory there is. Not for what lies in it."""

import math
import os
from pathlib import Path
from typing import Any

import jax

from qdojo.agents.pqn import capacity_rows as pqn_rows
from qdojo.agents.tutorial import capacity_rows as tutorial_rows
from qdojo.config import Config
from qdojo.errors import UsageError
from qdojo.tape import priority, ring
from qdojo.types import Agent

MEMORY_SHARE = 0.8
"""Of the memory that is free, what a tape may take."""


def capacity_rows(config: Config) -> int:
    """Rows of the tape."""
    if config.agent == "tutorial":
        return tutorial_rows(config.capacity_steps)
    if config.agent == "pqn":
        return pqn_rows(config.rows_per_cycle)
    example = config.n_step
    if config.recurrent is not None:
        example += config.burn_in_steps + config.sequence_steps
    rows = max(math.ceil(config.capacity_steps / config.num_envs), example + 2)
    return math.ceil(rows / config.rows_per_cycle) * config.rows_per_cycle


def check_memory(config: Config, rows: int, observation: Any, action_shape: tuple[int, ...], agent: Agent) -> None:
    """Raises UsageError where the tape does not fit into the memory that is free."""
    memory = jax.eval_shape(agent.memory)
    # Members that learn from a data set share its rows.
    members = config.seeds if config.dataset is None else 1
    needed = ring.size_in_bytes(rows, members, config.num_envs, observation, action_shape, memory)
    if config.prioritized:
        needed += config.seeds * priority.size_in_bytes(rows, config.num_envs)
    free = free_bytes()
    if needed > free * MEMORY_SHARE:
        # Whole blocks are held, so a size at the very limit would be rounded up past it.
        fits = int(config.capacity_steps * free * MEMORY_SHARE / needed) - config.collect_steps
        raise UsageError(
            f"capacity_steps={config.capacity_steps:,} for {config.seeds} member(s) needs {needed / 1e9:,.1f} GB, "
            f"but {free * MEMORY_SHARE / 1e9:,.1f} of the {free / 1e9:,.1f} GB that are free may be used; "
            f"use capacity_steps={max(fits, 1):,} or less."
        )


def free_bytes() -> int:
    """Of the host's memory."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
