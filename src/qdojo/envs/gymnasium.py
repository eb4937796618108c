"""A vector of Gymnasium environments for the host loop, with exact resume. For JAX environments, see `contract.py`.

It follows Gymnasium's NEXT_STEP rule: the step after the end of an episode ignores the action, gives a reward of 0 and
returns the first observation of the next episode.
"""

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from qdojo.envs.copies import REST, Moved, SyncCopies, copy_builders, episode_seed, observation_hash
from qdojo.envs.failures import GAVE, CopyError, close_quietly, describe, doctor_hint
from qdojo.envs.ready_made import ReadyMadeCopies
from qdojo.envs.resolve import EnvSpec
from qdojo.envs.spaces import Observation, Spaces, check_spaces
from qdojo.envs.workers import AsyncCopies
from qdojo.errors import EnvironmentFailure, UsageError


class HostStep(NamedTuple):
    """The result of one step of all copies; row r is env r % envs_per_member of member r // envs_per_member."""

    observation: Observation
    """[size, ...], after the step: the final observation if the episode has ended."""
    reward: Float32[np.ndarray, "size"]
    terminated: Bool[np.ndarray, "size"]
    truncated: Bool[np.ndarray, "size"]
    applied: Bool[np.ndarray, "size"]
    """False where the action was ignored: no transition starts at the observation before this step."""
    begun: Bool[np.ndarray, "size"]
    """True where `observation` is the first of an episode. In a pause, both `applied` and `begun` are False."""
    final: Bool[np.ndarray, "size"]
    """True where learning treats this step as terminal: `terminated`, or a life was lost but the game continues."""


