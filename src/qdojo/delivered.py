"""A run on disk and what comes of it: its settings, its result, its agents that play, their scores. Not for training:
see `api.py`.

All of it is read from the run directory: an environment is built only to be stepped, and nothing of training is asked
for.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from qdojo import snapshot
from qdojo.build.opening import Opened, open_player, params_template
from qdojo.build.stepping import build_evaluator
from qdojo.config import Config, read_config
from qdojo.envs.again import GIVEN, MadeAgain
from qdojo.envs.contract import NativeEnvironment
from qdojo.envs.spaces import BadValueError
from qdojo.errors import DamagedFile, UsageError
from qdojo.loops.evaluation import Watch, episode_bound, unwatched
from qdojo.networks.keras import KERAS, model_from_json
from qdojo.runs import checkpoint
from qdojo.runs.directory import RunDirectory, read_result
from qdojo.statistics import interquartile_mean, member_interval
from qdojo.training.judging import FINAL_SEED
from qdojo.training.selection import Best, none_best
from qdojo.types import Observation


class Evaluation(NamedTuple):
    """Greedy scores of what a run delivered: undiscounted and unclipped, of whole episodes or of what came before the
    bound at which they were cut."""

    returns: Float[np.ndarray, "member episodes"]
    cut: Bool[np.ndarray, "member episodes"]
    """Which episodes were cut."""
    bound_steps: int
    """Env steps at which an episode is cut."""

    @property
    def mean(self) -> Float[np.ndarray, "member"]:
        """Mean return of each member."""
        return self.returns.mean(axis=1)

    @property
    def iqm(self) -> float:
        """Interquartile mean, over members, of their mean returns."""
        return interquartile_mean(self.mean)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % bootstrap interval of `iqm` over members; None of fewer than three members."""
        return member_interval(self.mean)


class Policy:
    """A trained member that plays: observations in, actions out. No exploration, nothing to learn."""

    def __init__(self, opened: Opened, params: Any, member: int) -> None:
        self.member = member
        """Which member of the population it is."""
        self._spaces, self._actor = opened.spaces, opened.player.actor
        self.params = jax.tree.map(lambda leaf: leaf[member], params)
        """The parameters of that member alone."""
        self._values = jax.jit(self._actor.values)
        self.reset()

    def reset(self) -> None:
        """Forget the episode; call it when one starts."""
        self._memory = self._actor.memory()

    def act(self, observation: Any, info: Any = None) -> Any:
        """The best action for one raw observation, as the environment takes it: an int, or `[branches]`.

        `info` is what came with the observation; only an environment that puts action masks there needs it. Raises
        UsageError where either does not fit the environment's spaces.
        """
        return self._spaces.decode(self.choose(self._seen(observation, info)))

    def choose(self, observation: Observation) -> Int[np.ndarray, "*branches"]:
        """The best action, counted from 0, for an observation that is already as the agent sees it."""
        q, self._memory = self._values(self.params, observation, self._memory)
        return np.asarray(np.argmax(np.asarray(q), axis=-1))

    def q_values(self, observation: Any, info: Any = None) -> Float[np.ndarray, "*branches actions"]:
        """The return that each action is thought to lead to, after what was seen before. It remembers nothing of this.

        In units of the return, also where value_rescaling made the agent learn another function of it.
        """
        q, _ = self._values(self.params, self._seen(observation, info), self._memory)
        return np.asarray(self._actor.worth(q))

    def _seen(self, observation: Any, info: Any) -> Observation:
        spaces = self._spaces
        if info is None and spaces.mask_source == "info":
            raise UsageError("info is missing, but this environment puts its action masks there; pass it as well.")
        if info is None and spaces.mask_source == "method":
            raise UsageError('The action mask is missing; pass info={"action_mask": env.action_masks()} as well.')
        try:
            return spaces.encode(observation, info)
        except (TypeError, ValueError) as error:
            raise _unfit(observation, error) from error


def _unfit(observation: Any, error: Exception) -> UsageError:
    """Why an observation cannot be played."""
    if isinstance(observation, tuple) and len(observation) in (2, 5) and isinstance(observation[-1], dict):
        method = "reset" if len(observation) == 2 else "step"
        return UsageError(f"The observation is all that {method} returned; pass the first part of that tuple alone.")
    given = str(error) if isinstance(error, BadValueError) else f"a {type(observation).__name__} that is no observation"
    return UsageError(
        f"The agent was given {given}; pass one observation, as reset and step of the environment give it."
    )


