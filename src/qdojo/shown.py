"""How a run is displayed in a REPL and in a notebook. For the command line, see `cli/`."""

import base64
import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qdojo.config import read_config
from qdojo.envs.atari_names import human_clause
from qdojo.errors import QdojoError
from qdojo.runs.directory import RunDirectory, read_result, status
from qdojo.wording import printable, score, scores_of_members

MOST_INLINE_BYTES = 20 * 2**20
"""Size up to which a video is embedded in a notebook; of a larger one only the path is shown."""


def facts(run: RunDirectory) -> list[tuple[str, str]]:
    """Return the status of a run as names and values. It never fails: whatever cannot be read is left out."""
    told = [("run", run.name)]
    try:
        config = read_config(run.config_path.read_text(encoding="utf-8"), str(run.config_path))
        members = "1 member" if config.members == 1 else f"{config.members} members"
        told.append(("environment", f"{config.env}, preset {config.preset}, {members}"))
    except (QdojoError, OSError, UnicodeDecodeError):
        told.append(("environment", "unknown: config.toml cannot be read"))
    try:
        result: Mapping[str, Any] = read_result(run) or {}
    except QdojoError:
        result = {}
    steps = f" after {result['steps']:,} steps" if "steps" in result else ""
    told.append(("status", status(run) + steps))
    if "eval" in result:
        evaluation = result["eval"]
        means = scores_of_members(evaluation["mean"], evaluation["iqm"], evaluation.get("interval"))
        means += human_clause(result.get("env", ""), evaluation["iqm"])
        told.append(("score", f"{means}, {evaluation['episodes']} unseen episodes each"))
    if "error" in result:
        told.append(("error", result["error"]))
    told.append(("path", str(run.path)))
    return [(name, printable(value)) for name, value in told]


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Format names and values as an HTML table, with all markup escaped."""
    cells = "".join(
        f'<tr><th style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:left">{html.escape(value)}</td></tr>'
        for name, value in rows
    )
    return f"<table>{cells}</table>"


def picture(path: Path) -> str:
    """Return a PNG file as inline HTML; empty if there is no file."""
    try:
        content = base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return ""
    return f'<img alt="learning curve" style="max-width:700px" src="data:image/png;base64,{content}">'


class Film(NamedTuple):
    """A video of episodes, which a notebook plays."""

    path: Path
    returns: list[float]
    """Undiscounted return of each episode."""

    def __repr__(self) -> str:
        return f"Film {self.path}: returns {', '.join(map(score, self.returns))}"

    def _repr_html_(self) -> str:
        told = html.escape(repr(self))
        if self.path.stat().st_size > MOST_INLINE_BYTES:
            return f"<p>{told} (too large to show here)</p>"
        content = base64.b64encode(self.path.read_bytes()).decode()
        if self.path.suffix.lower() == ".gif":
            return f'<figure><img src="data:image/gif;base64,{content}"><figcaption>{told}</figcaption></figure>'
        video = f'<video controls autoplay loop muted src="data:video/mp4;base64,{content}"></video>'
        return f"<figure>{video}<figcaption>{told}</figcaption></figure>"
