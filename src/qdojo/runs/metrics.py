"""The metrics of a run in one SQLite file, which others may read while it is being written. For the training state,
see `checkpoint`.

Values are per member of the population. `steps` always counts as schedules and checkpoints do, so that a resumed run
can drop the rows past its checkpoint and write them again.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from qdojo.errors import DamagedFile, QdojoError, UsageError

WHOLE_RUN = -1
"""Member index of a metric of the whole run, such as its speed."""
EVALUATION_CUT = "evaluation_cut"
"""Name of the metric that counts the episodes of an evaluation that were cut at the step bound."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS episodes (
    member INTEGER NOT NULL, episode INTEGER NOT NULL, steps INTEGER NOT NULL,
    "return" REAL NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY (member, episode)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS metrics (
    steps INTEGER NOT NULL, member INTEGER NOT NULL, name TEXT NOT NULL, value REAL,
    PRIMARY KEY (name, member, steps)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS evaluations (
    steps INTEGER NOT NULL, member INTEGER NOT NULL, mean REAL NOT NULL, episodes INTEGER NOT NULL,
    PRIMARY KEY (member, steps)) WITHOUT ROWID;
"""

Integer = int | np.integer
Number = float | np.floating
Episode = tuple[Integer, Integer, Integer, Number, Integer]
"""Member, episode number (from 1 per member), steps at its end, return, length in steps."""


class Curve(NamedTuple):
    """A quantity of one member over training, ordered by `steps`."""

    steps: Int[np.ndarray, "points"]
    values: Float[np.ndarray, "points"]


class Latest(NamedTuple):
    """The last step with metrics, and the last value of each metric: `[members]`, or `[1]` for the whole run."""

    steps: int
    values: dict[str, Float[np.ndarray, "members"]]


class History(NamedTuple):
    """All recorded values of a run in long form, one row per value."""

    step: Int[np.ndarray, "rows"]
    """Environment steps of the member at that time."""
    member: Int[np.ndarray, "rows"]
    """Index of the member; -1 for a value of the whole run, such as its speed."""
    metric: Shaped[np.ndarray, "rows"]
    """Name of the value, a `str`: `episode_return` and `episode_length` for each finished training episode,
    `evaluation_return` for each greedy evaluation, and training metrics such as `loss`."""
    value: Float[np.ndarray, "rows"]

    def of(self, metric: str, member: int | None = None) -> "History":
        """Return the rows of one metric, optionally of one member only. Raises `UsageError` for an unknown metric."""
        chosen = self.metric == metric
        if not chosen.any():
            known = ", ".join(np.unique(self.metric).tolist()) or "nothing yet"
            raise UsageError(f"There is no metric {metric!r} in this run; it has {known}.")
        if member is not None:
            chosen &= self.member == member
        return History(*(column[chosen] for column in self))

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with the same columns. Raises `UsageError` if pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise UsageError("to_pandas needs pandas: pip install pandas") from error
        return pandas.DataFrame(self._asdict())

    def __repr__(self) -> str:
        names = ", ".join(np.unique(self.metric).tolist())
        return f"History of {len(self.step):,} rows, metrics: {names or 'none yet'}"


class MetricsWriter:
    """The only writer of a run's metrics, as a context manager.

    Readers see committed rows; an exception inside the block discards the others. Commit before a checkpoint is saved,
    and `truncate` to the steps of the checkpoint when a run is resumed, so that no row is missing or duplicated.
    Every method raises `QdojoError` if the file cannot be written or a row already exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._reporting():
            self._connection = sqlite3.connect(path)
        try:
            with self._reporting():
                self._connection.execute("PRAGMA journal_mode = WAL")
                # A commit survives a power failure, like the checkpoint after it.
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.executescript(SCHEMA)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.close()

    def close(self) -> None:
        """Close the file; rows that were not committed are lost."""
        self._connection.close()

    def episodes(self, rows: Iterable[Episode]) -> None:
        """Add finished episodes."""
        # SQLite would silently store a NumPy integer as bytes.
        plain = [(int(m), int(e), int(s), float(r), int(n)) for m, e, s, r, n in rows]
        self._insert("INSERT INTO episodes VALUES (?, ?, ?, ?, ?)", plain)

    def metrics(self, steps: Integer, values: Mapping[str, Shaped[np.ndarray, "members"] | Number]) -> None:
        """Add named values at `steps`: an array holds one value per member, a float is a value of the whole run."""
        rows: list[tuple[int, int, str, float]] = []
        for name, value in values.items():
            if np.ndim(value) == 0:
                rows.append((int(steps), WHOLE_RUN, name, float(value)))
            else:
                rows.extend((int(steps), m, name, float(v)) for m, v in enumerate(np.asarray(value)))
        self._insert("INSERT INTO metrics VALUES (?, ?, ?, ?)", rows)

    def evaluation(
        self,
        steps: Integer,
        means: Shaped[np.ndarray, "members"],
        episodes: Integer,
        cut: Shaped[np.ndarray, "members"] | None = None,
    ) -> None:
        """Add each member's mean return over `episodes` greedy episodes, of which `cut` were cut at the step bound."""
        rows = [(int(steps), member, float(mean), int(episodes)) for member, mean in enumerate(np.asarray(means))]
        self._insert("INSERT INTO evaluations VALUES (?, ?, ?, ?)", rows)
        if cut is not None:
            self.metrics(steps, {EVALUATION_CUT: cut})

    def commit(self) -> None:
        """Make everything added so far visible to readers and durable through a power failure."""
        with self._reporting():
            self._connection.commit()

    def truncate(self, after_steps: Integer, unjudged: bool = False) -> None:
        """Delete everything past `after_steps`, and with `unjudged` also the evaluation at `after_steps`, and commit: a
        run that continues from there writes all of it again."""
        steps = (int(after_steps),)
        with self._reporting():
            for table in ("episodes", "metrics", "evaluations"):
                self._connection.execute(f"DELETE FROM {table} WHERE steps > ?", steps)
            if unjudged:
                self._connection.execute("DELETE FROM evaluations WHERE steps = ?", steps)
                self._connection.execute("DELETE FROM metrics WHERE steps = ? AND name = ?", (*steps, EVALUATION_CUT))
            self._connection.commit()

    def _insert(self, statement: str, rows: list[tuple]) -> None:
        with self._reporting():
            self._connection.executemany(statement, rows)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError as error:
            raise QdojoError(f"{self._path} rejects a row that already exists or holds NaN: {error}.") from error
        except sqlite3.OperationalError as error:
            raise QdojoError(f"{self._path} cannot be written: {error}.") from error
        except sqlite3.DatabaseError as error:
            raise DamagedFile(f"{self._path} is damaged: {error}.") from error


def set_damaged_aside(path: Path) -> str | None:
    """Rename a damaged metrics file, so that a new one can be made, and return a warning; None if it is intact."""
    if not path.is_file():
        return None
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError:
        return None  # it cannot be read or is in use, which the writer reports
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found == "ok":
        return None
    aside = path.with_name(f"{path.name}.damaged")
    for part in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + part).replace(aside.with_name(aside.name + part))
    what = " ".join(found.split())
    return f"{path} is damaged ({what}) and was renamed to {aside.name}; a new metrics file starts here."


