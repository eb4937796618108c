"""The rows of a large tape in segments: written once, verified when loaded, deleted when no checkpoint needs them."""

import builtins
import errno
import hashlib
import io
import json
import os
import random
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from qdojo import snapshot
from qdojo.errors import DamagedFile, QdojoError
from qdojo.runs import checkpoint, segments
from qdojo.runs.checkpoint import ARRAYS, MANIFEST, META, load, load_latest, step_name

SHAPE = (10, 1, 2, 3)
ROW = 1 * 2 * 3 * 4
"""Bytes of a row."""


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "BLOCK_BYTES", 3 * ROW)
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 4 * ROW)


class Memory:
    """A tape in memory: every word of row r is r + 1, so a row that was never written is recognized."""

    def __init__(self, written: int = 0, shape: tuple[int, ...] = SHAPE) -> None:
        self.words = np.zeros(shape, np.uint32)
        self.written = 0
        self.write(written)

    def write(self, rows: int) -> None:
        for row in range(self.written, self.written + rows):
            self.words[row % len(self.words)] = row + 1
        self.written += rows

    def ring(self) -> segments.Ring:
        def read(start: int, count: int) -> np.ndarray:
            assert start >= 0
            assert start + count <= len(self.words)
            return self.words[start : start + count]

        return segments.Ring("tape/words", self.words.shape, self.written, read)

    def save(self, directory: Path, stored: segments.Listing | None = None) -> segments.Listing:
        tape = checkpoint.append(directory, self.ring(), stored)
        assert tape is not None
        arrays = {"written": np.array(self.written)}
        checkpoint.save(directory, step_name(self.written), arrays, {"steps": self.written}, tape)
        checkpoint.prune(directory)
        return tape


def holds(path: Path, written: int) -> bool:
    """Whether a checkpoint holds exactly the tape after so many rows."""
    arrays, meta = load(path)
    words, expected = np.asarray(arrays["tape/words"]), Memory(written).words[: min(written, SHAPE[0])]
    assert meta == {"steps": written}
    return bool(words.shape == expected.shape and (words == expected).all())


def stored_files(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (directory / "tape").iterdir()}


def listed_files(directory: Path) -> set[str]:
    found = set()
    for path in directory.glob("step-*"):
        found |= {each["file"] for each in json.loads((path / META).read_bytes())["tape"]["segments"]}
    return found


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 10, 13, 25])
def test_every_checkpoint_is_the_tape_in_the_order_of_the_ring(rows: int, tmp_path: Path) -> None:
    memory, stored = Memory(), None
    for _ in range(12):
        stored = memory.save(tmp_path, stored)
        for path in tmp_path.glob("step-*"):
            assert holds(path, int(path.name.removeprefix("step-")))
        assert stored_files(tmp_path).keys() == listed_files(tmp_path)
        memory.write(rows)
    assert len(list(tmp_path.glob("step-*"))) == 3


