"""Every preset's agent, built as `build` does it, learns the Q-values of the probes that are known by hand."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes.environments import DISCOUNT, EVERYTHING
from probes.training import device_loop

from qdojo import build as building
from qdojo.config import Config, make_config, preset_tables
from qdojo.envs.spaces import Spaces
from qdojo.loops.learning import Rhythm

STEPS, NOISY_STEPS = 20_000, 36_000
"""What is learned under noise takes longer: the noise has to shrink first."""
QUICK: dict[str, Any] = {
    "hidden": (16, 16),
    "batch_size": 32,
    "num_envs": 4,
    "collect_steps": 8,
    "updates_per_step": 0.125,
    "capacity_steps": 800,
    "discount": DISCOUNT,
    "learning_rate": 1e-2,
    "learning_rate_end": 1e-5,
    "target_tau": 0.05,
    "target_sync_updates": 1,
    "epsilon_start": 1.0,
    "epsilon_end": 1.0,
    "munchausen_alpha": 0.25,
    "munchausen_temperature": 0.2,
    "quantiles": 8,
    "atoms": 11,
    "vmin": -2.25,
    "vmax": 2.75,
}
"""Small enough for a test. Both actions are always tried, so the value of each is learned. Munchausen's numbers are
such that its values differ from the plain ones by more than the tolerance."""
SHARED = [name for name in preset_tables() if make_config("any", name).agent == "dqn"]


def learned(config: Config) -> np.ndarray:
    """The Q-values, a row a place, at the end of a short training."""
    spaces = Spaces(2, 0, (6,), np.dtype(np.float32))
    variant = building._variant(config, spaces, None)
    agent = building._agent(config, spaces, variant)
    rhythm = Rhythm(config.rows_per_cycle, config.updates_per_cycle, 20)
    size = {"envs": config.num_envs, "capacity_rows": building._capacity_rows(config)}
    cycles = config.steps // config.collect_steps
    loop = device_loop(EVERYTHING.environment, agent, rhythm=rhythm, cycles=cycles, **size)
    state, report = next(loop.run(loop.init()))
    assert report.steps == config.steps
    params = jax.tree.map(lambda leaf: leaf[0], state.agents.params)
    return np.asarray(jax.vmap(variant.network.apply, in_axes=(None, 0))(params, jnp.array(EVERYTHING.observations)))


def soft_values(alpha: float, temperature: float) -> list[list[float]]:
    """What they are with Munchausen, whose bonus is alpha * temperature * log pi(a|s), pi being the soft policy.

    Where the two actions are worth the same, log pi is -log 2 for both, and the next state's soft value is the larger
    by temperature * log 2. In the truncated lesson Q = 1 - alpha * even + 0.5 * (Q + even); a window over both steps
    of the third lesson has the bonus of its first step alone. In the last lessons pi is as good as certain: no bonus
    for the better action, and the floor of -1 for the worse one.
    """
    even, worse = temperature * math.log(2.0), -1.0 - alpha
    once = 1.0 - alpha * even
    return [
        [once] * 2,
        [2.0 + (1.0 - 2.0 * alpha) * even] * 2,
        [DISCOUNT - alpha * even] * 2,
        [once] * 2,
        [1.0, worse],
        [worse, 1.0],
    ]


@pytest.mark.parametrize("preset", SHARED)
def test_every_preset_learns_the_known_values(preset: str) -> None:
    steps = NOISY_STEPS if make_config("any", preset).noisy else STEPS
    config = make_config("any", preset, steps=steps, **QUICK)
    values = EVERYTHING.values
    if config.munchausen:
        values = soft_values(config.munchausen_alpha, config.munchausen_temperature)
    np.testing.assert_allclose(learned(config), values, atol=1e-2)
