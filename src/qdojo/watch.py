"""Shows an agent playing, in a window or as a video. To measure it, see `qdojo.evaluate`."""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from qdojo.envs.copies import FAILURE, SeededCopy, episode_seed
from qdojo.envs.failures import close_quietly, describe
from qdojo.envs.resolve import EnvSpec
from qdojo.envs.spaces import Observation, Spaces, seen
from qdojo.errors import EnvironmentFailure, UsageError

Act = Callable[[Observation], Any]
"""Maps an encoded observation to an action that counts from 0: an int, or an integer array [branches]."""
Frame = UInt8[np.ndarray, "height width 3"]

_USUAL_FPS = 30
_EVERY_FRAME = "rgb_array_list"
"""The render mode of environments that draw more often than an agent acts."""
_WATCHED = 2**31
"""Index of the watched copy. It is larger than any in training, so its episodes have different seeds."""
# Viewers slow a GIF with frames shorter than this down to a tenth of a second per frame.
_SHORTEST_GIF_FRAME_MS = 20


class Watched(NamedTuple):
    """The result of one episode that was shown."""

    score: float
    cut: bool
    """Whether it was cut at the step bound; the score then covers the steps up to there."""


def watch(
    spec: EnvSpec,
    spaces: Spaces,
    begin: Callable[[], None],
    act: Act,
    episodes: int,
    seed: int,
    record: Path | None = None,
    fps: float | None = None,
    bound_steps: int | None = None,
) -> list[Watched]:
    """Play `episodes` episodes with `act`, which receives observations encoded by `spaces`, and return their results.

    Each episode is cut after `bound_steps` steps, if given. `begin` is called at the start of each episode, so that an
    agent clears its memory. Without `record`, a window shows the episodes; with it, they are written to a video, `.mp4`
    or `.gif`, under a temporary name that is renamed once the video is complete. `fps` defaults to the environment's
    own. Raises UsageError if there is no screen, the suffix is unknown, or the environment cannot render, and
    EnvironmentFailure if the environment fails.
    """
    if record is not None:
        _check_target(record)
    elif not has_screen():
        raise UsageError("There is no screen to open a window on; record a film instead: --record play.mp4")
    with contextlib.ExitStack() as stack:
        if record is not None and not has_screen():
            stack.enter_context(without_a_screen())
        env = rendering(spec, "human" if record is None else "rgb_array")
        if record is not None and _EVERY_FRAME in env.metadata.get("render_modes", ()):
            close_quietly(env)
            env = rendering(spec, _EVERY_FRAME)
        stack.callback(close_quietly, env)
        speed = float(fps or env.metadata.get("render_fps") or _USUAL_FPS)
        copy = SeededCopy(env, spaces, seed, _WATCHED)
        watched: list[Watched] = []
        shown = _play(spec.name, copy, begin, act, episodes, seed, bound_steps, watched)
        if record is None:
            # The environment's own window takes its frame rate from this entry.
            env.unwrapped.metadata = {**env.metadata, "render_fps": speed}
            for _ in shown:
                pass
        else:
            shots = (frame for _ in shown for frame in _shoot(env, spec.name))
            _write_film(shots, record, speed)
        return watched


def _check_target(record: Path) -> None:
    if record.suffix.lower() not in (".mp4", ".gif"):
        raise UsageError(f"--record {record}: a video's name must end in .mp4 or .gif, not in {record.suffix!r}.")
    folder = record.parent
    if not folder.is_dir():
        raise UsageError(f"--record {record}: the folder {folder} does not exist.")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--record {record}: the folder {folder} cannot be written to.")


def has_screen() -> bool:
    """Return whether a window can be opened here, judging by environment variables."""
    if not sys.platform.startswith("linux"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"))


@contextlib.contextmanager
def without_a_screen() -> Iterator[None]:
    """Keep SDL, which pygame uses, from looking for a screen and complaining on stderr if there is none."""
    os.environ["SDL_VIDEODRIVER"] = "dummy"
    try:
        yield
    finally:
        os.environ.pop("SDL_VIDEODRIVER", None)


def rendering(spec: EnvSpec, render_mode: str) -> Any:
    """Make an environment that renders in this mode. Raises UsageError if it cannot."""
    if spec.is_vector:
        raise UsageError(f"{spec.name} is a ready-made vector of environments; only a single one can be watched.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env = spec.make(render_mode=render_mode)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{spec.name} could not be built with render_mode={render_mode!r}, which watching needs: {error}"
        ) from error
    if env.render_mode != render_mode:
        close_quietly(env)
        raise UsageError(
            f"{spec.name} was asked for render_mode={render_mode!r} but has {env.render_mode!r}; "
            "pass the keyword on to gymnasium.Env and set `self.render_mode`."
        )
    return env


def _play(
    name: str,
    copy: SeededCopy,
    begin: Callable[[], None],
    act: Act,
    episodes: int,
    seed: int,
    bound_steps: int | None,
    watched: list[Watched],
) -> Generator[None, None, None]:
    """Yield at every new frame; append each episode's result to `watched` when it ends."""
    for episode in range(episodes):
        begin()
        observation, info = copy.reset()
        total, step, over = 0.0, 0, False
        while True:
            if FAILURE in info:
                where = f"episode seed {episode_seed(seed, _WATCHED, episode)}, step {step}"
                raise EnvironmentFailure(f"{name} failed while it was watched ({where}): {info[FAILURE]}.")
            yield
            if over or step == bound_steps:
                break
            observation, reward, terminated, truncated, info = copy.step(act(seen(observation)))
            total, step, over = total + reward, step + 1, terminated or truncated
        watched.append(Watched(total, not over))


def _shoot(env: Any, name: str) -> list[Frame]:
    """Return what `render` gives: one frame, or all since the last call."""
    try:
        given = env.render()
    except (Exception, SystemExit) as error:
        raise EnvironmentFailure(f"{name} failed to render: {describe(error)}.") from error
    frames = given if isinstance(given, list) else [given]
    for frame in frames:
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
            raise UsageError(
                f"{name}: render() returned no image (uint8, height x width x 3), so no video can be made."
            )
    return frames


def _write_film(shots: Iterator[Frame], record: Path, fps: float) -> None:
    aside = record.with_name(f".{record.stem}.part{record.suffix.lower()}")
    write = _write_mp4 if record.suffix.lower() == ".mp4" else _write_gif
    try:
        write(shots, aside, fps)
        aside.replace(record)
    finally:
        aside.unlink(missing_ok=True)


def _write_mp4(shots: Iterator[Frame], path: Path, fps: float) -> None:
    # Otherwise it forks, which JAX warns may deadlock because it is multithreaded.
    os.environ.setdefault("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")
    import imageio_ffmpeg

    first = _even(next(shots))
    height, width, _ = first.shape
    film = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=fps, macro_block_size=2, ffmpeg_log_level="error"
    )
    with contextlib.closing(film):
        film.send(None)
        film.send(first.tobytes())
        for frame in shots:
            film.send(_even(frame).tobytes())


def _even(frame: Frame) -> UInt8[np.ndarray, "even_height even_width 3"]:
    """Crop a frame to even sides, as yuv420p requires, the pixel format that every player supports."""
    height, width, _ = frame.shape
    return np.ascontiguousarray(frame[: height - height % 2, : width - width % 2])


def _write_gif(shots: Iterator[Frame], path: Path, fps: float) -> None:
    from PIL import Image

    images = (Image.fromarray(frame) for frame in shots)
    milliseconds = max(_SHORTEST_GIF_FRAME_MS, round(1000 / fps))
    next(images).save(path, save_all=True, append_images=images, duration=milliseconds, loop=0)
