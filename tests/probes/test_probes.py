"""The agent learns the known Q-values of the probes, through the device loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes.environments import DISCOUNT, PROBES
from probes.training import HYPER, device_loop, small_agent, small_network

from qdojo.agents.explore import Exploration
from qdojo.loops.learning import Rhythm

STEPS = 4_000
HYPER_OF_PROBES = HYPER._replace(
    learning_rate_start=1e-2,
    learning_rate_end=1e-5,
    learning_rate_decay_steps=float(STEPS),
    discount=DISCOUNT,
    exploration=Exploration(1.0, 1.0, 1.0),
)
CASES = [
    ("constant", False, 1),
    ("observation", False, 1),
    ("two_step", False, 1),
    ("two_step", True, 3),
    ("action", False, 1),
    ("both", True, 3),
    ("terminated", False, 1),
    ("terminated", True, 3),
    ("truncated", False, 1),
    ("truncated", True, 3),
    ("truncated later", True, 1),
    ("truncated later", False, 3),
]


@pytest.mark.parametrize(("name", "double", "n_step"), CASES)
def test_the_known_values_are_learned(name: str, double: bool, n_step: int) -> None:
    probe = PROBES[name]
    network = small_network(1, (16,))
    agent = small_agent(network, double=double, n_step=n_step, hyper=HYPER_OF_PROBES, batch_size=32, num_envs=4)
    loop = device_loop(probe.environment, agent, envs=4, capacity_rows=200, cycles=STEPS // 8, rhythm=Rhythm(2, 1, 20))
    state, report = next(loop.run(loop.init()))
    assert report.steps == STEPS
    params = jax.tree.map(lambda leaf: leaf[0], state.agents.params)
    found = jax.vmap(network.apply, in_axes=(None, 0))(params, jnp.array(probe.observations))
    np.testing.assert_allclose(found, probe.values, atol=1e-3)
