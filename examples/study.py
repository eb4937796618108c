"""Compare two algorithms over seeds: greedy scores on unseen episodes, with their intervals, and a plot."""

import matplotlib

matplotlib.use("Agg")  # no window

import matplotlib.pyplot as plt
import numpy as np

import qdojo

PRESETS = ("dqn", "double")
SEEDS = 5

if __name__ == "__main__":
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for preset in PRESETS:
        run = qdojo.train("CartPole-v1", preset=preset, seeds=SEEDS, steps=5_000, eval_every_steps=1_000)
        score = run.evaluate(episodes=100)
        low, high = score.interval
        print(f"{preset:>8}: interquartile mean {score.iqm:.1f}, 95 % interval {low:.1f} to {high:.1f}, {SEEDS} seeds")

        # There is one row per evaluation and member: arrange them in a table of members x evaluations.
        evaluations = run.history.of("evaluation_return")
        steps = np.unique(evaluations.step)
        returns = np.array([evaluations.value[evaluations.member == member] for member in range(SEEDS)])
        axes.plot(steps, np.median(returns, axis=0), label=preset)
        axes.fill_between(steps, returns.min(axis=0), returns.max(axis=0), alpha=0.2)
    axes.set_xlabel("Environment steps")
    axes.set_ylabel("Return of the greedy agent: median and range over seeds")
    axes.legend()
    figure.savefig("study.png")
