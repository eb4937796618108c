"""Averaged and latest weights of a run with `average_share`: both play the same unseen episodes."""

import argparse
from pathlib import Path

import numpy as np

from qdojo.build.training import build
from qdojo.delivered import Run
from qdojo.loops.evaluation import episode_bound
from qdojo.runs import checkpoint
from qdojo.runs.directory import find
from qdojo.training.restoring import restored

SEED = 2**31 + 1
"""Of the episodes, which neither training nor any other evaluation plays."""


def main() -> None:
    """Print the mean return of each member's last checkpoint, with its standard error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.averaging", description=__doc__)
    parser.add_argument("run", help="run directory, name of a run, or `last`")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--episodes", type=int, default=20, help="episodes of each agent")
    chosen = parser.parse_args()
    run = Run(find(chosen.runs, chosen.run))
    if not run.config.average_share:
        parser.error(f"{run.path} has no averaged weights; train it with --average-share")
    parts = build(run.config, resumed=True)
    loaded = checkpoint.load_latest(run.directory.checkpoints_path)
    agents = restored(parts.loop, loaded.arrays).state.agents
    bound = episode_bound(run.config.eval_episode_steps, loaded.meta["longest_episode"], parts.spec.max_episode_steps)
    for name, params in (("averaged", agents.params), ("latest", agents.learner.params)):
        returns = parts.loop.evaluate(parts.loop.shards.cut(params, 0), SEED, chosen.episodes, bound).returns
        errors = returns.std(axis=1) / np.sqrt(chosen.episodes)
        told = ", ".join(f"{mean:.2f} +- {error:.2f}" for mean, error in zip(returns.mean(axis=1), errors, strict=True))
        print(f"{loaded.meta['steps']:,} steps, {name:>8}: {told}", flush=True)


if __name__ == "__main__":
    main()
