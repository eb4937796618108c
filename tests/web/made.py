"""Data of pages that need no run: a CartPole agent whose network was never trained."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qdojo.export.forward import Form, described
from qdojo.export.html import packed
from qdojo.networks.inputs import Design
from qdojo.networks.mlp import mlp

FORM = Form("q", (4,), (4,), 1, 2, 1)


def disturbed(params: Any, seed: int = 0) -> Any:
    """Parameters in which nothing is left as it began: not the scales of LayerNorm, not the statistics."""
    rng = np.random.default_rng(seed)

    def moved(leaf: Any) -> Any:
        values = np.asarray(leaf)
        if values.dtype != np.float32:
            return leaf
        return jnp.asarray(
            values * (1 + 0.3 * rng.normal(size=values.shape)) + 0.02 * rng.normal(size=values.shape), values.dtype
        )

    return jax.tree.map(moved, params)


@functools.cache
def network() -> tuple[dict[str, Any], np.ndarray]:
    """A small dense network for CartPole."""
    return described(mlp(Design((4,), 2, (16, 16), True)).init(jax.random.key(0)), FORM)


def data_of(**changes: Any) -> dict[str, Any]:
    """What `page` takes."""
    told, weights = network()
    return {
        "version": "0", "env": "CartPole-v1", "preset": "default", "run": "a-run", "environment": "CartPole-v1",
        "network": told, "weights": packed(weights), "snapshots": [], "delivered_step": 100, "steps": 100,
        "score": {"mean": 20.0, "low": 18.0, "high": 22.0, "episodes": 100}, "command": "qdojo train CartPole-v1",
        "settings": [["steps", "100"]], "film": None, "curve": {"steps": [0, 50, 100], "values": [10, 15, 20]},
        "evaluations": {"steps": [50, 100], "values": [12, 22]},
    } | changes  # fmt: skip