class Counted:
    """Counts the bytes that are written to segments, and the bytes whose SHA-256 is computed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.written = self.hashed = 0
        sha256, opened, counted = hashlib.sha256, Path.open, self

        class Digest:
            def __init__(self) -> None:
                self.inner = sha256()

            def update(self, content: Any) -> None:
                counted.hashed += memoryview(content).nbytes
                self.inner.update(content)

            def hexdigest(self) -> str:
                return self.inner.hexdigest()

        def open_counted(path: Path, *arguments: Any, **options: Any) -> Any:
            file = opened(path, *arguments, **options)
            if path.parent.name != "tape":
                return file
            write = file.write

            class Writer:
                def __enter__(self) -> "Writer":
                    return self

                def __exit__(self, *_: object) -> None:
                    file.close()

                def write(self, content: Any) -> None:
                    counted.written += memoryview(content).nbytes
                    write(content)

                def __getattr__(self, name: str) -> Any:
                    return getattr(file, name)

            return Writer()

        patch.setattr(Path, "open", open_counted)
        patch.setattr(segments.hashlib, "sha256", Digest)


def test_a_save_writes_and_hashes_only_new_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, stored = Memory(8), None
    for new in (8, 5, 1, 9, 0, 3, 10):
        memory.write(new if stored else 0)
        with monkeypatch.context() as patch:
            counted = Counted(patch)
            stored = memory.save(tmp_path, stored)
        assert counted.written == counted.hashed == new * ROW
    assert holds(load_latest(tmp_path).path, 36)


def test_segments_that_no_kept_checkpoint_needs_are_deleted(tmp_path: Path) -> None:
    """At most the tape, the rows between the oldest and the newest checkpoint, and one segment are on the disk."""
    memory, stored = Memory(), None
    for _ in range(30):
        memory.write(3)
        stored = memory.save(tmp_path, stored)
        rows = sum(path.stat().st_size for path in (tmp_path / "tape").iterdir()) / ROW
        assert rows <= SHAPE[0] + 2 * 3 + 3
    assert len(stored_files(tmp_path)) <= 7


def test_saves_after_every_row_do_not_make_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MANY_SEGMENTS", 4)
    monkeypatch.setattr(segments, "SMALL_BYTES", 3 * ROW)
    memory, stored = Memory(), None
    for _ in range(35):
        memory.write(1)
        stored = memory.save(tmp_path, stored)
        assert len(stored.segments) <= 4 + 3
        assert holds(tmp_path / step_name(memory.written), memory.written)
    assert stored_files(tmp_path).keys() == listed_files(tmp_path)


class Killed(BaseException):
    """The process ends here: nothing that follows is done, so no handler may catch this."""


def strike(patch: pytest.MonkeyPatch, at: int, blow: Callable[[int], None]) -> None:
    """Call `blow` before each change of the disk from the `at`-th on."""
    count = 0

    def struck(original: Callable) -> Callable:
        def call(*arguments: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count >= at:
                blow(count)
            return original(*arguments, **options)

        return call

    for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir"):
        patch.setattr(os, name, struck(getattr(os, name)))
    patch.setattr(io, "open", struck(io.open))
    patch.setattr(builtins, "open", struck(builtins.open))
    patch.setattr(checkpoint, "save_file", struck(checkpoint.save_file))
    patch.setattr(segments, "_blocks", lambda *rows, blocks=segments._blocks: map(struck(np.copy), blocks(*rows)))


def prepared(directory: Path) -> tuple[Memory, segments.Listing]:
    """Three checkpoints of a ring that is full, a half-written segment and one that no checkpoint needs."""
    memory, stored = Memory(6), None
    for _ in range(3):
        memory.write(3)
        stored = memory.save(directory, stored)
    (directory / "tape" / ".tmp-000000000015").write_bytes(b"half")
    (directory / "tape" / "000000000015-000000000016-0123456789abcdef.rows").write_bytes(b"whole")
    assert stored is not None
    return memory, stored


def goes_on(directory: Path, *ends: int) -> None:
    """A resume after a kill: the last checkpoint is one of these, and after the next save nothing is left over."""
    loaded = load_latest(directory)
    assert not loaded.skipped
    steps = loaded.meta["steps"]
    assert steps in ends
    assert holds(loaded.path, steps)
    resumed = Memory(steps)
    resumed.write(2)
    resumed.save(directory, loaded.tape)
    assert holds(load_latest(directory).path, steps + 2)
    assert stored_files(directory).keys() == listed_files(directory)
    assert not list(directory.glob(".*"))


def test_killed_at_any_moment_the_last_checkpoint_loads_and_nothing_is_left_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_: int) -> None:
        raise Killed

    for at in range(1, 100):
        directory = tmp_path / str(at)
        memory, stored = prepared(directory)
        memory.write(7)
        ended = False
        with monkeypatch.context() as patch:
            strike(patch, at, die)
            try:
                memory.save(directory, stored)
                ended = True
            except Killed:
                pass
        goes_on(directory, 15, 22)
        if ended:
            assert at > 30
            return
    raise AssertionError("saving never ended")


def test_a_disk_full_at_any_moment_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = 0
    for at in range(1, 100):
        directory = tmp_path / str(at)
        memory, stored = prepared(directory)
        memory.write(7)
        reached = False

        def fail_once(count: int, at: int = at) -> None:
            nonlocal reached
            if count == at:
                reached = True
                raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            strike(patch, at, fail_once)
            try:
                memory.save(directory, stored)
            except QdojoError as error:
                assert "No space left on device" in str(error)  # noqa: PT017
                failed += 1
        assert not [name for name in stored_files(directory) if at > 3 and name.startswith(".")]
        goes_on(directory, 15, 22)
        if not reached:
            break
    assert not reached, "saving never ended"
    assert failed >= 15


def test_a_segment_is_on_the_disk_before_the_checkpoint_that_lists_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int | str] = []

    def noted(original: Callable) -> Callable:
        def note(source: Path, target: Path) -> None:
            original(source, target)
            done.append(target.name)

        return note

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, noted(getattr(os, name)))
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(os.fstat(descriptor).st_ino))
    (segment,) = Memory(3).save(tmp_path).segments
    inode, folder = (path.stat().st_ino for path in (tmp_path / "tape" / segment.file, tmp_path / "tape"))
    places = [done.index(each) for each in (tmp_path.stat().st_ino, inode, segment.file, folder, step_name(3))]
    assert places == sorted(places)


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "truncated": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "empty": lambda _: b"",
    "missing": lambda _: None,
}


def damage(path: Path, how: str) -> None:
    content = DAMAGES[how](path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_segment_is_named_and_an_earlier_checkpoint_without_it_loads(how: str, tmp_path: Path) -> None:
    _, stored = prepared(tmp_path)
    newest = tmp_path / "tape" / stored.segments[-1].file
    damage(newest, how)
    loaded = load_latest(tmp_path)
    assert loaded.meta == {"steps": 12}
    assert len(loaded.skipped) == 1
    assert str(newest) in loaded.skipped[0]
    # The same rows again, under the same name.
    resumed = Memory(12)
    resumed.write(3)
    resumed.save(tmp_path, loaded.tape)
    assert newest.exists()
    assert holds(load_latest(tmp_path).path, 15)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_segment_that_all_need_is_named(how: str, tmp_path: Path) -> None:
    _, stored = prepared(tmp_path)
    old = tmp_path / "tape" / stored.segments[1].file
    damage(old, how)
    with pytest.raises(DamagedFile, match=r"^No checkpoint can be loaded\.") as refused:
        load_latest(tmp_path)
    assert str(refused.value).count(str(old)) == 3


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    Memory(3).save(tmp_path)
    (path,) = (tmp_path / "tape").iterdir()
    content = path.read_bytes()
    for bit in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(DamagedFile, match=r"\.rows was altered"):
            load(tmp_path / step_name(3))


@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_rows_whose_file_is_lost_while_a_run_goes_on_are_written_again(how: str, tmp_path: Path) -> None:
    memory, stored = prepared(tmp_path)
    damage(tmp_path / "tape" / stored.segments[1].file, how)
    memory.write(1)
    memory.save(tmp_path, stored)
    assert holds(tmp_path / step_name(16), 16)


def test_a_changed_newest_row_is_written_again_and_the_older_checkpoint_stays(tmp_path: Path) -> None:
    memory, stored = prepared(tmp_path)
    shutil.copytree(tmp_path / step_name(15), tmp_path / step_name(14))
    memory.words[14 % SHAPE[0]] = 99
    memory.save(tmp_path, stored.without_newest())
    (found,) = {int(word) for word in np.asarray(load_latest(tmp_path).arrays["tape/words"])[4].flat}
    assert found == 99
    words = np.asarray(load(tmp_path / step_name(14))[0]["tape/words"])
    np.testing.assert_array_equal(words, Memory(15).words)


def mended(path: Path) -> None:
    """What a hostile person does after a change: the manifest agrees."""
    files = {
        name: {"sha256": hashlib.sha256((path / name).read_bytes()).hexdigest(), "bytes": (path / name).stat().st_size}
        for name in (ARRAYS, META)
    }
    (path / MANIFEST).write_text(json.dumps(files, indent=1))


def with_list(path: Path, tape: Any) -> None:
    meta = json.loads((path / META).read_bytes())
    (path / META).write_text(json.dumps(meta | {"tape": tape}))
    mended(path)


def change(tape: dict[str, Any], *place: Any, to: Any) -> None:
    inner: Any = tape
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = to


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a path outside": lambda tape: change(tape, "segments", 0, "file", to="../../secret"),
    "an absolute path": lambda tape: change(tape, "segments", 0, "file", to="/etc/passwd"),
    "a path in the sum": lambda tape: change(tape, "segments", 0, "sha256", to="/../../secret"),
    "another size": lambda tape: change(tape, "segments", 0, "bytes", to=1),
    "a negative row": lambda tape: change(tape, "segments", 0, "rows", to=[-4, 4]),
    "an empty segment": lambda tape: change(tape, "segments", 0, "rows", to=[4, 4]),
    "rows the wrong way": lambda tape: change(tape, "segments", 0, "rows", to=[8, 4]),
    "three row numbers": lambda tape: change(tape, "segments", 0, "rows", to=[4, 8, 9]),
    "rows of text": lambda tape: change(tape, "segments", 0, "rows", to=["4", "8"]),
    "fractions of rows": lambda tape: change(tape, "segments", 0, "rows", to=[4.0, 8.0]),
    "no sum": lambda tape: tape["segments"][0].pop("sha256"),
    "a sum of another type": lambda tape: change(tape, "segments", 0, "sha256", to=7),
    "missing rows": lambda tape: tape["segments"].pop(1),
    "missing oldest rows": lambda tape: tape["segments"].pop(0),
    "missing newest rows": lambda tape: tape["segments"].pop(),
    "no rows": lambda tape: change(tape, "segments", to=[]),
    "overlapping rows": lambda tape: tape["segments"].insert(1, tape["segments"][0]),
    "unordered rows": lambda tape: tape["segments"].reverse(),
    "more written": lambda tape: change(tape, "written", to=16),
    "less written": lambda tape: change(tape, "written", to=14),
    "a huge number written": lambda tape: change(tape, "written", to=10**4000),
    "huge rows": lambda tape: change(tape, "shape", 3, to=10**4000),
    "a larger ring": lambda tape: change(tape, "shape", 0, to=11**20),
    "no ring": lambda tape: change(tape, "shape", 0, to=0),
    "a negative ring": lambda tape: change(tape, "shape", 0, to=-10),
    "a flat ring": lambda tape: change(tape, "shape", to=[10]),
    "a shape of another type": lambda tape: change(tape, "shape", to=7),
    "true rows": lambda tape: change(tape, "shape", 1, to=True),
    "the name of another array": lambda tape: change(tape, "array", to="written"),
    "a name of another type": lambda tape: change(tape, "array", to=["tape/words"]),
    "segments of another type": lambda tape: change(tape, "segments", to={"a": 1}),
    "more fields": lambda tape: change(tape, "more", to=1),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_list_is_refused(case: str, tmp_path: Path) -> None:
    _, _ = prepared(tmp_path)
    (tmp_path.parent / "secret").write_bytes(bytes(4 * ROW))
    path = tmp_path / step_name(15)
    tape = json.loads((path / META).read_bytes())["tape"]
    HOSTILE[case](tape)
    with_list(path, tape)
    with pytest.raises(DamagedFile, match=r"meta\.json does not list the segments of the tape"):
        load(path)
    assert load_latest(tmp_path).meta == {"steps": 12}
    checkpoint.prune(tmp_path)
    assert holds(tmp_path / step_name(12), 12)


@pytest.mark.parametrize("tape", [None, [], 7, "tape", {}, [[[]]], {"segments": None}])
def test_a_list_of_another_kind_is_refused(tape: Any, tmp_path: Path) -> None:
    prepared(tmp_path)
    with_list(tmp_path / step_name(15), tape)
    with pytest.raises(DamagedFile, match=r"meta\.json does not list the segments of the tape"):
        load(tmp_path / step_name(15))


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "dangling link"])
def test_what_is_no_file_is_not_opened(kind: str, tmp_path: Path) -> None:
    _, stored = prepared(tmp_path)
    path = tmp_path / "tape" / stored.segments[-1].file
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no named pipes here")
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "absent")
    with pytest.raises(DamagedFile, match=path.name):
        load(tmp_path / step_name(15))


def test_random_mutations_of_the_list_give_only_the_typed_error(tmp_path: Path) -> None:
    prepared(tmp_path)
    path = tmp_path / step_name(15)
    good = (path / META).read_bytes()
    dice, refused = random.Random(0), 0
    for _ in range(400):
        content = bytearray(good)
        for _ in range(dice.randint(1, 4)):
            where = dice.randrange(len(content))
            content[where] = dice.choice([dice.randrange(256), *b'0123456789[]{}":,-'])
        (path / META).write_bytes(content)
        mended(path)
        try:
            arrays, _ = load(path)
            assert sum(array.nbytes for array in arrays.values()) < 1000
        except DamagedFile:
            refused += 1
    assert refused > 300


def test_a_resume_holds_no_more_of_the_tape_in_memory_than_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (2**11, 1, 1, 2**12)
    memory = Memory(2**11 + 100, shape)
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 2**22)
    memory.save(tmp_path)
    monkeypatch.setattr(snapshot, "BLOCK_BYTES", memory.words.nbytes // 16)
    tracemalloc.start()
    arrays, _ = load(tmp_path / step_name(memory.written))
    found = snapshot.from_arrays(jax.ShapeDtypeStruct(shape, np.uint32), {"": arrays["tape/words"]})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, memory.words)
    assert peak < memory.words.nbytes / 2


def slices() -> Iterator[tuple[int, int]]:
    yield from ((start, stop) for start in range(11) for stop in range(start, 12))


def test_a_slice_is_that_of_the_whole_and_is_no_copy_inside_a_file(tmp_path: Path) -> None:
    prepared(tmp_path)
    rows, expected = load(tmp_path / step_name(15))[0]["tape/words"], Memory(15).words
    assert (rows.shape, rows.dtype, rows.ndim, len(rows), rows.nbytes) == (SHAPE, np.uint32, 4, 10, 10 * ROW)
    for start, stop in slices():
        np.testing.assert_array_equal(rows[start:stop], expected[start:stop])
    assert any(np.shares_memory(rows[4:5], piece) for piece in rows.pieces)
