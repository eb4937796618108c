"""Small agents and loops for tests, with settings that a test may change one at a time."""

from typing import Any

import jax
import jax.numpy as jnp

from qdojo.agents.dqn import Rule, dqn_loss
from qdojo.agents.explore import Choosing, Exploration
from qdojo.agents.learner import Hyper, Structure, replay_agent
from qdojo.envs.contract import NativeEnvironment
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.resolve import resolve
from qdojo.loops.device import DeviceLoop
from qdojo.loops.host import HostLoop
from qdojo.loops.learning import Rhythm
from qdojo.loops.state import Programs
from qdojo.networks.inputs import Design
from qdojo.networks.mlp import mlp
from qdojo.networks.network import Network
from qdojo.tape.windows import transitions
from qdojo.types import Agent

HYPER = Hyper(
    learning_rate_start=1e-3,
    learning_rate_end=1e-3,
    learning_rate_decay_steps=1.0,
    discount=0.9,
    exploration=Exploration(1.0, 0.1, 200.0),
    target_tau=0.05,
)
STILL = HYPER._replace(learning_rate_start=0.0, learning_rate_end=0.0)
"""Nothing is learned."""
ZERO = Network(init=lambda key: jnp.zeros(2), apply=lambda params, observation: params)
"""Q-values that are the parameters, and begin at 0."""
RHYTHM = Rhythm(rows=2, updates=1, warmup_rows=8)


def small_network(inputs: int, hidden: tuple[int, ...] = (8,)) -> Network:
    return mlp(Design((inputs,), 2, hidden, layer_norm=False))


def small_agent(
    network: Network,
    *,
    double: bool = True,
    error: str = "mse",
    hyper: Hyper = HYPER,
    num_envs: int = 2,
    batch_size: int = 8,
    n_step: int = 1,
) -> Agent:
    structure = Structure(Choosing(2, num_envs=num_envs), batch_size, transitions(n_step), 1, None)
    return replay_agent(network, lambda own: dqn_loss(network, Rule(double, error)), hyper, structure)


def device_loop(environment: NativeEnvironment, agent: Agent, **settings: Any) -> DeviceLoop:
    defaults: dict[str, Any] = {"seed": 0, "members": 1, "envs": 2, "capacity_rows": 64, "cycles": 8}
    rhythm = settings.pop("rhythm", RHYTHM)
    return DeviceLoop(environment, agent, rhythm, **defaults | settings)


def host_loop(env: Any, agent: Agent, **settings: Any) -> HostLoop:
    """A loop on Gymnasium environments with float32 observations."""
    spec = resolve(env)
    defaults: dict[str, Any] = {"seed": 0, "members": 1, "envs": 2, "capacity_rows": 64, "cycles": 8}
    rhythm = settings.pop("rhythm", RHYTHM)
    observation = jax.ShapeDtypeStruct(spec.observation_space.shape, jnp.float32)
    fields = defaults | {"evaluation_envs": 3} | settings
    return HostLoop(
        lambda seeds, envs: HostEnvironment(spec, seeds, fields["envs"] if spec.is_vector else envs),
        observation,
        agent,
        rhythm,
        **fields,
    )


def sharing(programs: Programs, loop: Any) -> Any:
    """The loop with programs that another with the same agent and settings has compiled, or will."""
    loop.programs = programs
    return loop
