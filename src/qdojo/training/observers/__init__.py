"""Observers of a run: whoever hears of it while it goes on. Not for what a run does: see `training/trainer.py`.

An observer is an object with some of the methods of `Observer`; those that it lacks are not called. Progress on the
command line, the SQLite file and the learning curve are observers, and so is a callback of your own:

    class Patience:
        def evaluated(self, evaluated):
            if evaluated.step > 20_000 and evaluated.scores.max() < 50:
                raise StopTraining("nothing learned in 20,000 steps")

    qdojo.train("CartPole-v1", observers=[Patience()])
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from qdojo.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float

    from qdojo.config import Config
    from qdojo.runs.directory import RunDirectory
    from qdojo.types import Report


class StopTraining(Exception):
    """Raised by an observer to end training after the current report.

    The run then finishes as at the end of its budget: what it delivers is evaluated, and `result.json` names the
    reason. It can be resumed.
    """


class Started(NamedTuple):
    """A run that begins or goes on."""

    run: "RunDirectory"
    config: "Config"
    loop: str
    """'device', 'host' or 'offline'."""
    at_step: int
    """Env steps of each member that lie behind it: 0 for a new run, those of the checkpoint for a resumed one."""
    unjudged: bool = False
    """Whether the evaluation at `at_step` is still to come: it was cut off, and is played again."""


class Evaluated(NamedTuple):
    """A greedy evaluation during training."""

    step: int
    """Env steps of each member before it."""
    scores: "Float[np.ndarray, 'member']"
    """Mean undiscounted return of each member."""
    episodes: int
    """Episodes of each member."""
    cut: "Bool[np.ndarray, 'member episodes']"
    """Which of them were cut at the bound."""


class Observer(Protocol):
    """All that an observer can hear; implement what you want to hear.

    Nothing that an observer does changes the bits of a run. One that raises anything but `StopTraining` is named in a
    warning and hears no more. Arrays belong to the run: copy them before you write to them.
    """

    def started(self, started: Started) -> None:
        """The run directory is there, and training is about to begin or to go on."""

    def compiling(self) -> None:
        """The first program is about to be compiled; the next call comes when it has run."""

    def reported(self, report: "Report") -> None:
        """A chunk of training is done."""

    def evaluated(self, evaluated: Evaluated) -> None:
        """A greedy evaluation during training is done."""

    def evaluating(self, episodes: int) -> None:
        """Training is over; what it delivers is evaluated on `episodes` unseen episodes of each member."""

    def evaluation_at(self, done: int, episodes: int, steps: int) -> None:
        """A long evaluation goes on: `done` of `episodes` are over, and each copy has played `steps` steps."""

    def saving(self) -> None:
        """A checkpoint is about to be written: what was heard so far must outlive a power failure as it does."""

    def warned(self, message: str) -> None:
        """Something a person should know, which does not stop the run."""

    def finished(self, run: "RunDirectory", result: dict[str, Any]) -> None:
        """The run is complete, with the contents of `result.json`."""

    def closed(self) -> None:
        """Nothing more comes, however the run ended. The last call, also after a failure."""


EVENTS = tuple(name for name in vars(Observer) if not name.startswith("_"))


def check_observers(observers: Sequence[Any]) -> None:
    """Raises UsageError for an object that hears nothing."""
    for place, observer in enumerate(observers):
        if isinstance(observer, type) or not any(hasattr(observer, event) for event in EVENTS):
            what = f"the class {observer.__name__}" if isinstance(observer, type) else type(observer).__name__
            raise UsageError(
                f"observers[{place}] is {what}, but an observer is an object with a method such as "
                "reported(report) or evaluated(evaluated)."
            )


class Observers:
    """The observers of one run, told in the order of the list."""

    def __init__(self, observers: Sequence[Any]) -> None:
        self._observers = list(observers)
        self.stopped_by: str | None = None
        """Who asked for the end of training, and why; None where nobody did."""

    def tell(self, event: str, *arguments: Any) -> None:
        """Call the method `event` of each observer that has it. A warning that nobody hears is logged."""
        if event == "warned" and not any(hasattr(observer, event) for observer in self._observers):
            logging.getLogger("qdojo").warning(*arguments)
        for observer in tuple(self._observers):
            heard: Callable[..., None] | None = getattr(observer, event, None)
            if heard is None:
                continue
            try:
                heard(*arguments)
            except StopTraining as stop:
                if self.stopped_by is None:
                    self.stopped_by = ": ".join(part for part in (_name(observer), str(stop)) if part)
            except Exception as error:
                self._drop(observer, event, error)

    def _drop(self, observer: Any, event: str, error: Exception) -> None:
        self._observers.remove(observer)
        if event != "closed" and hasattr(observer, "closed"):
            with contextlib.suppress(Exception):
                observer.closed()
        why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        message = f"{_name(observer)} failed in {event} ({why}) and hears no more of this run."
        self.tell("warned", message)


def _name(observer: Any) -> str:
    return str(getattr(observer, "name", type(observer).__name__))
