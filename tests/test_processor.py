"""How many threads XLA gets, in fresh processes, since that is settled when JAX is first used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os
from pathlib import Path
import jax.numpy as jnp
from qdojo.build.training import build
from qdojo.config import make_config
build(make_config("CartPole-v1", hidden=({width}, {width})))
jnp.zeros(3).block_until_ready()
names = [task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
print(sum("Eigen" in name for name in names), os.environ.get("NPROC"))
"""


def threads(width: int, **environment: str) -> str:
    program = PROGRAM.format(width=width)
    environment = {name: value for name, value in os.environ.items() if name != "NPROC"} | environment
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    return ran.stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_a_small_network_gets_one_thread_and_nprocs_own_number_is_kept() -> None:
    assert threads(64) == "1 None"
    assert threads(64, NPROC="3") == "3 3"
    assert threads(2000) == f"{len(os.sched_getaffinity(0))} None"
