"""Writes the page in which an agent plays as one HTML file. `forward.py` describes its network, and `agent_page.py`
collects what the page shows."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from qdojo.errors import QdojoError, UsageError
from qdojo.runs.directory import write_atomically

FOLDER = Path(__file__).parent / "page"
SUITE = ("cells.js",)
MINATAR = ("cells.js", "minatar.js")
PLAYED = {
    "CartPole-v1": ("cartpole.js",),
    "Acrobot-v1": ("acrobot.js",),
    "MountainCar-v0": ("mountain_car.js",),
    "qdojo/Catch-v0": (*SUITE, "catch.js"),
    r"qdojo/DeepSea\d+-v0": (*SUITE, "deep_sea.js"),
    r"qdojo/MemoryChain\d+-v0": (*SUITE, "memory_chain.js"),
    "MinAtar/Asterix-v[01]": (*MINATAR, "asterix.js"),
    "MinAtar/Breakout-v[01]": (*MINATAR, "breakout.js"),
    "MinAtar/Freeway-v[01]": (*MINATAR, "freeway.js"),
    "MinAtar/Seaquest-v[01]": (*MINATAR, "seaquest.js"),
    "MinAtar/SpaceInvaders-v[01]": (*MINATAR, "space_invaders.js"),
}
"""Regular expression of ids -> files that step and draw these environments in the page."""
FIRST = ("strings.js", "drawing.js", "network.js")
LAST = ("live.js", "film.js", "mind.js", "landscape.js", "training.js", "page.js")
"""Scripts before and after the environment's own, in the order in which they run."""


def page(data: Mapping[str, Any]) -> bytes:
    """The whole page for this data, as UTF-8. Only its own scripts and styles run, by their hashes; it fetches nothing.

    `data["environment"]` is an id for which `scripts_of` has scripts, or None for a film.
    """
    own = scripts_of(data["environment"])
    scripts = [_code(name) for name in (*FIRST, *own, *LAST)]
    style = _code("page.css")
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "styles": style,
        "title": html.escape(f"{data['env']}: an agent that plays"),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
        "data": inert(data),
    }
    # One pass, so that braces in a part are never taken for another part.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _text("page.html")).encode()


def scripts_of(env_id: str | None) -> tuple[str, ...]:
    """Files that step and draw the environment with this id; none if the page cannot."""
    return next((files for ids, files in PLAYED.items() if re.fullmatch(ids, env_id or "")), ())


def inert(data: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element or begin a comment."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def packed(values: Float[np.ndarray, "..."]) -> str:
    """Numbers as base64 of little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


BLOCK = 64
"""Successive weights of a snapshot that share a scale."""


def rounded(weights: Float[np.ndarray, "weights"]) -> str:
    """Weights in a quarter of the space, rounded to 1/127 of the largest in each block of 64: as base64, the scale of
    each block as float32, then a signed byte for each weight."""
    blocks = np.pad(weights, (0, -len(weights) % BLOCK)).reshape(-1, BLOCK)
    scales = np.maximum(np.abs(blocks).max(axis=1), 1e-30) / 127
    whole = np.rint(blocks / scales[:, None]).astype(np.int8).ravel()[: len(weights)]
    return base64.b64encode(scales.astype("<f4").tobytes() + whole.tobytes()).decode()


def check_page_target(path: Path) -> None:
    """Raises UsageError if no page can be written there."""
    if path.suffix != ".html":
        raise UsageError(f"Cannot export to {path}: a page's name must end in .html.")
    if not path.parent.is_dir():
        raise UsageError(f"Cannot export to {path}: the folder {path.parent} does not exist.")


def written(path: Path, content: bytes) -> None:
    """Write a page atomically. Raises QdojoError if that fails."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise QdojoError(f"Cannot export to {path}: {error.strerror or error}.") from error


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _code(name: str) -> str:
    """A script or style sheet without its indentation and without the comments that have lines of their own."""
    code = re.sub(r"^\s*/\*\*.*?\*/$", "", _text(name), flags=re.MULTILINE | re.DOTALL)
    lines = (line.strip() for line in code.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
