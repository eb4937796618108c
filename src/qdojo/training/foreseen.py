"""Warnings that a user should read before a run begins. Errors are raised where the settings are read."""

from typing import Any

from qdojo.build.memory import told_of_place, told_of_size
from qdojo.build.training import Parts
from qdojo.config import Config
from qdojo.envs.native.minatar import MINATAR
from qdojo.loops.host import HostLoop


def foreseen(config: Config, parts: Parts) -> list[str]:
    """Warnings for the user before a run begins."""
    told = [] if parts.told is None else [parts.told]
    if config.dataset is None and config.warmup_steps >= config.steps:
        told.append(f"nothing will be learned: steps={config.steps} ends before warmup_steps={config.warmup_steps}.")
    every = config.eval_every_steps
    if every is not None and every < config.collect_steps:
        told.append(
            f"evaluations happen every {config.collect_steps:,} steps, not every {every:,}, because agents change once "
            "per collect_steps."
        )
    # A user's vector environment does not reveal the limits of its copies.
    # The games of MinAtar have none by design, and so have JAX environments that say so.
    without = parts.spec.is_native or parts.spec.name in MINATAR
    if parts.spec.max_episode_steps is None and not parts.spec.is_vector and not without:
        told.append(
            f"{parts.spec.name} declares no time limit, so evaluation episodes that the agent does not end are cut "
            "(eval_episode_steps); it is better to wrap it in gymnasium.wrappers.TimeLimit, or to register it with "
            "max_episode_steps."
        )
    if size := told_of_size(parts.agent, parts.spaces.observation_shape):
        told.append(size)
    if isinstance(parts.loop, HostLoop) and parts.loop.tape_on_host:
        told.append(told_of_place(config))
    return told


def told_of_shards(config: Config, meta: dict[str, Any]) -> str | None:
    """A notice if other shards than before a checkpoint share the members, else None."""
    then, now = meta["config"].get("shards") or 1, config.shards or 1
    if then == now:
        return None
    return f"shards was {then}, is {now}: members round differently, so the run continues, but no longer bit for bit."
