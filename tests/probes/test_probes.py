"""The agent learns the known Q-values of the probes, through the device loop."""

import jax
import numpy as np
import pytest
from probes.environments import DISCOUNT, EVERYTHING, PROBES
from probes.training import HYPER, device_loop, small_agent, small_network

from qdojo.agents.explore import Exploration
from qdojo.loops.learning import Rhythm

STEPS = 5_000
HYPER_OF_PROBES = HYPER._replace(
    learning_rate_start=1e-2,
    learning_rate_end=1e-5,
    learning_rate_decay_steps=float(STEPS),
    discount=DISCOUNT,
    exploration=Exploration(1.0, 1.0, 1.0),
)
LATER = PROBES["truncated later"]
CASES = {
    "all lessons": (EVERYTHING, False, 1),
    "all lessons, double, 3 steps": (EVERYTHING, True, 3),
    "truncated later, 3 steps": (LATER, False, 3),
}


@pytest.mark.parametrize("name", CASES)
def test_the_known_values_are_learned(name: str) -> None:
    probe, double, n_step = CASES[name]
    network = small_network(*probe.environment.observation_shape, (16,))
    agent = small_agent(network, double=double, n_step=n_step, hyper=HYPER_OF_PROBES, batch_size=32, num_envs=4)
    loop = device_loop(probe.environment, agent, envs=4, capacity_rows=200, cycles=STEPS // 8, rhythm=Rhythm(2, 1, 20))
    state, report = next(loop.run(loop.init()))
    assert report.steps == STEPS
    params = jax.tree.map(lambda leaf: leaf[0], state.agents.params)
    found = jax.jit(jax.vmap(network.apply, in_axes=(None, 0)))(params, np.float32(probe.observations))
    np.testing.assert_allclose(found, probe.values, atol=1e-3)
