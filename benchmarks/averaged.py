"""What the average of the weights brings: the network that learned last and its average play the same unseen episodes.

    python -m benchmarks.averaged RUN --episodes 40     # of a run with average_tau, finished or interrupted

Both are those of the newest checkpoint. They differ most while the learning rate is high, so interrupt a run halfway.
"""

import argparse
from pathlib import Path

import numpy as np

from qdojo.build.opening import params_template
from qdojo.build.stepping import build_evaluator
from qdojo.delivered import Run
from qdojo.errors import QdojoError
from qdojo.runs import checkpoint
from qdojo.runs.directory import find
from qdojo.snapshot import from_arrays
from qdojo.training.judging import FINAL_SEED

SEED = 9_000
AGENTS = {"network": "state/agents/learner/params/", "average": "state/agents/params/"}
"""What plays, and how its arrays in a checkpoint begin."""


def main() -> None:
    """Print the mean of each member's returns, and its standard error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.averaged", description=__doc__.partition(":")[0])
    parser.add_argument("run", help="the run's directory")
    parser.add_argument("--episodes", type=int, default=40, help="episodes to play (default: 40)")
    chosen = parser.parse_args()
    if chosen.episodes < 2:
        parser.error("--episodes must be at least 2")
    try:
        run = Run(find(Path("runs"), chosen.run))
        if not run.config.average_tau:
            parser.error(f"{chosen.run} has no average of its weights; give a run with average_tau")
        newest = checkpoint.load_latest(run.directory.checkpoints_path)
        opened = run.opened
    except QdojoError as error:
        parser.error(str(error))
    evaluator = build_evaluator(run.config, opened.spec, opened.spaces, opened.player.actor)
    template = {"params": params_template(run.config, opened.player)}
    print(f"{newest.meta['steps']:,} steps, {chosen.episodes} episodes")
    for name, beginning in AGENTS.items():
        own = {
            f"params/{each.removeprefix(beginning)}": array
            for each, array in newest.arrays.items()
            if each.startswith(beginning)
        }
        params = from_arrays(template, own)["params"]
        returns = evaluator.evaluate(params, FINAL_SEED + SEED, chosen.episodes, run.bound_steps).returns
        errors = returns.std(axis=1, ddof=1) / np.sqrt(chosen.episodes)
        means = ", ".join(f"{mean:.2f} ± {error:.2f}" for mean, error in zip(returns.mean(axis=1), errors, strict=True))
        print(f"{name}: {means}", flush=True)


if __name__ == "__main__":
    main()
