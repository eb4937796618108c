"""Runs whose tape is large: its rows are saved once, and a resume, a fork or a data set reads them as they were."""

import hashlib
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from probes.killed import Copies

import qdojo
from qdojo.build.training import build
from qdojo.config import make_config
from qdojo.errors import UsageError
from qdojo.runs import checkpoint, segments
from qdojo.runs.directory import RunDirectory, list_runs
from qdojo.training import restoring

SETTINGS: dict[str, Any] = {
    "seed": 3,
    "num_envs": 2,
    "steps": 400,
    "hidden": (8,),
    "capacity_steps": 120,
    "batch_size": 8,
    "warmup_steps": 40,
    "collect_steps": 4,
    "report_every_steps": 20,
    "eval_every_steps": 200,
    "eval_episodes": 1,
    "final_eval_episodes": 1,
    "checkpoint_every_seconds": 0.0,
    "progress": False,
}
"""60 rows, which are overwritten three times."""
pytestmark = pytest.mark.usefixtures("shared_programs")
WORDS = restoring.WORDS


def small_files(patch: pytest.MonkeyPatch) -> None:
    """Files of a few rows, which end elsewhere than the ring."""
    patch.setattr(segments, "LEAST_BYTES", 0)
    patch.setattr(segments, "SEGMENT_BYTES", 7 * 56)
    patch.setattr(segments, "BLOCK_BYTES", 3 * 56)


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    small_files(monkeypatch)


def files(run: RunDirectory) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (run.checkpoints_path / "tape").iterdir()}


def states(run: RunDirectory) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in checkpoint.load_latest(run.checkpoints_path).arrays.items()}


def assert_same(ours: RunDirectory, theirs: RunDirectory) -> None:
    a, b = states(ours), states(theirs)
    assert a.keys() == b.keys()
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name], err_msg=name)


class Kept(NamedTuple):
    """A run from start to end, and its directory as kills before and after its ring was full would have left it."""

    whole: RunDirectory
    early: Path
    late: Path


def kept(root: Path, **changes: Any) -> Kept:
    early, late = Copies(root / "early", 11), Copies(root / "late", 18)
    whole = qdojo.train("CartPole-v1", root=root / "whole", observers=[early, late], **SETTINGS | changes)
    return Kept(whole.directory, early.path, late.path)


def copied(run: Path, root: Path) -> RunDirectory:
    """One that a test may change."""
    return RunDirectory(Path(shutil.copytree(run, root / run.name)))


