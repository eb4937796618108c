"""The numeric settings in which members of a population may differ, and how each member's state stores them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qdojo.agents.explore import Exploration
from qdojo.agents.learner import Hyper
from qdojo.agents.pqn import PqnHyper
from qdojo.config import Config, stored_config
from qdojo.config.compatibility import unread, unread_message
from qdojo.errors import UsageError

ALWAYS = (
    "learning_rate",
    "learning_rate_end",
    "learning_rate_decay_steps",
    "discount",
    "epsilon_start",
    "epsilon_end",
    "epsilon_decay_steps",
    "epsilon_ladder",
    "temperature_start",
    "temperature_end",
    "target_tau",
    "priority_alpha",
    "priority_beta",
    "priority_beta_steps",
    "trace_decay",
)
"""Settings that the state of `dqn` and `pqn` agents holds in every run."""
WHERE_GIVEN = (
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "munchausen_alpha",
    "munchausen_temperature",
    "munchausen_floor",
    "conservative",
)
"""Settings that the state holds only if members differ in them; otherwise they are compiled in as constants."""
TUTORIAL = ("learning_rate", "discount", "epsilon_start", "epsilon_end", "epsilon_decay_factor")
"""The same for the `tutorial` agent: held only if members differ in them."""


def replay_numbers(config: Config, own: Sequence[str] = ()) -> Hyper:
    """The numbers in the state of a replay agent; `own` lists the settings of `WHERE_GIVEN` in which members differ."""
    return Hyper(
        learning_rate_start=config.learning_rate,
        learning_rate_end=_learning_rate_end(config),
        learning_rate_decay_steps=config.learning_rate_decay_steps or config.steps,
        discount=config.discount,
        exploration=_exploration(config),
        target_tau=config.target_tau,
        priority_alpha=config.priority_alpha,
        priority_beta=config.priority_beta,
        priority_beta_steps=config.priority_beta_steps or config.steps,
        own={name: getattr(config, name) for name in own},
    )


def pqn_numbers(config: Config, own: Sequence[str] = ()) -> PqnHyper:
    """The numbers in the state of a PQN agent; `own` as in `replay_numbers`."""
    return PqnHyper(
        learning_rate_start=config.learning_rate,
        learning_rate_end=_learning_rate_end(config),
        learning_rate_decay_steps=config.learning_rate_decay_steps or config.steps,
        discount=config.discount,
        lambda_=config.trace_decay,
        exploration=_exploration(config),
        own={name: getattr(config, name) for name in own},
    )


def member_numbers(config: Config, given: Sequence[Mapping[str, float]]) -> Any:
    """The numbers in the states of all members, each of shape `[member]`, if members have different settings.

    `given` has one mapping per member from names of settings to numbers; missing settings come from the config.

    Raises UsageError if the number of mappings is not the number of members, if members cannot differ in a setting, if
    a value is out of range, or if nothing reads it.
    """
    if len(given) != config.members:
        raise UsageError(
            f"hyper has numbers for {len(given)} members, but there are {config.members}; give one mapping per member."
        )
    names = sorted({name for one in given for name in one})
    possible = TUTORIAL if config.agent == "tutorial" else (*ALWAYS, *WHERE_GIVEN)
    idle = unread(config)
    for name in names:
        if name in idle:
            raise UsageError(f"{unread_message(config, name, idle[name])}.")
        if name not in possible:
            raise UsageError(f"Members cannot differ in {name}; they may differ in {', '.join(possible)}.")
    configs = [stored_config(config.model_dump() | dict(one)) for one in given]
    if config.agent == "tutorial":
        each: list[Any] = [{name: getattr(own, name) for name in names} for own in configs]
    else:
        numbers = pqn_numbers if config.agent == "pqn" else replay_numbers
        each = [numbers(own, [name for name in names if name in WHERE_GIVEN]) for own in configs]
    return jax.tree.map(lambda *of_members: jnp.asarray(np.array(of_members, np.float32)), *each)


def _learning_rate_end(config: Config) -> float:
    end = config.learning_rate_end
    return config.learning_rate if end is None else min(end, config.learning_rate)


def _exploration(config: Config) -> Exploration:
    """The exploration schedule. With loaded weights it stays at its final value from the start."""
    fresh = config.weights is None
    return Exploration(
        epsilon_start=config.epsilon_start if fresh else config.epsilon_end,
        epsilon_end=config.epsilon_end,
        decay_steps=config.epsilon_decay_steps,
        ladder=config.epsilon_ladder,
        temperature_start=config.temperature_start if fresh else config.temperature_end,
        temperature_end=config.temperature_end,
    )
