"""Observers, which are notified of the events of a run. `training/trainer.py` runs it.

An observer is an object with any of the methods of `Observer`; missing methods are skipped. The progress display, the
metrics file and the learning curve are observers, and so are your own callbacks:

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
    from qdojo.types import Params, Report


class StopTraining(Exception):
    """Raised by an observer to end training after the current report.

    The run then finishes as at the end of its budget: the delivered agents are evaluated, and `result.json` names the
    reason. The run can be resumed.
    """


class Started(NamedTuple):
    """A run that begins or resumes."""

    run: "RunDirectory"
    config: "Config"
    loop: str
    """'device', 'host' or 'offline'."""
    at_step: int
    """Env steps per member so far: 0 for a new run, the steps of the checkpoint for a resumed one."""
    unjudged: bool = False
    """Whether the evaluation at `at_step` was cut off, so that it is repeated now."""


class Evaluated(NamedTuple):
    """A greedy evaluation during training."""

    step: int
    """Env steps per member before the evaluation."""
    scores: "Float[np.ndarray, 'member']"
    """Mean undiscounted return of each member."""
    episodes: int
    """Number of episodes per member."""
    cut: "Bool[np.ndarray, 'member episodes']"
    """Which episodes were cut at the bound."""


class Observer(Protocol):
    """All events that an observer can receive; implement the ones you need.

    Observers do not affect the bits of a run. An observer that raises anything but `StopTraining` is named in a warning
    and receives no further events. Arrays belong to the run: copy them before you write to them.
    """

    def started(self, started: Started) -> None:
        """The run directory exists, and training is about to begin or resume."""

    def compiling(self) -> None:
        """The first program is about to be compiled; the next event comes after it has run."""

    def reported(self, report: "Report") -> None:
        """A chunk of training is done."""

    def learned(self, step: int, params: "Params") -> None:
        """The parameters of all members, [member, ...], at the start of a run (`step` 0) and after each report.

        They are on the device, and deleted when training goes on: copy what you keep.
        """

    def evaluated(self, evaluated: Evaluated) -> None:
        """A greedy evaluation during training is done."""

    def evaluating(self, episodes: int) -> None:
        """Training is over; the delivered agents are about to be evaluated on `episodes` new episodes per member."""

    def evaluation_at(self, done: int, episodes: int, steps: int) -> None:
        """Progress of a long evaluation: `done` of `episodes` are over, and each copy has taken `steps` steps."""

    def saving(self) -> None:
        """A checkpoint is about to be written. Make everything received so far as durable as the checkpoint."""

    def warned(self, message: str) -> None:
        """A warning for the user, which does not stop the run."""

    def finished(self, run: "RunDirectory", result: dict[str, Any]) -> None:
        """The run is complete, with the contents of `result.json`."""

    def closed(self) -> None:
        """The last event of every run, however it ended, including failures."""


EVENTS = tuple(name for name in vars(Observer) if not name.startswith("_"))


def check_observers(observers: Sequence[Any]) -> None:
    """Raises UsageError for an object without any method of `Observer`."""
    for place, observer in enumerate(observers):
        if isinstance(observer, type) or not any(hasattr(observer, event) for event in EVENTS):
            what = f"the class {observer.__name__}" if isinstance(observer, type) else type(observer).__name__
            raise UsageError(
                f"observers[{place}] is {what}, but an observer is an object with a method such as "
                "reported(report) or evaluated(evaluated)."
            )


class Observers:
    """The observers of one run, notified in the order of the list."""

    def __init__(self, observers: Sequence[Any]) -> None:
        self._observers = list(observers)
        self.stopped_by: str | None = None
        """The observer that requested the end of training, and its reason; None if none did."""

    def tell(self, event: str, *arguments: Any) -> None:
        """Call the method `event` of each observer that has it. A warning that no observer receives is logged."""
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
        message = f"{_name(observer)} failed in {event} ({why}) and receives no further events of this run."
        self.tell("warned", message)


def _name(observer: Any) -> str:
    return str(getattr(observer, "name", type(observer).__name__))
