"""Tiny environments whose Q-values are known by hand. Not for speed, and not for anything that has to be explored.

Each isolates one thing that an agent may get wrong: if `constant` fails, look at the loss and the optimizer; if only
`two_step` fails, at the discount; if only the twins differ from what they should be, at the end of an episode.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from qdojo.envs.contract import NativeEnvironment, Transition
from qdojo.noise import bernoulli, integer

DISCOUNT = 0.5


class Probe(NamedTuple):
    """An environment, and what its Q-values are at `DISCOUNT`: a row an observation, a column an action."""

    environment: NativeEnvironment
    observations: list[list[float]]
    values: list[list[float]]


class Place(NamedTuple):
    """All that a probe remembers."""

    sign: Array
    elapsed: Array


Observe = Callable[[Place], Array]
Pay = Callable[[Place, Array], Array]


def probe(name: str, observe: Observe, pay: Pay, *, terminate_after: int, truncate_after: int) -> NativeEnvironment:
    """Two actions; `sign` is -1 or 1, drawn at each reset; the reward is of the place before the step."""

    def reset(noise: Array) -> tuple[Place, Array]:
        place = Place(jnp.where(bernoulli(noise[0], 0.5), 1.0, -1.0), jnp.int32(0))
        return place, observe(place)

    def step(place: Place, action: Array, noise: Array) -> tuple[Place, Transition]:
        after = Place(place.sign, place.elapsed + 1)
        return after, Transition(
            observation=observe(after),
            reward=pay(place, action),
            terminated=after.elapsed >= terminate_after,
            truncated=after.elapsed >= truncate_after,
        )

    return NativeEnvironment(name, (1,), 2, 1, min(terminate_after, truncate_after), reset, step)


NEVER = 1_000_000


def constantly(value: float) -> Callable[..., Array]:
    """The same value everywhere; shaped as an observation where it is called with a place alone."""

    def give(place: Place, action: Array | None = None) -> Array:
        return jnp.full((1,) if action is None else (), value, jnp.float32)

    return give


def shows_sign(place: Place) -> Array:
    return place.sign[None]


def shows_time(place: Place) -> Array:
    return place.elapsed.astype(jnp.float32)[None]


def pays_sign(place: Place, action: Array) -> Array:
    return place.sign


def pays_action(place: Place, action: Array) -> Array:
    return jnp.where(action == 1, 1.0, -1.0)


def pays_match(place: Place, action: Array) -> Array:
    """1 where action 1 is taken at sign 1 or action 0 at sign -1; else -1."""
    return place.sign * jnp.where(action == 1, 1.0, -1.0)


def pays_at_the_second_step(place: Place, action: Array) -> Array:
    return jnp.where(place.elapsed == 1, 1.0, 0.0)


one_step = {"terminate_after": 1, "truncate_after": NEVER}
anything = constantly(0.0)

PROBES = {
    "constant": Probe(probe("constant", anything, constantly(1.0), **one_step), [[0.0]], [[1.0, 1.0]]),
    "observation": Probe(
        probe("observation", shows_sign, pays_sign, **one_step), [[-1.0], [1.0]], [[-1.0, -1.0], [1.0, 1.0]]
    ),
    "two_step": Probe(
        probe("two_step", shows_time, pays_at_the_second_step, terminate_after=2, truncate_after=NEVER),
        [[0.0], [1.0]],
        [[DISCOUNT, DISCOUNT], [1.0, 1.0]],
    ),
    "action": Probe(probe("action", anything, pays_action, **one_step), [[0.0]], [[-1.0, 1.0]]),
    "both": Probe(probe("both", shows_sign, pays_match, **one_step), [[-1.0], [1.0]], [[1.0, -1.0], [-1.0, 1.0]]),
    # Twins that pay 1 a step and look the same at each: termination is the end of all reward,
    "terminated": Probe(
        probe("terminated", anything, constantly(1.0), terminate_after=1, truncate_after=NEVER), [[0.0]], [[1.0, 1.0]]
    ),
    # truncation is not: 1 + 0.5 + 0.25 + ... = 2.
    "truncated": Probe(
        probe("truncated", anything, constantly(1.0), terminate_after=NEVER, truncate_after=1), [[0.0]], [[2.0, 2.0]]
    ),
    "truncated later": Probe(
        probe("truncated later", anything, constantly(1.0), terminate_after=NEVER, truncate_after=4),
        [[0.0]],
        [[2.0, 2.0]],
    ),
}


LESSONS = 5


def all_lessons() -> NativeEnvironment:
    """One of the lessons above at each reset; the observation says, one-hot, at which of 6 places one is.

    Place 0 pays 1 and terminates; 1 pays 1 and is truncated where it began; 2 pays nothing and leads to 3, which pays 1
    and terminates; 4 pays 1 for action 0 and -1 for action 1, and 5 the reverse, and both terminate.
    """

    def show(place: Array) -> Array:
        return (jnp.arange(6) == place).astype(jnp.float32)

    def reset(noise: Array) -> tuple[Array, Array]:
        place = jnp.array([0, 1, 2, 4, 5])[integer(noise[0], LESSONS)]
        return place, show(place)

    def step(place: Array, action: Array, noise: Array) -> tuple[Array, Transition]:
        after = jnp.where(place == 2, 3, place)
        paid = jnp.array([[1, 1], [1, 1], [0, 0], [1, 1], [1, -1], [-1, 1]], jnp.float32)[place, action]
        return after, Transition(show(after), paid, (place != 1) & (place != 2), place == 1)

    return NativeEnvironment("all lessons", (6,), 2, 1, 2, reset, step)


EVERYTHING = Probe(
    all_lessons(),
    [[float(i == place) for i in range(6)] for place in range(6)],
    [[1.0, 1.0], [2.0, 2.0], [DISCOUNT, DISCOUNT], [1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]],
)
