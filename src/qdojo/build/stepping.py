"""From a config and an environment's description to what steps it: in training, and in evaluations alone."""

import dataclasses
import functools
from collections.abc import Callable

from qdojo.config import Config
from qdojo.envs.contract import NativeEnvironment
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.native import native
from qdojo.envs.resolve import EnvSpec, resolve
from qdojo.envs.spaces import Spaces
from qdojo.errors import UsageError
from qdojo.loops.device_evaluation import DeviceEvaluator
from qdojo.loops.evaluation import Plays
from qdojo.loops.host_evaluation import HostEvaluator
from qdojo.loops.state import member_seeds

EVALUATION_ENVS = 10
"""Copies that play a member's evaluation episodes, on the host loop."""


def device_environment(config: Config, spec: EnvSpec) -> NativeEnvironment | None:
    """The environment that the device loop steps; None where the host loop does. Raises UsageError where a device loop
    is asked for that there is none for."""
    environment = native(spec.native_id) if spec.native_id is not None else spec.native
    if environment is None and spec.is_native:
        try:
            environment = resolve(spec.name).native
        except UsageError as error:
            raise UsageError(f"{str(error).removesuffix('.')} (it was given in Python); pass it as env=.") from error
    if config.loop == "device" and environment is None:
        raise UsageError(f"loop is 'device', but {spec.name} has no JAX version; use loop='host'.")
    return None if config.loop == "host" else environment


def vector_opener(config: Config, spec: EnvSpec, spaces: Spaces) -> Callable[[list[int], int], HostEnvironment]:
    """`open_vector(member_seeds, envs)` of the host loop."""
    training_seeds = member_seeds(config.seed, config.members, config.distinct_seeds)
    with_window = dataclasses.replace(spec, make=functools.partial(spec.make, render_mode="human"))

    def open_vector(member_seeds: list[int], envs: int) -> HostEnvironment:
        # Evaluation plays from seeds of its own, and is not shown.
        shown = config.render == "human" and member_seeds == training_seeds
        chosen = with_window if shown else spec
        return HostEnvironment(chosen, member_seeds, envs, config.vectorization, spaces=spaces)

    return open_vector


def evaluation_envs(config: Config, spec: EnvSpec) -> int:
    """Copies that play a member's evaluation episodes, on the host loop."""
    # A ready-made vector has the size it has, and processes are dear: only copies in this process are free to be many.
    free = config.vectorization == "sync" and not spec.is_vector
    return EVALUATION_ENVS if free else config.num_envs


def build_evaluator(config: Config, spec: EnvSpec, spaces: Spaces, player: Plays) -> DeviceEvaluator | HostEvaluator:
    """What plays greedy episodes of all members, as the run's own evaluations do. It needs nothing of training."""
    environment = device_environment(config, spec)
    if environment is not None:
        return DeviceEvaluator(environment, player, config.seed, config.members, distinct_seeds=config.distinct_seeds)
    return HostEvaluator(
        vector_opener(config, spec, spaces),
        player,
        config.seed,
        config.members,
        evaluation_envs(config, spec),
        spaces.action_shape,
        distinct_seeds=config.distinct_seeds,
    )
