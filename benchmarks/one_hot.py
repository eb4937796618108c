"""Row of the speed table for one-hot observations: steps of deep sea whose first layers look up their weights, and the
same with matrix products."""

from collections.abc import Callable, Iterable

from benchmarks.table import Row
from qdojo.build.training import build
from qdojo.config import make_config
from qdojo.envs.native.deep_sea import deep_sea

STEPS = 200
"""Steps of a chunk, each with an update."""


def training(size: int, one_hot: bool) -> Callable[[], float]:
    """Compile the training of one `bootdqn` agent; the function returned measures the next chunk, in ms per step."""
    env = deep_sea(size)._replace(one_hot=one_hot)
    config = make_config(env.name, "bootdqn", report_every_steps=STEPS, eval_every_steps=None)
    loop = build(config, env).loop
    reports = loop.run(loop.init())
    for _ in range(2):  # compile, and complete the warm-up
        next(reports)
    return lambda: next(reports)[1].seconds / STEPS * 1e3


def row_p(repeats: int) -> Iterable[Row]:
    """A step of `bootdqn` on deep sea, updates included, and how much longer it takes with matrix products."""
    infinite = float("inf")
    for size in (20, 30):
        looked_up, product = training(size, True), training(size, False)
        steps, ratios = [], []
        for _ in range(repeats):
            steps.append(looked_up())
            ratios.append(product() / looked_up())
        yield Row("p", f"step of bootdqn on deep sea {size}, weights looked up", steps, "ms", "to see", infinite)
        yield Row("p", "  the same with matrix products over it", ratios, "times", "limit", 1.0, False)
