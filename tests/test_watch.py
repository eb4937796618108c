"""Films are whole or absent, show what was played, and the window needs a screen."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from qdojo.envs.resolve import resolve
from qdojo.envs.spaces import check_spaces
from qdojo.errors import EnvironmentFailure, UsageError
from qdojo.types import Masked
from qdojo.watch import watch


class Painter(gym.Env[Any, Any]):
    """Four steps; draws a picture (of odd sides) that is brighter with each."""

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 10}  # noqa: RUF012
    fails = False
    blank = False

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 9, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2, start=3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.at = 0
        return np.array([0], np.float32), {}

    def step(self, action: Any) -> Any:
        assert action in (3, 4)
        self.at += 1
        if self.fails and self.at == 3:
            raise RuntimeError("paint is dry")
        return np.array([self.at], np.float32), float(action), self.at == 4, False, {}

    def render(self) -> Any:
        return None if self.blank else np.full((41, 63, 3), 50 * self.at, np.uint8)


class Failing(Painter):
    fails = True


class Blank(Painter):
    blank = True


def watch_env(
    env: Any, act: Any, episodes: int, begin: Callable[[], None] = lambda: None, **options: Any
) -> list[float]:
    spec = resolve(env)
    return [shown.score for shown in watch(spec, check_spaces(spec), begin, act, episodes, **options)]


def first_action(_: np.ndarray) -> int:
    return 0


def frames_of(film: Path) -> tuple[str, np.ndarray]:
    """What ffmpeg says of a film, and its frames [time, height, width, 3]."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", film, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    said = done.stderr.decode()
    found = re.search(r"h264.*yuv420p.* (\d+)x(\d+)", said)
    assert found
    width, height = map(int, found.groups())
    return said, np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)


def test_an_mp4_holds_every_frame_of_every_episode(tmp_path: Path) -> None:
    film = tmp_path / "재생.mp4"
    assert watch_env(Painter, lambda shown: int(shown[0] > 1), 2, seed=0, record=film) == [14.0, 14.0]
    said, frames = frames_of(film)
    assert frames.shape == (10, 40, 62, 3)
    assert "10 fps" in said
    means = [frame.mean() for frame in frames]
    assert np.allclose(means, [0, 50, 100, 150, 200] * 2, atol=4)
    assert list(tmp_path.iterdir()) == [film]


def test_a_gif_plays_at_the_speed_asked_for(tmp_path: Path) -> None:
    film = tmp_path / "play.gif"
    watch_env(Painter, first_action, 1, seed=0, record=film, fps=5.0)
    with Image.open(film) as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"], gif.info["loop"]) == (5, (63, 41), 200, 0)
        gif.seek(3)
        assert abs(np.asarray(gif.convert("RGB")).mean() - 150) < 2
    assert list(tmp_path.iterdir()) == [film]


def test_cartpole_is_drawn_and_its_seed_decides(tmp_path: Path) -> None:
    film = tmp_path / "play.mp4"
    returns = watch_env("CartPole-v1", first_action, 2, seed=1, record=film)
    _, frames = frames_of(film)
    assert frames.shape == (sum(returns) + 2, 400, 600, 3)
    assert frames[0].std() > 10
    assert not np.array_equal(frames[0], frames[-1])
    assert watch_env("CartPole-v1", first_action, 2, seed=1, record=tmp_path / "again.mp4") == returns


@pytest.mark.parametrize("name", ["play.mp4", "play.gif"])
def test_nothing_is_left_of_a_film_that_failed_and_the_one_before_is_kept(name: str, tmp_path: Path) -> None:
    film = tmp_path / name
    film.write_bytes(b"the film before")
    with pytest.raises(EnvironmentFailure, match=r"episode seed \d+, step 3\): it raised RuntimeError: paint is dry"):
        watch_env(Failing, first_action, 1, seed=0, record=film)
    assert film.read_bytes() == b"the film before"
    assert list(tmp_path.iterdir()) == [film]


