"""Scores in words: which digits are kept, and when an interval is told."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdojo.statistics import bootstrap_interval, member_interval
from qdojo.wording import score, scores_of_members


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.31, "0.310"),
        (0.951, "0.951"),
        (1.0, "1.00"),
        (9.349, "9.35"),
        (-31.04, "-31.0"),
        (195.3, "195.3"),
        (474.96, "475"),
        (-200.0, "-200"),
        (499.98, "500"),
        (999.97, "1,000"),
        (1234.5, "1,234"),
        (-8_000_000.0, "-8,000,000"),
        (0.0, "0"),
        (0.000312, "0.000312"),
        (float("nan"), "nan"),
    ],
)
def test_a_score_keeps_three_significant_digits_and_all_before_the_point(value: float, told: str) -> None:
    assert score(value) == told


@given(st.floats(-1e9, 1e9).filter(lambda value: abs(value) > 1e-12))
def test_no_score_is_half_a_percent_off(value: float) -> None:
    assert float(score(value).replace(",", "")) == pytest.approx(value, rel=5e-3)


def test_a_population_is_told_with_its_interval() -> None:
    means = np.array([0.31, 0.35, 0.02, 0.33])
    low, high = bootstrap_interval(means)
    assert member_interval(means) == (low, high)
    assert member_interval(means[:2]) is None
    told = scores_of_members(means.tolist(), 0.32, (low, high))
    assert told == (
        "greedy means 0.310, 0.350, 0.0200, 0.330 of members 0 to 3; "
        f"interquartile mean 0.320 (95 % interval {score(low)} to {score(high)})"
    )
    assert scores_of_members([0.31], 0.31) == "greedy mean 0.310"
    many = scores_of_members([float(k) for k in range(1, 10)], 5.0, (3.0, 7.0))
    assert many == (
        "interquartile mean 5.00 (95 % interval 3.00 to 7.00) of the greedy means of 9 members, "
        "the lowest 1.00, the highest 9.00"
    )
