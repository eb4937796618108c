"""Builds what steps an environment, in training and in separate evaluations, from a config and an environment spec."""

import dataclasses
import functools
from collections.abc import Callable

from qdojo.config import Config
from qdojo.envs.contract import NativeEnvironment
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.native import native
from qdojo.envs.resolve import EnvSpec, asked_for, resolve
from qdojo.envs.spaces import Spaces
from qdojo.envs.straying import StrayingVector
from qdojo.errors import UsageError
from qdojo.loops.device_evaluation import DeviceEvaluator
from qdojo.loops.evaluation import Plays
from qdojo.loops.host_evaluation import HostEvaluator, Vector
from qdojo.loops.sharding import Shards
from qdojo.loops.state import member_seeds

EVALUATION_ENVS = 10
"""Most copies of the environment that play one member's evaluation episodes on the host loop."""


def device_environment(config: Config, spec: EnvSpec) -> NativeEnvironment | None:
    """The environment that the device loop steps; None if the host loop is used. Raises UsageError if the settings ask
    for the device loop but the environment has no JAX version."""
    environment = native(spec.native_id) if spec.native_id is not None else spec.native
    if environment is None and spec.is_native:
        try:
            environment = resolve(spec.name).native
        except UsageError as error:
            raise asked_for(spec.name, error) from error
    if config.loop == "device" and environment is None:
        raise UsageError(f"loop is 'device', but {spec.name} has no JAX version; use loop='host'.")
    return None if config.loop == "host" else environment


def vector_opener(config: Config, spec: EnvSpec, spaces: Spaces) -> Callable[[list[int], int], Vector]:
    """`open_vector(member_seeds, envs)` of the host loop. A user's vector environment has its own number of copies."""
    training_seeds = member_seeds(config.seed, config.members, config.distinct_seeds)
    epsilon = config.eval_epsilon
    with_window = dataclasses.replace(spec, make=functools.partial(spec.make, render_mode="human"))

    def open_vector(member_seeds: list[int], envs: int) -> HostEnvironment | StrayingVector:
        # Evaluations use other seeds and are not displayed.
        in_training = member_seeds == training_seeds
        chosen = with_window if config.render == "human" and in_training else spec
        copies = config.num_envs if spec.is_vector else envs  # a user's vector has a fixed size
        vector = HostEnvironment(chosen, member_seeds, copies, config.vectorization, spaces=spaces)
        strays = epsilon > 0.0 and not in_training
        return StrayingVector(vector, epsilon, member_seeds) if strays else vector

    return open_vector


def evaluation_envs(config: Config, spec: EnvSpec) -> int:
    """Most copies of the environment that play one member's evaluation episodes on the host loop."""
    # Processes are expensive, so only copies in this process may be more than those of training.
    free = config.vectorization == "sync" and not spec.is_vector
    return EVALUATION_ENVS if free else config.num_envs


def build_evaluator(config: Config, spec: EnvSpec, spaces: Spaces, player: Plays) -> DeviceEvaluator | HostEvaluator:
    """An evaluator that plays greedy episodes of all members, as the run's evaluations do, without training parts."""
    environment = device_environment(config, spec)
    if environment is not None:
        whole = Shards(config.members)
        return DeviceEvaluator(environment, player, config.seed, whole, distinct_seeds=config.distinct_seeds)
    return HostEvaluator(
        vector_opener(config, spec, spaces),
        player,
        config.seed,
        config.members,
        evaluation_envs(config, spec),
        spaces.action_shape,
        distinct_seeds=config.distinct_seeds,
    )
