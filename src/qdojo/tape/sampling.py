"""Which rows of the tape an update learns from: a sampler, as one record of functions. Not for reading those rows: see
`windows.py`."""

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
    """The numbers of prioritised replay at one update."""

    alpha: Scalar
    """Of the priorities; 0 draws uniformly."""
    beta: Scalar
    """Of the importance weights; 1 removes all of the bias."""


class Drawn(NamedTuple):
    """The rows that the examples of one update start at."""

    age: Int[Array, "batch"]
    """Rows written after them."""
    env: Int[Array, "batch"]
    weight: Float[Array, "batch"]
    """Importance weights, the largest of them 1."""


class Sampler(NamedTuple):
    """A way to draw examples, as pure functions for one member; the caller `vmap`s them."""

    init: Callable[[], Any]
    """What is kept of the rows of an empty tape."""
    sample: Callable[[Any, Tape, Window, Words, Exponents], tuple[Any, Drawn]]
    """(kept, tape, window, noise, exponents) -> kept, rows; one word of noise an example.

    Every row that was written since the last call is on the tape, with the rows that the window needs around those
    that are drawn."""
    update: Callable[[Any, Tape, Drawn, Float[Array, "batch"], Exponents], Any]
    """(kept, tape, rows, priorities, exponents) -> kept, once these rows were learned from."""


def uniform_starts(
    tape: Tape, noise: Words, after: int = 1, before: int = 0
) -> tuple[Int[Array, "batch"], Int[Array, "batch"]]:
    """Ages and envs of rows, uniform over all that have so many rows after and before them; one word an example."""
    envs = tape.num_envs
    flat = integer(noise, jnp.maximum(tape.size - (after + before), 1) * envs)
    return after + flat // envs, flat % envs


def _uniform_sample(
    kept: tuple[()], tape: Tape, window: Window, noise: Words, exponents: Exponents
) -> tuple[tuple[()], Drawn]:
    return kept, Drawn(*uniform_starts(tape, noise, window.after, window.before), jnp.ones(noise.shape))


UNIFORM = Sampler(init=tuple, sample=_uniform_sample, update=lambda kept, *of_rows: kept)
"""All rows are as likely."""


def prioritized(capacity_rows: int, num_envs: int, rows_per_cycle: int) -> Sampler:
    """Rows are drawn in proportion to their priorities: proportional prioritised replay, see `priority.py`.

    The tape has `capacity_rows` rows of `num_envs` envs, and `rows_per_cycle` of them are written between two updates
    or more.
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
