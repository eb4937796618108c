"""`qdojo eval`: greedy scores of what a run delivered. Not for looking at it play: see `watch.py`."""

from typing import Annotated

from cyclopts import Parameter

from qdojo.cli.options import RUNS, Count, Json, RunName, RunsFolder, Seed
from qdojo.cli.output import cut_clause, emit, member_means, tell
from qdojo.runs.directory import find


def evaluate(
    run: RunName,
    /,
    *,
    episodes: Annotated[Count, Parameter(help="Whole episodes for each member.")] = 100,
    seed: Annotated[Seed, Parameter(help="Chooses the starts; no seed gives one that training has seen.")] = 0,
    runs: RunsFolder = RUNS,
    json: Json = False,
) -> None:
    """Play what a run delivered, without exploration, and tell its scores."""
    found = find(runs, run)

    from qdojo import api

    scores = api.evaluate(found.path, episodes, seed=seed, root=runs)
    if json:
        emit(
            {
                "run": found.path,
                "episodes": episodes,
                "mean": scores.mean,
                "iqm": scores.iqm,
                "returns": scores.returns,
                "cut": scores.cut.sum(axis=1),
                "bound_steps": scores.bound_steps,
            }
        )
    else:
        told = f"{member_means(scores.mean.tolist(), scores.iqm)}, {episodes} unseen episodes each"
        cut = cut_clause(scores.cut.sum(axis=1).tolist(), episodes, scores.bound_steps)
        tell(f"{told}; {cut}" if cut else told)
