"""Runs on disk: names, look-up, the lock and the status. Not what is inside their files."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qdojo.errors import DamagedFile, UsageError
from qdojo.runs import lock
from qdojo.runs.directory import RunDirectory, create, find, list_runs, read_result, status, write_atomically


def make(root: Path, env: str = "CartPole-v1") -> RunDirectory:
    return create(root, env, "default", "seed = 1\n")


def test_a_new_run_holds_its_config_and_says_what_each_file_is(tmp_path: Path) -> None:
    run = make(tmp_path / "runs")
    assert run.name.startswith("CartPole-v1-default-20")
    assert run.config_path.read_text() == "seed = 1\n"
    assert run.checkpoints_path.is_dir()
    readme = (run.path / "README.txt").read_text()
    for path in (run.config_path, run.metrics_path, run.checkpoints_path, run.curve_path, run.result_path):
        assert path.name in readme
    assert sorted(path.name for path in run.path.iterdir()) == ["README.txt", "checkpoints", "config.toml"]


def test_runs_of_one_second_get_names_of_their_own_and_sort_by_age(tmp_path: Path) -> None:
    runs = [make(tmp_path, env) for env in ("Z-v0", "A-v0", "A-v0", "A-v0")]
    assert len({run.path for run in runs}) == 4
    for age, run in enumerate(runs):
        os.utime(run.config_path, (age, age))
    assert list_runs(tmp_path) == runs
    assert find(tmp_path, "last") == runs[-1]


@pytest.mark.parametrize(
    ("env_id", "start"),
    [
        ("ALE/Pong-v5", "ALE-Pong-v5-"),
        ("my.module:Maze-v0", "my.module-Maze-v0-"),
        ("../../etc/passwd", "etc-passwd-"),
        ("미로-v0", "미로-v0-"),
        ("///", "run-"),
        ("x" * 500, "x" * 30 + "-"),
        ("가" * 500, "가" * 30 + "-"),
    ],
)
def test_any_environment_makes_a_folder_right_under_the_root(tmp_path: Path, env_id: str, start: str) -> None:
    run = make(tmp_path, env_id)
    assert run.path.parent == tmp_path
    assert run.name.startswith(start)


def test_korean_paths_work(tmp_path: Path) -> None:
    root = tmp_path / "실험 결과"
    run = make(root, "수레-v1")
    with run.lock():
        assert status(run) == "running"
    assert find(root, "수레") == run


def test_a_root_that_cannot_be_a_folder_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file/deep/runs"):
        make(tmp_path / "file" / "deep" / "runs")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_root_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(UsageError, match="Permission denied"):
        make(tmp_path / "runs")
    tmp_path.chmod(0o755)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", range(4))
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    calls = iter(range(100))

    def full(descriptor: int) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"new/runs: No space left on device; choose a writable"):
        make(tmp_path / "new" / "runs")
    assert list(tmp_path.iterdir()) == []


def test_find_takes_a_path_a_name_and_the_start_of_a_name(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    cart, acrobot = make(root, "CartPole-v1"), make(root, "Acrobot-v1")
    assert find(tmp_path / "elsewhere", str(cart.path)).path == cart.path
    assert find(root, cart.name) == cart
    assert find(root, "Acro") == acrobot


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("CartPol-v1-default", "did you mean CartPole-v1-default-"),
        ("C", "start of 2 runs"),
        ("", "did you mean"),
        ("../nowhere", "did you mean"),
    ],
)
def test_find_names_the_nearest(tmp_path: Path, name: str, says: str) -> None:
    make(tmp_path, "CartPole-v1")
    make(tmp_path, "CliffWalking-v1")
    with pytest.raises(UsageError, match=says):
        find(tmp_path, name)


def test_find_without_any_run_says_so(tmp_path: Path) -> None:
    for name in ("last", "x", ""):
        with pytest.raises(UsageError, match="holds no runs yet"):
            find(tmp_path / "absent", name)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"holds no config\.toml"):
        find(tmp_path, str(tmp_path / "empty"))
    assert list_runs(tmp_path) == []


def test_the_second_writer_is_refused_and_the_lock_is_given_back(tmp_path: Path) -> None:
    run = make(tmp_path)
    with run.lock(), pytest.raises(UsageError, match="being written by another process"), run.lock():
        pass
    with run.lock():
        pass
    with pytest.raises(RuntimeError), run.lock():
        raise RuntimeError
    with run.lock():
        pass


def test_a_lock_of_a_run_that_is_gone_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"), RunDirectory(tmp_path / "gone").lock():
        pass


HOLD = """
import os, sys, time
from pathlib import Path
from qdojo.runs.directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).lock():
    worker = os.fork()  # as a vector environment does
    if worker == 0:
        time.sleep(60)
        os._exit(0)
    print(worker, flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_no_lock_even_where_its_worker_lives_on(tmp_path: Path) -> None:
    run = make(tmp_path)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        worker = int(writer.stdout.readline())
        try:
            assert status(run) == "running"
            with pytest.raises(UsageError, match="another process"), run.lock():
                pass
            writer.kill()
            writer.wait()
            assert status(run) == "interrupted"
            with run.lock():
                os.kill(worker, 0)
        finally:
            writer.kill()
            os.kill(worker, signal.SIGKILL)


def test_asking_for_the_status_does_not_refuse_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path)
    with run.lock():
        pass
    asker = os.open(run.path / ".lock", os.O_RDONLY)
    lock.fcntl.flock(asker, lock.fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda _: lock.fcntl.flock(asker, lock.fcntl.LOCK_UN))
    with run.lock():
        pass
    os.close(asker)


@pytest.mark.parametrize("ended", ["finished", "interrupted", "failed"])
def test_the_status_comes_from_the_lock_and_the_result(tmp_path: Path, ended: str) -> None:
    run = make(tmp_path)
    assert status(run) == "interrupted"
    assert read_result(run) is None
    with run.lock():
        assert status(run) == "running"
        write_atomically(run.result_path, f'{{"status": "{ended}", "steps": 5}}'.encode())
        assert status(run) == "running"
    assert status(run) == ended
    assert read_result(run) == {"status": ended, "steps": 5}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"status": "great"}', b"\xff", b"[" * 100_000, b"cos\nsystem\n(S'false'\ntR."]
)
def test_a_damaged_result_is_named(tmp_path: Path, content: bytes) -> None:
    run = make(tmp_path)
    run.result_path.write_bytes(content)
    assert status(run) == "damaged"
    with pytest.raises(DamagedFile, match=r"result\.json"):
        read_result(run)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_an_interrupted_small_write_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "한글.json"
    write_atomically(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(OSError, match="No space"):
            write_atomically(path, b"new")
    assert [item.read_bytes() for item in tmp_path.iterdir()] == [b"old"]
    write_atomically(path, b"new")
    assert [item.read_bytes() for item in tmp_path.iterdir()] == [b"new"]


def test_the_files_of_a_run_are_read_without_jax_keras_or_matplotlib() -> None:
    modules = "qdojo.runs.directory, qdojo.runs.metrics, qdojo.runs.checkpoint, qdojo.statistics, qdojo.plots"
    heavy = "{'jax', 'keras', 'equinox', 'matplotlib', 'scipy'}"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