class HostEnvironment:
    """`len(member_seeds) * envs_per_member` copies of an environment, stepped together.

    Every episode of every copy has its own seed, derived from the member's seed, the copy's index within the member
    and the episode's number. So a member sees the same episodes whichever members train beside it, and an unfinished
    episode can be rebuilt from its seed and its actions.

    Actions and observations follow `spaces` (by default `check_spaces(spec)`) and have a leading `size` axis; the
    observation is a `Masked` if `spaces.masked`.

    A ready-made VectorEnv (`spec.is_vector`) keeps its own number of copies, which must equal `size`; it is seeded once
    and its episodes cannot be rebuilt.

    Raises UsageError for unsupported spaces, sizes and autoreset modes. `reset`, `step` and `restore` raise
    EnvironmentFailure if an environment raises, dies, hangs (async only, after `timeout_seconds` per step) or returns
    a value that is outside its spaces or not finite. The caller receives nothing from a failed step, and `state()`
    then returns the state before it.
    """

    def __init__(
        self,
        spec: EnvSpec,
        member_seeds: Sequence[int],
        envs_per_member: int = 1,
        vectorization: Literal["sync", "async"] = "sync",
        timeout_seconds: float = 60.0,
        spaces: Spaces | None = None,
    ) -> None:
        self.name = spec.name
        self.spaces = spaces or check_spaces(spec)
        self.size = len(member_seeds) * envs_per_member
        self.restorable = not spec.is_vector
        self.observation: Observation
        """The current observation of every copy, [size, ...]; set by `reset`, `step` and `restore`."""
        self._seeds = [(int(seed), copy) for seed in member_seeds for copy in range(envs_per_member)]
        self._episode = [-1] * self.size
        self._mark_over(np.ones(self.size, bool))
        self._log = [array("i") for _ in range(self.size)]
        """The actions of each unfinished episode, flattened over branches."""
        self._note = array.extend if self.spaces.action_shape else array.append
        self._copies = self._build(spec, member_seeds, envs_per_member, vectorization, timeout_seconds)

    def _build(
        self, spec: EnvSpec, member_seeds: Sequence[int], envs_per_member: int, vectorization: str, timeout: float
    ) -> Any:
        if spec.is_vector:
            return self._ready_made(spec)
        builders = copy_builders(spec.make, self.spaces, member_seeds, envs_per_member)
        if vectorization == "sync":
            return SyncCopies(builders, self.spaces)
        try:
            return AsyncCopies(builders, timeout)
        except CopyError as failure:
            raise EnvironmentFailure(f"{self.name} failed to start: {failure.what}.") from failure

    def _ready_made(self, spec: EnvSpec) -> ReadyMadeCopies:
        try:
            vector = spec.make()
        except (Exception, SystemExit) as error:
            what = f"its factory {describe(error).removeprefix('it ')}"
            raise EnvironmentFailure(f"{self.name} failed to start: {what}.") from error
        try:
            if vector.num_envs != self.size:
                raise UsageError(
                    f"{spec.name} is a vector of {vector.num_envs} environments, but {self.size} are needed."
                )
            return ReadyMadeCopies(vector, spec.name, self.spaces, self._seed_of(0, 0))
        except UsageError:
            close_quietly(vector)
            raise

    def reset(self) -> Observation:
        """Begin the next episode of every copy."""
        try:
            observation, _ = self._copies.reset()
            self._check_finite(observation)
        except CopyError as failure:
            raise self._failure(failure) from failure
        for row in range(self.size):
            self._begin(row)
        self._mark_over(np.zeros(self.size, bool))
        self.observation = observation
        return observation

    def step(self, actions: Int[np.ndarray, "size *branches"]) -> HostStep:
        """Step every copy once; actions count from 0. The caller may keep the returned arrays but not write to them.

        A copy whose episode is over rests if its action is `REST`: it shows its final observation again and gives a
        reward of 0. A ready-made vector cannot rest, and begins the next episode.
        """
        choices = actions.tolist()
        try:
            moved: Moved = self._copies.step(choices)
            self._check_finite(moved.observation)
        except CopyError as failure:
            raise self._failure(failure, choices) from failure
        observation, reward, terminated, truncated, life_lost, paused = moved
        applied, begun = np.zeros(self.size, bool) if paused else self._next_applied, ~self._next_applied
        over, resting = terminated | truncated, []
        note, logs = self._note, self._log
        for row, was_over in enumerate(self._over):
            if was_over and self.restorable and np.min(choices[row]) == REST:
                resting.append(row)
            elif was_over:
                self._begin(row)
            elif not paused:
                note(logs[row], choices[row])
        if resting:
            begun[resting], over[resting] = False, True
        self._mark_over(over)
        self.observation = observation
        final = terminated if life_lost is None else terminated | life_lost
        return HostStep(observation, reward, terminated, truncated, applied, begun, final)

    def state(self) -> dict[str, np.ndarray]:
        """Return all that `restore` needs, as arrays with a leading `size` axis; call it after the first `reset`.

        `episode` int64, number of the current episode; `over` bool, whether it has ended, so that the next step begins
        another; `actions` int32 [size, longest, *branches], the actions taken since it began, of which the first
        `length` (int64) are valid; `hash` uint64, of the current observation. For a ready-made vector there is only
        `restorable` bool [1], which is False.
        """
        if not self.restorable:
            return {"restorable": np.array([False])}
        shape = self.spaces.action_shape
        logs = [np.array(log, np.int32).reshape(-1, *shape) for log in self._log]
        length = np.array([len(log) for log in logs], np.int64)
        actions = np.zeros((self.size, max(1, int(length.max())), *shape), np.int32)
        for row, log in enumerate(logs):
            actions[row, : len(log)] = log
        parts = self.observation if isinstance(self.observation, tuple) else (self.observation,)
        return {
            "restorable": np.array([True]),
            "episode": np.array(self._episode, np.int64),
            "over": np.array(self._over),
            "length": length,
            "actions": actions,
            "hash": np.array([observation_hash(*row) for row in zip(*parts, strict=True)], np.uint64),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> list[int]:
        """Rebuild each copy's unfinished episode, so that `observation` is what it was when the state was saved.

        Returns the rows for which that failed, because the environment ignores its seed or has changed. They are at
        the start of the next episode, so no transition starts at their last stored observation, and the resume is
        statistical instead of exact.
        """
        exact_possible = self.restorable and bool(state["restorable"][0])
        if exact_possible and len(state["episode"]) != self.size:
            raise UsageError(
                f"{self.name}: the saved state has {len(state['episode'])} copies, but this run has {self.size}."
            )
        if not exact_possible:
            self.reset()
            return list(range(self.size))
        self._episode = (state["episode"] - 1).tolist()
        try:
            self.observation, inexact = self._copies.reset(rebuild=state)
            self._check_finite(self.observation)
        except CopyError as failure:
            raise self._failure(failure) from failure
        for row in range(self.size):
            self._begin(row)
            if row in inexact:
                self._begin(row)
            else:
                self._log[row] = array("i", state["actions"][row, : int(state["length"][row])].ravel().tolist())
        self._mark_over(state["over"] & ~np.isin(np.arange(self.size), inexact))
        return inexact

    def close(self) -> None:
        """Close every copy and end all worker processes."""
        self._copies.close()

    def _begin(self, row: int) -> None:
        self._episode[row] += 1
        self._log[row] = array("i")

    def _mark_over(self, over: Bool[np.ndarray, "size"]) -> None:
        self._over = over.tolist()
        self._next_applied = ~over

    def _seed_of(self, row: int, episode: int) -> int:
        return episode_seed(*self._seeds[row], episode)

    def _check_finite(self, observation: Observation) -> None:
        shown = observation.observation if isinstance(observation, tuple) else observation
        if shown.dtype.kind == "f" and not np.isfinite(shown).all():
            finite = np.isfinite(shown.reshape(self.size, -1)).all(axis=1)
            raise CopyError(int(np.argmin(finite)), f"{GAVE}an observation that holds NaN or inf")

    def _failure(self, failure: CopyError, actions: Sequence[Any] | None = None) -> EnvironmentFailure:
        row = failure.copy
        if row is None:
            return EnvironmentFailure(f"{self.name} failed: {failure.what}.")
        if actions is None or self._over[row]:
            episode, moment = self._episode[row] + 1, "at reset"
        else:
            step = len(self._log[row]) // math.prod(self.spaces.action_shape) + 1
            episode, moment = self._episode[row], f"at step {step}, action {actions[row]}"
        seed = (
            f"episode seed {self._seed_of(row, episode)}" if self.restorable else f"vector seed {self._seed_of(0, 0)}"
        )
        mend = doctor_hint(self.name, failure.what) if self.restorable else ""
        return EnvironmentFailure(f"{self.name} failed in copy {row} ({seed}, {moment}): {failure.what}{mend}.")
