"""`qdojo resume`: continue a run from its last checkpoint. To change its settings, see `train --config`."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from qdojo.cli.options import RUNS, Count, Json, RunName, RunsFolder
from qdojo.cli.running import carry_out
from qdojo.progress import Progress
from qdojo.runs.directory import find

if TYPE_CHECKING:
    from qdojo.api import Run


def resume(
    run: RunName,
    /,
    *,
    steps: Annotated[
        Count | None, Parameter(help="New training budget in environment steps; it is stored in the run.")
    ] = None,
    shards: Annotated[
        Count | None,
        Parameter(help="New number of CPU cores (or GPUs) that share the members; the run is then no longer exact."),
    ] = None,
    fork: Annotated[
        bool,
        Parameter(negative="", help="Continue as a new run, even if settings or library versions have changed."),
    ] = False,
    runs: RunsFolder = RUNS,
    json: Json = False,
) -> int:
    """Continue a run from its last checkpoint, exactly as if it had not stopped."""
    found = find(runs, run)  # rejects a wrong name before jax is imported, which takes seconds

    def work(progress: Progress) -> "Run":
        from qdojo import api
        from qdojo.processor import open_devices

        config = api.Run(found).config
        open_devices(shards or config.shards, config.members)
        return api.resume(
            found.path, root=runs, observers=[progress], progress=False, steps=steps, shards=shards, fork=fork
        )

    return carry_out(work, as_json=json)