@pytest.mark.parametrize(
    ("env", "name", "words"),
    [
        (Painter, "play.avi", r"must end in .mp4 or .gif, not in '.avi'"),
        (Painter, "play", "must end in .mp4 or .gif"),
        (Painter, "nowhere/play.mp4", "nowhere does not exist"),
        (Blank, "play.mp4", r"render\(\) returned no image"),
        (lambda: Painter(), "play.gif", "could not be built with render_mode='rgb_array'"),
        (lambda **_: Painter(), "play.gif", "asked for render_mode='rgb_array' but has None"),
        (lambda: gym.make_vec("CartPole-v1", 2), "play.gif", "only a single one can be watched"),
    ],
)
def test_what_cannot_be_filmed_is_said_and_leaves_nothing(env: Any, name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        watch_env(env, first_action, 1, seed=0, record=tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_screen")
def test_without_a_screen_a_film_is_suggested() -> None:
    with pytest.raises(UsageError, match=r"no screen.*--record play\.mp4"):
        watch_env("CartPole-v1", first_action, 1, seed=0)


@pytest.mark.usefixtures("no_screen")
def test_without_a_screen_a_film_is_made_and_nothing_complains(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """SDL writes to the file descriptor of stderr, and a notebook would show it in red."""
    watch_env("CartPole-v1", first_action, 1, seed=0, record=tmp_path / "play.gif")
    assert capfd.readouterr().err == ""
    assert "SDL_VIDEODRIVER" not in os.environ, "a window that is opened later is shown"
    with pytest.raises(UsageError, match="no image"):
        watch_env(Blank, first_action, 1, seed=0, record=tmp_path / "play.gif")
    assert "SDL_VIDEODRIVER" not in os.environ


def test_with_a_screen_a_film_leaves_its_choice_to_sdl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drivers = []

    class Asking(Painter):
        def render(self) -> Any:
            drivers.append(os.environ["SDL_VIDEODRIVER"])
            return super().render()

    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    watch_env(Asking, first_action, 1, seed=0, record=tmp_path / "play.gif")
    assert set(drivers) == {"x11"}
    assert os.environ["SDL_VIDEODRIVER"] == "x11"


def test_a_window_plays_at_the_speed_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    returns = watch_env("CartPole-v1", first_action, 1, seed=0, fps=2000.0)
    assert 5 < returns[0] < 20


class Gate(Painter):
    """Two branches, of 2 and 3 actions; the second must go through the only gate that is open."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.action_space = gym.spaces.MultiDiscrete([2, 3], start=[0, 5])

    def reset(self, **kwargs: Any) -> Any:
        return super().reset(**kwargs)[0], {"action_mask": self.mask()}

    def step(self, action: Any) -> Any:
        assert self.mask()[1][action[1] - 5]
        shown, _, *ends, _ = super().step(3)
        return shown, float(action[1]), *ends, {"action_mask": self.mask()}

    def mask(self) -> Any:
        return np.ones(2, bool), np.arange(3) == self.at % 3


def test_a_masked_agent_with_branches_sees_what_it_was_trained_on(tmp_path: Path) -> None:
    def act(shown: Any) -> np.ndarray:
        assert isinstance(shown, Masked)
        assert shown.action_mask.shape == (2, 3)
        return shown.action_mask.argmax(axis=-1)

    # The gates 0, 1, 2, 0, called 5, 6, 7, 5 by the environment.
    assert watch_env(Gate, act, 1, seed=0, record=tmp_path / "play.gif") == [23.0]


def test_an_agent_is_told_when_an_episode_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    told: list[str] = []

    def act(observation: np.ndarray) -> int:
        told.append("act")
        return 0

    watch_env(Painter, act, 2, begin=lambda: told.append("begin"), seed=0)
    starts = [i for i, what in enumerate(told) if what == "begin"]
    assert len(starts) == 2
    assert starts[0] == 0
    assert 0 < starts[1] < len(told) - 1
