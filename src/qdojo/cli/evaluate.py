"""`qdojo eval`: greedy scores of the agents that a run delivered. To see them play, see `watch.py`."""

from typing import Annotated

from cyclopts import Parameter

from qdojo.cli.options import RUNS, Count, Json, RunName, RunsFolder, Seed
from qdojo.cli.output import emit, tell
from qdojo.envs.atari_names import human_clause, human_normalized
from qdojo.progress import PlainDisplay
from qdojo.runs.directory import find
from qdojo.wording import cut_clause, scores_of_members


def evaluate(
    run: RunName,
    /,
    *,
    episodes: Annotated[Count, Parameter(help="Episodes that each member plays.")] = 100,
    seed: Annotated[Seed, Parameter(help="Seed of the starting states, all of them unseen in training.")] = 0,
    runs: RunsFolder = RUNS,
    json: Json = False,
) -> None:
    """Evaluate a trained agent on unseen episodes, without exploration."""
    found = find(runs, run)

    from qdojo import api
    from qdojo.cli.groups import scores_by_combination
    from qdojo.processor import use_compilation_cache

    use_compilation_cache()
    run_found = api.Run(found)
    display, of = PlainDisplay(), episodes * run_found.config.members

    def watch(done: int, steps: int) -> None:
        display.detail(f"evaluating: {done:,} of {of:,} episodes, {steps:,} steps")

    scores = run_found.evaluate(episodes, seed, watch)
    if json:
        emit(
            {
                "run": found.path,
                "episodes": episodes,
                "mean": scores.mean,
                "iqm": scores.iqm,
                "interval": scores.interval,
                "returns": scores.returns,
                "cut": scores.cut.sum(axis=1),
                "bound_steps": scores.bound_steps,
                "human_normalized": human_normalized(run_found.config.env, scores.iqm),
            }
        )
    else:
        told = (
            f"{scores_of_members(scores.mean.tolist(), scores.iqm, scores.interval)}"
            f"{human_clause(run_found.config.env, scores.iqm)}, {episodes} unseen episodes each"
        )
        cut = cut_clause(scores.cut.sum(axis=1).tolist(), episodes, scores.bound_steps)
        tell(f"{told}; {cut}" if cut else told)
        for line in scores_by_combination(run_found.config, scores.mean.tolist()):
            tell(line)
