"""Data of pages that need no run: a CartPole agent whose network was made by hand."""

import base64
import functools
import io
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from PIL import Image
from probes.weights import weights

from qdojo.export.forward import Form, described
from qdojo.export.html import packed, rounded
from qdojo.networks.inputs import Design
from qdojo.networks.mlp import mlp

FORM = Form("q", (4,), (4,), 1, 2, 1)
MADE = mlp(Design((4,), 2, (16, 16), False))


@functools.cache
def network() -> tuple[dict[str, Any], np.ndarray]:
    """A dense network that balances CartPole: it pushes to where the pole leans and turns."""
    params = weights(MADE)
    first, second = (np.array(hidden.linear.weight) for hidden in params.hidden)
    first[:2] = np.outer([1, -1], [0.05, 0.1, 1, 0.25])
    second[:2] = np.eye(2, 16)
    head = np.zeros((2, 16), np.float32)
    head[:, :2] = [[-1, 1], [1, -1]]
    first_bias, second_bias = (np.array(hidden.linear.bias) for hidden in params.hidden)
    first_bias[:2] = second_bias[:2] = 0
    arrays = [first, first_bias, second, second_bias, head, np.full(2, 20, np.float32)]
    balancing = eqx.tree_at(_arrays, params, [jnp.asarray(array) for array in arrays])
    return described(balancing, FORM)


def _arrays(params: Any) -> list[Any]:
    linears = [*(hidden.linear for hidden in params.hidden), params.head]
    return [array for linear in linears for array in (linear.weight, linear.bias)]


def snapshots_of() -> list[dict[str, Any]]:
    """An untrained agent, and the delivered one at step 50, both rounded."""
    _, untrained = described(weights(MADE, 5), FORM)
    return [{"step": 0, "weights": rounded(untrained)}, {"step": 50, "weights": rounded(network()[1])}]


def film_of() -> dict[str, Any]:
    """Two episodes of three frames: red, green, blue; step i has the Q-values i and 10 + i."""
    sheet = Image.new("RGB", (8, 8))
    for i, color in enumerate(("#ff0000", "#00ff00", "#0000ff")):
        sheet.paste(color, (i % 2 * 4, i // 2 * 4, i % 2 * 4 + 4, i // 2 * 4 + 4))
    written = io.BytesIO()
    sheet.save(written, "webp", lossless=True)
    frames = f"data:image/webp;base64,{base64.b64encode(written.getvalue()).decode()}"
    q = packed(np.array([[i, 10.0 + i] for i in range(3)]))
    episode = {
        "cut": False, "length": 3, "columns": 2, "steps": [0, 1, 2], "returns": [0, 1, 2],
        "actions": [[1], [1], [1]], "q": q, "observations": packed(np.zeros((3, 1))), "frames": frames,
    }  # fmt: skip
    episodes = [episode | {"which": "best", "score": 3.0}, episode | {"which": "worst", "score": 1.0}]
    parts = [{"name": "", "low": 0.0, "high": 1.0}]
    size = {"rate": 30, "width": 4, "height": 4, "branch": 2}
    return {"why": "a test made it", "actions": ["", "fire"], "parts": parts, "episodes": episodes} | size


def data_of(**changes: Any) -> dict[str, Any]:
    """What `page` takes."""
    told, values = network()
    return {
        "version": "0", "env": "CartPole-v1", "preset": "default", "run": "a-run", "environment": "CartPole-v1",
        "rules": {}, "bound": 10_000,
        "network": told, "weights": packed(values), "weight_count": values.size, "snapshots": [],
        "delivered_step": 100, "steps": 100,
        "score": {"mean": 20.0, "low": 18.0, "high": 22.0, "episodes": 100}, "command": "qdojo train CartPole-v1",
        "settings": [["steps", "100"]], "film": None, "curve": {"steps": [0, 50, 100], "values": [10, 15, 20]},
        "evaluations": {"steps": [50, 100], "values": [12, 22]},
    } | changes  # fmt: skip
