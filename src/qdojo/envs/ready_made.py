"""A user's own VectorEnv, whatever its autoreset mode, brought to the NEXT_STEP rule. Not for vectors qdojo builds.

NEXT_STEP is taken as it is. SAME_STEP and DISABLED lose no step to a restart, so a *pause* is put in after a step in
which copies ended: the vector is not touched, the ended copies show their fresh start and the others what they showed.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Float32, Shaped

from qdojo.envs.copies import CopyError, Moved, describe
from qdojo.envs.spaces import Spaces
from qdojo.errors import UsageError

Batch = Shaped[np.ndarray, "size *observation"]


def autoreset_mode(vector: VectorEnv[Any, Any, Any], name: str) -> AutoresetMode:
    """The mode a vector declares. Raises UsageError where it declares none, or one that does not exist."""
    declared = vector.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(declared)
    except ValueError:
        known = ", ".join(f"AutoresetMode.{mode.name}" for mode in AutoresetMode)
        raise UsageError(
            f'{name}: metadata["autoreset_mode"] is {declared!r}, so nobody can tell which steps are real; '
            f"set it to one of {known}."
        ) from None


class ReadyMadeCopies:
    """The copies inside a user's VectorEnv."""

    def __init__(self, vector: VectorEnv[Any, Any, Any], name: str, spaces: Spaces, seed: int) -> None:
        self._vector = vector
        self._mode = autoreset_mode(vector, name)
        self._spaces = spaces
        self._seed: int | None = seed
        self._ended = np.zeros(vector.num_envs, bool)
        self._fresh: Batch | None = None
        self._shown: Batch

    def reset(self, rebuild: Mapping[str, np.ndarray] | None = None) -> tuple[Batch, list[int]]:
        """The start of new episodes; where a rebuild is asked, every row is reported as not rebuilt."""
        raw, _ = self._guard(lambda: self._vector.reset(seed=self._seed))
        self._seed = None
        self._ended[:] = False
        self._fresh = None
        self._shown = self._encode(raw)
        return self._shown, [] if rebuild is None else list(range(self._vector.num_envs))

    def step(self, actions: Sequence[int]) -> Moved:
        """One step of the vector, or a pause."""
        if self._mode != AutoresetMode.NEXT_STEP and self._ended.any():
            return self._pause()
        raw, reward, terminated, truncated, infos = self._guard(
            lambda: self._vector.step(np.asarray(actions) + self._spaces.action_start)
        )
        observation = self._encode(raw)
        self._ended = np.logical_or(terminated, truncated)
        if self._mode == AutoresetMode.SAME_STEP and self._ended.any():
            self._fresh = observation
            observation = self._with_final(observation, infos)
        self._shown = observation
        return Moved(observation, self._to_float32(reward), np.array(terminated, bool), np.array(truncated, bool))

    def _pause(self) -> Moved:
        if self._mode == AutoresetMode.SAME_STEP:
            assert self._fresh is not None
            observation = self._fresh
        else:
            observation = self._restart()
        self._ended = np.zeros_like(self._ended)
        self._shown = observation
        nothing = np.zeros(len(observation), bool)
        return Moved(observation, np.zeros(len(observation), np.float32), nothing, nothing.copy(), paused=True)

    def _restart(self) -> Batch:
        raw, _ = self._guard(lambda: self._vector.reset(options={"reset_mask": self._ended.copy()}))
        observation = self._encode(raw)
        if not np.array_equal(observation[~self._ended], self._shown[~self._ended]):
            raise CopyError(None, 'its reset ignored options["reset_mask"] and restarted copies in mid-episode')
        return observation

    def _with_final(self, fresh: Batch, infos: Mapping[str, Any]) -> Batch:
        observation = fresh.copy()
        for row in np.flatnonzero(self._ended).tolist():
            if "final_obs" not in infos:
                raise CopyError(row, 'its autoreset mode is SAME_STEP, but no info["final_obs"] came with an end')
            observation[row] = self._guard(functools.partial(self._spaces.encode, infos["final_obs"][row]), row)
        return observation

    def _encode(self, raw: Any) -> Batch:
        """A copy, because a vector may write into the same array again."""
        size = self._vector.num_envs
        if len(raw) != size:
            raise CopyError(None, f"it gave {len(raw)} observations for {size} copies")
        observation = np.empty((size, *self._spaces.observation_shape), self._spaces.observation_dtype)
        for row in range(size):
            observation[row] = self._guard(functools.partial(self._spaces.encode, raw[row]), row)
        return observation

    def _to_float32(self, reward: Any) -> Float32[np.ndarray, "size"]:
        with np.errstate(over="ignore"):
            narrow = np.array(reward).astype(np.float32)
        for row in np.flatnonzero(~np.isfinite(narrow)).tolist():
            raise CopyError(row, f"it gave a reward of {reward[row]}, which is not a finite float32")
        return narrow

    def _guard(self, call: Callable[[], Any], row: int | None = None) -> Any:
        try:
            return call()
        except (Exception, SystemExit) as error:
            raise CopyError(row, describe(error)) from error

    def close(self) -> None:
        """Close the vector."""
        self._vector.close()
