"""What the parts say to each other. Not for behaviour: only records of arrays, and of functions.

Axis legend, used in every annotation:

    time     rows of the tape                member    agents of a population, trained side by side
    env      copies of the environment that feed one member
    batch    examples of one update          actions   discrete actions, or their values
    words    uint32 words of randomness      branches  parts of a MultiDiscrete action; no axis for a Discrete one
    n        steps of a window

Time in names: `obs_tm1, action_tm1` were seen and done; `reward_t, discount_t, obs_t` came of it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped, UInt32

AnyArray: TypeAlias = Array | np.ndarray
"""On the device, or on the host."""
Params: TypeAlias = PyTree[Any]
Memory: TypeAlias = PyTree[Any]
"""What an agent carries through an episode; an empty tuple for most."""
Words = UInt32[Array, "words"]
Metrics = dict[str, Float[Array, ""]]


class Masked(NamedTuple):
    """An observation, and which actions are legal where it is seen. Leading axes are free."""

    observation: Shaped[AnyArray, "*rows_and_observation"]
    action_mask: Bool[AnyArray, "*rows_and_branches actions"]


Observation: TypeAlias = Shaped[AnyArray, "*observation"] | Masked


class Step(NamedTuple):
    """One row of the tape: what was seen, done and paid. Leading axes are free: [time, member, env] on the tape.

    `last` marks a row that starts no transition: the final observation of an episode, or a pause. `memory` is what is
    stored of all that the agent carried when it saw the observation.
    """

    observation: Observation
    action: Int[AnyArray, "*rows_and_branches"]
    reward: Float[AnyArray, "*rows"]
    terminated: Bool[AnyArray, "*rows"]
    last: Bool[AnyArray, "*rows"]
    memory: Memory = ()


class Batch(NamedTuple):
    """Transitions read from the tape, `batch` of them, or one where the axis is `vmap`ped away.

    `discount_t` is gamma**k * (1 - terminated), k being the steps that the window really covers. `weight` is what
    the example counts in the mean: 0 for rows that start no transition.
    """

    obs_tm1: Observation
    action_tm1: Int[Array, "*batch_and_branches"]
    reward_t: Float[Array, "*batch"]
    discount_t: Float[Array, "*batch"]
    obs_t: Observation
    weight: Float[Array, "*batch"]


class Sequence(NamedTuple):
    """Successive rows of one env, oldest first, and the transitions that start at some of them: what a network with a
    memory learns from. `time` rows, of which those from the first of `learned` on start a transition each.

    `reward_t` and `discount_t` are as in `Batch`, one a transition; the value that follows is that of row `after_t`.
    """

    obs_tm1: Observation
    """[time, ...], of all rows."""
    last: Bool[Array, "*batch time"]
    """Rows after which an episode starts, and with it the memory."""
    memory: Memory
    """What the agent carried when it saw the first row."""
    action_tm1: Int[Array, "*batch_learned_and_branches"]
    reward_t: Float[Array, "*batch learned"]
    discount_t: Float[Array, "*batch learned"]
    after_t: Int[Array, "*batch learned"]
    starts: Bool[Array, "*batch learned"]
    """False for rows that start no transition."""
    weight: Float[Array, "*batch"]


class Clock(NamedTuple):
    """How far a run is. Shared by all members and never batched, so that predicates on it stay real branches."""

    rows: Int[Array, ""]
    """Rows written to the tape since the start."""
    updates: Int[Array, ""]
    """Gradient steps taken by each member."""


def _as_it_is(x: Any) -> Any:
    return x


class Actor(NamedTuple):
    """How parameters play an episode: Q-values for one observation after the other, and what is kept between them."""

    values: Callable[[Params, Observation, Memory], tuple[Float[Array, "*branches actions"], Memory]]
    """(params, observation, memory) -> Q-values, memory; what is evaluated."""
    exploring: Callable[[Params, Observation, Memory, Words], tuple[Float[Array, "*branches actions"], Memory]]
    """The same with the agent's own way to explore in them, where it has one: noise, or a head that acts."""
    memory: Callable[[], Memory] = tuple
    """As it is when an episode starts."""
    words: int = 0
    """uint32 words that one `exploring` consumes."""
    worth: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]] = _as_it_is
    """Q-values -> the returns that they stand for, in the same order. The two differ where values are rescaled."""
    stored: Callable[[Memory], Memory] = _as_it_is
    """memory -> the part of it that the row of the tape keeps, for learning. It picks arrays and changes none: any
    leading axes are allowed."""


class Agent(NamedTuple):
    """Pure functions for one member and one example; the caller `vmap`s them. A state has its parameters in `params`.

    The tape arrives whole, with `tape.member` saying which member reads: a gather from the shared array costs the
    same at any capacity, a `vmap` over a tape axis may copy it.
    """

    init: Callable[..., Any]
    """(key, numbers) -> state of a new member. `numbers` are what its state holds of the settings, where the member has
    numbers of its own; left out, or None, they are those of all."""
    act: Callable[[Any, Observation, Memory, Words, Clock, Int[Array, ""]], tuple[Int[Array, "*branches"], Memory]]
    """(state, observation, memory, noise, clock, env) -> exploring action, memory; `env` counts a member's copies."""
    values: Callable[[Params, Observation, Memory], tuple[Float[Array, "*branches actions"], Memory]]
    """(params, observation, memory) -> Q-values, memory; an evaluation takes the best action."""
    update: Callable[[Any, Any, Words, Clock], tuple[Any, Metrics]]
    """(state, tape, noise, clock) -> state after one learning step, metrics."""
    exploration: Callable[[Any, Clock], Float[Array, ""]]
    """(state, clock) -> the probability of a random action."""
    memory: Callable[[], Memory]
    """As it is when an episode starts."""
    act_words: int
    update_words: int
    worth: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]] = _as_it_is
    """As that of an `Actor`."""
    stored: Callable[[Memory], Memory] = _as_it_is
    """As that of an `Actor`."""


class Episode(NamedTuple):
    """One finished training episode."""

    member: int
    episode: int
    """Counted from 1 for each member."""
    steps: int
    """The schedule's position, in env steps, when it ended."""
    score: float
    """Undiscounted, unclipped sum of rewards."""
    length: int
    """Env steps survived."""


class Report(NamedTuple):
    """What a loop yields after each chunk. `steps` counts rows times envs, `env_steps` only true steps."""

    steps: int
    updates: int
    env_steps: Int[np.ndarray, "member"]
    episodes: list[Episode]
    metrics: dict[str, Float[np.ndarray, "member"]]
    seconds: float