def learning_curve(path: Path) -> dict[int, Curve]:
    """Return, by member, the return of each finished episode over the steps at its end. Raises `DamagedFile`."""
    return _curves(path, 'SELECT member, steps, "return" FROM episodes ORDER BY member, episode')


def evaluations(path: Path) -> dict[int, Curve]:
    """Return, by member, the mean return of each greedy evaluation. Raises `DamagedFile`."""
    return _curves(path, "SELECT member, steps, mean FROM evaluations ORDER BY member, steps")


def history(path: Path) -> History:
    """Return all values in the file, ordered by step, metric and member. Raises `DamagedFile`."""
    rows = _query(
        path,
        "SELECT steps, member, name, value FROM metrics UNION ALL "
        "SELECT steps, member, 'episode_return', \"return\" FROM episodes UNION ALL "
        "SELECT steps, member, 'episode_length', length FROM episodes UNION ALL "
        "SELECT steps, member, 'evaluation_return', mean FROM evaluations ORDER BY 1, 3, 2",
    )
    with _refusing_damage(path):
        step, member, name, value = zip(*rows, strict=True) if rows else ((), (), (), ())
        return History(
            np.asarray(step, np.int64), np.asarray(member, np.int64), np.asarray(name, str), np.asarray(value, float)
        )


def metric(path: Path, name: str) -> dict[int, Curve]:
    """Return one metric by member, or under `WHOLE_RUN`; NaN stays NaN. Empty if unknown. Raises `DamagedFile`."""
    return _curves(path, "SELECT member, steps, value FROM metrics WHERE name = ? ORDER BY member, steps", (name,))


def latest(path: Path) -> Latest:
    """Return the last value of every metric of every member, and the last step (0 if none). Raises `DamagedFile`."""
    # With max(), SQLite takes the other columns from the row that holds the maximum.
    rows = _query(path, "SELECT name, member, value, max(steps) FROM metrics GROUP BY name, member")
    with _refusing_damage(path):
        values: dict[str, list[float]] = {}
        for name, _, value, _ in rows:
            values.setdefault(str(name), []).append(np.nan if value is None else float(value))
        return Latest(max((int(row[3]) for row in rows), default=0), {n: np.asarray(v) for n, v in values.items()})


def _curves(path: Path, query: str, arguments: tuple = ()) -> dict[int, Curve]:
    rows = _query(path, query, arguments)
    if not rows:
        return {}
    with _refusing_damage(path):
        members, steps, values = zip(*rows, strict=True)
        which = np.asarray(members, np.int64)
        every = Curve(np.asarray(steps, np.int64), np.asarray(values, np.float64))
        return {int(m): Curve(every.steps[which == m], every.values[which == m]) for m in np.unique(which)}


def _query(path: Path, query: str, arguments: tuple = ()) -> list[tuple]:
    if not path.is_file():
        raise DamagedFile(f"{path} is missing: this run has no metrics.")
    with _refusing_damage(path):
        address = f"{path.resolve().as_uri()}?mode=ro"
        try:
            return _read(address, query, arguments)
        except sqlite3.OperationalError as error:
            # In a read-only folder, a database in WAL mode can be opened only as immutable.
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise
            return _read(f"{address}&immutable=1", query, arguments)


def _read(address: str, query: str, arguments: tuple) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
        return connection.execute(query, arguments).fetchall()


@contextlib.contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
        raise DamagedFile(f"{path} cannot be read as the metrics of a run: {error}.") from error
