"""Records greedy episodes for the page of an agent: what was seen, the Q-values and the choice of every kept step."""

import base64
import contextlib
import io
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from gymnasium.spaces import Box
from jaxtyping import Float, UInt8

from qdojo.envs.copies import FAILURE, SeededCopy
from qdojo.envs.failures import close_quietly
from qdojo.envs.spaces import seen
from qdojo.envs.straying import straying
from qdojo.errors import EnvironmentFailure, UsageError
from qdojo.export.html import packed
from qdojo.observations import channels_first
from qdojo.types import Masked
from qdojo.watch import has_screen, rendering, without_a_screen

if TYPE_CHECKING:
    from qdojo.delivered import Run
    from qdojo.policy import Policy

EPISODES = 20
MOST_FRAMES = 200
"""Kept steps of a shown episode: of a longer one, every second, third, ... step is kept, and its last."""
MOST_WIDTH = 240
"""Width in pixels to which larger frames are reduced."""
QUALITY = 55
"""Of the frames' WebP images."""
MOST_PARTS = 24
"""Longest vector that is shown part by part."""
COPY = 2**31 + 1
"""Index of the recorded copy, so that its episodes are none of training, evaluation or `watch`."""
USUAL_FPS = 30

NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "LunarLander": (
        ("nothing", "left engine", "main engine", "right engine"),
        ("x", "y", "x velocity", "y velocity", "angle", "spin", "left leg", "right leg"),
    ),
    "FrozenLake": (("left", "down", "right", "up"), ()),
    "CliffWalking": (("up", "right", "down", "left"), ()),
    "Taxi": (("south", "north", "east", "west", "pick up", "drop off"), ()),
    "Blackjack": (("stick", "hit"), ()),
}
"""Names of the actions and of the observation's parts of environments that do not tell them, by id without version."""


class Kept(NamedTuple):
    """One step of an episode."""

    step: int
    score: float
    """Return before this step."""
    q: Float[np.ndarray, "values"]
    action: list[int]
    """The action of each branch."""
    observation: np.ndarray
    picture: UInt8[np.ndarray, "height width 3"] | None


class Episode(NamedTuple):
    """One recorded episode."""

    kept: list[Kept]
    score: float
    cut: bool


