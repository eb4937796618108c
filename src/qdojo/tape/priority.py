"""Prioritised replay: which rows of the tape to learn from, drawn in proportion to a priority. Not for reading them.

Schaul, Quan, Antonoglou, Silver, "Prioritized Experience Replay" (2016), section 3.3, the proportional variant, with
its stratified draw (appendix B.2.1) and its importance weights (section 3.4). One member; the caller `vmap`s, over
the tree and the tape's reader. A tree gives right answers from the first `advance` on, which hides the newest row.
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qdojo.noise import uniform
from qdojo.tape.ring import Tape, newest, take
from qdojo.types import Words

BRANCHING = 32
"""Children of a node. A draw costs a matrix product of this width a level: 64 takes three times as long as 32."""
EPSILON = 1e-6
"""Added to every priority, so that a row without an error is met again (section 3.3)."""
LARGEST = 1e30
"""Ceiling of a leaf: the sum over any tape stays finite."""

Scalar: TypeAlias = Float[Array, ""] | float
Border: TypeAlias = tuple[Int[Array, ""], Float[Array, ""]]
"""The one node of a level with counted and uncounted leaves below it, and the mass of the counted ones."""


class SumTree(NamedTuple):
    """Priorities to the power of alpha, and their sums.

    `levels[0]` holds the leaves, one a row of the tape and env: number `row * num_envs + env`, the row being a place in
    the ring. Behind them is at least one empty leaf. Node i of a level is the sum of group i of the level before; the
    last level is a single group.
    """

    levels: tuple[Float[Array, "groups branching"], ...]
    highest: Float[Array, ""]
    """The largest leaf ever set by `update`, and at least 1: what new rows enter with."""
    seen: Int[Array, ""]
    """Rows of the tape that `advance` has taken in."""


def full(capacity_rows: int, num_envs: int) -> SumTree:
    """A tree of `capacity_rows * num_envs` leaves of 1, so rows from before the first `advance` weigh the same."""
    leaves = capacity_rows * num_envs
    levels = [_grouped(jnp.ones(leaves))]
    while len(levels[-1]) > 1:
        levels.append(_grouped(_sums(levels[-1])))
    return SumTree(tuple(levels), jnp.float32(1.0), jnp.int32(0))


def size_in_bytes(capacity_rows: int, num_envs: int) -> int:
    """What such a tree takes, without making it."""
    tree = jax.eval_shape(lambda: full(capacity_rows, num_envs))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _grouped(values: Float[Array, "nodes"]) -> Float[Array, "groups branching"]:
    """Nodes in whole groups, always with an empty one behind them, so that the place behind the last node exists."""
    return jnp.pad(values, (0, BRANCHING - len(values) % BRANCHING)).reshape(-1, BRANCHING)


def _sums(children: Float[Array, "*groups branching"]) -> Float[Array, "*groups"]:
    """Sums of groups, in an order of our own: XLA's depends on how many groups there are, and so would the last bit."""
    while children.shape[-1] > 1:
        half = children.shape[-1] // 2
        children = children[..., :half] + children[..., half:]
    return children[..., 0]


def put(tree: SumTree, leaf: Int[Array, "changed"], value: Float[Array, "changed"]) -> SumTree:
    """Set leaves to values in [0, `LARGEST`]. A leaf that is named twice takes one of its values.

    The sums above are taken anew from all their children, never corrected by differences: they cannot drift.
    """
    levels = []
    node = leaf
    for level in tree.levels:
        group = node // BRANCHING
        changed = level.at[group, node % BRANCHING].set(value, mode="promise_in_bounds")
        levels.append(changed)
        node, value = group, _sums(changed.at[group].get(mode="promise_in_bounds"))
    return tree._replace(levels=tuple(levels))


def advance(tree: SumTree, tape: Tape, rows: int, after: int = 1, before: int = 0) -> SumTree:
    """Take in the `rows` rows that were just written, unless that was done already: no write may be left out.

    They enter at the highest priority, so that each is seen soon (section 3.3, algorithm 1, line 6); but the newest
    `after` rows of each env wait for their successors, the oldest `before` ones have lost what came before them, and
    rows marked `last` start no transition: these get 0.
    """
    entering = jnp.arange(min(rows + after, tape.capacity))
    oldest = jnp.maximum(tape.size - 1 - jnp.arange(before), 0)
    ages = jnp.concatenate([entering, oldest]) if before else entering
    age, env = (grid.ravel() for grid in jnp.meshgrid(ages, jnp.arange(tape.num_envs), indexing="ij"))
    row = newest(tape, age)
    leaf = row * tape.num_envs + env
    waits = (age < after) | take(tape, row, env).last
    if before:
        waits |= age >= tape.size - before
    value = jnp.where(waits, jnp.float32(0.0), tree.highest)
    fresh = (tree.seen < tape.written) & (age < tape.size)
    return put(tree, leaf, jnp.where(fresh, value, _leaves(tree, leaf)))._replace(seen=tape.written)


