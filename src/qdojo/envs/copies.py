"""Seeded copies of one environment, in this process or in workers. For users' vector environments, see `ready_made.py`.

A copy never raises: it reports a failure as text in its `info`, because text survives any worker and any exception
type. The caller that steps the copies turns it into a `CopyError`.
"""

import functools
import hashlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float32, Shaped

from qdojo.envs.atari import LIFE_LOST
from qdojo.envs.encoders import BadValueError
from qdojo.envs.failures import CallError, CopyError, close_quietly, describe
from qdojo.envs.masks import with_masks
from qdojo.envs.spaces import MASK, OBSERVATION, Observation, Spaces, seen
from qdojo.errors import UsageError

FAILURE = "qdojo_failure"
INEXACT = "qdojo_inexact"
REST = -1
"""The action with which a copy whose episode is over does not begin the next one."""
_LARGEST_REWARD = float(np.finfo(np.float32).max)


class Moved(NamedTuple):
    """The result of one step of all copies, before its observations are checked for NaN and inf."""

    observation: Observation
    """With a leading `size` axis."""
    reward: Float32[np.ndarray, "size"]
    terminated: Bool[np.ndarray, "size"]
    truncated: Bool[np.ndarray, "size"]
    life_lost: Bool[np.ndarray, "size"] | None = None
    """True where a life was lost, after which nothing counts for learning; None: nowhere."""
    paused: bool = False
    """True if this was a pause: the environment was not stepped and no action was applied."""


def episode_seed(member_seed: int, copy: int, episode: int) -> int:
    """Return the seed of one episode of one copy; it is below 2**31, which every simulator accepts."""
    return int(np.random.SeedSequence((member_seed, copy, episode)).generate_state(1)[0] >> 1)


def observation_hash(*parts: Shaped[np.ndarray, "..."]) -> int:
    """Return a 64-bit hash of an observation; `parts` are the observation and, if it has one, its mask."""
    content = b"".join(part.tobytes() for part in parts)
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


