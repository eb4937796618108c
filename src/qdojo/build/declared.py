"""What an agent declares beside its functions: checks of its metrics that warn, and files of what it learned. Training
calls them without knowing which agent they are of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qdojo.build.named import takes_spaces
from qdojo.config import Config
from qdojo.envs.spaces import Spaces
from qdojo.loops.state import Tally
from qdojo.types import Params, Report

Check = Callable[[Report, Tally], str | None]
"""A sentence for a person, where the metrics of a report call for one."""
Export = Callable[[Path, Params], None]
"""Writes files into a run directory, of the parameters of all members."""
CLIPPED_SHARE = 0.05
"""Share of the mass of categorical targets that may lie outside the atoms without a warning."""
BELIEVABLE_TIMES, BELIEVABLE_VALUE = 2.0, 10.0
"""Q-values are believed up to so many times what the rewards seen justify, and up to this value in any case: those of
an untrained network mean nothing yet."""


def checks(config: Config, spaces: Spaces) -> tuple[Check, ...]:
    """The checks of the agent that the settings choose."""
    found = [_believable(config, spaces)]
    return (*found, _within_support(config)) if config.distribution == "c51" else tuple(found)


def exports(config: Config, spaces: Spaces, model: Any) -> tuple[Export, ...]:
    """The files of the agent that the settings choose."""
    wanted = config.agent == "tutorial" and not takes_spaces(model)
    return (_tutorial_weights(config, spaces, model),) if wanted else ()


def _within_support(config: Config) -> Check:
    """Whether the returns lie within the atoms of a categorical distribution."""

    def check(report: Report, tally: Tally) -> str | None:
        clipped = float(np.max(report.metrics.get("clipped", 0.0)))
        if clipped <= CLIPPED_SHARE:
            return None
        return (
            f"{clipped:.0%} of the returns' distribution lies outside vmin={config.vmin:g} to vmax={config.vmax:g}; "
            "widen them."
        )

    return check


def _believable(config: Config, spaces: Spaces) -> Check:
    """Whether Q-values are at most what the rewards seen so far justify.

    No discounted return is larger than the largest reward times 1 / (1 - discount), or times the steps of the longest
    episode where nothing is discounted.
    """
    discount, untrained = config.discount, BELIEVABLE_VALUE * (1.0 + config.prior_scale)
    bonus = 0.0
    if config.munchausen:
        entropy = config.munchausen_temperature * float(np.log(spaces.num_actions))
        bonus = config.munchausen_alpha * abs(config.munchausen_floor) + entropy

    def check(report: Report, tally: Tally) -> str | None:
        if "q_mean" not in report.metrics:
            return None
        steps = tally.longest if discount == 1.0 else 1.0 / (1.0 - discount)
        justified = (tally.largest_reward + bonus) * np.maximum(steps, 1)
        most = np.maximum(BELIEVABLE_TIMES * justified, untrained)
        value = np.asarray(report.metrics["q_mean"])
        if (np.abs(value) <= most).all():
            return None
        member = int(np.argmax(np.abs(value) - most))
        return (
            f"the Q-values of member {member} average {value[member]:,.4g} at step {report.steps:,}, but rewards of at "
            f"most {tally.largest_reward[member]:g} a step justify no more than {justified[member]:,.4g}: the agent "
            f"believes in returns that do not exist, and may never recover; {_remedies(config)}."
        )

    return check


def _remedies(config: Config) -> str:
    """The settings to look at where Q-values grow without end."""
    found = []
    if config.agent == "dqn":
        found += ["error='mse'"] if config.error == "huber" and config.distribution is None else []
        found += [] if config.double else ["double=True"]
        found += ["a greater target_sync_updates" if config.target_tau == 1.0 else "a smaller target_tau"]
    return f"try {', '.join([*found, f'a learning_rate below {config.learning_rate:g}', 'a smaller discount'])}"


def _tutorial_weights(config: Config, spaces: Spaces, model: Any) -> Export:
    """The tutorial's weight file, one a member."""

    def export(folder: Path, params: Params) -> None:
        from qdojo.export.keras import export as write
        from qdojo.export.keras import keras_model

        for member in range(config.seeds):
            own = jax.tree.map(lambda leaf, member=member: leaf[member], params)
            suffix = "" if config.seeds == 1 else f"-{member}"
            write(keras_model(own, spaces.observation_shape, model), folder / f"cartpole_weight{suffix}.weights.h5")

    return export
