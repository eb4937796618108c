"""Checkpoints: exact round trips, and a kill, a full disk or damage at any point leaves one that loads."""

import builtins
import errno
import hashlib
import io
import json
import os
import random
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qdojo.errors import DamagedFile, QdojoError, UsageError
from qdojo.runs import checkpoint
from qdojo.runs.checkpoint import ARRAYS, MANIFEST, META, load, load_latest, prune, save, step_name

FILES = (ARRAYS, META, MANIFEST)


def save_steps(directory: Path, steps: int, name: str | None = None) -> Path:
    return save(directory, name or step_name(steps), {"weights": np.full((2, 3), steps, np.float32)}, {"steps": steps})


def whole(path: Path) -> int:
    """The steps of a checkpoint whose arrays and meta agree."""
    arrays, meta = load(path)
    np.testing.assert_array_equal(arrays["weights"], np.full((2, 3), meta["steps"], np.float32))
    return meta["steps"]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


ARRAYS_OF_ALL_KINDS = {
    **{kind: np.arange(6).reshape(2, 3).astype(kind) for kind in sorted(checkpoint._DTYPES)},
    "scalar": np.array(7, np.uint32),
    "no rows": np.zeros((0, 4), np.float32),
    "no columns": np.zeros((3, 0), np.bool_),
    "transposed": np.arange(6, dtype=np.int32).reshape(2, 3).T,
    "strided": np.arange(20, dtype=np.int32)[::-3],
    "big end first": np.arange(4, dtype=">i4"),
    "special": np.array([np.nan, np.inf, -0.0, 1e-45], np.float32),
    "층/가중치": np.ones(2, np.float32),
}


def test_every_array_comes_back_bit_for_bit(tmp_path: Path) -> None:
    meta = {"steps": 5, "이름": "수레", "best": [1.5, None, float("-inf")], "deep": {"a": True}}
    path = save(tmp_path / "체크포인트", step_name(5), ARRAYS_OF_ALL_KINDS, meta)
    assert path.name == "step-000000000005"
    arrays, read = load(path)
    assert read == meta
    assert arrays.keys() == ARRAYS_OF_ALL_KINDS.keys()
    for name, array in ARRAYS_OF_ALL_KINDS.items():
        assert arrays[name].shape == array.shape
        assert arrays[name].dtype == array.dtype.newbyteorder("=")
        assert arrays[name].tobytes() == array.astype(array.dtype.newbyteorder("=")).tobytes()
        assert arrays[name].flags.writeable


def test_the_manifest_holds_sums_and_sizes_that_other_programs_agree_with(tmp_path: Path) -> None:
    path = save_steps(tmp_path, 1)
    manifest = json.loads((path / MANIFEST).read_text())
    for name in (ARRAYS, META):
        content = (path / name).read_bytes()
        assert manifest[name] == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


