"""Runs on a device whose memory is too small for the tape, which therefore stays in the host's memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from probes.killed import Copies

import qdojo
from qdojo.build import memory
from qdojo.build.training import build
from qdojo.config import make_config
from qdojo.errors import UsageError
from qdojo.loops.host import HostLoop
from qdojo.runs import checkpoint, segments
from qdojo.tape import ring

SETTINGS: dict[str, Any] = {
    "loop": "host",
    "seed": 3,
    "seeds": 2,
    "num_envs": 2,
    "steps": 240,
    "hidden": (8,),
    "capacity_steps": 120,
    "batch_size": 8,
    "warmup_steps": 40,
    "collect_steps": 4,
    "report_every_steps": 20,
    "eval_every_steps": 120,
    "eval_episodes": 1,
    "final_eval_episodes": 1,
    "checkpoint_every_seconds": 0.0,
}
"""60 rows, which are overwritten once."""
OF_ONE_STEP = {"n_step": 1, "collect_steps": 2, "updates_per_step": 0.5}
OVERLAPPING = {"collect_steps": 4, "updates_per_step": 4.0}
"""16 updates per learning phase, during which the next rows are collected."""


def small(monkeypatch: pytest.MonkeyPatch, tape: int = 0, **settings: Any) -> None:
    """A device with room for everything but the tape, of which it has room for `tape` bytes."""
    config = make_config("CartPole-v1", **SETTINGS | settings)
    parts = build(config)
    assert isinstance(parts.loop, HostLoop)
    shape = jax.ShapeDtypeStruct(parts.spaces.observation_shape, np.float32)
    needed = memory.needed_bytes(config, parts.loop.capacity_rows, shape, (), parts.agent)
    assert needed.tape > 100
    monkeypatch.setattr(memory, "free_on_device", lambda: int((needed.learning + tape) / memory.MEMORY_SHARE) + 100)


def trained(root: Path, observers: Sequence[Any] = (), **settings: Any) -> Any:
    return qdojo.train("CartPole-v1", root=root, observers=observers, progress=False, **SETTINGS | settings)


def states(directory: Path) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in checkpoint.load_latest(directory).arrays.items()}


@pytest.mark.parametrize(
    "settings",
    [
        OF_ONE_STEP,
        OVERLAPPING | {"prioritized": True, "frame_stack": 3, "n_step": 3},
        {"recurrent": "gru", "sequence_steps": 4, "burn_in_steps": 2},
    ],
    ids=["plain", "prioritized stacks, overlapping", "recurrent"],
)
def test_the_agents_are_those_of_a_tape_on_the_device(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_device = trained(tmp_path / "device", **settings)
    assert "replay memory" not in caplog.text
    small(monkeypatch, **settings)
    on_host = trained(tmp_path / "host", **settings)
    assert "the replay memory of 120 steps does not fit into the memory of the device, so it stays" in caplog.text
    ours, theirs = (states(run.directory.checkpoints_path) for run in (on_host, on_device))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        if "environment" not in name:
            np.testing.assert_array_equal(ours[name], array, err_msg=name)


@pytest.mark.parametrize(("in_segments", "free"), [(False, None), (True, 10**9)], ids=["here", "on a larger device"])
def test_a_killed_run_resumes_exactly(
    in_segments: bool, free: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_segments:
        monkeypatch.setattr(segments, "LEAST_BYTES", 0)
    small(monkeypatch)
    copies = Copies(tmp_path / "killed", 8)
    whole = trained(tmp_path / "whole", observers=[copies])
    if free is not None:
        monkeypatch.setattr(memory, "free_on_device", lambda: free)
    qdojo.resume(copies.path, progress=False)
    found, expected = (states(run) for run in (copies.path / "checkpoints", whole.directory.checkpoints_path))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_tape_that_fits_is_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, tape=10**6)
    loop = build(make_config("CartPole-v1", **SETTINGS)).loop
    assert isinstance(loop, HostLoop)
    assert not loop.tape_on_host
    assert isinstance(loop.init().tape.words, jax.Array)
    loop.close()


def test_a_tape_on_the_host_is_in_memory_once_and_none_of_it_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    loop = build(make_config("CartPole-v1", **SETTINGS)).loop
    state = loop.init()
    words = state.tape.words
    assert isinstance(words, np.ndarray)
    assert max(leaf.nbytes for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)) < words.nbytes
    states = loop.run(state)
    for _ in range(3):
        state, _ = next(states)
        assert state.tape.words is words
    assert words.any()
    loop.close()


def test_a_lost_environment_ends_its_newest_row_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    loop = build(make_config("CartPole-v1", **SETTINGS)).loop
    state, _ = next(loop.run(loop.init()))
    loop.close()
    lost = np.array([1]), np.array([0])
    on_device = ring.cut(state.tape._replace(words=jax.numpy.array(state.tape.words)), *lost)
    before = state.tape.words.copy()
    on_host = ring.cut(state.tape, *lost)
    np.testing.assert_array_equal(on_host.words, on_device.words)
    assert (on_host.words != before).any()


@pytest.mark.parametrize(
    "settings", [{"loop": "device"}, {"preset": "pqn", "loop": "host"}, {"preset": "tutorial", "loop": "host"}]
)
def test_loops_and_agents_that_read_it_most_are_refused_as_before(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_on_device", lambda: 10**4)
    with pytest.raises(UsageError, match="free on the device may be used"):
        build(make_config("CartPole-v1", **settings))


def test_what_fits_neither_there_nor_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_on_device", lambda: 10**9)
    monkeypatch.setattr(memory, "free_bytes", lambda: 10**9)
    with pytest.raises(UsageError, match="free on the device may be used; use capacity_steps"):
        build(make_config("CartPole-v1", **SETTINGS | {"capacity_steps": 10**8}))
