"""How a run is asked to stop: Ctrl-C, SIGTERM. Not what the trainer does then."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from qdojo.runs.directory import RunDirectory


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after everything was saved."""

    def __init__(self, run: RunDirectory) -> None:
        super().__init__(f"interrupted; qdojo resume {run.path}")
        self.run = run


class CutOff(KeyboardInterrupt):
    """Stop requested during an evaluation, which can be given up and played again."""


class StopRequests:
    """Whether Ctrl-C or SIGTERM has asked for a stop. Training pauses, an evaluation is cut off."""

    def __init__(self) -> None:
        self.asked = False
        self.cutting_off = False
        """Whether a request raises `CutOff` where it arrives. Environments let it through: it is no `Exception`."""


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Ctrl-C and SIGTERM ask for a stop, as `StopRequests` says; a second one stops at once."""
    stop = StopRequests()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        stop.asked = True
        for number in before:
            signal.signal(number, signal.default_int_handler)
        if stop.cutting_off:
            raise CutOff

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