@pytest.mark.parametrize("array", [np.array([object()]), np.array(["text"]), np.array([1j], np.complex128)])
def test_a_dtype_that_cannot_be_saved_is_named_and_writes_nothing(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(TypeError, match="'odd' is of dtype"):
        save(tmp_path / "new", "step-1", {"odd": array}, {})
    with pytest.raises(TypeError):
        save(tmp_path / "new", "step-1", {}, {"odd": np.float32(1)})
    assert names(tmp_path) == []


def test_the_newest_is_loaded_and_the_last_three_are_kept(tmp_path: Path) -> None:
    save_steps(tmp_path, 7, "best")
    for steps in (900, 1_000, 20_000, 1_000_000_000):
        save_steps(tmp_path, steps)
        prune(tmp_path)
    assert names(tmp_path) == ["best", *(step_name(steps) for steps in (1_000, 20_000, 1_000_000_000))]
    loaded = load_latest(tmp_path)
    assert (loaded.path.name, loaded.meta, loaded.skipped) == (step_name(10**9), {"steps": 10**9}, [])
    assert whole(tmp_path / "best") == 7


def test_saving_a_name_again_replaces_it(tmp_path: Path) -> None:
    for steps in (1, 2):
        save_steps(tmp_path, steps, "best")
    assert whole(tmp_path / "best") == 2
    assert names(tmp_path) == ["best"]


def test_without_a_checkpoint_it_is_said(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UsageError, match="no checkpoint yet"):
            load_latest(directory)
    with pytest.raises(DamagedFile, match="best is missing"):
        load(tmp_path / "best")


class Killed(BaseException):
    """The process ends here: nothing that follows is done, so no handler may catch this."""


def strike(patch: pytest.MonkeyPatch, at: int, blow: Callable[[int], None]) -> None:
    """Call `blow` before each thing done to the disk from the `at`-th on, tearing the arrays of an `at`-th write."""
    count = 0

    def struck(original: Callable) -> Callable:
        def call(*arguments: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count >= at:
                if original is checkpoint.save_file and count == at:
                    Path(arguments[1]).write_bytes(b"torn")  # type: ignore[arg-type]
                blow(count)
            return original(*arguments, **options)

        return call

    for name in ("fsync", "rename", "mkdir", "unlink", "rmdir"):
        patch.setattr(os, name, struck(getattr(os, name)))
    patch.setattr(io, "open", struck(io.open))
    patch.setattr(builtins, "open", struck(builtins.open))
    patch.setattr(checkpoint, "save_file", struck(checkpoint.save_file))


def prepared(directory: Path) -> Path:
    """Two good checkpoints, a best, a half-written one, and a damaged newest one."""
    for steps in (1, 2):
        save_steps(directory, steps)
    save_steps(directory, 1, "best")
    save_steps(directory, 9)
    (directory / step_name(9) / META).write_bytes(b"")
    shutil.copytree(directory / step_name(2), directory / ".tmp-step-000000000003")
    return directory


SAVES = {
    "a new one": (3, None, "step-000000000003"),
    "the newest again": (2, None, "step-000000000002"),
    "the best": (3, "best", "best"),
}


@pytest.mark.parametrize("case", SAVES)
def test_killed_at_any_moment_the_last_good_one_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    steps, name, target = SAVES[case]

    def die(_: int) -> None:
        raise Killed

    for at in range(1, 100):
        directory = prepared(tmp_path / str(at))
        ended = False
        with monkeypatch.context() as patch:
            strike(patch, at, die)
            try:
                save_steps(directory, steps, name)
                prune(directory, keep=2)
                ended = True
            except Killed:
                pass
        assert load_latest(directory).meta["steps"] in (2, steps)
        assert whole(load_latest(directory).path) == load_latest(directory).meta["steps"]
        assert whole(directory / "best") in (1, 3)
        assert whole(save_steps(directory, steps, name)) == steps
        assert whole(directory / target) == steps
        assert not [item for item in names(directory) if item.startswith(".")]
        if ended:
            assert at > 20
            return
    raise AssertionError("saving never ended")


@pytest.mark.parametrize("case", SAVES)
def test_a_disk_full_at_any_moment_loses_no_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    steps, name, _ = SAVES[case]
    failed = 0
    for at in range(1, 60):
        directory = prepared(tmp_path / str(at))
        reached = False

        def fail_once(count: int, at: int = at) -> None:
            nonlocal reached
            if count == at:
                reached = True
                raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            strike(patch, at, fail_once)
            try:
                save_steps(directory, steps, name)
            except QdojoError as error:
                assert "No space left on device" in str(error)  # noqa: PT017
                failed += 1
        assert load_latest(directory).meta["steps"] in (2, steps)
        assert whole(directory / step_name(1)) == 1
        assert whole(directory / step_name(2)) == 2
        assert whole(directory / "best") in (1, 3)
        save_steps(directory, steps, name)
        assert not [item for item in names(directory) if item.startswith(".")]
        if not reached:
            break
    assert not reached, "saving never ended"
    assert failed >= 10


def test_every_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, rename = os.fsync, os.rename
    done: list[int | str] = []

    def note_fsync(descriptor: int) -> None:
        done.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def note_rename(source: Path, target: Path) -> None:
        done.append(target.name)
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    path = save_steps(tmp_path, 1)
    before, after = done[: done.index(path.name)], done[done.index(path.name) + 1 :]
    assert set(before) == {(path / file).stat().st_ino for file in FILES} | {path.stat().st_ino}
    assert after == [tmp_path.stat().st_ino]


def flip(content: bytes, bit: int) -> bytes:
    return content[: bit // 8] + bytes([content[bit // 8] ^ (1 << bit % 8)]) + content[bit // 8 + 1 :]


@pytest.mark.parametrize("file", FILES)
def test_any_flipped_bit_is_noticed_and_the_file_named(tmp_path: Path, file: str) -> None:
    path = save_steps(tmp_path, 1)
    content = (path / file).read_bytes()
    for bit in range(len(content) * 8):
        (path / file).write_bytes(flip(content, bit))
        with pytest.raises(DamagedFile, match=file):
            load(path)
    (path / file).write_bytes(content)
    assert whole(path) == 1


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "longer", "flipped", "a folder"])
def test_a_damaged_newest_falls_back_to_the_one_before_and_says_so(tmp_path: Path, file: str, damage: str) -> None:
    save_steps(tmp_path, 1)
    path = save_steps(tmp_path, 2)
    content = (path / file).read_bytes()
    (path / file).unlink()
    if damage == "a folder":
        (path / file).mkdir()
    elif damage != "missing":
        changed = {"empty": b"", "truncated": content[:-1], "longer": content + b" ", "flipped": flip(content, 99)}
        (path / file).write_bytes(changed[damage])
    with pytest.raises(DamagedFile, match=file):
        load(path)
    loaded = load_latest(tmp_path)
    assert loaded.meta == {"steps": 1}
    assert len(loaded.skipped) == 1
    assert file in loaded.skipped[0]


def test_all_damaged_names_each(tmp_path: Path) -> None:
    for steps in (1, 2):
        (save_steps(tmp_path, steps) / META).write_bytes(b"")
    with pytest.raises(
        DamagedFile, match=r"step-000000000002/meta\.json is empty.*step-000000000001/meta\.json is empty"
    ):
        load_latest(tmp_path)


def test_a_resume_behind_damaged_ones_keeps_what_it_saves(tmp_path: Path) -> None:
    for steps in (10, 20, 30, 40):
        save_steps(tmp_path, steps)
    for steps in (20, 30, 40):
        (tmp_path / step_name(steps) / ARRAYS).write_bytes(b"")
    assert load_latest(tmp_path).meta["steps"] == 10
    save_steps(tmp_path, 15)
    prune(tmp_path)
    assert load_latest(tmp_path).meta["steps"] == 15
    assert names(tmp_path) == [step_name(10), step_name(15)]


def test_a_failed_save_prunes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for steps in (1, 2, 3):
        save_steps(tmp_path, steps)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(QdojoError, match="earlier ones are kept"):
        save_steps(tmp_path, 4)
    assert names(tmp_path) == [step_name(steps) for steps in (1, 2, 3)]
    assert [whole(tmp_path / step_name(steps)) for steps in (1, 2, 3)] == [1, 2, 3]


def test_a_reader_beside_the_trainer_gets_the_old_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_steps(tmp_path, 1, "best")
    verify = checkpoint._verify
    replaced = []

    def replace_meanwhile(folder: Path) -> None:
        verify(folder)
        if not replaced:
            replaced.append(folder)
            save_steps(tmp_path, 2, "best")
            raise DamagedFile("the old one went away")

    monkeypatch.setattr(checkpoint, "_verify", replace_meanwhile)
    assert whole(tmp_path / "best") == 2


def rewrite_manifest(path: Path) -> None:
    """What a hostile person does after changing a file."""
    files = {
        name: {"sha256": hashlib.sha256((path / name).read_bytes()).hexdigest(), "bytes": (path / name).stat().st_size}
        for name in (ARRAYS, META)
    }
    (path / MANIFEST).write_text(json.dumps(files, indent=1))


@pytest.mark.parametrize("mended", [False, True], ids=["damaged", "with a manifest that agrees"])
def test_random_mutations_give_only_the_typed_error(tmp_path: Path, mended: bool) -> None:
    path = save(tmp_path, "step-1", {"a": np.arange(8, dtype=np.int32), "b": np.array(True)}, {"steps": 1, "x": [1.5]})
    good = {file: (path / file).read_bytes() for file in FILES}
    dice = random.Random(0)
    refused = 0
    for _ in range(500):
        file = dice.choice(FILES)
        content = bytearray(good[file])
        for _ in range(dice.randint(1, 6)):
            where = dice.randrange(len(content))
            if dice.random() < 0.7:
                content[where] = dice.choice([dice.randrange(256), *b'0123456789[]{}":,-'])
            else:
                content[where : where + dice.randrange(9)] = dice.randbytes(dice.randrange(9)) or b"9"
        (path / file).write_bytes(content)
        if mended:
            rewrite_manifest(path)
        try:
            arrays, meta = load(path)
            assert sum(array.nbytes for array in arrays.values()) < 1000
            assert isinstance(meta, dict)
        except DamagedFile:
            refused += 1
        for name, original in good.items():
            (path / name).write_bytes(original)
    assert refused > (100 if mended else 466)


HEADER_BOMB = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "poison",
    [
        b"cos\nmkdir\n(S'%s'\ntR.",  # a pickle that calls os.mkdir
        b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00cos\nmkdir\n\x8c\x00%s\x94\x85R.",
        b"__import__('os').mkdir('%s')",
        b"[" * 200_000,
        b'{"steps": 1' + b"0" * 10_000 + b"}",
        b"null",
        len(HEADER_BOMB).to_bytes(8, "little") + HEADER_BOMB,
        b"\xff" * 16,
        b'0\x00\x00\x00\x00\x00\x00\x00{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}ab',
    ],
    ids=["pickle", "pickle 4", "python", "nesting", "digits", "null", "shape bomb", "length bomb", "bfloat16"],
)
def test_a_poisoned_file_is_never_executed(tmp_path: Path, file: str, poison: bytes) -> None:
    path, marker = save_steps(tmp_path, 1), tmp_path / "executed"
    (path / file).write_bytes(poison.replace(b"%s", str(marker).encode()))
    if file != MANIFEST:
        rewrite_manifest(path)
    with pytest.raises(DamagedFile, match=file):
        load(path)
    assert not marker.exists()


def test_a_large_array_is_not_read_before_it_is_used(tmp_path: Path) -> None:
    large = np.arange(2**22, dtype=np.uint32).reshape(-1, 4)
    path = save(tmp_path, step_name(1), {"tape": large, "small": np.arange(3.0)}, {})
    tracemalloc.start()
    arrays, _ = load(path)
    first = arrays["tape"][:10].copy()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < large.nbytes / 4
    np.testing.assert_array_equal(first, large[:10])
    np.testing.assert_array_equal(arrays["tape"], large)
    np.testing.assert_array_equal(arrays["small"], np.arange(3.0))
