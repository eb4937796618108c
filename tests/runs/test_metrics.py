"""The metrics of a run: what is written is read back, by member, also while it is written, also when damaged."""

import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qdojo.errors import DamagedFile, QdojoError
from qdojo.runs.metrics import WHOLE_RUN, MetricsWriter, evaluations, latest, learning_curve, metric

READERS = (learning_curve, evaluations, latest, lambda path: metric(path, "loss"))


def fill(path: Path) -> None:
    with MetricsWriter(path) as writer:
        writer.episodes([(0, 0, 10, 10.0, 10), (1, 0, 12, 12.0, 12), (0, 1, 30, 20.0, 20)])
        writer.metrics(20, {"loss": np.array([0.5, 0.25], np.float32), "steps_per_second": 1000.0})
        writer.metrics(40, {"loss": np.array([np.nan, 0.125], np.float32), "steps_per_second": 2000.0})
        writer.evaluation(40, np.array([100.0, 200.0], np.float32), 20)


def test_everything_comes_back_by_member(tmp_path: Path) -> None:
    path = tmp_path / "수치 #1?.sqlite"
    fill(path)
    curves = learning_curve(path)
    assert sorted(curves) == [0, 1]
    np.testing.assert_array_equal(curves[0].steps, [10, 30])
    np.testing.assert_array_equal(curves[0].values, [10.0, 20.0])
    np.testing.assert_array_equal(curves[1].values, [12.0])
    np.testing.assert_array_equal(evaluations(path)[1].values, [200.0])
    np.testing.assert_array_equal(metric(path, "loss")[0].values, [0.5, np.nan])
    np.testing.assert_array_equal(metric(path, "steps_per_second")[WHOLE_RUN].steps, [20, 40])
    assert metric(path, "no such metric") == {}
    now = latest(path)
    assert now.steps == 40
    np.testing.assert_array_equal(now.values["loss"], [np.nan, 0.125])
    np.testing.assert_array_equal(now.values["steps_per_second"], [2000.0])


