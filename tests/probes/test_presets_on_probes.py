"""The presets' agents, built as `build` does it, learn the Q-values of the probes that are known by hand."""

import math
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from probes.environments import DISCOUNT, EVERYTHING
from probes.training import device_loop
from scipy.optimize import brentq

from qdojo.bellman.targets import rescaled
from qdojo.build.memory import capacity_rows
from qdojo.build.player import build_player
from qdojo.build.training import build_agent, build_window
from qdojo.config import Config, make_config, preset_tables
from qdojo.envs.spaces import check_spaces
from qdojo.loops.learning import Rhythm

QUICK: dict[str, Any] = {
    "steps": 12_000,
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
}
MUNCHAUSEN = {"munchausen_alpha": 0.25, "munchausen_temperature": 0.2}
ATOMS = {"atoms": 11, "vmin": -2.25, "vmax": 2.75}
OF_PRESET: dict[str, dict[str, Any]] = {
    "munchausen": MUNCHAUSEN,
    "qrdqn": {"quantiles": 8},
    # What is learned under noise takes longer: the noise has to shrink first.
    "rainbow": {"steps": 20_000, **ATOMS},
    # Drawn fractions are noise in the target, which more steps average out.
    "btr": {"iqn_acting_fractions": 8, "steps": 36_000, **MUNCHAUSEN},
    # Of quantiles the values are known by no formula; of the mean they are, where the data have both actions alike.
    "cql": {"distribution": None, "error": "mse", "conservative": 0.1, "capacity_steps": 20_000, "steps": 20_000},
    "r2d2": {"batch_size": 16, "sequence_steps": 4, "burn_in_steps": 2},
}
"""Small enough for a test. Both actions are always tried, so the value of each is learned. Munchausen's numbers are
such that its values differ from the plain ones by more than the tolerance."""
COMBINED: dict[str, tuple[str, dict[str, Any]]] = {
    "a memory of atoms": ("drqn", {"batch_size": 16, "sequence_steps": 4, "distribution": "c51", **ATOMS}),
    "heads of fractions": ("fqf", {"quantiles": 8, "heads": 2, "prior_scale": 0.5}),
}
# The agents of these learn as parts of others: DQN, Double DQN and n-step returns in `test_probes.py`,
PARTS = {"dqn", "double", "nstep"}
# and those of the second line in Rainbow, in BTR and in the combinations above.
PARTS |= {"dueling", "prioritized", "noisy", "c51", "iqn", "fqf", "bootdqn", "drqn"}
WHOLE = [name for name in preset_tables() if name not in PARTS and make_config("any", name).agent == "dqn"]


def learned(config: Config) -> np.ndarray:
    """The Q-values, a row a place, at the end of a short training."""
    plain = SimpleNamespace(action_space=Discrete(2), observation_space=Box(0.0, 1.0, (6,)))
    spaces = check_spaces(plain, "all lessons")
    player = build_player(config, spaces, None)
    agent = build_agent(config, spaces, player)
    rhythm = Rhythm(config.rows_per_cycle, config.updates_per_cycle, max(20, build_window(config).rows))
    size = {"envs": config.num_envs, "capacity_rows": capacity_rows(config)}
    cycles = config.steps // config.collect_steps
    loop = device_loop(EVERYTHING.environment, agent, rhythm=rhythm, cycles=cycles, **size)
    state, report = next(loop.run(loop.init()))
    assert report.steps == config.steps
    params = jax.tree.map(lambda leaf: leaf[0], state.agents.params)
    places, values = np.float32(EVERYTHING.observations), jax.jit(agent.values)
    found = [values(params, place, agent.memory()) for place in places]
    # Place 3 is reached from place 2 alone, and an agent with a memory knows it so.
    found[3] = values(params, places[3], found[2][1])
    return np.stack([q for q, _ in found])


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


def conservative_values(alpha: float) -> list[list[float]]:
    """What they are with CQL, whose term vanishes where both actions are worth the same.

    In the last lessons both are tried equally often, so (Q - y) + alpha (softmax(Q) - 1/2) = 0 for each, and their
    difference d is 2 - alpha tanh(d / 2).
    """
    d = brentq(lambda d: d - 2.0 + alpha * math.tanh(d / 2.0), 0.0, 2.0)
    return [*EVERYTHING.values[:4], [d / 2, -d / 2], [-d / 2, d / 2]]


CASES = {name: (name, OF_PRESET.get(name, {})) for name in WHOLE} | COMBINED


@pytest.mark.parametrize("name", CASES)
def test_a_preset_learns_the_known_values(name: str) -> None:
    preset, own = CASES[name]
    config = make_config("any", preset, **QUICK | own)
    values = EVERYTHING.values
    if config.conservative:
        values = conservative_values(config.conservative)
    if config.value_rescaling:
        values = np.asarray(rescaled(jnp.array(values)))
    if config.munchausen:
        values = soft_values(config.munchausen_alpha, config.munchausen_temperature)
    found = learned(config)
    # Where an episode is truncated, one with a memory has no second look at the place to learn the value of.
    known = [0, 2, 3, 4, 5] if config.recurrent else slice(None)
    np.testing.assert_allclose(found[known], np.array(values)[known], atol=1e-2)
