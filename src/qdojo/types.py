"""The records that modules exchange: records of arrays and records of functions, without behaviour.

Axis legend, used in every annotation:

    time     rows of the tape                member    agents of a population, trained in parallel
    env      copies of the environment that generate data for one member
    batch    examples of one update          actions   discrete actions, or their values
    words    random words (uint32)           branches  parts of a MultiDiscrete action; no axis for a Discrete one
    n        steps of a window

A random word is 32 random bits, and code that needs randomness takes an array of them, named `noise`.

Time in names: an agent saw `obs_tm1` and chose `action_tm1`; `reward_t, discount_t, obs_t` followed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped, UInt32

AnyArray: TypeAlias = Array | np.ndarray
"""An array on the device or on the host."""
Params: TypeAlias = PyTree[Any]
Memory: TypeAlias = PyTree[Any]
"""The recurrent state that an agent carries through an episode; an empty tuple for most agents."""
Words = UInt32[Array, "words"]
Metrics = dict[str, Float[Array, ""]]


class Masked(NamedTuple):
    """An observation with the mask of legal actions. Both may have leading axes."""

    observation: Shaped[AnyArray, "*rows_and_observation"]
    action_mask: Bool[AnyArray, "*rows_and_branches actions"]


Observation: TypeAlias = Shaped[AnyArray, "*observation"] | Masked


class Step(NamedTuple):
    """One row of the tape: an observation, the action and its reward. Leading axes are [time, member, env] on the tape.

    `last` marks a row that starts no transition: the final observation of an episode, or a pause. `memory` is the
    stored part of the agent's memory when it saw the observation.
    """

    observation: Observation
    action: Int[AnyArray, "*rows_and_branches"]
    reward: Float[AnyArray, "*rows"]
    terminated: Bool[AnyArray, "*rows"]
    last: Bool[AnyArray, "*rows"]
    memory: Memory = ()


class Batch(NamedTuple):
    """Transitions read from the tape: `batch` of them, or a single one under `vmap`.

    `discount_t` is gamma**k * (1 - terminated), where k is the number of steps that the window actually covers.
    `weight` is the weight of the example in the mean loss: 0 for rows that start no transition.
    """

    obs_tm1: Observation
    action_tm1: Int[Array, "*batch_and_branches"]
    reward_t: Float[Array, "*batch"]
    discount_t: Float[Array, "*batch"]
    obs_t: Observation
    weight: Float[Array, "*batch"]


class Sequence(NamedTuple):
    """Successive rows of one env, oldest first, from which a recurrent network learns. There are `time` rows, and
    `learned` consecutive ones of them, after the burn-in, are the starting rows of transitions.

    `reward_t` and `discount_t` are as in `Batch`, one per transition; its next observation is that of row `after_t`.
    """

    obs_tm1: Observation
    """Observations of all rows, [time, ...]."""
    last: Bool[Array, "*batch time"]
    """Rows after which an episode starts, so that the memory is reset."""
    memory: Memory
    """The stored memory of the agent at the first row."""
    action_tm1: Int[Array, "*batch_learned_and_branches"]
    reward_t: Float[Array, "*batch learned"]
    discount_t: Float[Array, "*batch learned"]
    after_t: Int[Array, "*batch learned"]
    starts: Bool[Array, "*batch learned"]
    """False for rows that start no transition."""
    weight: Float[Array, "*batch"]


class Clock(NamedTuple):
    """The progress of a run. All members share it and it is never batched, so that conditions on it stay branches."""

    rows: Int[Array, ""]
    """Rows written to the tape since the start of the run."""
    updates: Int[Array, ""]
    """Calls of `Agent.update` so far, for each member."""


def _as_it_is(x: Any) -> Any:
    return x


class Actor(NamedTuple):
    """How parameters play an episode: they give Q-values for one observation at a time and carry a memory."""

    values: Callable[[Params, Observation, Memory], tuple[Float[Array, "*branches actions"], Memory]]
    """(params, observation, memory) -> Q-values, memory; used in evaluations."""
    exploring: Callable[[Params, Observation, Memory, Words], tuple[Float[Array, "*branches actions"], Memory]]
    """(params, observation, memory, noise) -> Q-values, memory; `values` with the actor's own exploration, if any."""
    memory: Callable[[], Memory] = tuple
    """() -> the memory at the start of an episode."""
    words: int = 0
    """Random words that one call of `exploring` consumes."""
    worth: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]] = _as_it_is
    """Q-values -> the returns that they represent, in the same order. The two differ if values are rescaled."""
    stored: Callable[[Memory], Memory] = _as_it_is
    """memory -> the part of it that a row of the tape keeps, for learning. It selects arrays without changing them, and
    accepts any leading axes."""


class Diagnosis(NamedTuple):
    """Diagnostics of an agent as it is now, which change nothing. `docs/metrics.md` explains each."""

    examine: Callable[[Any, Any, Words, Clock], dict[str, Array]]
    """(state, tape, noise, clock) -> the numbers of a member from which `told` computes, by name; compiled."""
    words: int
    """Random words that `examine` consumes."""
    told: Callable[[dict[str, Shaped[np.ndarray, "..."]]], dict[str, float]]
    """numbers of a member -> its diagnostics, without those that the numbers do not suffice for; in NumPy."""


class Agent(NamedTuple):
    """Pure functions for one member and one example; the caller `vmap`s them. A state has its parameters in `params`.

    The functions get the whole tape and read the rows of `tape.member`: a gather from the shared array has the same
    cost at any capacity, while a `vmap` over an axis of the tape may copy it.
    """

    init: Callable[..., Any]
    """(key, numbers) -> state of a new member. `numbers` are the numeric settings in its state; if omitted or None, the
    member has the same as all others."""
    act: Callable[[Any, Observation, Memory, Words, Clock, Int[Array, ""]], tuple[Int[Array, "*branches"], Memory]]
    """(state, observation, memory, noise, clock, env) -> exploratory action, memory; `env` is the index of the copy."""
    values: Callable[[Params, Observation, Memory], tuple[Float[Array, "*branches actions"], Memory]]
    """(params, observation, memory) -> Q-values, memory; an evaluation takes the best action."""
    update: Callable[[Any, Any, Words, Clock], tuple[Any, Metrics]]
    """(state, tape, noise, clock) -> state after one update, metrics."""
    exploration: Callable[[Any, Clock], Float[Array, ""]]
    """(state, clock) -> the probability of a random action."""
    memory: Callable[[], Memory]
    """() -> the memory at the start of an episode."""
    act_words: int
    update_words: int
    worth: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]] = _as_it_is
    """See `Actor.worth`."""
    stored: Callable[[Memory], Memory] = _as_it_is
    """See `Actor.stored`."""
    diagnosis: Diagnosis | None = None


class Episode(NamedTuple):
    """One finished training episode."""

    member: int
    episode: int
    """Number of the episode, counted from 1 for each member."""
    steps: int
    """Position of the schedules, in env steps, when the episode ended."""
    score: float
    """Undiscounted, unclipped sum of rewards."""
    length: int
    """Env steps in the episode."""


class Report(NamedTuple):
    """What a loop yields after each chunk. `steps` is rows times envs; `env_steps` counts only actual steps."""

    steps: int
    updates: int
    env_steps: Int[np.ndarray, "member"]
    episodes: list[Episode]
    metrics: dict[str, Float[np.ndarray, "member"]]
    seconds: float
