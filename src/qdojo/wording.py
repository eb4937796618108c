"""Formats scores and text from files for display. JSON output does not use this and keeps every digit.

Imports nothing from qdojo, so that `--help` is fast.
"""

import math
import sys
from collections.abc import Sequence
from unicodedata import category


def score(value: float) -> str:
    """Format a return, or a mean of returns, with at least three significant digits: 0.312, 9.35, 195.3, -200, 1,234.

    Digits before the point are never dropped. Below 1,000 one decimal is kept if it is not zero, because scores can be
    that close to an environment's threshold, such as 195 or 475.
    """
    if not math.isfinite(value):
        return str(float(value))
    size = abs(value)
    if 0.0 < size < 1e-3:
        return f"{value:.3g}"
    if size < 100.0:
        return f"{value:.{2 - math.floor(math.log10(size))}f}" if size else "0"
    return f"{value:,.1f}".removesuffix(".0") if size < 1000.0 else f"{value:,.0f}"


def combination(numbers: dict[str, float]) -> str:
    """Format the settings of one group of members: `learning_rate=0.0003, discount=0.9`."""
    return ", ".join(f"{name}={value:g}" for name, value in numbers.items())


def scores_of_members(
    means: list[float], middle: float, interval: tuple[float, float] | list[float] | None = None, first: int = 0
) -> str:
    """Describe greedy means in words: every mean for up to eight members, else the lowest and the highest.

    Members are numbered from `first`; `middle` is the interquartile mean, and `interval` its 95 % interval over
    members, if there are enough of them.
    """
    if len(means) == 1:
        return f"greedy mean {score(means[0])}"
    told = f"interquartile mean {score(middle)}"
    if interval is not None:
        told += f" (95 % interval {score(interval[0])} to {score(interval[1])})"
    if len(means) <= 8:
        return f"greedy means {', '.join(map(score, means))} of members {first} to {first + len(means) - 1}; {told}"
    return (
        f"{told} of the greedy means of {len(means)} members, "
        f"the lowest {score(min(means))}, the highest {score(max(means))}"
    )


def cut_clause(cut: Sequence[int], episodes: int, bound: int) -> str:
    """Say how many episodes were cut at `bound` steps, `episodes` per member; empty if none was."""
    count = sum(cut)
    verb = "was" if count == 1 else "were"
    return f"{count:,} of {len(cut) * episodes:,} episodes {verb} cut at {bound:,} steps" if count else ""


def printable(text: str) -> str:
    """Return the text with every control character except newlines and tabs escaped, as in `\\x1b`.

    Names, settings and errors are read from the files of runs, which may come from strangers: none of them may move
    the cursor, change the window's title or hide a line.
    """
    return "".join(_spelled(sign) if category(sign) in _CONTROLS and sign not in "\n\t" else sign for sign in text)


_CONTROLS = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of control characters, invisible format characters (such as text direction), surrogates, and line
and paragraph separators."""


def _spelled(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def say(message: str) -> None:
    """Print a message on stderr."""
    print(printable(message), file=sys.stderr, flush=True)