def sample(
    tree: SumTree, tape: Tape, noise: Words
) -> tuple[Int[Array, "batch"], Int[Array, "batch"], Float[Array, "batch"]]:
    """Ages, envs and probabilities of starting rows, drawn in proportion to their leaves; one word an example.

    Example i comes from the i-th of `batch` equal parts of the mass (appendix B.2.1). Rows that were never written and
    leaves of 0 are never drawn; where there is nothing else, all examples are age 1 of env 0, with probability 1.
    """
    borders, mass = _counted(tree, tape.size * tape.num_envs)
    batch = noise.shape[0]
    part = mass / batch
    # Kept apart from the offset in it: added up, the low bits that tell small neighbours apart would be rounded away.
    start = jnp.arange(batch).astype(jnp.float32) * part
    offset = uniform(noise) * part
    node = jnp.zeros(batch, jnp.int32)
    before = jnp.triu(jnp.ones((BRANCHING, BRANCHING)), 1)
    for level, border in zip(reversed(tree.levels), reversed(borders), strict=True):
        child = jnp.arange(BRANCHING)
        mass_below = _cut(
            level.at[node].get(mode="promise_in_bounds"), node[:, None] * BRANCHING + child[None, :], border
        )
        prefix = jnp.matmul(mass_below, before, precision="highest")
        # The last child that has mass and starts at or before the target. There always is one: zeros add up to zero
        # exactly, so the first child with mass starts at 0. Rounding can move a border, never choose an empty child.
        target = jnp.maximum(start + offset, 0.0)
        fits = (mass_below > 0.0) & (prefix <= target[:, None])
        start = start - jnp.max(jnp.where(fits, prefix, 0.0), axis=1)
        node = node * BRANCHING + jnp.max(jnp.where(fits, child[None, :], 0), axis=1)
    leaf = _leaves(tree, node)
    # The same as `mass > 0`, but makes age and env wait for this read: `update` writes where they say, and a read that
    # could come later would make XLA copy the leaves.
    some = leaf > 0.0
    # How far back a place lies and which place lies so far back are the same reflection.
    age = jnp.where(some, newest(tape, node // tape.num_envs), 1)
    env = jnp.where(some, node % tape.num_envs, 0)
    return age, env, jnp.where(some, leaf / jnp.where(some, mass, 1.0), 1.0)


def importance(probability: Float[Array, "batch"], size: Int[Array, ""] | int, beta: Scalar) -> Float[Array, "batch"]:
    """Weights (size * probability)**-beta over the largest of the batch (section 3.4), `size` being the rows to draw
    from. An example of probability 0 counts nothing and does not shrink the others."""
    possible = probability > 0.0
    expected = jnp.asarray(size, jnp.float32) * jnp.where(possible, probability, 1.0)
    weight = jnp.where(possible, expected ** -jnp.asarray(beta, jnp.float32), 0.0)
    return weight / jnp.maximum(jnp.max(weight), jnp.finfo(jnp.float32).tiny)


def update(
    tree: SumTree,
    tape: Tape,
    age: Int[Array, "batch"],
    env: Int[Array, "batch"],
    priority: Float[Array, "batch"],
    alpha: Scalar,
) -> SumTree:
    """Give rows that were learned from their new leaves, (priority + `EPSILON`)**alpha, and 0 to those marked `last`.

    `priority` is an absolute error. Where it is not finite, the row gets the highest priority so far.
    """
    row = newest(tape, age)
    value = (priority + EPSILON) ** jnp.asarray(alpha, jnp.float32)
    value = jnp.where(jnp.isfinite(value), jnp.minimum(value, LARGEST), tree.highest)
    value = jnp.where(take(tape, row, env).last, 0.0, value)
    tree = put(tree, row * tape.num_envs + env, value)
    return tree._replace(highest=jnp.maximum(tree.highest, jnp.max(value)))


def _leaves(tree: SumTree, leaf: Int[Array, "some"]) -> Float[Array, "some"]:
    return tree.levels[0].at[leaf // BRANCHING, leaf % BRANCHING].get(mode="promise_in_bounds")


def _counted(tree: SumTree, end: Int[Array, ""]) -> tuple[list[Border], Float[Array, ""]]:
    """The border of each level when only the leaves below `end` count, and the mass of these leaves."""
    borders = []
    node, mass = end, jnp.float32(0.0)
    for level in tree.levels:
        borders.append((node, mass))
        group = node // BRANCHING
        children = level.at[group].get(mode="promise_in_bounds")
        mass = jnp.sum(_cut(children, group * BRANCHING + jnp.arange(BRANCHING), (node, mass)))
        node = group
    return borders, mass


def _cut(mass: Float[Array, "*nodes"], node: Int[Array, "*nodes"], border: Border) -> Float[Array, "*nodes"]:
    """The mass of nodes without that of uncounted leaves below them."""
    at, counted = border
    return jnp.where(node < at, mass, jnp.where(node == at, counted, 0.0))
