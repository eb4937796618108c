"""Formats the scores of a run whose members differ in settings (`vary`), one line per combination."""

from collections.abc import Sequence

import numpy as np

from qdojo.config import Config
from qdojo.statistics import interquartile_mean, member_interval
from qdojo.wording import combination, scores_of_members


def scores_by_combination(config: Config, means: Sequence[float]) -> list[str]:
    """Return one line of greedy means for each combination of `vary`; empty if the run has none."""
    if not config.vary:
        return []
    lines = []
    for number, own in enumerate(config.combinations):
        first = number * config.seeds
        group = np.asarray(means[first : first + config.seeds])
        told = scores_of_members(group.tolist(), interquartile_mean(group), member_interval(group), first)
        lines.append(f"  {combination(own)}: {told}")
    return lines
