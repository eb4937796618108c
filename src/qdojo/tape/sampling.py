"""Samplers, which choose the rows of the tape that an update learns from, as one record of functions. `windows.py`
reads those rows."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qdojo.noise import integer
from qdojo.tape import priority
from qdojo.tape.priority import SumTree
from qdojo.tape.ring import Tape
from qdojo.tape.windows import Window
from qdojo.types import Words

Scalar: TypeAlias = Float[Array, ""] | float


class Exponents(NamedTuple):
    """The exponents of prioritised replay at one update."""

    alpha: Scalar
    """Exponent of the priorities; 0 draws uniformly."""
    beta: Scalar
    """Exponent of the importance weights; 1 fully corrects the bias."""


class Drawn(NamedTuple):
    """The rows at which the examples of one update start."""

    age: Int[Array, "batch"]
    """Number of rows written after each of them."""
    env: Int[Array, "batch"]
    weight: Float[Array, "batch"]
    """Importance weights, scaled so that the largest is 1."""


class Sampler(NamedTuple):
    """Pure functions that draw examples for one member; the caller `vmap`s them."""

    init: Callable[[], Any]
    """() -> the sampler's state for an empty tape."""
    sample: Callable[[Any, Tape, Window, Words, Exponents], tuple[Any, Drawn]]
    """(state, tape, window, noise, exponents) -> state, drawn rows; `noise` has one random word per example.

    The tape still holds every row written since the last call. Drawn rows have on the tape all the rows before and
    after them that the window needs."""
    update: Callable[[Any, Tape, Drawn, Float[Array, "batch"], Exponents], Any]
    """(state, tape, drawn rows, priorities, exponents) -> state, called after an update has learned from these rows."""


def uniform_starts(
    tape: Tape, noise: Words, after: int = 1, before: int = 0
) -> tuple[Int[Array, "batch"], Int[Array, "batch"]]:
    """Ages and envs of rows, uniform over those with at least `after` rows after them and `before` rows before them;
    `noise` has one random word per example."""
    envs = tape.num_envs
    flat = integer(noise, jnp.maximum(tape.size - (after + before), 1) * envs)
    return after + flat // envs, flat % envs


def _uniform_sample(
    kept: tuple[()], tape: Tape, window: Window, noise: Words, exponents: Exponents
) -> tuple[tuple[()], Drawn]:
    return kept, Drawn(*uniform_starts(tape, noise, window.after, window.before), jnp.ones(noise.shape))


UNIFORM = Sampler(init=tuple, sample=_uniform_sample, update=lambda kept, *of_rows: kept)
"""Draws all rows with equal probability."""


def prioritized(capacity_rows: int, num_envs: int, rows_per_cycle: int) -> Sampler:
    """Draws rows in proportion to their priorities: proportional prioritised replay, see `priority.py`.

    The tape has `capacity_rows` rows of `num_envs` envs. `rows_per_cycle` rows are written before each group of
    one or more updates.
    """

    def sample(tree: SumTree, tape: Tape, window: Window, noise: Words, exponents: Exponents) -> tuple[SumTree, Drawn]:
        tree = priority.advance(tree, tape, rows_per_cycle, window.after, window.before)
        age, env, probability = priority.sample(tree, tape, noise)
        return tree, Drawn(age, env, priority.importance(probability, tape.size * num_envs, exponents.beta))

    def update(
        tree: SumTree, tape: Tape, drawn: Drawn, priorities: Float[Array, "batch"], exponents: Exponents
    ) -> SumTree:
        return priority.update(tree, tape, drawn.age, drawn.env, priorities, exponents.alpha)

    return Sampler(lambda: priority.full(capacity_rows, num_envs), sample, update)
