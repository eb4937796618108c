"""Rows of the speed table for one-hot observations: steps of deep sea whose first layers look up their weights, the
same with matrix products, and the same where an update changes only the weights that were looked up."""

from collections.abc import Callable, Iterable

from benchmarks.table import Row
from qdojo.build.training import build
from qdojo.config import make_config
from qdojo.envs.native.deep_sea import deep_sea

STEPS = 200
"""Steps of a chunk, each with an update."""


def training(size: int, one_hot: bool = True, sparse_adam: bool = False) -> Callable[[], float]:
    """Compile the training of one `bootdqn` agent; the function returned measures the next chunk, in ms per step."""
    env = deep_sea(size)._replace(one_hot=one_hot)
    config = make_config(
        env.name,
        "bootdqn",
        prioritized=False,
        sparse_adam=sparse_adam,
        report_every_steps=STEPS,
        eval_every_steps=None,
    )
    loop = build(config, env).loop
    reports = loop.run(loop.init())
    for _ in range(2):  # compile, and complete the warm-up
        next(reports)
    return lambda: next(reports)[1].seconds / STEPS * 1e3


def row_p(repeats: int) -> Iterable[Row]:
    """A step of `bootdqn` on deep sea, updates included, and how much longer or shorter it takes otherwise."""
    infinite = float("inf")
    for size in (20, 30, 50):
        looked_up, product, sparse = training(size), training(size, one_hot=False), training(size, sparse_adam=True)
        steps, products, sparse_steps = [], [], []
        for _ in range(repeats):
            steps.append(looked_up())
            products.append(product() / looked_up())
            sparse_steps.append(sparse() / looked_up())
        yield Row("p", f"step of bootdqn on deep sea {size}, weights looked up", steps, "ms", "to see", infinite)
        yield Row("p", "  the same with matrix products over it", products, "times", "limit", 1.0, False)
        yield Row("p", "  the same with sparse_adam over it", sparse_steps, "times", "to see", infinite)
