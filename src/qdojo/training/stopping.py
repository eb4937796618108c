"""Stop requests by Ctrl-C and SIGTERM. The trainer decides how to respond."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from qdojo.runs.directory import RunDirectory


class Interrupted(KeyboardInterrupt):
    """Raised on Ctrl-C or SIGTERM after everything was saved."""

    def __init__(self, run: RunDirectory) -> None:
        super().__init__(f"interrupted; qdojo resume {run.path}")
        self.run = run


class CutOff(KeyboardInterrupt):
    """Stop requested during an evaluation, which is abandoned and can be repeated later."""


class StopRequests:
    """Whether Ctrl-C or SIGTERM has requested a stop. Training pauses as soon as it can; evaluations are cut off."""

    def __init__(self) -> None:
        self.asked = False
        self.cutting_off = False
        """Whether a request raises `CutOff` at once. Environments do not catch it, as it is no `Exception`."""


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Turns Ctrl-C and SIGTERM into stop requests, as `StopRequests` describes; a second signal stops at once."""
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
