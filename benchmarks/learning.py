"""Measures how well agents learn: greedy scores on unseen episodes. `python -m benchmarks.learning [STUDY ...]`

Each study prints one row with the interquartile mean over seeds and its 95 % bootstrap interval. With `--docs` it also
saves its curve in docs/images. For speed, see `benchmarks.speed`.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

import qdojo
from qdojo.build.stepping import build_evaluator
from qdojo.config import preset_tables
from qdojo.delivered import Run
from qdojo.envs.native.minatar import MODULES
from qdojo.plots import curve_png
from qdojo.runs.metrics import evaluations
from qdojo.statistics import bootstrap_interval, interquartile_mean
from qdojo.training.judging import FINAL_SEED

IMAGES = Path(__file__).parent.parent / "docs" / "images"


class Study(NamedTuple):
    """One population run and its description."""

    env: str
    seeds: int
    settings: dict[str, Any]
    about: str
    logged: dict[str, Any] | None = None
    """Settings of a run with one agent, whose replay memory this study learns from."""
    cut: int | None = None
    """Steps after which published results cut an episode; scores within so many steps are measured too."""


STUDIES = {
    "cartpole": Study("CartPole-v1", 100, {}, "default agent, 50,000 steps"),
    "cartpole-device": Study("CartPole-v1", 10, {"loop": "device"}, "default agent, device loop"),
    "cartpole-host": Study(
        "CartPole-v1", 10, {"loop": "host", "eval_every_steps": 5_000, "eval_episodes": 20}, "default agent, host loop"
    ),
    "tutorial": Study("CartPole-v1", 20, {"preset": "tutorial"}, "the tutorial's agent, 10,000 episodes"),
    "acrobot": Study("Acrobot-v1", 10, {}, "default agent, 100,000 steps"),
    "acrobot-qrdqn": Study("Acrobot-v1", 10, {"preset": "qrdqn"}, "qrdqn agent, 100,000 steps"),
    "mountaincar": Study("MountainCar-v0", 10, {}, "default agent, 120,000 steps"),
    "lunarlander": Study("LunarLander-v3", 10, {}, "default agent, 100,000 steps"),
}
MEMBERS = [name for name in preset_tables() if name not in ("default", "tutorial", "cql")]
STUDIES |= {
    f"cartpole-{name}": Study(
        "CartPole-v1", 10, {"preset": name, "eval_every_steps": 5_000, "eval_episodes": 50}, f"{name} agent"
    )
    for name in MEMBERS
}


STUDIES |= {
    f"minatar-{name.lower()}": Study(
        f"MinAtar/{name}-v1", 5, {"preset": "pqn"}, "pqn, 5,000,000 steps", cut=None if name == "Freeway" else 1_000
    )
    for name in MODULES
}
STUDIES["minatar-breakout-short"] = Study(
    "MinAtar/Breakout-v1",
    3,
    {"steps": 200_000, "eval_every_steps": 20_000, "eval_episodes": 20},
    "default agent, 200,000 steps",
)


# Number of episodes by size; each episode has `size` steps.
DEEP_SEA_EPISODES = {10: 250, 20: 600, 30: 1_200, 40: 2_000, 50: 3_000}
STUDIES |= {
    f"deep_sea-{size}": Study(
        f"qdojo/DeepSea{size}-v0",
        10,
        {
            "preset": "bootdqn",
            "steps": size * episodes,
            "eval_every_steps": size * 100,
            "eval_episodes": 1,
            "final_eval_episodes": 1,
        },
        f"bootdqn, {episodes:,} episodes",
    )
    for size, episodes in DEEP_SEA_EPISODES.items()
}


# The DQN settings of CleanRL and PureJaxRL for CartPole, and those of the preset, each with both losses.
PEERS = {
    **{"hidden": (120, 84), "batch_size": 128, "num_envs": 10, "collect_steps": 10, "updates_per_step": 0.1},
    **{"target_sync_updates": 50, "learning_rate": 2.5e-4, "warmup_steps": 10_000, "capacity_steps": 10_000},
    **{"epsilon_decay_steps": 250_000, "steps": 500_000, "eval_every_steps": 25_000},
}
STUDIES |= {
    f"{name}-{error}": Study(env, 5, {"preset": "dqn", "error": error, **settings}, f"dqn with {error}, {about}")
    for name, env, settings, about in (
        ("peers", "CartPole-v1", PEERS, "peers' settings, 500,000 steps"),
        ("dqn-cartpole", "CartPole-v1", {"eval_every_steps": 5_000}, "preset's settings, 100,000 steps"),
        ("dqn-acrobot", "Acrobot-v1", {"eval_every_steps": 5_000}, "preset's settings, 100,000 steps"),
        ("dqn-mountaincar", "MountainCar-v0", {"eval_every_steps": 5_000}, "preset's settings, 100,000 steps"),
    )
    for error in ("huber", "mse")
}


# The last 50,000 steps of the default agent's training, and 50,000 steps of random actions.
LOGS = {"logged": {}, "random": {"epsilon_start": 1.0, "epsilon_end": 1.0, "eval_every_steps": None}}
STUDIES |= {
    f"{log}-{name}": Study(
        "CartPole-v1",
        10,
        {"preset": name, "eval_every_steps": 5_000, "eval_episodes": 50},
        f"{name} on {log} play, never playing",
        own,
    )
    for log, own in LOGS.items()
    for name in ("cql", "dqn")
}


def means_within(run: Run, steps: int) -> Float[np.ndarray, "member"]:
    """Mean greedy returns of 100 unseen episodes that are cut after `steps` steps."""
    opened = run.opened
    evaluator = build_evaluator(run.config, opened.spec, opened.spaces, opened.player.actor)
    return np.mean(evaluator.evaluate(run.delivered.params, FINAL_SEED, 100, steps).returns, axis=1)


def learn(name: str, root: Path, docs: bool) -> dict[str, Any]:
    """Train the population of one study and return its scores."""
    study = STUDIES[name]
    data = {} if study.logged is None else {"dataset": str(qdojo.train(study.env, root=root, **study.logged).path)}
    run = qdojo.train(study.env, seeds=study.seeds, root=root, **study.settings, **data)
    means = np.array(run.result["eval"]["mean"])
    low, high = bootstrap_interval(means)
    last = [curve.values[-1] for curve in evaluations(run.directory.metrics_path).values()]
    if docs:
        curve_png(
            run.directory.metrics_path, f"{study.env}: {study.about}, {study.seeds} seeds", IMAGES / f"{name}.png"
        )
    return {
        "study": name,
        "about": study.about,
        "seeds": study.seeds,
        "episodes": run.result["eval"]["episodes"],
        "iqm": interquartile_mean(means),
        "interval": [low, high],
        "min": means.min(),
        "max": means.max(),
        "last_agent_iqm": interquartile_mean(np.array(last)) if last else None,
        "means": np.sort(means).tolist(),
        "within": None if study.cut is None else interquartile_mean(means_within(run, study.cut)),
        "seconds": run.result["seconds"],
        "run": str(run.path),
    }


def main() -> None:
    """Run the named studies, or all of them, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"by default all: {', '.join(STUDIES)}")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the run directories")
    parser.add_argument("--docs", action="store_true", help="save the curves in docs/images")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    if unknown := set(arguments.studies) - set(STUDIES):
        parser.error(f"there is no study {', '.join(sorted(unknown))}; --help lists all studies")
    rows = []
    for name in arguments.studies or STUDIES:
        row = learn(name, arguments.runs, arguments.docs)
        rows.append(row)
        means = np.array(row["means"])
        within = "" if row["within"] is None else f"within {STUDIES[name].cut:,} steps {row['within']:.1f}  "
        last = "" if row["last_agent_iqm"] is None else f"last agents' iqm {row['last_agent_iqm']:7.1f}  "
        print(
            f"{name:16} {row['about']:36} seeds {row['seeds']:3}  iqm {row['iqm']:7.1f} "
            f"[{row['interval'][0]:.1f}, {row['interval'][1]:.1f}]  min {row['min']:7.1f}  {last}"
            f"{within}at 500: {int((means == 500).sum())}  at 475: {int((means >= 475).sum())}  "
            f"{row['seconds']['total']:.0f} s",
            flush=True,
        )
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
