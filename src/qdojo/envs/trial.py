"""Tries one reset and one step of a fresh copy before anything is compiled or allocated. `doctor.py` checks more."""

import contextlib
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qdojo.envs.copies import FAILURE, SeededCopy
from qdojo.envs.failures import CopyError, close_quietly, describe, doctor_hint
from qdojo.envs.ready_made import ReadyMadeCopies
from qdojo.envs.resolve import EnvSpec
from qdojo.envs.spaces import Observation, Spaces, seen
from qdojo.errors import UsageError

RESET_MEND = "define reset(self, *, seed=None, options=None) and return (observation, info) with a dict as info"
STEP_MEND = "step() after reset() must work for every action of the action space"
MASK_MEND = (
    "give a mask of 0 and 1 with every reset and step, one number per action, and end the episode if none is legal"
)
FACTORY_MEND = "make it build a fresh environment on each call"
CLOSE_MEND = "make close() work even if nothing is open"


def try_out(spec: EnvSpec, spaces: Spaces) -> None:
    """Build a copy, reset it, take one legal step, build another beside it, as an evaluation does, and close both.

    The global random generators of the process are left as they were.

    Raises UsageError, one sentence that says what to fix, if any of that fails.
    """
    with warnings.catch_warnings(), _own_randomness():
        warnings.simplefilter("ignore")
        env = _called(f"{spec.name}: its factory, called once more,", spec.make, FACTORY_MEND)
        try:
            _play_vector(env, spec.name, spaces) if spec.is_vector else _play(env, spec.name, spaces)
            beside = f"{spec.name}: its factory, called while another copy was open,"
            another = _called(beside, spec.make, "evaluations run during training, so allow several copies at once")
            close_quietly(another)
            if another is env:
                raise UsageError(f"{beside} returned that same copy; {FACTORY_MEND}.")
        except BaseException:
            close_quietly(env)
            raise
        _called(f"{spec.name}: close()", env.close, CLOSE_MEND)


def _called(what: str, call: Callable[[], Any], mend: str) -> Any:
    try:
        return call()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{what} {describe(error).removeprefix('it ')}; {mend}.") from error


def _play(env: Any, name: str, spaces: Spaces) -> None:
    copy = SeededCopy(env, spaces, 0, 0)
    shown, info = copy.reset()
    _check(name, "reset", info.get(FAILURE) or _not_finite(seen(shown)))
    action = _legal(seen(shown), spaces)
    shown, _, _, _, info = copy.step(action)
    _check(name, f"step (action {action})", info.get(FAILURE) or _not_finite(seen(shown)))


def _play_vector(vector: Any, name: str, spaces: Spaces) -> None:
    copies = ReadyMadeCopies(vector, name, spaces, 0)
    moment = "reset"
    try:
        shown, _ = copies.reset()
        _check(name, moment, _not_finite(shown))
        moment = "step"
        _check(name, moment, _not_finite(copies.step(_legal(shown, spaces, vector.num_envs)).observation))
    except CopyError as failure:
        _check(name, moment, failure.what)


def _legal(shown: Observation, spaces: Spaces, *size: int) -> Any:
    """Return the first legal action of each of `size` copies."""
    mask = (
        shown.action_mask if isinstance(shown, tuple) else np.broadcast_to(spaces.legal, (*size, *spaces.legal.shape))
    )
    return np.asarray(mask).argmax(axis=-1).tolist()


def _not_finite(shown: Observation) -> str | None:
    array = shown.observation if isinstance(shown, tuple) else shown
    is_wrong = array.dtype.kind == "f" and not np.isfinite(array).all()
    return "it returned an observation that holds NaN or inf" if is_wrong else None


def _check(name: str, moment: str, wrong: str | None) -> None:
    if wrong is None:
        return
    about_masks = "action mask" in wrong or "action_masks()" in wrong
    mend = f"; {MASK_MEND}" if about_masks else doctor_hint(name, wrong)
    if wrong.startswith("it raised"):
        mend = f"; {RESET_MEND if moment == 'reset' else STEP_MEND}"
    raise UsageError(f"{name} fails at its first {moment}: {wrong}{mend}.")


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """Restore the global random generators, from which environments and users' own code may draw."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
