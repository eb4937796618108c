"""Diagnostics of an agent that learns: its errors on one more batch, and its Q-values at states that it was in.

They are computed only at reports, from random words of their own, and change nothing. Compiled code gathers numbers and
NumPy computes the diagnostics from them, because each further compiled operation would delay the start of a run. A
diagnostic that the numbers do not suffice for is left out. `docs/metrics.md` explains each of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped

from qdojo.networks.inputs import ILLEGAL
from qdojo.networks.network import Network
from qdojo.noise import integer
from qdojo.tape import windows
from qdojo.tape.ring import Tape, endings, newest, take
from qdojo.types import Clock, Diagnosis, Words

QUANTILES = ("td_error_p10", "td_error_median", "td_error_p90")
SHARES = np.array([0.1, 0.5, 0.9])
RECENT_ROWS = 1_024
"""Those states are drawn from this many rows of the tape."""
RETURNS = 16
"""States per diagnosis for which the return that followed is computed."""
UNKNOWN_SHARE = 0.05
"""A return counts as known if the future that was not seen has at most this discount."""

Numbers = dict[str, Shaped[np.ndarray, "..."]]
"""The numbers of one member by name, on the host."""
Found = dict[str, float]


def replay_diagnosis(
    draw: Callable[..., Any], gradient_of: Callable[..., Any], loss: Callable[[Any], Any], batch_size: int, words: int
) -> Diagnosis:
    """Diagnostics of a replay agent on a batch drawn as for an update, which takes `words` random words.

    `draw` and `gradient_of` are those of the update, and `loss` is its loss with the absolute TD error as its priority.
    """

    def examine(state: Any, tape: Tape, noise: Words, clock: Clock) -> dict[str, Array]:
        _, drawn, _, batch = draw(state, tape, noise[:batch_size], clock)
        gradient, (errors, _) = gradient_of(state, batch, noise[batch_size:], loss(state.hyper.own).of)
        age = drawn.age * tape.num_envs
        return {"gradient_norm": optax.tree.norm(gradient), "errors": errors, "weight": batch.weight, "age": age}

    return Diagnosis(examine, words, of_batch)


def of_batch(numbers: Numbers) -> Found:
    """The norm of the gradient, and of the examples that have a weight quantiles of the absolute TD errors and, if they
    were replayed, the mean age in env steps."""
    real = numbers["weight"] > 0.0
    found = {"gradient_norm": float(numbers["gradient_norm"])}
    if not real.any():
        return found
    errors = np.sort(np.abs(numbers["errors"][real]))
    # `np.quantile`, whose own checks take ten times as long.
    quantiles = np.interp(SHARES * (len(errors) - 1), np.arange(len(errors)), errors)
    found |= zip(QUANTILES, quantiles.tolist(), strict=True)
    return found | ({"replay_age": float(np.mean(numbers["age"][real]))} if "age" in numbers else {})


class Looks(NamedTuple):
    """How the states of a tape are looked at."""

    network: Network
    """Returns Q-values."""
    worth: Callable[[Array], Array]
    """See `Actor.worth`."""
    discount_of: Callable[[Any], Any]
    """(state) -> the discount of a member."""
    frames: int
    """Observations that are stacked into one."""
    horizon: int
    """Env steps after which a reward has at most the discount `UNKNOWN_SHARE`; 0 if returns are not computed."""
    actions: Bool[np.ndarray, "branches actions"] | None
    """Which actions each branch has, for the share of each; None if the shares are not computed."""
    states: int
    """States at which Q-values are computed, at least `RETURNS`."""
    whole: bool
    """Whether states come from the whole tape instead of its recent rows."""


def value_diagnosis(looks: Looks) -> Diagnosis:
    """Diagnostics of the Q-values at some states of the tape.

    All states are at least `horizon` steps old if the tape is that long, so that those whose return is known are not
    mostly the last ones of their episodes.
    """

    def examine(state: Any, tape: Tape, noise: Words, clock: Clock) -> dict[str, Array]:
        oldest = jnp.maximum(tape.size - looks.frames, 0)
        youngest = jnp.minimum(looks.horizon, oldest)
        rows = oldest - youngest + 1
        flat = integer(noise, (rows if looks.whole else jnp.minimum(rows, RECENT_ROWS)) * tape.num_envs)
        age, env = youngest + flat // tape.num_envs, flat % tape.num_envs
        steps = take(tape, newest(tape, age), env)
        observation = jax.vmap(windows.seen, in_axes=(None, 0, 0, None))(tape, age, env, looks.frames)
        network, params = looks.network, state.params

        def q_values(observation: Any, memory: Any) -> Array:
            return looks.worth(network.apply(params, network.features(params, observation, memory)[0]))

        q = jax.vmap(q_values)(observation, steps.memory)
        found = {"q": q, "action": jnp.asarray(steps.action), "last": jnp.asarray(steps.last)}
        if network.hidden is not None:
            layers = jax.vmap(network.hidden, in_axes=(None, 0))(params, observation)
            found |= {f"hidden {i}": layer > 0.0 for i, layer in enumerate(layers)}
        if looks.horizon:
            ages = age[:RETURNS, None] - jnp.arange(looks.horizon)
            row = newest(tape, jnp.maximum(ages, 0))
            reward, terminated, last = endings(tape, row, jnp.broadcast_to(env[:RETURNS, None], row.shape))
            found |= {"reward": reward, "ends": terminated + 2 * last, "written": ages >= 0}
            found |= {"discount": jnp.asarray(looks.discount_of(state)), "enough": tape.size > looks.horizon}
        return found

    def told(numbers: Numbers) -> Found:
        real = ~numbers["last"]
        q = numbers["q"].reshape(looks.states, -1, numbers["q"].shape[-1])
        action = numbers["action"].reshape(looks.states, -1)
        found = action_gap(q, real) | dead_units([x for name, x in numbers.items() if name.startswith("hidden ")], real)
        if looks.actions is not None:
            found |= action_shares(action, real, looks.actions)
        if looks.horizon and numbers["enough"]:
            taken = np.take_along_axis(q[:RETURNS], action[:RETURNS, :, None], axis=-1).mean(axis=(1, 2))
            followed, known = returns(
                numbers["reward"], numbers["ends"], numbers["written"], float(numbers["discount"])
            )
            known &= real[:RETURNS]
            found |= {"q_bias": float(np.mean(taken[known] - followed[known]))} if known.any() else {}
        return found

    return Diagnosis(examine, looks.states, told)


def both(first: Diagnosis, second: Diagnosis, absent: frozenset[str]) -> Diagnosis:
    """The diagnostics of both, without those named in `absent`."""

    def examine(state: Any, tape: Tape, noise: Words, clock: Clock) -> dict[str, Array]:
        found = first.examine(state, tape, noise[: first.words], clock)
        return found | second.examine(state, tape, noise[first.words :], clock)

    def told(numbers: Numbers) -> Found:
        found = first.told(numbers) | second.told(numbers)
        return {name: value for name, value in found.items() if name not in absent}

    return Diagnosis(examine, first.words + second.words, told)


def action_gap(q: Float[np.ndarray, "states branches actions"], real: Bool[np.ndarray, "states"]) -> Found:
    """The mean difference between the largest and the second largest Q-value of each branch, over real states where
    more than one action is legal. Bellemare et al. (2016), section 3, call it the action gap."""
    if q.shape[-1] == 1:
        return {}
    ordered = np.sort(q[real], axis=-1)
    second = ordered[..., -2]
    # The Q-value of an illegal action is far below any learned one.
    gaps = (ordered[..., -1] - second)[second > 0.5 * ILLEGAL]
    return {"action_gap": float(gaps.mean())} if gaps.size else {}


def dead_units(active: list[Bool[np.ndarray, "states ..."]], real: Bool[np.ndarray, "states"]) -> Found:
    """The fraction of hidden units that are 0 after ReLU in all real states. Sokar et al. (2023), definition 3.1, with
    a threshold of 0."""
    if not active or not real.any():
        return {}
    ever = np.concatenate([layer[real].any(axis=0).ravel() for layer in active])
    return {"dead_units": float(1.0 - ever.mean())}


def action_shares(
    action: Int[np.ndarray, "states branches"],
    real: Bool[np.ndarray, "states"],
    actions: Bool[np.ndarray, "branches actions"],
) -> Found:
    """The fraction of real states in which each action was taken: `action_share_<action>`, and for more than one branch
    `action_share_<branch>_<action>`. `actions` says which exist."""
    found: Found = {}
    taken = action[real]
    for branch, there in enumerate(actions if len(taken) else ()):
        prefix = "action_share_" if len(actions) == 1 else f"action_share_{branch}_"
        shares = np.bincount(taken[:, branch], minlength=len(there)) / len(taken)
        found |= {f"{prefix}{number}": float(shares[number]) for number in there.nonzero()[0]}
    return found


def returns(
    reward: Float[np.ndarray, "states horizon"],
    ends: Int[np.ndarray, "states horizon"],
    written: Bool[np.ndarray, "states horizon"],
    discount: float,
) -> tuple[Float[np.ndarray, "states"], Bool[np.ndarray, "states"]]:
    """The discounted return within the episode that followed each state, from the rows from it on, and whether it is
    known: the episode terminated, or what came after has at most the discount `UNKNOWN_SHARE`.

    `ends` is 1 for a row that terminates its episode and 2 or more for one marked `last`.
    """
    inside = (np.cumsum(ends >= 2, axis=1) == 0) & written
    factor = discount ** np.arange(reward.shape[1])
    rest = discount ** inside.sum(axis=1)
    known = (inside & (ends == 1)).any(axis=1) | (rest <= UNKNOWN_SHARE)
    return np.where(inside, factor * reward, 0.0).sum(axis=1), known
