"""Adapts a user's own VectorEnv, in any autoreset mode, to the NEXT_STEP rule. For vectors that qdojo builds, see
`gymnasium.py`.

NEXT_STEP needs no change. SAME_STEP and DISABLED spend no step on a restart, so a *pause* is inserted after a step in
which a copy ended: the vector is not stepped, ended copies show their first observation, others the one they had.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from jaxtyping import Float32

from qdojo.envs.copies import MaskedRows, Moved, blank_rows, finished
from qdojo.envs.failures import CopyError, close_quietly, describe
from qdojo.envs.spaces import MASK, Observation, Spaces
from qdojo.errors import UsageError


def autoreset_mode(vector: VectorEnv[Any, Any, Any], name: str) -> AutoresetMode:
    """Return the mode that a vector declares. Raises UsageError if it declares none, or one that does not exist."""
    declared = vector.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(declared)
    except ValueError:
        known = ", ".join(f"AutoresetMode.{mode.name}" for mode in AutoresetMode)
        raise UsageError(
            f'{name}: metadata["autoreset_mode"] is {declared!r}, so it is unknown which steps are resets; '
            f"set it to one of {known}."
        ) from None


class ReadyMadeCopies:
    """The copies inside a user's VectorEnv."""

    def __init__(self, vector: VectorEnv[Any, Any, Any], name: str, spaces: Spaces, seed: int) -> None:
        self._vector = vector
        self._mode = autoreset_mode(vector, name)
        self._spaces = spaces
        self._raw_space = batch_space(vector.single_observation_space, vector.num_envs)
        self._seed: int | None = seed
        self._ended = np.zeros(vector.num_envs, bool)
        self._fresh: Any = None
        self._shown: Any

    def reset(self, rebuild: Mapping[str, np.ndarray] | None = None) -> tuple[Observation, list[int]]:
        """Start new episodes; with `rebuild`, report every row as not rebuilt."""
        raw, infos = self._guard(lambda: self._vector.reset(seed=self._seed))
        self._seed = None
        self._ended[:] = False
        self._fresh = None
        self._shown = self._encode(raw, infos, self._ended)
        return finished(self._shown), [] if rebuild is None else list(range(self._vector.num_envs))

    def step(self, actions: Sequence[Any]) -> Moved:
        """Step the vector once, or make a pause."""
        if self._mode != AutoresetMode.NEXT_STEP and self._ended.any():
            return self._pause()
        raw, reward, terminated, truncated, infos = self._guard(
            lambda: self._vector.step(self._spaces.decode_all(np.maximum(actions, 0)))
        )
        self._ended = np.logical_or(terminated, truncated)
        # Under SAME_STEP a copy that has ended already shows the start of its next episode.
        restarted = self._mode == AutoresetMode.SAME_STEP
        rows = self._encode(raw, infos, np.zeros_like(self._ended) if restarted else terminated)
        if restarted and self._ended.any():
            self._fresh = rows
            rows = self._with_final(rows, infos, terminated)
        self._shown = rows
        return Moved(
            finished(self._shown), self._to_float32(reward), np.array(terminated, bool), np.array(truncated, bool)
        )

    def _pause(self) -> Moved:
        self._shown = self._fresh if self._mode == AutoresetMode.SAME_STEP else self._restart()
        self._ended = np.zeros_like(self._ended)
        nothing = np.zeros(len(self._ended), bool)
        reward = np.zeros(len(self._ended), np.float32)
        return Moved(finished(self._shown), reward, nothing, nothing.copy(), paused=True)

    def _restart(self) -> Any:
        """Reset the rows that have ended and return all rows."""
        raw, infos = self._guard(lambda: self._vector.reset(options={"reset_mask": self._ended.copy()}))
        rows = self._shown.copy()
        before = rows.observation if isinstance(rows, MaskedRows) else rows
        for row, observation in enumerate(self._split(raw)):
            if self._ended[row]:
                rows[row] = self._show(row, observation, infos)
            elif not np.array_equal(self._guard(functools.partial(self._spaces.encoder, observation)), before[row]):
                raise CopyError(None, 'its reset ignored options["reset_mask"] and restarted unfinished episodes')
        return rows

    def _with_final(self, fresh: Any, infos: Mapping[str, Any], terminated: Any) -> Any:
        """Return `fresh` with the final observation in the rows of ended episodes, instead of the next start."""
        rows = fresh.copy()
        for row in np.flatnonzero(self._ended).tolist():
            if "final_obs" not in infos:
                raise CopyError(row, 'its autoreset mode is SAME_STEP, but an episode ended without info["final_obs"]')
            rows[row] = self._show(row, infos["final_obs"][row], infos.get("final_info", {}), bool(terminated[row]))
        return rows

    def _encode(self, raw: Any, infos: Mapping[str, Any], terminated: Any) -> Any:
        """Encode all observations into fresh memory, because a vector may reuse its arrays."""
        rows = blank_rows(self._spaces, self._vector.num_envs)
        for row, observation in enumerate(self._split(raw)):
            rows[row] = self._show(row, observation, infos, bool(terminated[row]))
        return rows

    def _split(self, raw: Any) -> list[Any]:
        """Return the raw observation of each copy."""
        observations = self._guard(lambda: list(iterate(self._raw_space, raw)))
        if len(observations) != self._vector.num_envs:
            raise CopyError(None, f"it returned {len(observations)} observations for {self._vector.num_envs} copies")
        return observations

    def _show(self, row: int, observation: Any, infos: Mapping[str, Any], terminated: bool = False) -> Any:
        return self._guard(lambda: self._spaces.show(observation, _info_of(infos, row), terminated), row)

    def _to_float32(self, reward: Any) -> Float32[np.ndarray, "size"]:
        given = self._guard(lambda: np.array(reward))
        if given.dtype.kind not in "biuf" or given.shape != self._ended.shape:
            told = " ".join(repr(reward).split())
            raise CopyError(None, f"it returned the rewards {told}, but {len(self._ended)} numbers are needed")
        with np.errstate(over="ignore"):
            narrow = given.astype(np.float32)
        for row in np.flatnonzero(~np.isfinite(narrow)).tolist():
            raise CopyError(row, f"it returned a reward of {reward[row]}, which is not a finite float32")
        return narrow

    def _guard(self, call: Callable[[], Any], row: int | None = None) -> Any:
        try:
            return call()
        except (Exception, SystemExit) as error:
            raise CopyError(row, describe(error)) from error

    def close(self) -> None:
        """Close the vector."""
        close_quietly(self._vector)


def _info_of(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Return one copy's `info` with only its action mask; the key with an underscore marks the copies that gave one."""
    given, present = infos.get(MASK), infos.get(f"_{MASK}")
    return {} if given is None or (present is not None and not present[row]) else {MASK: given[row]}