def test_the_file_is_plain_to_any_other_program(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sqlite"
    with MetricsWriter(path) as writer:
        writer.episodes([(np.int32(0), np.int64(0), np.uint32(9), np.float32(9.0), np.int32(9))])
        writer.metrics(np.int64(9), {"loss": np.float32(0.5), "q_mean": np.array([1, 2])})
        writer.evaluation(np.int64(9), np.array([1, 2]), np.int64(3))
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("SELECT * FROM episodes").fetchall() == [(0, 0, 9, 9.0, 9)]
    rows = connection.execute("SELECT * FROM metrics").fetchall()
    assert rows == [(9, -1, "loss", 0.5), (9, 0, "q_mean", 1.0), (9, 1, "q_mean", 2.0)]
    assert connection.execute("SELECT * FROM evaluations").fetchall() == [(9, 0, 1.0, 3), (9, 1, 2.0, 3)]
    connection.close()


def test_a_new_file_is_empty_not_damaged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sqlite"
    with MetricsWriter(path) as writer:
        writer.episodes([])
    assert learning_curve(path) == evaluations(path) == metric(path, "loss") == {}
    assert latest(path) == (0, {})


def test_truncate_and_write_again_doubles_and_loses_nothing(tmp_path: Path) -> None:
    path, twin = tmp_path / "resumed.sqlite", tmp_path / "whole.sqlite"
    rows = [(member, episode, 10 * (episode + 1), float(episode), 10) for member in (0, 1) for episode in range(8)]

    def write(writer: MetricsWriter, after: int, until: int) -> None:
        writer.episodes(row for row in rows if after < row[2] <= until)
        for steps in range(after + 10, until + 10, 10):
            writer.metrics(steps, {"loss": np.array([steps, -steps], float)})
            writer.evaluation(steps, np.array([steps, steps], float), 5)

    with MetricsWriter(twin) as writer:
        write(writer, 0, 80)
    with MetricsWriter(path) as writer:
        write(writer, 0, 60)
    with MetricsWriter(path) as writer:
        writer.truncate(40)
        write(writer, 40, 80)
    for table in ("episodes", "metrics", "evaluations"):
        dumps = []
        for file in (path, twin):
            connection = sqlite3.connect(file)
            dumps.append(connection.execute(f"SELECT * FROM {table}").fetchall())
            connection.close()
        assert len(dumps[0]) == 16
        assert dumps[0] == dumps[1]


@pytest.mark.parametrize(
    "again",
    [
        lambda writer: writer.episodes([(0, 2, 50, 1.0, 1), (0, 1, 30, 20.0, 20)]),
        lambda writer: writer.metrics(40, {"loss": np.zeros(2)}),
        lambda writer: writer.metrics(40, {"steps_per_second": 1.0}),
        lambda writer: writer.evaluation(40, np.zeros(2), 20),
        lambda writer: writer.episodes([(0, 2, 50, float("nan"), 1)]),
    ],
)
def test_a_doubled_row_fails_loudly_and_changes_nothing(tmp_path: Path, again) -> None:
    path = tmp_path / "metrics.sqlite"
    fill(path)
    with pytest.raises(QdojoError, match=r"metrics\.sqlite rejects a row"), MetricsWriter(path) as writer:
        again(writer)
    assert learning_curve(path)[0].steps.tolist() == [10, 30]


def test_readers_see_what_was_committed_while_the_writer_writes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sqlite"
    with MetricsWriter(path) as writer:
        for episode in range(5):
            writer.episodes([(0, episode, episode, 1.0, 1)])
            assert len(learning_curve(path).get(0, ([], []))[0]) == episode
            writer.commit()
            assert len(learning_curve(path)[0].steps) == episode + 1
            for read in READERS:
                read(path)


def test_what_was_not_committed_goes_with_an_exception(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sqlite"

    def train() -> None:
        with MetricsWriter(path) as writer:
            writer.episodes([(0, 0, 1, 1.0, 1)])
            writer.commit()
            writer.episodes([(0, 1, 2, 1.0, 1)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert learning_curve(path)[0].steps.tolist() == [1]


DIE = """
import os, signal, sys
from pathlib import Path
from qdojo.runs.metrics import MetricsWriter
with MetricsWriter(Path(sys.argv[1])) as writer:
    writer.episodes([(0, 0, 1, 1.0, 1)])
    writer.commit()
    writer.episodes([(0, 1, 2, 1.0, 1)])
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_keeps_what_it_committed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sqlite"
    assert subprocess.run([sys.executable, "-c", DIE, str(path)], check=False).returncode == -9
    assert learning_curve(path)[0].steps.tolist() == [1]
    with MetricsWriter(path) as writer:
        writer.episodes([(0, 1, 2, 1.0, 1)])
    assert learning_curve(path)[0].steps.tolist() == [1, 2]


def test_a_hundred_thousand_episodes_are_quick(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sqlite"
    began = time.perf_counter()
    with MetricsWriter(path) as writer:
        for report in range(100):
            rows = [(m, 10 * report + e, 100 * report + e, 1.0, 1) for m in range(100) for e in range(10)]
            writer.episodes(rows)
        writer.commit()
        curves = learning_curve(path)
    assert sum(curve.steps.size for curve in curves.values()) == 100_000
    assert time.perf_counter() - began < 8


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("damage", ["absent", "empty", "text", "truncated", "other tables", "wrong types", "folder"])
def test_a_file_that_is_no_metrics_is_named(tmp_path: Path, damage: str, read) -> None:
    path = tmp_path / "metrics.sqlite"
    if damage == "folder":
        path.mkdir()
    elif damage == "other tables":
        sqlite3.connect(path).close()
    elif damage == "wrong types":
        connection = sqlite3.connect(path)
        connection.executescript("""
            CREATE TABLE episodes (member, episode, steps, "return", length);
            CREATE TABLE metrics (steps, member, name, value);
            CREATE TABLE evaluations (steps, member, mean, episodes);
            INSERT INTO episodes VALUES ('a', 0, 0, x'00', 0);
            INSERT INTO metrics VALUES (1e300, 'a', 'loss', 'cos');
            INSERT INTO evaluations VALUES (0, 0, 'ten', 0);
        """)
        connection.close()
    elif damage != "absent":
        fill(path)
        content = path.read_bytes()
        path.write_bytes({"empty": b"", "text": b"cos\nsystem\n(S'x'\ntR.", "truncated": content[:5000]}[damage])
    with pytest.raises(DamagedFile, match=r"metrics\.sqlite"):
        read(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_run_in_a_folder_that_cannot_be_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sqlite"
    fill(path)
    tmp_path.chmod(0o555)
    assert sorted(learning_curve(path)) == [0, 1]
    tmp_path.chmod(0o755)


def test_a_damaged_or_unwritable_file_stops_the_writer_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(DamagedFile, match=r"metrics\.sqlite is damaged"):
        MetricsWriter(path)
    with pytest.raises(QdojoError, match=r"absent/metrics\.sqlite cannot be written"):
        MetricsWriter(tmp_path / "absent" / "metrics.sqlite")


def test_a_full_disk_is_said_and_what_was_committed_stays(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sqlite"
    fill(path)

    def overfill() -> None:
        with MetricsWriter(path) as writer:
            writer._connection.execute("PRAGMA max_page_count = 8")
            writer.episodes([(5, episode, episode, 1.0, 1) for episode in range(10_000)])

    with pytest.raises(QdojoError, match=r"metrics\.sqlite cannot be written: database or disk is full"):
        overfill()
    assert sorted(learning_curve(path)) == [0, 1]


def test_random_damage_gives_only_the_typed_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sqlite"
    fill(path)
    content = path.read_bytes()
    dice = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(dice.randint(1, 20)):
            # The pages are mostly empty; the first hundred bytes of each hold what matters.
            damaged[min(dice.randrange(0, len(content), 4096) + dice.randrange(120), len(content) - 1)] = (
                dice.randrange(256)
            )
        path.write_bytes(damaged[: dice.choice([len(damaged), dice.randrange(len(damaged))])])
        for read in READERS:
            try:
                read(path)
            except DamagedFile:
                refused += 1
    assert refused > 100
