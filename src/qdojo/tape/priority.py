"""Prioritised replay: a sum tree that draws rows of the tape in proportion to priorities. `windows.py` reads the rows.

Schaul, Quan, Antonoglou, Silver, "Prioritized Experience Replay" (2016), section 3.3, the proportional variant, with
its stratified sampling (appendix B.2.1) and importance weights (section 3.4). The functions handle one member; the
caller `vmap`s over the tree and `tape.member`. Call `advance` before the first `sample`: it excludes the newest rows.
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qdojo.noise import uniform
from qdojo.tape.ring import Tape, newest, take
from qdojo.types import Words

BRANCHING = 32
"""Children per node. Sampling costs a matrix product of this width per level: 64 takes three times as long as 32."""
EPSILON = 1e-6
"""Added to every priority, so that rows with zero error are still drawn (section 3.3)."""
LARGEST = 1e30
"""Upper limit of a leaf, so that the sum over any tape is finite."""

Scalar: TypeAlias = Float[Array, ""] | float
Border: TypeAlias = tuple[Int[Array, ""], Float[Array, ""]]
"""The node of a level that has both counted and uncounted leaves below it, and the mass of its counted leaves."""


class SumTree(NamedTuple):
    """Priorities to the power of alpha, and their sums.

    `levels[0]` holds the leaves: leaf `row * num_envs + env` belongs to that row, a position in the ring, of that env.
    At least one empty leaf follows them. Node i of a level is the sum of group i of the level below; the last level is
    a single group.
    """

    levels: tuple[Float[Array, "groups branching"], ...]
    highest: Float[Array, ""]
    """The largest leaf that `update` has ever set, and at least 1. New rows get this value."""
    seen: Int[Array, ""]
    """Number of rows written to the tape up to the last `advance`."""


def full(capacity_rows: int, num_envs: int) -> SumTree:
    """A tree of `capacity_rows * num_envs` leaves of 1: rows written before the first `advance` have equal priority."""
    leaves = capacity_rows * num_envs
    levels = [_grouped(jnp.ones(leaves))]
    while len(levels[-1]) > 1:
        levels.append(_grouped(_sums(levels[-1])))
    return SumTree(tuple(levels), jnp.float32(1.0), jnp.int32(0))


def size_in_bytes(capacity_rows: int, num_envs: int) -> int:
    """Size of such a tree in bytes, computed without allocating it."""
    tree = jax.eval_shape(lambda: full(capacity_rows, num_envs))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _grouped(values: Float[Array, "nodes"]) -> Float[Array, "groups branching"]:
    """Nodes in full groups, padded with at least one empty node, so that the index after the last node is valid."""
    return jnp.pad(values, (0, BRANCHING - len(values) % BRANCHING)).reshape(-1, BRANCHING)


def _sums(children: Float[Array, "*groups branching"]) -> Float[Array, "*groups"]:
    """Sums of groups in a fixed order. XLA's order, and with it the last bit, depends on the number of groups."""
    while children.shape[-1] > 1:
        half = children.shape[-1] // 2
        children = children[..., :half] + children[..., half:]
    return children[..., 0]


def put(tree: SumTree, leaf: Int[Array, "changed"], value: Float[Array, "changed"]) -> SumTree:
    """Set leaves to values in [0, `LARGEST`]. A leaf that is listed twice gets one of its values.

    The sums above are recomputed from all their children rather than updated by differences, so they cannot drift.
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
    """Add the `rows` rows that were just written, unless they were added already. Call it after every write.

    New rows get the highest priority, so that each is drawn soon (section 3.3, algorithm 1, line 6). Rows that cannot
    start an example get 0: the newest `after` rows of each env, whose successors are not written yet; the oldest
    `before` rows, whose predecessors are overwritten; and rows marked `last`, which start no transition.
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
    """Ages, envs and probabilities of starting rows, drawn in proportion to their leaves with one random word per
    example.

    Example i comes from the i-th of `batch` equal parts of the mass (appendix B.2.1). Rows that were never written and
    rows with leaf 0 are never drawn; if there are no others, every example is age 1 of env 0 with probability 1.
    """
    borders, mass = _counted(tree, tape.size * tape.num_envs)
    batch = noise.shape[0]
    part = mass / batch
    # Start and offset are kept apart: rounding their sum would lose the low bits that distinguish small neighbours.
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
        # The last child that has mass and starts at or before the target. One always exists: sums of zeros are exactly
        # zero, so the first child with mass starts at 0. Rounding can shift a border but never select an empty child.
        target = jnp.maximum(start + offset, 0.0)
        fits = (mass_below > 0.0) & (prefix <= target[:, None])
        start = start - jnp.max(jnp.where(fits, prefix, 0.0), axis=1)
        node = node * BRANCHING + jnp.max(jnp.where(fits, child[None, :], 0), axis=1)
    leaf = _leaves(tree, node)
    # Equivalent to `mass > 0`, but makes age and env depend on this read. `update` writes at the leaves they select,
    # and XLA would copy the leaves if it could schedule the read after that write.
    some = leaf > 0.0
    # `newest` maps ages to rows and, being its own inverse, rows to ages.
    age = jnp.where(some, newest(tape, node // tape.num_envs), 1)
    env = jnp.where(some, node % tape.num_envs, 0)
    return age, env, jnp.where(some, leaf / jnp.where(some, mass, 1.0), 1.0)


def importance(probability: Float[Array, "batch"], size: Int[Array, ""] | int, beta: Scalar) -> Float[Array, "batch"]:
    """Weights (size * probability)**-beta divided by the largest in the batch (section 3.4); `size` is the number of
    rows to draw from. An example of probability 0 gets weight 0 and does not affect the other weights."""
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
    """Set the leaves of rows just learned from to (priority + `EPSILON`)**alpha, or to 0 for rows marked `last`.

    `priority` is an absolute error. A row whose error is not finite gets the highest priority so far.
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
    """The border of each level if only leaves with an index below `end` count, and the total mass of those leaves."""
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
    """The mass of nodes, excluding the uncounted leaves below them."""
    at, counted = border
    return jnp.where(node < at, mass, jnp.where(node == at, counted, 0.0))
