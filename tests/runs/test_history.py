"""Snapshots of a run: which are kept, their files, and what is left of them after a kill."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import qdojo
from qdojo.config import make_config
from qdojo.errors import DamagedFile, UsageError
from qdojo.runs import checkpoint, history
from qdojo.runs.directory import RunDirectory
from qdojo.training.observers import Started
from qdojo.training.observers.snapshots import SnapshotsObserver

TINY: dict[str, Any] = {
    "hidden": (8,),
    "seeds": 2,
    "steps": 200,
    "capacity_steps": 100,
    "batch_size": 8,
    "warmup_steps": 20,
    "report_every_steps": 20,
    "eval_every_steps": 100,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
}


def test_all_reports_are_kept_until_they_are_too_many() -> None:
    assert history.kept(0, 64) == {0}
    assert history.kept(63, 64) == set(range(64))
    # Now every second one, and 1 as an early one.
    assert history.kept(64, 64) == {*range(0, 65, 2), 1}
    # 8 fit: the stride is 4, and 2 and 1 are the early ones.
    assert history.kept(20, 8) == {0, 4, 8, 12, 16, 20, 1, 2}
    assert history.kept(200, 8) == {0, 64, 128, 192, 32, 16}
    assert history.kept(1000, 2) == {0, 512}
    assert history.kept(5, 0) == set()


@pytest.mark.parametrize("most", [2, 3, 5, 8, 64])
def test_what_was_dropped_never_comes_back_and_at_most_so_many_stay(most: int) -> None:
    before = history.kept(0, most)
    for newest in range(1, 3_000):
        now = history.kept(newest, most)
        assert len(now) <= most
        assert now - before <= {newest}
        assert (newest in now) == history.is_kept(newest, most)
        before = now
    # Runs of any length keep at least half of what fits, or a quarter if few fit.
    assert min(len(history.kept(newest, 64)) for newest in range(64, 100_000, 61)) >= 32


def test_large_networks_keep_fewer_and_the_largest_none() -> None:
    assert history.most_kept(20_000) == 64
    assert history.most_kept(30_000_000) == 8
    assert history.most_kept(128 * 2**20) == 2
    assert history.most_kept(129 * 2**20) == 0


def test_one_member_is_read_and_bad_files_are_named(tmp_path: Path) -> None:
    assert history.snapshots(tmp_path) == []
    each = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    history.write(history.path_of(tmp_path, 0), [0, 20], {"params/a/weight": np.stack([each, each + 20])})
    # As an earlier version wrote it.
    save_file({"params/a/weight": each + 40}, history.path_of(tmp_path, 40))
    first, second, third = history.snapshots(tmp_path, 1)
    assert (first.step, second.step, third.step) == (0, 20, 40) == tuple(history.steps(tmp_path))
    assert history.size_in_bytes(tmp_path) == each.nbytes
    for step, snapshot in ((20, second), (40, third)):
        np.testing.assert_array_equal(snapshot.weights["a/weight"], [3.0 + step, 4.0 + step])
    with pytest.raises(UsageError, match=r"member is 2, but .* has members 0 to 1"):
        history.snapshots(tmp_path, 2)
    # As a power failure may leave it.
    history.path_of(tmp_path, 80).write_bytes(b"")
    assert [snapshot.step for snapshot in history.snapshots(tmp_path)] == [0, 20, 40]
    history.path_of(tmp_path, 40).write_bytes(b"\x10" * 20)
    with pytest.raises(DamagedFile, match=r"step-000000000040\.safetensors cannot be read as snapshots"):
        history.snapshots(tmp_path)


def test_a_pack_is_written_again_without_what_is_deleted(tmp_path: Path) -> None:
    for first in (0, 30):
        steps = [first, first + 10, first + 20]
        history.write(history.path_of(tmp_path, first), steps, {"params/a": np.array([[[float(s)]] for s in steps])})
    history.delete(tmp_path, {0, 20, 30, 40, 50})
    (only,) = history.snapshots(tmp_path)
    assert (only.step, only.weights["a"].item()) == (10, 10.0)
    assert list((tmp_path / "snapshots").iterdir()) == [history.path_of(tmp_path, 0)]


def test_only_packs_that_are_written_again_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack may have 64 MiB."""
    for first in (0, 20, 40):
        history.write(history.path_of(tmp_path, first), [first, first + 10], {"params/a": np.zeros((2, 1, 1))})
    read, load = [], history.load_file
    monkeypatch.setattr(history, "load_file", lambda pack: (read.append(pack), load(pack))[1])
    assert history.steps(tmp_path) == [0, 10, 20, 30, 40, 50]
    history.delete(tmp_path, {0, 40, 50})
    assert read == [history.path_of(tmp_path, 0)]
    assert history.steps(tmp_path) == [10, 20, 30]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(arrays: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(history, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        history.write(history.path_of(tmp_path, 0), [0], {"params/a": np.zeros((1, 1, 2))})
    assert list((tmp_path / "snapshots").iterdir()) == []


class Simulated:
    """A run of `report_every` 10 steps, whose agents are one number each: the step."""

    def __init__(self, path: Path, at_step: int = 0) -> None:
        self.run = RunDirectory(path)
        path.mkdir(exist_ok=True)
        self.observer = SnapshotsObserver()
        config = make_config("CartPole-v1", report_every_steps=10, collect_steps=10, num_envs=1, updates_per_step=0.1)
        self.observer.started(Started(self.run, config, "device", at_step))
        self.step = at_step
        if at_step == 0:
            self.learn(0)

    def learn(self, reports: int) -> "Simulated":
        for step in range(self.step + 10, self.step + 10 * reports + 1, 10) if reports else [0]:
            self.observer.learned(step, {"w": np.full((2, 1), step, np.float32)})
            self.step = step
        return self

    def save(self) -> "Simulated":
        self.observer.saving()
        return self

    def finish(self) -> dict[int, float]:
        self.observer.saving()
        self.observer.finished(self.run, {})
        return self.kept()

    def kept(self) -> dict[int, float]:
        return {step: weights["w"].item() for step, weights in history.snapshots(self.run.path, 1)}


def test_a_killed_run_has_all_that_its_checkpoint_needs_and_ends_with_the_same_ones(tmp_path: Path) -> None:
    """Killed at report 70, when every second of the first 64 was no longer wanted; the checkpoint is of report 60."""
    whole = Simulated(tmp_path / "a")
    at_60 = whole.learn(60).save().kept()
    assert at_60 == {step: step for step in range(0, 601, 10)}
    assert len(list((tmp_path / "a" / "snapshots").iterdir())) == 1
    whole.learn(10)
    assert len(whole.kept()) <= 128
    shutil.copytree(tmp_path / "a", tmp_path / "killed")
    (tmp_path / "killed" / "snapshots" / ".tmp-step-000000000710.safetensors").write_bytes(b"half")
    resumed = Simulated(tmp_path / "killed", 600)
    assert resumed.kept() == at_60
    assert whole.learn(3).finish() == resumed.learn(13).finish() == {10: 10.0} | {n: n for n in range(0, 731, 20)}
    assert not list((tmp_path / "killed" / "snapshots").glob(".tmp-*"))


def test_many_bytes_are_written_before_the_next_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot of two members takes 8 bytes here, so the third one is too much to wait."""
    monkeypatch.setattr("qdojo.training.observers.snapshots.MOST_WAITING_BYTES", 16)
    run = Simulated(tmp_path / "a").learn(1)
    assert history.steps(run.run.path) == []
    assert history.steps(run.learn(1).run.path) == [0, 10, 20]
    assert history.steps(run.learn(1).run.path) == [0, 10, 20]
    assert history.steps(run.save().run.path) == [0, 10, 20, 30]


def test_a_run_keeps_its_agents_from_untrained_to_last(tmp_path: Path) -> None:
    run = qdojo.train("CartPole-v1", root=tmp_path, **TINY)
    found = run.snapshots(1)
    assert [step for step, _ in found] == list(range(0, 201, 20))
    last = checkpoint.load_latest(run.directory.checkpoints_path).arrays
    for name, array in history.snapshots(run.path, 1)[-1].weights.items():
        np.testing.assert_array_equal(array, last[f"state/agents/params/{name}"][1])
    observation = np.array([0.01, 0.02, 0.03, 0.04], np.float32)
    untrained, *_, trained = (policy.q_values(observation) for _, policy in found)
    assert not np.allclose(untrained, trained)
    with pytest.raises(UsageError, match="member is 2"):
        run.snapshots(2)
