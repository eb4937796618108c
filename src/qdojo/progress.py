"""Progress of a run in training: a live display on a terminal, an updated line in a notebook, else an occasional plain
line on stderr.

The exact numbers are in the run's `metrics.sqlite`.
"""

import os
import sys
import time
from collections import deque
from statistics import fmean
from typing import TYPE_CHECKING, Protocol

from qdojo.envs.atari_names import human_clause
from qdojo.wording import cut_clause, printable, say, score, scores_of_members

if TYPE_CHECKING:
    from qdojo.config import Config
    from qdojo.runs.directory import RunDirectory
    from qdojo.runs.result import Result
    from qdojo.training.observers import Evaluated, Started
    from qdojo.types import Report

RECENT_EPISODES = 20
"""Number of latest episodes of each member in the displayed mean return."""
PLAIN_EVERY_SECONDS = 5.0
NOTEBOOK_EVERY_SECONDS = 0.5
EVALUATIONS_TOLD = 10
"""Maximum number of evaluations of a run that a plain log reports, in addition to its regular lines."""


class Numbers:
    """Current numbers of a run, collected from its reports."""

    def __init__(self, config: "Config") -> None:
        self._config = config
        self._recent: list[deque[float]] = [deque(maxlen=RECENT_EPISODES) for _ in range(config.members)]
        self._done = [0] * config.members
        self._metrics: dict[str, float] = {}
        self._speed = 0.0
        self.greedy: float | None = None
        """Mean score of the last greedy evaluation over members."""
        self._steps: int | None = None
        self._began = (0.0, 0.0)
        self.fraction = 0.0
        """Fraction of the budget that is used, in steps or in episodes, whichever is larger."""

    def add(self, report: "Report") -> None:
        """Update the numbers from a report."""
        for episode in report.episodes:
            self._recent[episode.member].append(episode.score)
            self._done[episode.member] = episode.episode
        if self._steps is not None:
            self._speed = (report.steps - self._steps) * self._config.members / max(report.seconds, 1e-9)
        self._metrics.update({name: float(values.mean()) for name, values in report.metrics.items()})
        spent = report.steps / self._config.steps
        if self._config.episodes is not None:
            spent = max(spent, min(self._done) / self._config.episodes)
        self.fraction = min(spent, 1.0)
        if self._steps is None:
            self._began = (time.monotonic(), self.fraction)
        self._steps = report.steps

    def left(self) -> str:
        """Estimate the remaining time from the average speed so far."""
        moment, fraction = self._began
        if self.fraction <= fraction:
            return ""
        seconds = (time.monotonic() - moment) * (1 - self.fraction) / (self.fraction - fraction)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"

    def how_far(self) -> list[str]:
        """Return the steps and episodes done, and the speed."""
        if self._steps is None:
            return []
        told = [f"{self._steps:,} of {self._config.steps:,} steps"]
        if self._config.episodes is not None:
            done = min(*self._done, self._config.episodes)
            told.append(f"{done:,} of {self._config.episodes:,} episodes")
        if self._speed:
            told.append(f"{self._speed:,.0f} steps/s")
        return told

    def how_good(self) -> list[str]:
        """Return the learning metrics, each a mean over members."""
        told = []
        returns = [fmean(scores) for scores in self._recent if scores]
        if returns:
            told.append(f"return {score(fmean(returns))}")
        if "epsilon" in self._metrics:
            told.append(f"exploration {self._metrics['epsilon']:.1%}")
        if "loss" in self._metrics:
            told.append(f"loss {self._metrics['loss']:.3g}")
        if self.greedy is not None:
            told.append(f"greedy {score(self.greedy)}")
        return told


def _told(numbers: Numbers) -> list[str]:
    """Return all numbers, for one line."""
    return [part for part in (*numbers.how_far(), *numbers.how_good(), numbers.left()) if part]


def summary(result: "Result") -> str:
    """Return the score of a finished run in one line."""
    evaluation, solved = result["eval"], result["solved"]
    means = scores_of_members(evaluation["mean"], evaluation["iqm"], evaluation["interval"])
    means += human_clause(result["env"], evaluation["iqm"])
    verdict = ""
    if solved is not None and len(solved) == 1:
        verdict = "solved: " if solved[0] else "not solved: "
    elif solved is not None:
        verdict = f"solved by {sum(solved)} of {len(solved)} members: "
    told = f"{result['env']} {verdict}{means}, {evaluation['episodes']} unseen episodes each, {result['steps']:,} steps"
    cut = cut_clause(evaluation["cut"], evaluation["episodes"], evaluation["bound_steps"])
    return f"{told}; {cut}" if cut else told


class Display(Protocol):
    """A place where progress is displayed."""

    def phase(self, name: str) -> None:
        """Show what the run is doing now."""

    def detail(self, text: str) -> None:
        """Show how far a long phase has got."""

    def show(self, numbers: Numbers, evaluated: bool) -> None:
        """Show changed numbers; `evaluated` says whether they include a new greedy evaluation."""

    def message(self, text: str) -> None:
        """Print a permanent line."""

    def close(self) -> None:
        """End the display."""


