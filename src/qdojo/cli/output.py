"""Output helpers for the verbs: data on stdout, messages on stderr, JSON for programs."""

import json
import math
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qdojo.wording import printable
from qdojo.wording import say as say

BEGAN = time.perf_counter()
"""Time at which the command began, not counting the start of Python itself."""


def tell(line: str = "") -> None:
    """Print a line of human-readable data on stdout."""
    print(printable(line))


def emit(content: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout. NumPy arrays become lists, and NaN and inf become null, as JSON has neither."""
    print(json.dumps(_plain(content), allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def show_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on stdout. It is not wrapped if stdout is a pipe."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)
    table = Table(*header, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        table.add_row(*(Text(printable(cell).replace("\n", "\\n")) for cell in row))
    with console.capture() as drawn:
        console.print(table)
    print("\n".join(line.rstrip() for line in drawn.get().splitlines()))


def command(verb: str, path: Path) -> str:
    """Return `qdojo VERB PATH`, quoted for a shell."""
    return f"qdojo {verb} {shlex.quote(str(path))}"