@dataclass(frozen=True)
class Run:
    """A run on disk, finished or not."""

    directory: RunDirectory
    env: Callable[..., Any] | NativeEnvironment | None = None
    """The environment's callable, or the environment in JAX, where it was given as one."""
    network: Any = None
    """The Keras model or the function that builds the network, where it was given as an object."""

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.directory.path

    @cached_property
    def config(self) -> Config:
        """The resolved settings."""
        path = self.directory.config_path
        try:
            return read_config(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise DamagedFile(f"{path} cannot be read: {error}") from error

    @property
    def result(self) -> dict[str, Any]:
        """What `result.json` says."""
        return read_result(self.directory) or {}

    def evaluate(self, episodes: int = 100, seed: int = 0, watch: Watch = unwatched) -> Evaluation:
        """Play greedily. `seed` chooses the starts; none of them is one that training or selection has seen.

        `watch` hears (episodes done over all members, steps played so far by each copy) while it goes on.
        """
        if episodes < 1:
            raise UsageError(f"episodes is {episodes}, but it must be at least 1.")
        if not 0 <= seed < FINAL_SEED:
            raise UsageError(f"seed is {seed}, but it must be from 0 to {FINAL_SEED - 1}.")
        opened = self.opened
        evaluator = build_evaluator(self.config, opened.spec, opened.spaces, opened.player.actor)
        played = evaluator.evaluate(self.delivered.params, FINAL_SEED + seed, episodes, self.bound_steps, watch)
        return Evaluation(*played, self.bound_steps)

    def policy(self, member: int | None = None) -> Policy:
        """One member, ready to play: by default the one with the best evaluation."""
        best = self.delivered
        chosen = int(np.argmax(best.score)) if member is None else member
        if not 0 <= chosen < self.config.members:
            raise UsageError(f"member is {member}, but this run has members 0 to {self.config.members - 1}.")
        return Policy(self.opened, best.params, chosen)

    def keras_model(self, member: int | None = None) -> Any:
        """A plain `keras.Model` with the delivered weights of one member; of a noisy network, without its noise.

        Raises UsageError where the network is more than layers that give Q-values.
        """
        if self.config.beyond_keras:
            raise UsageError(
                f"{self.config.beyond_keras[0]} is set, so this run's network has no plain Keras form; "
                "only one network of dense layers that gives Q-values has one."
            )
        if self.opened.spaces.action_shape:
            raise UsageError(f"The actions of {self.config.env} are MultiDiscrete, for which there is no Keras form.")
        from qdojo.export.keras import keras_model

        return keras_model(self.policy(member).params, self.opened.spaces.observation_shape, self.opened.model)

    @cached_property
    def opened(self) -> Opened:
        """The network and what it plays in, from the description beside the delivered weights."""
        try:
            return open_player(self.config, self._best[1].get("player"), self.env, self.network)
        except DamagedFile as error:
            raise DamagedFile(f"{self.directory.best_path}: {error}") from error

    @cached_property
    def delivered(self) -> Best:
        """Scores and parameters, a member each, of the best agents of the run."""
        template = jax.eval_shape(none_best, params_template(self.config, self.opened.player))
        return snapshot.from_arrays(template, self._best[0])

    @property
    def model_given(self) -> Any:
        """The Keras model that the run was trained with, where it was given as an object and is described."""
        if self.config.network != KERAS:
            return None
        described = (self._best[1].get("player") or {}).get("keras_model")
        return None if described is None else model_from_json(described)

    @property
    def env_given(self) -> MadeAgain | None:
        """What makes the environment of the run again, where that was given as an object."""
        if not self.config.env.endswith(GIVEN):
            return None
        described = (self._best[1].get("player") or {}).get("environment") or {}
        return MadeAgain.from_json(described["registered"]) if described.get("registered") else None

    @property
    def bound_steps(self) -> int:
        """Steps at which an evaluation episode is cut, as in the run's own evaluations."""
        # Runs of earlier versions do not know their longest episode.
        longest = int(self._best[1].get("longest_episode", 0))
        return episode_bound(self.config.eval_episode_steps, longest, self.opened.spec.max_episode_steps)

    @cached_property
    def _best(self) -> tuple[checkpoint.Arrays, dict[str, Any]]:
        try:
            return checkpoint.load(self.directory.best_path)
        except DamagedFile as error:
            mend = f"`qdojo resume {shlex.quote(str(self.path))}` writes it anew from the last checkpoint."
            raise DamagedFile(f"{str(error).removesuffix('.')}; {mend}") from error
