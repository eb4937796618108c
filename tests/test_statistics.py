"""The interquartile mean and its interval, against SciPy, rliable's numbers, and numbers worked out by hand."""

import numpy as np
import pytest
from scipy.stats import trim_mean

from qdojo.statistics import bootstrap_interval, interquartile_mean

SCORES = np.array(
    [
        [100.0, 109.0, 91.8],
        [73.3, 86.4, 70.3],
        [101.8, 140.2, 85.2],
        [81.4, 114.7, 110.7],
        [103.2, 72.1, 99.1],
        [120.9, 59.7, 86.3],
        [43.0, 61.3, 44.7],
        [92.9, 62.0, 108.1],
        [104.7, 94.4, 24.5],
        [83.8, 98.5, 103.4],
    ]
)


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([5.0], 5.0),
        ([1.0, 2.0, 6.0], 3.0),  # a quarter of three, rounded down, is none
        ([100.0, 1.0, 2.0, -50.0], 1.5),
        ([0, 0, 10, 20, 30, 40, 500, 500], 25.0),
        ([[9.0, 1.0], [2.0, 3.0]], 2.5),
    ],
)
def test_the_mean_of_the_middle_half_by_hand(values: list, mean: float) -> None:
    assert interquartile_mean(np.array(values)) == mean


def test_the_mean_equals_scipy_for_every_size() -> None:
    generator = np.random.default_rng(0)
    for size in range(1, 60):
        values = generator.normal(size=(size, 2)).astype(np.float32)
        assert interquartile_mean(values) == pytest.approx(trim_mean(values.astype(float), 0.25, axis=None), rel=1e-12)


def test_the_interval_equals_that_of_rliable() -> None:
    # rliable 1.2.0: aggregate_iqm, and get_interval_estimates with 20,000 stratified resamples.
    assert interquartile_mean(SCORES) == pytest.approx(90.85)
    assert bootstrap_interval(SCORES, resamples=10_000) == pytest.approx((80.8125, 98.79375), abs=0.5)
    assert interquartile_mean(SCORES[:, 0]) == pytest.approx(93.85)
    assert bootstrap_interval(SCORES[:, 0], resamples=10_000) == pytest.approx((78.5, 103.41666667), abs=0.7)


def test_tasks_are_resampled_apart_and_never_mixed() -> None:
    constant_tasks = np.tile([0.0, 10.0, 20.0, 90.0], (5, 1))
    assert bootstrap_interval(constant_tasks) == (15.0, 15.0)
    # Were whole rows drawn, both columns would move together and their sum would never be 0.
    opposite = np.array([[0.0, 1.0], [1.0, 0.0]])
    low, high = bootstrap_interval(opposite)
    assert (low, high) == (0.0, 1.0)


def test_the_interval_narrows_with_seeds_and_widens_with_confidence() -> None:
    generator = np.random.default_rng(1)
    few, many = generator.normal(size=8), generator.normal(size=200)
    width = [high - low for low, high in (bootstrap_interval(few), bootstrap_interval(many))]
    assert width[1] < width[0] / 2
    inner, outer = bootstrap_interval(few, confidence=0.5), bootstrap_interval(few, confidence=0.99)
    assert outer[0] < inner[0] < inner[1] < outer[1]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(generator.normal(size=30), confidence=0.9, resamples=200)
        hits += low <= 0 <= high
    assert 0.8 < hits / 200 < 0.97


def test_the_seed_decides_the_interval() -> None:
    assert bootstrap_interval(SCORES, seed=3) == bootstrap_interval(SCORES, seed=3)
    assert bootstrap_interval(SCORES, seed=3) != bootstrap_interval(SCORES, seed=4)


def test_one_seed_has_an_interval_of_one_point() -> None:
    assert bootstrap_interval(np.array([500.0])) == (500.0, 500.0)


@pytest.mark.parametrize("function", [interquartile_mean, bootstrap_interval])
def test_no_values_and_nan_are_refused(function) -> None:
    with pytest.raises(ValueError, match="no values"):
        function(np.zeros((0,)))
    with pytest.raises(ValueError, match="NaN"):
        function(np.array([1.0, np.nan, 2.0, 3.0]))


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_out_of_range_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap_interval(SCORES, confidence=confidence)
