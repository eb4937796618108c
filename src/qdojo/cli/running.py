"""Code shared by `train` and `resume`: progress during the run, then its result."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from qdojo.cli.output import BEGAN, command, emit, say, tell
from qdojo.progress import Progress, summary

if TYPE_CHECKING:
    from qdojo.api import Run

INTERRUPTED = 130


def carry_out(work: Callable[[Progress], "Run"], *, as_json: bool) -> int:
    """Run `work` under a progress display, print its result, and return the exit code."""
    with Progress(print_episodes=not as_json) as progress:
        try:
            run = work(progress)
        except KeyboardInterrupt as stop:
            progress.close()
            return _interrupted(progress, stop)
    result = run.result
    if as_json:
        emit({**result, "seconds": result["seconds"] | {"total": time.perf_counter() - BEGAN}})
        return 0
    tell(summary(result))
    from qdojo.cli.groups import scores_by_combination

    for line in scores_by_combination(run.config, result["eval"]["mean"]):
        tell(line)
    say(f"The run is saved in {run.path}; watch the agent play or see how it learned:")
    say(f"  {command('watch', run.path)}\n  {command('show', run.path)}")
    return 0


def _interrupted(progress: Progress, stop: KeyboardInterrupt) -> int:
    from qdojo.training.stopping import Interrupted

    if progress.run is None or not progress.run.path.exists():
        raise stop
    how = (
        "Interrupted, and saved."
        if isinstance(stop, Interrupted)
        else "Stopped at once; the last checkpoint is intact."
    )
    say(f"{how} Continue with:\n  {command('resume', progress.run.path)}")
    return INTERRUPTED
