"""`qdojo runs`: list all runs and how each ended. For the details of one run, see `show.py`."""

from collections.abc import Mapping
from typing import Any

from qdojo.cli.options import RUNS, Json, RunsFolder
from qdojo.cli.output import emit, say, show_table
from qdojo.config import read_config
from qdojo.errors import DamagedFile, UsageError
from qdojo.runs.directory import RunDirectory, list_runs, read_result, status
from qdojo.runs.metrics import latest
from qdojo.wording import score


def runs(*, runs: RunsFolder = RUNS, json: Json = False) -> None:
    """List all runs, oldest first."""
    rows = [_row(run) for run in list_runs(runs)]
    if json:
        emit({"runs": rows})
    elif not rows:
        say(f"{runs} holds no runs yet; start one with `qdojo train CartPole-v1`.")
    else:
        show_table(
            ("name", "env", "preset", "status", "steps", "greedy"),
            [
                (
                    row["name"],
                    row["env"] or "?",
                    row["preset"] or "?",
                    row["status"],
                    "?" if row["steps"] is None else f"{row['steps']:,}",
                    _greedy(row["iqm"], row["interval"]),
                )
                for row in rows
            ],
        )


def _greedy(middle: float | None, interval: list[float] | None) -> str:
    if middle is None:
        return ""
    return score(middle) if interval is None else f"{score(middle)} ({score(interval[0])} to {score(interval[1])})"


def _row(run: RunDirectory) -> dict[str, Any]:
    """Return the readable facts of a run; a damaged run is listed as damaged, so that a user can find it here."""
    row: dict[str, Any] = {
        "run": run.path,
        "name": run.name,
        "env": None,
        "preset": None,
        "seeds": None,
        "status": status(run),
        "steps": None,
        "iqm": None,
        "interval": None,
        "solved": None,
    }
    try:
        config = read_config(run.config_path.read_text(encoding="utf-8"), str(run.config_path))
        row |= {"env": config.env, "preset": config.preset, "seeds": config.seeds}
        result: Mapping[str, Any] = read_result(run) or {}
        row["steps"] = result["steps"] if "steps" in result else latest(run.metrics_path).steps
        row |= {name: result.get("eval", {}).get(name) for name in ("iqm", "interval")}
        row["solved"] = result.get("solved")
    except (OSError, UnicodeDecodeError, UsageError, DamagedFile):
        row["status"] = "damaged"
    return row
