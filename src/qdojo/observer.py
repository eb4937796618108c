"""What a person or a program is told while a run goes on. The command line has one that talks; this one is silent."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from qdojo.config import Config
    from qdojo.runs.directory import RunDirectory
    from qdojo.types import Report


class Observer:
    """Override what you want to hear of. Nothing that an observer does changes the run."""

    def started(self, run: "RunDirectory", config: "Config", loop: str) -> None:
        """The run directory is there; `loop` is 'device' or 'host'."""

    def compiling(self) -> None:
        """The first program is about to be compiled; the next call comes when it has run."""

    def reported(self, report: "Report", scores: "Float[np.ndarray, 'member'] | None") -> None:
        """A chunk is done; `scores` are the means of a greedy evaluation, where one was due."""

    def evaluating(self, episodes: int) -> None:
        """Training is over; what it delivers is evaluated on unseen episodes."""

    def evaluation_at(self, done: int, episodes: int, steps: int) -> None:
        """A long evaluation goes on: `done` of `episodes` are over, and each copy has played `steps` steps."""

    def warned(self, message: str) -> None:
        """Something a person should know, which does not stop the run."""

    def finished(self, run: "RunDirectory", result: dict[str, Any]) -> None:
        """The run is complete, with the contents of `result.json`."""
