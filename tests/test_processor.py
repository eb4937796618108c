"""How many threads and devices JAX gets, in fresh processes, since that is settled when JAX is first used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = """
import os
from pathlib import Path
names = [task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
print(sum("Eigen" in name for name in names), os.environ.get("NPROC"))
"""
BUILD = """
import jax.numpy as jnp
from qdojo.build.training import build
from qdojo.config import make_config
build(make_config("CartPole-v1", hidden=({width}, {width})))
jnp.zeros(3).block_until_ready()
"""
COMMAND = """
from qdojo import processor
from qdojo.cli import run
processor.cores = lambda: 3
assert run({words!r}) == 0
"""


def threads(width: int, **environment: str) -> str:
    return after(BUILD.format(width=width), **environment)


def after(program: str, **environment: str) -> str:
    """The number of XLA's threads after `program`, and NPROC."""
    environment = {name: value for name, value in os.environ.items() if name != "NPROC"} | environment
    ran = subprocess.run(
        [sys.executable, "-c", program + COUNT],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return ran.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_a_small_network_gets_one_thread_and_nprocs_own_number_is_kept() -> None:
    assert threads(64) == "1 None"
    assert threads(64, NPROC="3") == "3 3"
    assert threads(2000) == f"{len(os.sched_getaffinity(0))} None"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_a_command_that_trains_one_small_agent_gets_one_thread_whatever_the_cores(tmp_path: Path) -> None:
    folder = ["--runs", str(tmp_path)]
    train = ["train", "CartPole-v1", "--steps", "300", "--final-eval-episodes", "1"]
    assert after(COMMAND.format(words=[*train, *folder])) == "1 None"
    assert after(COMMAND.format(words=["resume", "last", "--steps", "600", *folder])) == "1 None"
    assert after(COMMAND.format(words=[*train, "--seeds", "2", *folder])) == "2 None"
