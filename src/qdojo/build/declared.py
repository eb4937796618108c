"""What an agent declares besides its functions: checks of its metrics that warn, and files with its weights. Training
calls them without knowing the agent."""

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
"""(report, tally) -> a warning for the user, or None if the metrics need none."""
Export = Callable[[Path, Params], None]
"""(folder, params) -> None; writes files with the parameters of all members into a run directory."""
CLIPPED_SHARE = 0.05
"""Fraction of the mass of categorical targets that may lie outside the atoms without a warning."""
BELIEVABLE_TIMES, BELIEVABLE_VALUE = 2.0, 10.0
"""Q-values are plausible up to `BELIEVABLE_TIMES` the value that the rewards seen so far justify, and always up to
`BELIEVABLE_VALUE`, because the outputs of an untrained network mean nothing yet."""
LARGEST_ERROR = 100.0
"""Median TD error from which a network takes too long to reach its targets: with Adam, an update changes a Q-value by
about the learning rate times the units of the last layer, however large the error. See docs/choosing.md."""


def checks(config: Config, spaces: Spaces) -> tuple[Check, ...]:
    """The checks of the configured agent."""
    found = [_believable(config, spaces)]
    # Otherwise the errors are not in units of the return.
    found += [_reachable(config)] if config.loss is None and not config.value_rescaling else []
    return (*found, _within_support(config)) if config.distribution == "c51" else tuple(found)


def exports(config: Config, spaces: Spaces, model: Any) -> tuple[Export, ...]:
    """The file writers of the configured agent."""
    wanted = config.agent == "tutorial" and not takes_spaces(model)
    return (_tutorial_weights(config, spaces, model),) if wanted else ()


def _within_support(config: Config) -> Check:
    """Warns if returns lie outside the atoms of a categorical distribution."""

    def check(report: Report, tally: Tally) -> str | None:
        clipped = float(np.max(report.metrics.get("clipped", 0.0)))
        if clipped <= CLIPPED_SHARE:
            return None
        return (
            f"{clipped:.0%} of the return distribution lies outside vmin={config.vmin:g} to vmax={config.vmax:g}; "
            "widen this range."
        )

    return check


def _believable(config: Config, spaces: Spaces) -> Check:
    """Warns if Q-values are larger than the rewards seen so far justify.

    No discounted return exceeds the largest reward times 1 / (1 - discount), or without discounting, the largest reward
    times the length of the longest episode.
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
        largest = np.minimum(tally.largest_reward, 1.0) if config.clip_rewards else tally.largest_reward
        justified = (largest + bonus) * np.maximum(steps, 1)
        most = np.maximum(BELIEVABLE_TIMES * justified, untrained)
        value = np.asarray(report.metrics["q_mean"])
        if (np.abs(value) <= most).all():
            return None
        member = int(np.argmax(np.abs(value) - most))
        return (
            f"the Q-values of member {member} average {value[member]:,.4g} at step {report.steps:,}, but rewards of at "
            f"most {largest[member]:g} per step justify no more than {justified[member]:,.4g}: the agent "
            f"overestimates its returns and may never recover; {_remedies(config)}."
        )

    return check


def _reachable(config: Config) -> Check:
    """Warns if returns are so large that the network takes too long to reach them."""
    rescaled = config.agent == "dqn" and config.distribution is None

    def check(report: Report, tally: Tally) -> str | None:
        errors = np.atleast_1d(report.metrics.get("td_error_median", 0.0))
        member = int(np.argmax(errors))
        if errors[member] <= LARGEST_ERROR:
            return None
        return (
            f"half of the temporal-difference errors of member {member} are above {errors[member]:,.4g} at step "
            f"{report.steps:,}, and a network takes long to correct errors as large as that; "
            f"{'set value_rescaling=True, or ' if rescaled else ''}divide the rewards by a constant."
        )

    return check


def _remedies(config: Config) -> str:
    """The settings to change if Q-values diverge."""
    found = []
    if config.agent == "dqn":
        found += ["error='mse'"] if config.error == "huber" and config.distribution is None else []
        found += [] if config.double else ["double=True"]
        found += ["a larger target_sync_updates" if config.target_tau == 1.0 else "a smaller target_tau"]
    return f"try {', '.join([*found, f'a learning_rate below {config.learning_rate:g}', 'a smaller discount'])}"


def _tutorial_weights(config: Config, spaces: Spaces, model: Any) -> Export:
    """Writes the tutorial's weight file, one per member."""

    def export(folder: Path, params: Params) -> None:
        from qdojo.export.keras import export as write
        from qdojo.export.keras import keras_model

        for member in range(config.members):
            own = jax.tree.map(lambda leaf, member=member: leaf[member], params)
            suffix = "" if config.members == 1 else f"-{member}"
            write(keras_model(own, spaces.observation_shape, model), folder / f"cartpole_weight{suffix}.weights.h5")

    return export
