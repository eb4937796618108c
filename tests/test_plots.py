"""Learning curves: the numbers behind them, the picture's pixels, and the text in a terminal."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

import qdojo
from qdojo.errors import DamagedFile
from qdojo.plots import POINTS, curve_png, population_curve, terminal_curve
from qdojo.runs.metrics import Curve, MetricsWriter


def curve(steps: list[int], values: list[float]) -> Curve:
    return Curve(np.array(steps, np.int64), np.array(values, np.float64))


def write(path: Path, members: int, episodes: int = 60) -> Path:
    with MetricsWriter(path) as writer:
        writer.episodes((m, e, 50 * (e + 1) + m, 8.0 * e, 50) for m in range(members) for e in range(episodes))
        writer.evaluation(1500, np.full(members, 250.0), 20)
    return path


def test_a_member_is_the_mean_of_its_last_twenty_episodes() -> None:
    values = [float(k) for k in range(40)]
    whole = population_curve({0: curve(list(range(1, 41)), values)})
    assert whole is not None
    assert (whole.steps[0], whole.steps[-1]) == (1, 40)
    assert whole.members[0, 0] == 0.0
    assert whole.members[0, -1] == np.mean(values[-20:])
    np.testing.assert_array_equal(whole.middle, whole.members[0])


def test_the_bold_line_is_the_interquartile_mean_over_members() -> None:
    curves = {member: curve([10, 20], [value, value]) for member, value in enumerate([-900.0, 1.0, 3.0, 900.0])}
    whole = population_curve(curves)
    assert whole is not None
    assert whole.members.shape == (4, POINTS)
    np.testing.assert_array_equal(whole.middle, np.full(POINTS, 2.0))


def test_members_meet_where_all_have_ended_an_episode() -> None:
    whole = population_curve({0: curve([5, 50], [1, 1]), 1: curve([20, 80], [2, 2]), 2: curve([], [])})
    assert whole is not None
    assert (whole.steps[0], whole.steps[-1], len(whole.members)) == (20, 80, 2)
    assert population_curve({}) is None


def blue(picture: np.ndarray) -> np.ndarray:
    return (picture[..., 2] > picture[..., 0] + 0.15) & (picture[..., 2] > 0.5)


def orange(picture: np.ndarray) -> np.ndarray:
    return (picture[..., 0] > picture[..., 2] + 0.3) & (picture[..., 0] > 0.7)


@pytest.mark.parametrize("members", [1, 5, 100])
def test_the_picture_shows_the_lines_and_the_dots(tmp_path: Path, members: int) -> None:
    path = tmp_path / "그림.png"
    curve_png(write(tmp_path / "metrics.sqlite", members), "CartPole-v1 · default", path)
    picture = imread(path)
    assert picture.shape[:2] == (600, 1000)
    columns = np.flatnonzero(blue(picture).any(axis=0))
    assert columns.min() < 150
    assert columns.max() > 950
    assert orange(picture).sum() > 20


@pytest.mark.parametrize("title", ["cost $5 and $x_", "막대 세우기", "<b>\\frac{", "x" * 300, ""])
def test_any_title_is_plain_text(tmp_path: Path, title: str) -> None:
    curve_png(write(tmp_path / "metrics.sqlite", 2), title, tmp_path / "curve.png")
    assert imread(tmp_path / "curve.png").shape[:2] == (600, 1000)


def test_a_run_without_episodes_has_a_picture_too(tmp_path: Path) -> None:
    curve_png(write(tmp_path / "metrics.sqlite", 2, episodes=0), "early", tmp_path / "curve.png")
    assert not blue(imread(tmp_path / "curve.png")).any()
    with MetricsWriter(tmp_path / "new.sqlite"):
        pass
    curve_png(tmp_path / "new.sqlite", "new", tmp_path / "curve.png")
    assert imread(tmp_path / "curve.png").shape[:2] == (600, 1000)


def test_a_run_ends_with_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qdojo.training.observers.curve.curve_png", curve_png)
    run = qdojo.train("CartPole-v1", root=tmp_path, steps=400, warmup_steps=64, hidden=[8], num_envs=4, eval_episodes=2)
    assert blue(imread(run.path / "curve.png")).any()


def test_damaged_metrics_leave_the_old_picture(tmp_path: Path) -> None:
    (tmp_path / "curve.png").write_bytes(b"old")
    (tmp_path / "metrics.sqlite").write_bytes(b"not a database")
    with pytest.raises(DamagedFile, match=r"metrics\.sqlite"):
        curve_png(tmp_path / "metrics.sqlite", "title", tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes() == b"old"


def test_a_line_in_the_terminal_rises_from_corner_to_corner() -> None:
    text = terminal_curve(np.array([0, 50_000]), np.array([9.0, 500.0]), width=40, height=8)
    lines = text.split("\n")
    assert len(lines) == 8
    assert all(len(line) <= 40 for line in lines)
    assert lines[0].startswith(" 500┤")
    assert lines[5].startswith("9.00┤")
    assert lines[7].split() == ["0", "50,000", "steps"]
    inked = [[place for place, sign in enumerate(line[5:]) if sign != "\u2800"] for line in lines[:6]]
    assert inked[5][0] == 0
    assert inked[0][-1] == 34
    assert all(upper[0] > lower[0] for upper, lower in itertools.pairwise(inked))


def test_the_dots_of_a_tiny_curve_by_hand() -> None:
    # Four columns and eight rows of dots; from the top, the line is in rows 7, 7, 0 and 0.
    text = terminal_curve(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 0.0, 1.0, 1.0]), width=4, height=4)
    assert text.split("\n")[:2] == ["1.00┤\u2800\u284f", "   0┤\u28c0\u2847"]


@pytest.mark.parametrize("values", [[5.0, 5.0], [5.0], [np.nan, 5.0], [-np.inf, 5.0]])
def test_a_flat_or_single_value_is_drawn(values: list[float]) -> None:
    lines = terminal_curve(np.arange(len(values)), np.array(values), width=30, height=6).split("\n")
    assert len(lines) == 6
    assert sum(any(0x2800 < ord(sign) < 0x2900 for sign in line) for line in lines) == 1


def test_nothing_to_draw_is_said() -> None:
    assert terminal_curve(np.array([]), np.array([])) == "nothing to draw yet"
    assert terminal_curve(np.array([1]), np.array([np.nan])) == "nothing to draw yet"
