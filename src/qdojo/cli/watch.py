"""`qdojo watch`: show a trained agent playing, in a window or as a video. To measure it, see `evaluate.py`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from qdojo.cli.options import RUNS, Count, Member, RunName, RunsFolder, Seed
from qdojo.cli.output import say, tell
from qdojo.runs.directory import find
from qdojo.wording import score


def watch(
    run: RunName,
    /,
    *,
    episodes: Annotated[Count, Parameter(help="Episodes to play.")] = 3,
    record: Annotated[Path | None, Parameter(help="Write a video (.mp4 or .gif) instead of opening a window.")] = None,
    member: Member = None,
    seed: Annotated[Seed, Parameter(help="Seed of the starting states.")] = 0,
    runs: RunsFolder = RUNS,
) -> None:
    """Watch a trained agent play, in a window or as a video."""
    found = find(runs, run)

    from qdojo import api
    from qdojo.processor import use_compilation_cache
    from qdojo.watch import watch as play

    use_compilation_cache()
    trained = api.Run(found)
    policy = trained.policy(member)
    bound, opened = trained.bound_steps, trained.opened
    act = trained.acting(policy, seed)
    shown = play(opened.spec, opened.spaces, policy.reset, act, episodes, seed, record, bound_steps=bound)
    for number, episode in enumerate(shown, start=1):
        tell(f"episode {number}: return {score(episode.score)}" + (f", cut at {bound:,} steps" if episode.cut else ""))
    if record is not None:
        say(f"The video was written to {record}.")
