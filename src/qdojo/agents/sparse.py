"""Sparse Adam: a gradient step reads and changes only those rows of a `Table` that its batch looks up.

Adam moves the other rows too: they have no gradient, but a mean gradient is left from before. Here they stay as they
are, and so do their moments, as in TensorFlow's `LazyAdam` and PyTorch's `SparseAdam`. A step then takes as long for
any number of rows. Unlike there, the rows of next observations, whose gradient is zero, take their step too.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from qdojo.networks.mlp import Table
from qdojo.observations import in_place, plain
from qdojo.types import Batch


def on_rows(step: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """`step(learned, others, batch, ...) -> learned, found`, given only the rows that the batch looks up.

    `learned` and `others` are trees, in which every `Table`, with any leading axes, is one of the batch's observations.
    """

    def sparse(learned: Any, others: Any, batch: Batch, *given: Any) -> tuple[Any, Any]:
        size = batch.weight.shape[0]
        one_hot = jnp.concatenate([plain(seen).reshape(size, -1) for seen in (batch.obs_tm1, batch.obs_t)])
        # 0 for an observation of zeros, which looks up nothing. On CPUs, `argmax` takes two to three times as long.
        row = jnp.max(jnp.where(one_hot != 0, jnp.arange(one_hot.shape[1]), 0), axis=1)
        # Observations that look up the same row share its first copy, so that their gradients add up there.
        copy = jnp.argmax(row[:, None] == row[None], axis=1)
        value = jnp.take_along_axis(one_hot, row[:, None], axis=1)
        narrow = jnp.where(copy[:, None] == jnp.arange(2 * size), value, 0)
        first, second = in_place(batch.obs_tm1, narrow[:size]), in_place(batch.obs_t, narrow[size:])
        batch = batch._replace(obs_tm1=first, obs_t=second)
        looked_up = _in_tables(lambda weight: weight[..., row, :], (learned, others))
        changed, found = step(*looked_up, batch, *given)
        return _in_tables(lambda new, old: _with_rows(old, row, new[..., copy, :]), changed, learned), found

    return sparse


def _with_rows(table: Array, row: Array, new: Array) -> Array:
    """`table.at[..., row, :].set(new)`, but as one long table: a third of the time in XLA's CPU backend."""
    *leading, rows, width = table.shape
    first = rows * jnp.arange(math.prod(leading)).reshape(*leading, 1)
    return table.reshape(-1, width).at[first + row].set(new).reshape(table.shape)


def _in_tables(change: Callable[..., Array], tree: Any, *more: Any) -> Any:
    """`tree` with the weights of every `Table` replaced by `change` of those in all trees."""

    def changed(node: Any, *others: Any) -> Any:
        if not isinstance(node, Table) or node.weight is None:
            return node
        weight = change(node.weight, *(other.weight for other in others))
        return eqx.tree_at(lambda table: table.weight, node, weight)

    return jax.tree.map(changed, tree, *more, is_leaf=lambda node: isinstance(node, Table))