class SeededCopy(gym.Wrapper[Any, Any, Any, Any]):
    """One copy under the NEXT_STEP rule that resets every episode with a seed of its own.

    Its observations are those of `Spaces.show`. `reset` begins the next episode, and so does `step` after an episode
    has ended, ignoring its action unless it is `REST`, which changes nothing. With `options={"rebuild": state}`,
    `reset` instead rebuilds row `row` of a `HostEnvironment.state()`. If the rebuilt observation differs from the saved
    one, it begins the episode after that one and sets `info[INEXACT]`.
    """

    def __init__(self, env: gym.Env[Any, Any], spaces: Spaces, member_seed: int, copy: int, row: int = 0) -> None:
        super().__init__(with_masks(env, spaces))
        self.observation_space, self.action_space = _shown_space(spaces), _choice_space(spaces)
        self.episode = -1
        self._spaces = spaces
        # A fast path for every step: most environments count actions from 0 and give no masks.
        self._decode = spaces.decode if spaces.action_shape or spaces.action_start else int
        self._masked, self._encode = spaces.masked, spaces.encoder
        self._seed = member_seed
        self._copy = copy
        self._row = row
        self._over = True
        self._last: Any = None
        """The final observation of the episode that is over."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start the next episode; `seed` is ignored, because the copy has its own."""
        return self._rebuild(options["rebuild"]) if options else self._begin()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step; `action` counts from 0."""
        if self._over:
            if np.min(action) == REST:
                return self._last, 0.0, False, False, {}
            observation, info = self._begin()
            return observation, 0.0, False, False, info
        try:
            returned = self.env.step(self._decode(action))
            try:
                observation, given, terminated, truncated, info = returned
                reward = given if type(given) is float else one_number(given)
                self._over = bool(terminated or truncated)
            except (TypeError, ValueError):
                raise BadValueError(_unlike_a_step(returned)) from None
            if not -_LARGEST_REWARD <= reward <= _LARGEST_REWARD:
                raise BadValueError(f"a reward of {reward}, which is not a finite float32")
            is_plain = not (self._masked or (info and MASK in info))
            shown = self._encode(observation) if is_plain else self._spaces.show(observation, info, terminated)
            told = {LIFE_LOST: True} if info and LIFE_LOST in info else {}
            if self._over:
                self._last = shown
            return shown, reward, bool(terminated), bool(truncated), told
        except (Exception, SystemExit) as error:
            observation, info = self._failed(error)
            return observation, 0.0, False, False, info

    def close(self) -> None:
        """Close the environment."""
        close_quietly(self.env)

    def _begin(self) -> tuple[Any, dict[str, Any]]:
        self.episode += 1
        self._over = False
        try:
            returned = self.env.reset(seed=episode_seed(self._seed, self._copy, self.episode))
            if not (isinstance(returned, tuple) and len(returned) == 2):
                raise BadValueError(f"{_kind(returned)} from reset, but a tuple (observation, info) is needed")
            observation, info = returned
            return self._spaces.show(observation, info), {}
        except (Exception, SystemExit) as error:
            return self._failed(error)

    def _failed(self, error: BaseException) -> tuple[Any, dict[str, Any]]:
        blank = np.zeros(self._spaces.observation_shape, self._spaces.observation_dtype)
        shown = {OBSERVATION: blank, MASK: self._spaces.legal} if self._spaces.masked else blank
        return shown, {FAILURE: describe(error)}

    def _rebuild(self, state: Mapping[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
        row = self._row
        self.episode = int(state["episode"][row]) - 1
        observation, info = self._begin()
        exact = True
        for action in state["actions"][row, : int(state["length"][row])].tolist():
            if FAILURE in info or self._over:
                exact = False
                break
            observation, _, _, _, info = self.step(action)
        if (
            exact
            and FAILURE not in info
            and self._over == bool(state["over"][row])
            and observation_hash(*_parts(observation)) == int(state["hash"][row])
        ):
            return observation, {}
        observation, info = self._begin()
        return observation, {INEXACT: True, **info}


def one_number(given: Any) -> float:
    """Convert a reward to a float: a Python number, or an array of any library with one element. Raises TypeError for
    text and times, some of which `float` accepts, and TypeError or ValueError if it is not exactly one number."""
    kind = getattr(getattr(given, "dtype", None), "kind", None)
    if isinstance(given, str | bytes | bytearray) or kind in ("S", "U", "O", "m", "M"):
        raise TypeError
    return float(given)


def _unlike_a_step(returned: Any) -> str:
    """Describe the fault in a step's return value that is not a 5-tuple with a number and two flags in it."""
    if not (isinstance(returned, tuple) and len(returned) == 5):
        needed = "(observation, reward, terminated, truncated, info)"
        old = ", as in old Gym" if isinstance(returned, tuple) and len(returned) == 4 else ""
        fix = ": split done into terminated and truncated" if old else ""
        return f"{_kind(returned)} from step{old}, but a tuple {needed} is needed{fix}"
    try:
        one_number(returned[1])
    except (TypeError, ValueError):
        return f"the reward {' '.join(repr(returned[1]).split())}, but one number is needed"
    ends = " and ".join(" ".join(repr(flag).split()) for flag in returned[2:4])
    return f"{ends} as terminated and truncated, but each must be one bool"


def _kind(returned: Any) -> str:
    return f"a tuple of {len(returned)}" if isinstance(returned, tuple) else f"a {type(returned).__name__}"


def _shown_space(spaces: Spaces) -> gym.Space[Any]:
    low, high = {"u": (0, 255), "i": (0, np.iinfo(np.int32).max), "f": (-np.inf, np.inf)}[spaces.observation_dtype.kind]
    box = gym.spaces.Box(low, high, spaces.observation_shape, spaces.observation_dtype.type)
    if not spaces.masked:
        return box
    return gym.spaces.Dict({OBSERVATION: box, MASK: gym.spaces.MultiBinary(spaces.legal.shape)})


def _choice_space(spaces: Spaces) -> gym.Space[Any]:
    counts = spaces.legal.sum(axis=-1)
    return gym.spaces.MultiDiscrete(counts) if spaces.action_shape else gym.spaces.Discrete(int(counts))


def _parts(shown: Any) -> tuple[np.ndarray, ...]:
    return (shown[OBSERVATION], shown[MASK]) if isinstance(shown, dict) else (shown,)


class MaskedRows:
    """Masked observations of many copies, filled row by row like an array."""

    def __init__(self, observation: Shaped[np.ndarray, "size ..."], action_mask: Bool[np.ndarray, "size ..."]) -> None:
        self.observation, self.action_mask = observation, action_mask

    def __setitem__(self, row: int, shown: Mapping[str, np.ndarray]) -> None:
        self.observation[row], self.action_mask[row] = shown[OBSERVATION], shown[MASK]

    def copy(self) -> "MaskedRows":
        """Return a copy that shares no memory with these rows."""
        return MaskedRows(self.observation.copy(), self.action_mask.copy())