def film(run: "Run", policy: "Policy", why: str, seed: int = 0) -> dict[str, Any]:
    """The best, the median and the worst of 20 greedy episodes, as the page shows them.

    `why` says why the page shows a film. Raises EnvironmentFailure if the environment fails.
    """
    with contextlib.ExitStack() as stack:
        if not has_screen():
            stack.enter_context(without_a_screen())
        env = _built(run)
        stack.callback(close_quietly, env)
        recorder = _Recorder(run, policy, env, seed)
        order = sorted(range(EPISODES), key=lambda episode: recorder.play(episode, 0).score)
        chosen = {"best": order[-1], "median": order[EPISODES // 2], "worst": order[0]}
        episodes = {which: recorder.play(episode, MOST_FRAMES) for which, episode in chosen.items()}
        return _told(run, env, episodes, why)


def _built(run: "Run") -> Any:
    """The environment, with pictures if it renders them."""
    spec = run.opened.spec
    if spec.is_vector:
        raise UsageError(f"{spec.name} is a ready-made vector of environments; only a single one can be recorded.")
    try:
        return rendering(spec, "rgb_array")
    except UsageError:
        return spec.make()


class _Recorder:
    def __init__(self, run: "Run", policy: "Policy", env: Any, seed: int) -> None:
        self.run, self.policy, self.seed = run, policy, seed
        self.copy = SeededCopy(env, run.opened.spaces, seed, COPY)
        self.env, self.actor = env, run.opened.player.actor
        self.values = jax.jit(self.actor.values)

    def play(self, episode: int, most: int) -> Episode:
        """One episode; the same number gives the same one. At most about `most` of its steps are kept."""
        spaces, name = self.run.opened.spaces, self.run.opened.spec.name
        memory, latest = self.actor.memory(), np.zeros(0)

        def choose(observation: Any) -> Any:
            nonlocal memory, latest
            q, memory = self.values(self.policy.params, observation, memory)
            latest = np.asarray(self.actor.worth(q))
            return latest.argmax(axis=-1)

        act = straying(choose, spaces.legal, self.run.config.eval_epsilon, self.seed + episode)
        self.copy.episode = episode - 1
        observation, info = self.copy.reset()
        kept: list[Kept] = []
        score, step, over, every = 0.0, 0, False, 1
        while True:
            if FAILURE in info:
                raise EnvironmentFailure(f"{name} failed while it was recorded: {info[FAILURE]}.")
            shown = seen(observation)
            action = act(shown)
            over = over or step == self.run.bound_steps
            if most and (step % every == 0 or over):
                plain = np.asarray(shown.observation if isinstance(shown, Masked) else shown)
                kept.append(Kept(step, score, latest.ravel(), np.ravel(action).tolist(), plain, self._picture(plain)))
            if most and len(kept) > most:
                kept, every = kept[::2], 2 * every
            if over:
                return Episode(kept, score, step == self.run.bound_steps)
            observation, reward, terminated, truncated, info = self.copy.step(action)
            score, step, over = score + reward, step + 1, terminated or truncated

    def _picture(self, observation: np.ndarray) -> UInt8[np.ndarray, "height width 3"] | None:
        if self.env.render_mode is None:
            return cells(observation)
        picture = self.env.render()
        return _reduced(picture) if isinstance(picture, np.ndarray) and picture.ndim == 3 else None


PALETTE = np.array([[31, 102, 179], [240, 140, 50], [80, 180, 120], [200, 90, 160], [250, 220, 100], [120, 200, 220]])
"""Colours of the planes of an observation."""


def cells(observation: np.ndarray) -> UInt8[np.ndarray, "height width 3"] | None:
    """A picture of an observation with two or three axes: one colour for each of its planes; None for others."""
    if observation.ndim not in (2, 3):
        return None
    planes = observation[..., None] if observation.ndim == 2 else observation
    planes = np.moveaxis(planes, 0, -1) if channels_first(observation.shape) else planes
    if planes.shape[-1] == 3 and observation.dtype == np.uint8 and observation.max(initial=0) > 1:
        return _reduced(np.ascontiguousarray(planes))
    strength = planes / max(float(planes.max(initial=0)), 1e-9)
    if planes.shape[-1] == 1:
        return _reduced(np.repeat(np.uint8(255 * strength), 3, axis=-1))
    picture = np.full((*planes.shape[:2], 3), 24.0)
    for plane in range(planes.shape[-1]):
        share = strength[..., plane : plane + 1]
        picture = picture * (1 - share) + PALETTE[plane % len(PALETTE)] * share
    return _reduced(picture.astype(np.uint8))


def _reduced(picture: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "height width 3"]:
    from PIL import Image

    height, width = picture.shape[:2]
    if width <= MOST_WIDTH:
        return picture
    size = (MOST_WIDTH, round(height * MOST_WIDTH / width))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def _told(run: "Run", env: Any, episodes: dict[str, Episode], why: str) -> dict[str, Any]:
    spaces = run.opened.spaces
    first = next(iter(episodes.values())).kept[0]
    is_box = isinstance(run.opened.spec.observation_space, Box)
    vector = is_box and first.observation.ndim == 1 and first.observation.size <= MOST_PARTS
    every = [each.observation for episode in episodes.values() for each in episode.kept]
    actions, parts = _names(env, run.opened.spec.name, int(np.prod(spaces.legal.shape)))
    height, width = (0, 0) if first.picture is None else first.picture.shape[:2]
    fps = float(env.metadata.get("render_fps") or USUAL_FPS)
    return {
        "why": why,
        "actions": actions,
        "branch": spaces.num_actions,
        "rate": min(fps, USUAL_FPS),
        "parts": _parts(parts, np.stack(every)) if vector else [],
        "width": width,
        "height": height,
        "episodes": [_episode(which, episode, vector) for which, episode in episodes.items()],
    }


def _parts(names: tuple[str, ...], observations: Float[np.ndarray, "steps parts"]) -> list[dict[str, Any]]:
    """Name and range of each part of an observation; the range is what was seen, and holds 0."""
    low, high = np.minimum(observations.min(axis=0), 0.0), np.maximum(observations.max(axis=0), 0.0)
    high = np.where(high - low < 1e-6, low + 1.0, high)
    told = [names[i] if i < len(names) else "" for i in range(low.size)]
    return [
        {"name": name, "low": float(least), "high": float(most)}
        for name, least, most in zip(told, low, high, strict=True)
    ]


def _names(env: Any, name: str, actions: int) -> tuple[list[str], tuple[str, ...]]:
    """Names of the actions, "" where there is none, and of the observation's parts."""
    short = name.partition("-v")[0].rpartition("/")[2]
    told, parts = NAMES.get(short, ((), ()))
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    if meanings is not None:
        told = tuple(str(word).lower() for word in meanings())
    return (list(told) if len(told) == actions else [""] * actions), parts


def _episode(which: str, episode: Episode, vector: bool) -> dict[str, Any]:
    kept = episode.kept
    pictures = [each.picture for each in kept if each.picture is not None]
    columns = math.ceil(math.sqrt(len(kept)))
    return {
        "which": which,
        "score": episode.score,
        "cut": episode.cut,
        "length": len(kept),
        "columns": columns,
        "steps": [each.step for each in kept],
        "returns": [float(f"{each.score:.6g}") for each in kept],
        "actions": [each.action for each in kept],
        "q": packed(np.stack([each.q for each in kept])),
        "observations": packed(np.stack([each.observation for each in kept])) if vector else "",
        "frames": _sheet(pictures, columns) if len(pictures) == len(kept) else None,
    }


def _sheet(pictures: list[UInt8[np.ndarray, "height width 3"]], columns: int) -> str:
    """All pictures of an episode in one image, row by row, as a data URI."""
    from PIL import Image

    height, width = pictures[0].shape[:2]
    sheet = Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height))
    for i, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (i % columns * width, i // columns * height))
    written, small = io.BytesIO(), width < 80
    sheet.save(written, "webp", lossless=small, quality=100 if small else QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(written.getvalue()).decode()}"