class PlainDisplay:
    """Occasional lines on stderr, suitable for a log."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()
        self._evaluations = 0

    def phase(self, name: str) -> None:
        say(f"{name} ...")

    def detail(self, text: str) -> None:
        if time.monotonic() - self._told_at >= PLAIN_EVERY_SECONDS:
            self._told_at = time.monotonic()
            say(text)

    def show(self, numbers: Numbers, evaluated: bool) -> None:
        due = time.monotonic() - self._told_at >= PLAIN_EVERY_SECONDS
        if evaluated and numbers.fraction * EVALUATIONS_TOLD >= self._evaluations + 1:
            self._evaluations = int(numbers.fraction * EVALUATIONS_TOLD)
            due = True
        if due:
            self._told_at = time.monotonic()
            say(", ".join(_told(numbers)))

    def message(self, text: str) -> None:
        say(text)

    def close(self) -> None:
        pass


class NotebookDisplay(PlainDisplay):
    """One line below the cell, updated in place; it needs no widget."""

    def __init__(self) -> None:
        super().__init__()
        self._phase, self._width = "", 0

    def phase(self, name: str) -> None:
        self._phase = name
        self._renew(name)

    def detail(self, text: str) -> None:
        self._renew(text)

    def show(self, numbers: Numbers, evaluated: bool) -> None:
        if evaluated or time.monotonic() - self._told_at >= NOTEBOOK_EVERY_SECONDS:
            self._told_at = time.monotonic()
            self._renew(", ".join([f"{self._phase} {numbers.fraction:.0%}", *_told(numbers)]))

    def message(self, text: str) -> None:
        self._renew("")
        print(f"\r{printable(text)}", flush=True)
        self._width = 0

    def close(self) -> None:
        self._renew("")

    def _renew(self, text: str) -> None:
        print(f"\r{text:<{self._width}}", end="" if text else "\r", flush=True)
        self._width = len(text)


class LiveDisplay:
    """A bar and two lines of numbers at the bottom of the terminal, updated in place."""

    def __init__(self) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Bar
        from rich.text import Text

        console = Console(stderr=True, highlight=False)
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[left]}"),
            console=console,
        )
        self._task = self._bar.add_task("", total=1.0, left="")
        self._numbers = Text(style="dim")
        self._live = Live(
            Group(self._bar, self._numbers),
            console=console,
            transient=True,
            refresh_per_second=8,
            # Episodes are printed on stdout. If that is a pipe, they must not be redirected to this display.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._live.start()

    def phase(self, name: str) -> None:
        self._bar.update(self._task, description=name)

    def detail(self, text: str) -> None:
        self.phase(text)

    def show(self, numbers: Numbers, evaluated: bool) -> None:
        self._bar.update(self._task, completed=numbers.fraction, left=numbers.left())
        lines = (numbers.how_far(), numbers.how_good())
        self._numbers.plain = "\n".join("  " + " · ".join(line) for line in lines)

    def message(self, text: str) -> None:
        from rich.text import Text

        self._live.console.print(Text(printable(text)))

    def close(self) -> None:
        self._live.stop()


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class Progress:
    """An observer that displays the progress of a run, as a context manager that opens and closes the display."""

    name = "the progress display"

    def __init__(self, print_episodes: bool, tell_result: bool = False) -> None:
        """`print_episodes`: print the tutorial agent's line for each episode on stdout. `tell_result`: end with a line
        with the score, printed where progress was shown."""
        self.run: RunDirectory | None = None
        """The run directory, once the run has started."""
        self._print_episodes, self._tell_result = print_episodes, tell_result
        self._config: Config
        self._numbers: Numbers
        self._display: Display = PlainDisplay()
        self._training = False

    def __enter__(self) -> "Progress":
        if in_notebook():
            self._display = NotebookDisplay()
        elif sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._display = LiveDisplay()
            self._display.phase("preparing")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Clear the display; safe to call more than once."""
        self._display.close()

    def started(self, started: "Started") -> None:
        config = started.config
        self.run, self._config, self._numbers = started.run, config, Numbers(config)
        members = "one member" if config.members == 1 else f"{config.members} members"
        since = f", from step {started.at_step:,}" if started.at_step else ""
        told = f"{config.env}, preset {config.preset}, {members}, {started.loop} loop{since}: {started.run.path}"
        self._display.message(told)

    def compiling(self) -> None:
        self._display.phase("compiling (cached on disk for next time)")

    def reported(self, report: "Report") -> None:
        if not self._training:
            self._training = True
            self._display.phase("training")
        self._numbers.add(report)
        if self._print_episodes and self._config.agent == "tutorial":
            self._print(report)
        self._display.show(self._numbers, evaluated=False)

    def evaluated(self, evaluated: "Evaluated") -> None:
        self._numbers.greedy = float(evaluated.scores.mean())
        self._display.show(self._numbers, evaluated=True)

    def evaluating(self, episodes: int) -> None:
        self._display.phase(f"evaluating on {episodes} unseen episodes")

    def evaluation_at(self, done: int, episodes: int, steps: int) -> None:
        self._training = False  # so that the next report shows the training phase again
        self._display.detail(f"evaluating: {done:,} of {episodes:,} episodes, {steps:,} steps")

    def warned(self, message: str) -> None:
        self._display.message(f"warning: {message}")

    def finished(self, run: "RunDirectory", result: "Result") -> None:
        if self._tell_result:
            self._display.message(summary(result))
        self.close()

    def _print(self, report: "Report") -> None:
        """Print the tutorial's lines. If the reader of stdout has gone, printing stops but the run continues."""
        budget = self._config.episodes
        lines = [
            (f"Member {episode.member} " if self._config.members > 1 else "")
            + f"Episode {episode.episode}# Score: {episode.length}"
            for episode in report.episodes
            if budget is None or episode.episode <= budget
        ]
        if not lines:
            return
        try:
            print("\n".join(lines), flush=True)
        except BrokenPipeError:
            self._print_episodes = False
