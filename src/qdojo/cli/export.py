"""`qdojo export`: write a trained agent as a web page or a Keras file. For the conversion, see `qdojo.export`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from qdojo.cli.options import RUNS, Member, RunName, RunsFolder
from qdojo.cli.output import say
from qdojo.runs.directory import find


def export(
    run: RunName,
    /,
    *,
    to: Annotated[
        Path,
        Parameter(
            help="File to write: .html for a page in which the agent plays, .keras for a model, .weights.h5 for its "
            "weights."
        ),
    ],
    member: Member = None,
    runs: RunsFolder = RUNS,
) -> None:
    """Export a trained agent as a web page, a Keras model or weights."""
    found = find(runs, run)

    from qdojo import api

    if to.suffix == ".html":
        api.Run(found).page(to, member)
    else:
        from qdojo.export.keras import export as write

        write(api.Run(found).keras_model(member), to)
    say(f"Written to {to}.")
