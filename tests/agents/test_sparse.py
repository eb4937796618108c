"""Sparse Adam: only the rows that a batch looks up change, and they change as by Adam on the whole table."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array

import qdojo
from qdojo.agents.bootstrapped import bootstrapped
from qdojo.agents.sparse import on_rows
from qdojo.networks.inputs import Design
from qdojo.networks.mlp import Table, mlp
from qdojo.networks.network import Network
from qdojo.networks.prior import with_prior
from qdojo.types import Batch, Masked, Params

INPUTS, ACTIONS, RATE = 9, 2, 0.1
KEY = jax.random.key(0)
DESIGN = Design((3, 3), ACTIONS, (4, 4), layer_norm=False, one_hot=True, table=True)
ADAM = optax.scale_by_adam()


def batch_of(places: list[int], after: list[int]) -> Batch:
    """Transitions from these cells to those; a negative cell is an observation of zeros."""
    cells = np.vstack([np.eye(INPUTS, dtype=np.float32), np.zeros(INPUTS, np.float32)]).reshape(-1, 3, 3)
    size = len(places)
    return Batch(
        obs_tm1=jnp.asarray(0.5 * cells[places]),
        action_tm1=jnp.arange(size) % ACTIONS,
        reward_t=jnp.linspace(-1.0, 1.0, size),
        discount_t=jnp.full(size, 0.9),
        obs_t=jnp.asarray(cells[after]),
        weight=jnp.ones(size),
    )


def step(network: Network) -> Any:
    """One step of Adam on the squared TD errors."""

    def loss(trainable: Params, fixed: Params, target: Params, batch: Batch) -> Array:
        params = eqx.combine(trainable, fixed)

        def error(one: Batch) -> Array:
            best = jnp.max(network.apply(target, one.obs_t))
            return one.reward_t + one.discount_t * best - network.apply(params, one.obs_tm1)[one.action_tm1]

        return jnp.sum(jnp.square(jax.vmap(error)(batch)))

    def adam(learned: Any, others: Any, batch: Batch) -> tuple[Any, Array]:
        trainable, optimizer = learned
        value, gradient = jax.value_and_grad(loss)(trainable, *others, batch)
        direction, optimizer = ADAM.update(gradient, optimizer)
        return (jax.tree.map(lambda p, d: p - RATE * d, trainable, direction), optimizer), value

    return adam


def begun(network: Network) -> tuple[Any, Any]:
    """(learned, others) after a step from everywhere, so that the moments of no row are zero."""
    params, target = network.init(KEY), network.init(jax.random.key(1))
    trainable, fixed = network.partition(params)
    learned, _ = step(network)((trainable, ADAM.init(trainable)), (fixed, target), batch_of([*range(9)], [*range(9)]))
    return learned, (fixed, target)


@pytest.mark.parametrize(
    "network",
    [
        mlp(DESIGN),
        mlp(DESIGN._replace(dueling=True)),
        with_prior(mlp(DESIGN), 3.0),
        bootstrapped(with_prior(mlp(DESIGN), 3.0), 2),
    ],
    ids=["plain", "dueling", "prior", "ensemble"],
)
@pytest.mark.parametrize(
    ("places", "after"), [([4, 0, 4, 7], [0, 2, -1, 4]), ([8, 8, 8, 8], [8, 8, 8, 8])], ids=["some", "one"]
)
def test_rows_of_the_batch_change_as_by_adam_and_the_others_stay(
    network: Network, places: list[int], after: list[int]
) -> None:
    """The values, the moments and the loss, where rows repeat, are also next observations, or are only those."""
    learned, others = begun(network)
    batch = batch_of(places, after)
    dense, sparse = (jax.jit(f)(learned, others, batch) for f in (step(network), on_rows(step(network))))
    np.testing.assert_allclose(sparse[1], dense[1], rtol=1e-5)
    tables = 0

    def compare(before: Any, by_dense: Any, by_sparse: Any) -> None:
        nonlocal tables
        if isinstance(before, Table) and before.weight is not None:
            tables += 1
            rows = sorted({max(0, cell) for cell in places + after})
            rest = [row for row in range(INPUTS) if row not in rows]
            looked_up = np.asarray(by_sparse.weight[..., rows, :])
            np.testing.assert_allclose(looked_up, by_dense.weight[..., rows, :], rtol=1e-5, atol=1e-7)
            np.testing.assert_array_equal(by_sparse.weight[..., rest, :], before.weight[..., rest, :])
            assert not np.allclose(by_dense.weight[..., rest, :], before.weight[..., rest, :], rtol=1e-6, atol=0.0)
            before, by_dense, by_sparse = before.bias, by_dense.bias, by_sparse.bias
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), by_sparse, by_dense)

    jax.tree.map(compare, learned, dense[0], sparse[0], is_leaf=lambda node: isinstance(node, Table))
    assert tables == 3  # weights and both moments


def test_masks_stay_with_their_observations() -> None:
    """In both cells only action 1 is legal, so its value is the next one."""
    network, mask = mlp(DESIGN), jnp.array([[False, True]] * 2)
    batch = batch_of([3, 5], [5, 3])
    batch = batch._replace(
        obs_tm1=Masked(batch.obs_tm1, mask), obs_t=Masked(batch.obs_t, mask), action_tm1=jnp.ones(2, int)
    )
    learned, others = begun(network)
    dense, sparse = (f(learned, others, batch)[1] for f in (step(network), on_rows(step(network))))
    np.testing.assert_allclose(sparse, dense, rtol=1e-5)


@pytest.mark.parametrize("prioritized", [False, True])
def test_it_finds_the_treasure(prioritized: bool, tmp_path: Path) -> None:
    run = qdojo.train(
        "qdojo/DeepSea6-v0",
        preset="bootdqn",
        sparse_adam=True,
        prioritized=prioritized,
        steps=1_000,
        eval_every_steps=250,
        root=tmp_path,
    )
    assert run.evaluate(10).mean == pytest.approx(0.99)


def test_the_work_of_a_step_does_not_grow_with_the_table() -> None:
    def flops(side: int, wrapped: Any) -> float:
        network = mlp(DESIGN._replace(observation_shape=(side, side)))
        trainable, fixed = network.partition(network.init(KEY))
        batch = batch_of([0, 1], [1, 2])
        batch = batch._replace(obs_tm1=jnp.zeros((2, side, side)), obs_t=jnp.zeros((2, side, side)))
        given = (trainable, ADAM.init(trainable)), (fixed, network.init(KEY)), batch
        return jax.jit(wrapped(step(network))).lower(*given).compile().cost_analysis()["flops"]

    small, large = (flops(side, on_rows) for side in (10, 100))
    # Finding the cell in each observation is all that is more.
    assert large - small < 20 * 4 * 10_000
    small, large = (flops(side, lambda step: step) for side in (10, 100))
    assert large - small > 20 * 4 * 10_000
