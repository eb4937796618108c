"""How good a population is and how sure of it one can be: the interquartile mean and its bootstrap interval.
Not per-episode bookkeeping: see `runs.metrics`.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (2021), sections 4.2 and 4.3.
"""

import numpy as np
from jaxtyping import Float, Real


def interquartile_mean(values: Real[np.ndarray, "..."]) -> float:
    """The mean of the middle half of all values, of any shape: a quarter of them, rounded down, is cut at each end.

    Raises `ValueError` for no values, and for NaN, which sorting would hide among the values that are cut.
    """
    return _middle_mean(_checked(values).ravel())


def bootstrap_interval(
    values: Real[np.ndarray, "seeds *tasks"], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval (low, high) of the interquartile mean under a stratified bootstrap.

    Each resample draws as many seeds as there are, with replacement and apart for each task; for values of one task,
    `[seeds]`, this is the plain bootstrap. Raises `ValueError` for no values, NaN, or a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, and is {confidence}.")
    scores = _checked(values)
    scores = scores.reshape(len(scores), -1)
    seeds, tasks = scores.shape
    generator = np.random.default_rng(seed)
    columns = np.arange(tasks)
    means = [
        _middle_mean(scores[generator.integers(seeds, size=(seeds, tasks)), columns].ravel()) for _ in range(resamples)
    ]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def member_interval(means: Real[np.ndarray, "member"]) -> tuple[float, float] | None:
    """The 95 % interval of the interquartile mean of a population; None for fewer than three members, of which a
    bootstrap says nothing."""
    return bootstrap_interval(means) if len(means) >= 3 else None


def _checked(values: Real[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    scores = np.asarray(values, np.float64)
    if scores.size == 0:
        raise ValueError("There are no values to take a mean of.")
    if np.isnan(scores).any():
        raise ValueError("A value is NaN, so no mean of these values means anything.")
    return scores


def _middle_mean(scores: Float[np.ndarray, "values"]) -> float:
    cut = scores.size // 4
    return float(np.sort(scores)[cut : scores.size - cut].mean())