@pytest.fixture(scope="module")
def in_segments(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    with pytest.MonkeyPatch.context() as patch:
        small_files(patch)
        return kept(tmp_path_factory.mktemp("segments"))


@pytest.fixture(scope="module")
def as_before(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """With the tape in each checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "LEAST_BYTES", 2**26)
        made = kept(tmp_path_factory.mktemp("before"))
    assert not (made.whole.checkpoints_path / "tape").exists()
    return made


@pytest.mark.parametrize("loop", ["device", "host"])
def test_a_run_killed_after_its_ring_was_full_ends_with_the_same_bits(
    loop: str, in_segments: Kept, as_before: Kept, tmp_path: Path
) -> None:
    made = in_segments if loop == "device" else kept(tmp_path, loop=loop)
    killed = copied(made.late, tmp_path / "killed")
    loaded = checkpoint.load_latest(killed.checkpoints_path)
    rows = loaded.meta["steps"] // 2
    assert 60 < rows < 200
    assert rows % 60 != 0, "the ring would begin with its oldest row"
    assert isinstance(loaded.arrays[WORDS], segments.Rows)
    before = files(killed)
    qdojo.resume(killed.path, progress=False)
    assert_same(killed, made.whole)
    assert before.items() & files(killed).items(), "rows from before the kill were written again"
    assert len(files(killed)) < 60 / 3 + 3 * 2 + 1, "old segments were not deleted"
    if loop == "device":
        assert_same(as_before.whole, made.whole)


class AtStart:
    """What a counter held when training began."""

    def __init__(self, counter: Counter[str]) -> None:
        self.counter, self.then = counter, dict[str, int]()

    def started(self, started: Any) -> None:
        self.then = dict(self.counter)


@pytest.mark.parametrize("fork", [False, True])
def test_a_resume_verifies_each_file_once(
    fork: bool, in_segments: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork verifies its own copy too."""
    killed = copied(in_segments.late, tmp_path / "killed")
    verified, digest = Counter[str](), hashlib.file_digest

    def counted(file: Any, name: Any) -> Any:
        verified[file.name] += 1
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    at_start = AtStart(verified)
    qdojo.resume(killed.path, root=tmp_path / "runs", fork=fork, observers=[at_start], progress=False)
    ours = {name: times for name, times in at_start.then.items() if Path(name).is_relative_to(killed.path)}
    assert {Path(name).suffix for name in ours} == {".safetensors", ".json", ".rows"}
    assert set(ours.values()) == {1}


def test_a_checkpoint_saved_by_another_process_meanwhile_is_read(in_segments: Kept, tmp_path: Path) -> None:
    killed = copied(in_segments.late, tmp_path / "killed").checkpoints_path
    read = checkpoint.load_latest(killed)
    assert checkpoint.load_latest(killed, read) is read
    checkpoint.save(killed, read.path.name, {"x": np.zeros(1)}, {"steps": 1})
    assert checkpoint.load_latest(killed, read).meta == {"steps": 1}
    checkpoint.save(killed, checkpoint.step_name(10**6), {"x": np.zeros(1)}, {"steps": 10**6})
    assert checkpoint.load_latest(killed, read).meta == {"steps": 10**6}


def test_a_run_that_had_its_tape_in_each_checkpoint_goes_on_in_segments(as_before: Kept, tmp_path: Path) -> None:
    run = copied(as_before.late, tmp_path)
    qdojo.resume(run.path, progress=False)
    np.testing.assert_array_equal(states(run)[WORDS], states(as_before.whole)[WORDS])
    assert files(run)


def test_a_resume_maps_no_file_while_it_trains(in_segments: Kept, tmp_path: Path) -> None:
    """The room of a deleted segment is free at once."""
    if not sys.platform.startswith("linux"):
        pytest.skip("it reads /proc")

    class Looks:
        mapped: str | None = None

        def reported(self, _: Any) -> None:
            self.mapped = Path("/proc/self/maps").read_text(encoding="utf-8")

    looks = Looks()
    qdojo.resume(copied(in_segments.late, tmp_path).path, observers=[looks], progress=False)
    assert looks.mapped is not None
    assert ".rows" not in looks.mapped


def test_only_new_rows_are_read_from_the_device_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is written once, and no array of the tape's size leaves the device."""
    written: list[tuple[int, int]] = []
    write = segments._write

    def noted(folder: Path, ring: segments.Ring, first: int, end: int) -> segments.Segment:
        written.append((first, end))
        return write(folder, ring, first, end)

    largest, to_arrays = 0, restoring.snapshot.to_arrays

    def measured(tree: Any) -> Any:
        nonlocal largest
        arrays = to_arrays(tree)
        largest = max(largest, *(array.nbytes for array in arrays.values()))
        return arrays

    monkeypatch.setattr(segments, "_write", noted)
    monkeypatch.setattr(restoring.snapshot, "to_arrays", measured)
    qdojo.train("CartPole-v1", root=tmp_path, **SETTINGS)
    assert [first for first, _ in written[1:]] == [end for _, end in written[:-1]]
    assert (written[0][0], written[-1][1]) == (0, 200)
    assert largest < 60 * 56


def test_a_damaged_segment_is_named_and_the_checkpoint_before_leads_to_the_same_end(
    in_segments: Kept, tmp_path: Path
) -> None:
    killed = copied(in_segments.early, tmp_path)
    newest = max((killed.checkpoints_path / "tape").iterdir())
    content = bytearray(newest.read_bytes())
    content[5] ^= 1
    newest.write_bytes(content)
    told: list[str] = []

    class Hears:
        def warned(self, message: str) -> None:
            told.append(message)

    qdojo.resume(killed.path, observers=[Hears()], progress=False)
    assert len(told) == 1
    assert str(newest) in told[0]
    assert_same(killed, in_segments.whole)


def test_a_fork_has_its_own_copy_of_the_tape(in_segments: Kept, tmp_path: Path) -> None:
    run = copied(in_segments.late, tmp_path)
    text = run.config_path.read_text(encoding="utf-8")
    run.config_path.write_text(text.replace("discount = 0.99", "discount = 0.5"), encoding="utf-8")

    class Quits:
        def compiling(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qdojo.resume(run.path, root=tmp_path / "forks", fork=True, observers=[Quits()], progress=False)
    (fork,) = list_runs(tmp_path / "forks")
    before = states(run)
    shutil.rmtree(run.path)
    np.testing.assert_array_equal(states(fork)[WORDS], before[WORDS])
    assert qdojo.resume(fork.path, progress=False).result["steps"] == 400


def test_logged_rows_are_read_from_segments_and_saved_once(
    in_segments: Kept, as_before: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    fields: dict[str, Any] = SETTINGS | {"preset": "cql", "num_envs": 1, "quantiles": 4, "steps": 120}
    fields |= {"capacity_steps": 400, "warmup_steps": 1_000, "dataset": str(data)}
    saves: list[dict[str, int]] = []
    save = checkpoint.save

    def noted(directory: Path, *arguments: Any) -> Path:
        path = save(directory, *arguments)
        saves.append(files(RunDirectory(directory.parent)))
        return path

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", noted)
        shutil.copytree(in_segments.whole.path, data)
        ours = qdojo.train("CartPole-v1", root=tmp_path / "ours", **fields)
    assert len(saves) > 6
    assert saves[0]
    assert all(each == saves[0] for each in saves)
    monkeypatch.setattr(segments, "LEAST_BYTES", 2**26)
    shutil.rmtree(data)
    shutil.copytree(as_before.whole.path, data)
    theirs = qdojo.train("CartPole-v1", root=tmp_path / "theirs", **fields)
    assert_same(ours.directory, theirs.directory)


class Forgetful(gym.Env[np.ndarray, int]):
    """Counts its resets across the process, whatever the seed, so no episode can be rebuilt."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)
    resets = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        Forgetful.resets += 1
        self.steps = 0
        return self._seen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._seen(), 1.0, False, self.steps == 30, {}

    def _seen(self) -> np.ndarray:
        return np.float32([Forgetful.resets, self.steps, 0, 0])


def test_a_statistical_resume_saves_the_row_that_it_changed(tmp_path: Path) -> None:
    """Its newest row is `last` now, but not in the segment that an earlier checkpoint lists."""
    run = qdojo.train(Forgetful, root=tmp_path, **SETTINGS)
    loaded = checkpoint.load_latest(run.directory.checkpoints_path)
    newest, before = (loaded.meta["steps"] // 2 - 1) % 60, np.asarray(loaded.arrays[WORDS])
    assert not (before[newest, 0, :, 0] >= 2).any()
    told: list[str] = []

    class Hears:
        def warned(self, message: str) -> None:
            told.append(message)

    qdojo.resume(run.path, steps=420, observers=[Hears()], progress=False)
    assert any("statistical resume" in message for message in told)
    after = states(run.directory)[WORDS]
    assert (after[newest, 0, :, 0] == 2).all()
    kept = [row for row in range(60) if not 0 <= (row - newest) % 60 <= 10]
    np.testing.assert_array_equal(after[kept], before[kept])


def test_the_room_on_the_disk_is_told_in_advance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And refused, before anything is written, if the disk does not have it."""
    told: list[str] = []

    class Hears:
        def warned(self, message: str) -> None:
            told.append(message)

    settings = SETTINGS | {"hidden": (64, 64)}
    run = qdojo.train("CartPole-v1", root=tmp_path / "small", observers=[Hears()], **settings)
    assert not told
    on_disk = sum(path.stat().st_size for path in run.path.rglob("*.*") if path.suffix in (".rows", ".safetensors"))
    needed = restoring.disk_bytes(run.config, build(run.config).loop.template())
    assert on_disk * 0.5 < needed < on_disk * 2
    monkeypatch.setattr(restoring, "TOLD_BYTES", needed - 1)
    qdojo.train("CartPole-v1", root=tmp_path / "small", observers=[Hears()], **settings)
    assert len(told) == 1
    assert told[0].startswith("the checkpoints and snapshots of this run will take about 0.0 GB in")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(
        UsageError, match=r"^The checkpoints and snapshots of this run take .* GB, but only .* GB are free in .*--runs"
    ):
        qdojo.train("CartPole-v1", root=tmp_path / "full", **settings)
    assert not (tmp_path / "full").exists()


def test_a_large_tape_is_counted_once_and_a_small_one_in_each_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def needed(capacity: int, steps: int) -> int:
        # As many snapshots in each of them.
        reports: dict[str, Any] = {"report_every_steps": steps // 10, "eval_every_steps": None}
        config = make_config("CartPole-v1", capacity_steps=capacity, steps=steps, **reports)
        return restoring.disk_bytes(config, build(config).loop.template())

    row = 28
    assert needed(20_000, 100_000) - needed(10_000, 100_000) == 10_000 * row
    assert needed(20_000, 15_000) - needed(20_000, 10_000) == 5_000 * row
    monkeypatch.setattr(segments, "LEAST_BYTES", 2**26)
    assert needed(20_000, 100_000) - needed(10_000, 100_000) == 4 * 10_000 * row
