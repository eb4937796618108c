"""How scores and texts from files are written for a person. Not for JSON, which has every digit.

Imports nothing of qdojo, so that help is quick.
"""

import math
import sys
from collections.abc import Sequence
from unicodedata import category


def score(value: float) -> str:
    """A return or a mean of returns with at least three significant digits: 0.312, 9.35, 195.3, -200, 1,234.

    Digits before the point are never dropped, and below 1,000 a tenth is kept where there is one: thresholds of
    environments such as 195 or 475 are that close.
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
    """What a group of members has of its own: `learning_rate=0.0003, discount=0.9`."""
    return ", ".join(f"{name}={value:g}" for name, value in numbers.items())


def scores_of_members(
    means: list[float], middle: float, interval: tuple[float, float] | list[float] | None = None, first: int = 0
) -> str:
    """Greedy means in words: each where there are few members, else their spread.

    The members are numbered from `first` on; `middle` is the interquartile mean, and `interval` its 95 % interval over
    members, where there are enough of them.
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
    """How many of the `episodes` of each member were cut at `bound` steps; nothing where none was."""
    count = sum(cut)
    verb = "was" if count == 1 else "were"
    return f"{count:,} of {len(cut) * episodes:,} episodes {verb} cut at {bound:,} steps" if count else ""


def printable(text: str) -> str:
    """The text with every control character but line ends and tabs spelled out, as in `\\x1b`.

    Names, settings and errors are read from files of runs, which may come from elsewhere: none of them may move the
    cursor, retitle the window or hide a line.
    """
    return "".join(_spelled(sign) if category(sign) in _CONTROLS and sign not in "\n\t" else sign for sign in text)


_CONTROLS = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of controls, of invisible format characters (direction among them), of halves of a surrogate
pair, and of line and paragraph separators."""


def _spelled(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def say(message: str) -> None:
    """A line for a person, on stderr."""
    print(printable(message), file=sys.stderr, flush=True)