def blank_rows(spaces: Spaces, size: int) -> Any:
    """Return an uninitialized array for each copy's result of `Spaces.show`; `MaskedRows` if results have masks."""
    observation = np.empty((size, *spaces.observation_shape), spaces.observation_dtype)
    return MaskedRows(observation, np.empty((size, *spaces.legal.shape), bool)) if spaces.masked else observation


def finished(rows: Any) -> Observation:
    """Convert completely filled rows to the observations that the agent sees."""
    return seen({OBSERVATION: rows.observation, MASK: rows.action_mask}) if isinstance(rows, MaskedRows) else rows


def build_copy(
    make: Callable[[], Any], spaces: Spaces, member_seed: int, copy: int, row: int, parent: int
) -> SeededCopy:
    """Build one copy; `parent` is the id of the process that owns the vector, which may not be this process."""
    # Ctrl-C reaches the whole process group. Only the parent may act on it, so that it can still save a checkpoint.
    if os.getpid() != parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        env = make()
    except UsageError:
        raise  # it already says in one sentence what is wrong with the request
    except (Exception, SystemExit) as error:
        env = Unbuilt(f"its factory {describe(error).removeprefix('it ')}")
    if not isinstance(env, gym.Env):
        env = Unbuilt(f"its factory returned a {type(env).__name__}, but a gymnasium.Env is needed")
    return SeededCopy(env, spaces, member_seed, copy, row)


class Unbuilt(gym.Env[Any, Any]):
    """Stands in for a copy that could not be built: its `reset` says why, in this process or in a worker."""

    def __init__(self, why: str) -> None:
        self._why = why

    def reset(self, **options: Any) -> NoReturn:
        """Raises CallError."""
        raise CallError(self._why)


def copy_builders(
    make: Callable[[], Any], spaces: Spaces, member_seeds: Sequence[int], envs_per_member: int
) -> list[Callable[[], SeededCopy]]:
    """Return one builder per row; row r is copy r % envs_per_member of member r // envs_per_member."""
    rows = [(seed, copy) for seed in member_seeds for copy in range(envs_per_member)]
    return [
        functools.partial(build_copy, make, spaces, seed, copy, row, os.getpid())
        for row, (seed, copy) in enumerate(rows)
    ]


class SyncCopies:
    """Copies stepped one after the other in this process."""

    def __init__(self, builders: Sequence[Callable[[], SeededCopy]], spaces: Spaces) -> None:
        self._copies: list[SeededCopy] = []
        self._spaces = spaces
        try:
            for build in builders:
                self._copies.append(build())
        except BaseException:
            self.close()
            raise

    def reset(self, rebuild: Mapping[str, np.ndarray] | None = None) -> tuple[Observation, list[int]]:
        """Reset every copy; return the observations and the rows that could not be rebuilt."""
        shown = blank_rows(self._spaces, len(self._copies))
        inexact = []
        for row, copy in enumerate(self._copies):
            shown[row], info = copy.reset(options=None if rebuild is None else {"rebuild": rebuild})
            if FAILURE in info:
                raise CopyError(row, info[FAILURE])
            if INEXACT in info:
                inexact.append(row)
        return finished(shown), inexact

    def step(self, actions: Sequence[Any]) -> Moved:
        """Step every copy once."""
        shown = blank_rows(self._spaces, len(self._copies))
        rewards, terminated, truncated = [], [], []
        lost: np.ndarray | None = None
        for row, copy in enumerate(self._copies):
            shown[row], reward, is_terminated, is_truncated, info = copy.step(actions[row])
            if info:
                if FAILURE in info:
                    raise CopyError(row, info[FAILURE])
                if lost is None:
                    lost = np.zeros(len(self._copies), bool)
                lost[row] = True
            rewards.append(reward)
            terminated.append(is_terminated)
            truncated.append(is_truncated)
        return Moved(finished(shown), np.array(rewards, np.float32), np.array(terminated), np.array(truncated), lost)

    def close(self) -> None:
        """Close every copy."""
        for copy in self._copies:
            copy.close()
