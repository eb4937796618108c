"""Chooses the CPU cores and threads of JAX, and the cache of its programs. JAX itself chooses the kind of device."""

import contextlib
import math
import os
from itertools import pairwise
from pathlib import Path

import jax

from qdojo.config import Config
from qdojo.errors import UsageError

CONTROL_GROUPS = (
    (Path("/sys/fs/cgroup"), ("cpu.max",)),
    (Path("/sys/fs/cgroup/cpu"), ("cpu.cfs_quota_us", "cpu.cfs_period_us")),
)
"""Where a container reports its share of the CPUs, as quota and period: a folder and the names of its files."""
SHARED_PHASE = 100_000_000
"""Multiply-adds per learning phase, summed over members, from which the members of a host loop are sharded: handing
a phase to several cores takes about a millisecond."""
COPIED_BYTES = 2**28
"""Largest data set of which each core gets a copy unasked."""
ONE_THREAD_UPDATE = 10_000_000
"""Multiply-adds per update, summed over members, below which one thread is faster than several."""


def cores() -> int:
    """Number of CPU cores that this process may use: its affinity, limited by the quota of its container."""
    if hasattr(os, "process_cpu_count"):
        usable = os.process_cpu_count() or 1
    elif hasattr(os, "sched_getaffinity"):
        usable = len(os.sched_getaffinity(0))
    else:
        usable = os.cpu_count() or 1
    return min([usable, *_quotas()])


def _quotas() -> list[int]:
    """The whole cores under the limit of each control group (version 2 or 1) that sets one, and at least 1."""
    found = []
    for folder, names in CONTROL_GROUPS:
        try:
            words = [word for name in names for word in (folder / name).read_text(encoding="ascii").split()]
            quota, period = map(int, words)  # without a limit, the quota is "max" or -1
        except (OSError, ValueError):
            continue
        found += [max(1, quota // period)] if quota > 0 else []
    return found


def open_devices(shards: int | None, members: int | None = None) -> None:
    """Let JAX treat each core as a device, and open at least as many devices as the run has `shards`.

    A process that trains a single run gives its number of `members`, beyond which it needs no devices. XLA has at least
    one thread per device, so only a process with one device can limit XLA to one thread (see `prepare`). A process that
    may train more runs opens a device per core, because the number cannot be changed later.

    It has no effect if JAX has already been used in this process, or if its number of CPU devices is already set.
    """
    is_set = jax.config.values["jax_num_cpu_devices"] >= 0
    if not is_set and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            needed = cores() if members is None else min(cores(), members)
            jax.config.update("jax_num_cpu_devices", max(needed, shards or 1))


def check_shards(shards: int | None) -> None:
    """Raises UsageError if there are fewer cores, or other devices, than `shards`, if given."""
    most = max(cores(), jax.config.values["jax_num_cpu_devices"])
    if shards is not None and shards > most and jax.local_device_count() < shards:
        raise UsageError(f"shards is {shards}, but this process may use {most} core(s); use {most} or less.")


def prepare(
    config: Config, observation_shape: tuple[int, ...], num_actions: int, convolutions: bool, on_host: bool
) -> int:
    """Configure JAX for a run, and return the number of devices that share its members.

    The configuration has no effect if JAX has already been used in this process. If the setting `shards` is None, each
    core takes a share of the members, with three exceptions: the data set is large, or environments step in Python
    (`on_host`) and have processes of their own, which need the cores, or learning phases are short.

    qdojo waits for each result, so asynchronous dispatch, which takes longer than acting, is turned off. Small networks
    learn faster if XLA does not split matrix products over threads (compare `NPROC=2 python -m benchmarks.speed
    --rows a,b`), and so do shards, which keep the cores busy. Only the variable NPROC controls this, if there are not
    more devices; a value that is already set is kept.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    widths = (math.prod(observation_shape), *config.hidden, num_actions)
    rows = config.burn_in_steps + config.sequence_steps + config.n_step if config.recurrent is not None else 1
    multiply_adds = config.members * config.heads * config.batch_size * rows * sum(a * b for a, b in pairwise(widths))
    # Convolutions are enough work for several threads, however small the images.
    known = config.network in ("mlp", "tutorial") and not convolutions
    most = config.shards or cores()
    if config.shards is None and config.dataset is not None:
        most = most if 4 * config.capacity_steps * widths[0] <= COPIED_BYTES else 1
    elif config.shards is None and on_host:
        short = known and multiply_adds * config.updates_per_cycle < SHARED_PHASE
        most = 1 if short or config.vectorization == "async" else most
    one_thread = min(most, config.members) > 1 or (known and multiply_adds <= ONE_THREAD_UPDATE)
    if one_thread and "NPROC" not in os.environ:
        os.environ["NPROC"] = "1"
        try:
            jax.devices()
        finally:
            del os.environ["NPROC"]
    if config.shards is not None:
        return config.shards
    there = jax.local_devices()
    # Cores are counted, but other devices are all used.
    return min(most, len(there)) if there[0].platform == "cpu" else len(there)


def use_compilation_cache() -> None:
    """Cache compiled programs on disk for later processes, below XDG_CACHE_HOME or in JAX_COMPILATION_CACHE_DIR."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "qdojo" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
