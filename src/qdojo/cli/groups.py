"""The scores of members with settings of their own, a line a group. Not for runs whose members differ by seed alone."""

from collections.abc import Sequence

import numpy as np

from qdojo.config import Config
from qdojo.statistics import interquartile_mean, member_interval
from qdojo.wording import combination, scores_of_members


def scores_by_combination(config: Config, means: Sequence[float]) -> list[str]:
    """Greedy means of each combination of `vary`; nothing where there is none."""
    if not config.vary:
        return []
    lines = []
    for number, own in enumerate(config.combinations):
        first = number * config.seeds
        group = np.asarray(means[first : first + config.seeds])
        told = scores_of_members(group.tolist(), interquartile_mean(group), member_interval(group), first)
        lines.append(f"  {combination(own)}: {told}")
    return lines
