"""Aggregate scores of a population: the interquartile mean and its bootstrap confidence interval. `runs.metrics` keeps
the scores of single episodes.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (2021), sections 4.2 and 4.3.
"""

import numpy as np
from jaxtyping import Float, Real


def interquartile_mean(values: Real[np.ndarray, "..."]) -> float:
    """The mean of the middle half of all values, of any shape: a quarter, rounded down, is discarded at each end.

    Raises `ValueError` if there are no values, or if one is NaN, which sorting could hide among the discarded values.
    """
    return _middle_mean(_checked(values).ravel())


def bootstrap_interval(
    values: Real[np.ndarray, "seeds *tasks"], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval (low, high) of the interquartile mean, by a stratified bootstrap.

    Each resample draws as many seeds as there are, with replacement and independently for each task; for values of one
    task, `[seeds]`, this is the plain bootstrap. Raises `ValueError` if there are no values, if one is NaN, or if the
    confidence is outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, but it must be between 0 and 1.")
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
    """The 95 % confidence interval of a population's interquartile mean; None for fewer than three members, too few for
    a bootstrap."""
    return bootstrap_interval(means) if len(means) >= 3 else None


def _checked(values: Real[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    scores = np.asarray(values, np.float64)
    if scores.size == 0:
        raise ValueError("There are no values to average.")
    if np.isnan(scores).any():
        raise ValueError("A value is NaN, so the mean of these values is undefined.")
    return scores


def _middle_mean(scores: Float[np.ndarray, "values"]) -> float:
    cut = scores.size // 4
    return float(np.sort(scores)[cut : scores.size - cut].mean())
