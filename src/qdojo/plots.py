"""Draws learning curves as an image and as text for a terminal. For scores to quote, use `evaluate`."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Real

from qdojo.runs.directory import write_atomically
from qdojo.runs.metrics import Curve, evaluations, learning_curve
from qdojo.statistics import interquartile_mean
from qdojo.wording import score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW_EPISODES = 20
"""Episodes in the running mean that smooths a curve."""

POINTS = 300
"""Number of steps at which the curves of a population are interpolated."""

KOREAN_FONTS = ("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Malgun Gothic", "AppleGothic")


class PopulationCurve(NamedTuple):
    """Smoothed returns of a population on a common grid of steps, and their interquartile mean over members."""

    steps: Float[np.ndarray, "points"]
    members: Float[np.ndarray, "members points"]
    middle: Float[np.ndarray, "points"]


def population_curve(curves: dict[int, Curve]) -> PopulationCurve | None:
    """Interpolate the `learning_curve` of a run on a common grid, which starts once every member has an episode.

    Each member's curve is the running mean of its last 20 episodes, interpolated linearly. Returns None if no member
    has finished an episode; a member without episodes is left out.
    """
    grown = [curve for curve in curves.values() if curve.steps.size]
    if not grown:
        return None
    first = max(curve.steps[0] for curve in grown)
    steps = np.linspace(first, max(curve.steps[-1] for curve in grown), POINTS)
    members = np.stack([np.interp(steps, curve.steps, _running_mean(curve.values)) for curve in grown])
    return PopulationCurve(steps, members, np.asarray([interquartile_mean(column) for column in members.T]))


def _running_mean(values: Float[np.ndarray, "episodes"]) -> Float[np.ndarray, "episodes"]:
    ends = np.arange(1, values.size + 1)
    starts = np.maximum(ends - WINDOW_EPISODES, 0)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[ends] - sums[starts]) / (ends - starts)


def curve_figure(metrics_path: Path, title: str) -> "Figure":
    """Draw the learning curve of a run, 1000 by 600 pixels: thin lines for members, a bold one for their interquartile
    mean, dots for greedy evaluations. A notebook displays it. Raises `DamagedFile` if the metrics cannot be read.
    """
    from matplotlib.font_manager import fontManager

    curve, dots = population_curve(learning_curve(metrics_path)), evaluations(metrics_path)
    installed = set(fontManager.get_font_names())
    fonts = [*(name for name in KOREAN_FONTS if name in installed), "DejaVu Sans"]
    figure = _shown_figure()(figsize=(10, 6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    if curve is None and not dots:
        axes.text(0.5, 0.5, "no episode has ended yet", ha="center", va="center", transform=axes.transAxes)
    if curve is not None:
        _draw_returns(axes, curve)
    _draw_evaluations(axes, dots)
    axes.set_title(title, parse_math=False, fontfamily=fonts, fontsize=15)
    axes.set_xlabel("Environment steps", fontsize=12)
    # An agent that learns from logged steps plays only in evaluations.
    axes.set_ylabel(f"Return (mean of the last {WINDOW_EPISODES} episodes)" if curve else "Return", fontsize=12)
    axes.xaxis.set_major_formatter(lambda steps, _: f"{steps:,.0f}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", framealpha=0.9)
    return figure


def _shown_figure() -> "type[Figure]":
    """Return a figure class that a notebook displays even without `%matplotlib inline`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            FigureCanvasAgg(self)

        def _repr_png_(self) -> bytes:
            return _png(self)

    return ShownFigure


def _png(figure: "Figure") -> bytes:
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(picture, format="png")
    return picture.getvalue()


def curve_png(metrics_path: Path, title: str, path: Path) -> None:
    """Write `curve_figure` to `path`. Raises `DamagedFile` if the metrics cannot be read."""
    write_atomically(path, _png(curve_figure(metrics_path, title)))


def _draw_returns(axes: Any, curve: PopulationCurve) -> None:
    population = len(curve.members)
    if population > 1:
        opacity = min(0.6, max(0.15, 1.2 / population**0.5))
        lines = axes.plot(curve.steps, curve.members.T, color="tab:blue", linewidth=0.8, alpha=opacity)
        lines[0].set_label(f"each of {population} members")
    label = "interquartile mean of the members" if population > 1 else "return while learning"
    axes.plot(curve.steps, curve.middle, color="tab:blue", linewidth=2.5, label=label)


def _draw_evaluations(axes: Any, dots: dict[int, Curve]) -> None:
    for number, curve in enumerate(dots.values()):
        label = "greedy evaluation" if number == 0 else None
        axes.plot(curve.steps, curve.values, "o", color="tab:orange", markersize=4, alpha=0.7, label=label, zorder=3)


# Unicode braille: one bit for each of the 4 x 2 dots of a character.
BRAILLE_BITS = np.asarray([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


def terminal_curve(
    steps: Real[np.ndarray, "points"], values: Real[np.ndarray, "points"], width: int = 72, height: int = 14
) -> str:
    """Draw a curve in braille dots, in `height` lines of at most `width` characters including the axes.

    `steps` must not decrease. Values that are not finite are left out.
    """
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if values.size == 0:
        return "nothing to draw yet"
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 1, high + 1
    labels = [score(value) for value in (high, low)]
    margin = max(len(label) for label in labels)
    rows, columns = max(height - 2, 2), max(width - margin - 1, 2)

    heights = np.interp(np.linspace(steps[0], steps[-1], 2 * columns), steps, values)
    levels = np.rint((high - heights) / (high - low) * (4 * rows - 1)).astype(int)
    dots = np.zeros((4 * rows, 2 * columns), int)
    for column, (before, now) in enumerate(zip([levels[0], *levels], levels, strict=False)):
        dots[min(before, now) : max(before, now) + 1, column] = 1
    codes = np.einsum("rico,io->rc", dots.reshape(rows, 4, columns, 2), BRAILLE_BITS)

    names = [labels[0], *[""] * (rows - 2), labels[1]]
    body = [
        f"{name:>{margin}}┤{''.join(chr(0x2800 + code) for code in line)}"
        for name, line in zip(names, codes, strict=True)
    ]
    first, last = f"{steps[0]:,.0f}", f"{steps[-1]:,.0f} steps"
    return "\n".join([*body, f"{'':{margin}}└{'─' * columns}", f"{'':{margin}} {first}{last:>{columns - len(first)}}"])
