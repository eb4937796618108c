"""Copies of an environment in worker processes. For copies in this process, see `copies.py`."""

import contextlib
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from qdojo.envs.atari import LIFE_LOST
from qdojo.envs.copies import FAILURE, INEXACT, Moved, SeededCopy
from qdojo.envs.failures import CopyError, describe
from qdojo.envs.spaces import MASK, OBSERVATION, Observation, seen

_WORKER_GRACE_SECONDS = 2.0


class AsyncCopies:
    """Copies in worker processes, built on Gymnasium's AsyncVectorEnv but with timeouts and without orphans.

    Workers come from a fork server (or are spawned if there is none): forking a process that runs JAX can deadlock, and
    a forked worker would hold its siblings' pipes open, so that none would notice the parent's death.
    """

    def __init__(self, builders: Sequence[Callable[[], SeededCopy]], timeout_seconds: float) -> None:
        has_server = "forkserver" in multiprocessing.get_all_start_methods()
        if has_server:
            multiprocessing.set_forkserver_preload([__name__])
        self._timeout = timeout_seconds
        self._vector: Any = None
        # Raised outside the `try`: the traceback would keep the half-built vector, and with it its workers, alive.
        trouble = ""
        try:
            with _unguarded_script_left_alone():
                # A copy begins its next episode, or rests, by itself.
                self._vector = AsyncVectorEnv(
                    builders,
                    copy=False,
                    context="forkserver" if has_server else "spawn",
                    autoreset_mode=AutoresetMode.DISABLED,
                )
        except (EOFError, OSError):
            trouble = (
                "a worker process died while it started (see its message above); define the environment in a module "
                "that can be imported, or use vectorization='sync'"
            )
        except Exception as error:
            trouble = f"its workers could not be started, {describe(error)}"
        if trouble:
            raise CopyError(None, trouble)

    def reset(self, rebuild: Mapping[str, np.ndarray] | None = None) -> tuple[Observation, list[int]]:
        """Reset every copy; return the observations and the rows that could not be rebuilt."""
        options = None if rebuild is None else {"rebuild": dict(rebuild)}
        # A rebuild replays a whole episode in one call, and each of its steps may take up to the timeout.
        steps = 1 if rebuild is None else 1 + int(rebuild["length"].max())
        observation, infos = self._call(
            lambda vector: vector.reset_async(options=options), "reset_wait", steps * self._timeout
        )
        return _received(observation), np.flatnonzero(infos.get(f"_{INEXACT}", ())).tolist()

    def step(self, actions: Sequence[Any]) -> Moved:
        """Step every copy once."""
        observation, reward, terminated, truncated, infos = self._call(
            lambda vector: vector.step_async(np.asarray(actions)), "step_wait", self._timeout
        )
        lost = infos.get(f"_{LIFE_LOST}")
        return Moved(_received(observation), reward.astype(np.float32), terminated, truncated, lost)

    def _call(self, send: Callable[[Any], None], wait: str, timeout: float) -> Any:
        if self._vector is None:
            raise CopyError(None, "its workers are already closed")
        try:
            send(self._vector)
            result = getattr(self._vector, wait)(timeout)
        except multiprocessing.TimeoutError:
            self._stop_late(timeout)
        except (EOFError, OSError):
            self._stop_dead()
        infos = result[-1]
        if FAILURE in infos:
            row = int(np.flatnonzero(infos[f"_{FAILURE}"])[0])
            raise CopyError(row, infos[FAILURE][row])
        return result

    def _stop_late(self, timeout: float) -> NoReturn:
        late = next((row for row, pipe in enumerate(self._vector.parent_pipes) if not pipe.poll(0)), None)
        self._kill()
        raise CopyError(late, f"it did not answer within {timeout:g} seconds, so its worker was killed")

    def _stop_dead(self) -> NoReturn:
        deadline = time.monotonic() + _WORKER_GRACE_SECONDS
        dead: list[int] = []
        while not dead and time.monotonic() < deadline:
            dead = [row for row, process in enumerate(self._vector.processes) if not process.is_alive()]
        code = self._vector.processes[dead[0]].exitcode if dead else None
        self._kill()
        raise CopyError(dead[0] if dead else None, f"its worker process died (exit code {code})")

    def close(self) -> None:
        """Ask the workers to close their environments, then kill any worker that is left."""
        if self._vector is None:
            return
        for pipe in self._vector.parent_pipes:
            try:
                pipe.send(("close", None))
            except OSError:
                continue
        deadline = time.monotonic() + _WORKER_GRACE_SECONDS
        for process in self._vector.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        self._kill()

    def _kill(self) -> None:
        vector, self._vector = self._vector, None
        for process in vector.processes:
            process.kill()
        for process in vector.processes:
            process.join()
        for pipe in vector.parent_pipes:
            pipe.close()
        vector.error_queue.close()
        vector.closed = True


@contextlib.contextmanager
def _unguarded_script_left_alone() -> Iterator[None]:
    """Keep workers from running the main script again, as `multiprocessing` does, if it has no `__main__` guard.

    It would start training again in each worker. Its classes and functions reach the workers by value (cloudpickle). A
    script with a guard is imported as usual, since it may register environments.
    """
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if path is None or getattr(main, "__spec__", None) is not None or _asks_for_main(Path(path)):
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = path


def _asks_for_main(script: Path) -> bool:
    try:
        return "__name__" in script.read_text(encoding="utf-8", errors="replace")
    except OSError:  # `<stdin>`: there is no script to import
        return False


def _received(shown: Any) -> Observation:
    """Copy observations out of the shared memory that the workers write to."""
    if isinstance(shown, dict):
        return seen({OBSERVATION: shown[OBSERVATION].copy(), MASK: shown[MASK].astype(bool)})
    return shown.copy()
