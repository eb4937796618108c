"""A run on disk: its settings, its result, its trained agents and their scores. For training, see `api.py`.

Everything is read from the run directory: an environment is built only to be stepped, and no training state is needed.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Bool, Float

from qdojo import snapshot
from qdojo.agent_page import agent_page
from qdojo.build.opening import Opened, open_player, params_template
from qdojo.build.player import seen_spaces
from qdojo.build.stepping import build_evaluator
from qdojo.config import Config, read_config
from qdojo.envs.again import MadeAgain
from qdojo.envs.contract import NativeEnvironment
from qdojo.envs.straying import straying
from qdojo.errors import DamagedFile, UsageError
from qdojo.export.html import check_page_target, written
from qdojo.ids import GIVEN
from qdojo.loops.evaluation import Watch, episode_bound, unwatched
from qdojo.networks.keras import KERAS, model_from_json
from qdojo.plots import curve_figure
from qdojo.policy import Policy
from qdojo.runs import checkpoint
from qdojo.runs.directory import RunDirectory, read_result
from qdojo.runs.history import snapshots
from qdojo.runs.metrics import History, history
from qdojo.runs.result import Result
from qdojo.shown import Film, facts, picture, table
from qdojo.statistics import interquartile_mean, member_interval
from qdojo.training.judging import FINAL_SEED
from qdojo.training.selection import Best, none_best
from qdojo.watch import watch
from qdojo.wording import cut_clause, scores_of_members

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Evaluation(NamedTuple):
    """Greedy scores of the agents that a run delivered: undiscounted, unclipped returns of whole episodes, or up to the
    step at which an episode was cut."""

    returns: Float[np.ndarray, "member episodes"]
    cut: Bool[np.ndarray, "member episodes"]
    """Which episodes were cut."""
    bound_steps: int
    """Env steps after which an episode is cut."""

    @property
    def mean(self) -> Float[np.ndarray, "member"]:
        """Mean return of each member."""
        return self.returns.mean(axis=1)

    def __repr__(self) -> str:
        told = scores_of_members(self.mean.tolist(), self.iqm, self.interval)
        episodes = self.returns.shape[1]
        cut = cut_clause(self.cut.sum(axis=1).tolist(), episodes, self.bound_steps)
        return f"Evaluation: {told}, {episodes} unseen episodes each" + (f"; {cut}" if cut else "")

    @property
    def iqm(self) -> float:
        """Interquartile mean over members of their mean returns."""
        return interquartile_mean(self.mean)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % bootstrap interval of `iqm` over members; None for fewer than three members."""
        return member_interval(self.mean)


@dataclass(frozen=True, repr=False)
class Run:
    """A run on disk, finished or not. A notebook displays its status and its learning curve."""

    directory: RunDirectory
    env: Callable[..., Any] | NativeEnvironment | None = None
    """The environment's callable or the JAX environment, if it was given as an object."""
    network: Any = None
    """The Keras model or the function that builds the network, if it was given as an object."""

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
    def result(self) -> Result:
        """The content of `result.json`; empty before the run has ended."""
        return read_result(self.directory) or cast(Result, {})

    @property
    def history(self) -> History:
        """All recorded metrics, as the columns step, member, metric and value."""
        return history(self.directory.metrics_path)

    def plot(self) -> "Figure":
        """The learning curve as a matplotlib figure; `.savefig("curve.pdf")` writes it."""
        return curve_figure(self.directory.metrics_path, f"{self.config.env}, {self.config.preset}")

    def film(
        self, episodes: int = 1, *, member: int | None = None, seed: int = 0, path: Path | str | None = None
    ) -> Film:
        """Record greedy episodes as a video, which a notebook displays.

        `member` defaults to the best one, and `path`, which ends in .mp4 or .gif, to `film.mp4` in the run directory.
        `seed` selects the starting states. Raises UsageError if the environment cannot render.
        """
        target = self.path / "film.mp4" if path is None else Path(path)
        policy, opened, bound = self.policy(member), self.opened, self.bound_steps
        shown = watch(
            opened.spec,
            opened.spaces,
            policy.reset,
            self.acting(policy, seed),
            episodes,
            seed,
            target,
            bound_steps=bound,
        )
        return Film(target, [episode.score for episode in shown])

    def acting(self, policy: Policy, seed: int) -> Callable[[Any], Any]:
        """Return how a policy acts where it is watched: as in evaluations, with their random actions."""
        return straying(policy.choose, self.opened.spaces.legal, self.config.eval_epsilon, seed)

    def __repr__(self) -> str:
        return "\n".join(f"{name:<12} {value}" for name, value in facts(self.directory))

    def _repr_html_(self) -> str:
        return table(facts(self.directory)) + picture(self.directory.curve_path)

    def evaluate(self, episodes: int = 100, seed: int = 0, watch: Watch = unwatched) -> Evaluation:
        """Play greedily. `seed` selects the starting states, none of which training or selection has used.

        `watch` is called during play with (episodes done over all members, steps played so far by each copy).
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
        """Return one member as a policy, by default the one with the best evaluation."""
        best = self.delivered
        chosen = int(np.argmax(best.score)) if member is None else member
        if not 0 <= chosen < self.config.members:
            raise UsageError(f"member is {member}, but this run has members 0 to {self.config.members - 1}.")
        params = jax.tree.map(lambda leaf: leaf[chosen], best.params)
        return Policy(self.config, self.opened, params, chosen)

    def snapshots(self, member: int | None = None) -> list[tuple[int, Policy]]:
        """Return one member at some reports of its training, as (env steps, policy), by default the member of `policy`.

        The first is the untrained agent. Empty for runs of earlier versions and for networks too large to be kept.
        Raises UsageError if there is no such member or the network has changed, DamagedFile if a snapshot cannot be
        read.
        """
        delivered = self.policy(member)
        template: dict[str, Any] = {"params": jax.eval_shape(lambda: delivered.params)}
        found = []
        for step, weights in snapshots(self.path, delivered.member):
            arrays = {name if name in template else f"params/{name}": array for name, array in weights.items()}
            params = snapshot.from_arrays(template, arrays)["params"]
            found.append((step, Policy(self.config, self.opened, params, delivered.member)))
        return found

    def keras_model(self, member: int | None = None) -> Any:
        """Return a plain `keras.Model` with the delivered weights of one member; a noisy network loses its noise.

        Raises UsageError if the network is more than layers that output Q-values.
        """
        if self.config.beyond_keras:
            raise UsageError(
                f"{self.config.beyond_keras[0]} is set, so this run's network has no plain Keras form; "
                "only a single network of dense layers that outputs Q-values has one."
            )
        if self.opened.spaces.action_shape:
            raise UsageError(f"The actions of {self.config.env} are MultiDiscrete, which has no plain Keras form.")
        from qdojo.export.keras import keras_model

        shape = seen_spaces(self.config, self.opened.spaces).observation_shape
        return keras_model(self.policy(member).params, shape, self.opened.model)

    def page(self, path: Path | str, member: int | None = None) -> Path:
        """Write a self-contained web page, `.html`, in which one member plays; by default the one with the best
        evaluation. Returns its path.

        Raises UsageError for another suffix or a folder that does not exist, QdojoError if it cannot be written.
        """
        target = Path(path)
        check_page_target(target)
        written(target, agent_page(self, member))
        return target

    @cached_property
    def opened(self) -> Opened:
        """The network and the environment's spec and spaces, from the description beside the delivered weights."""
        try:
            return open_player(self.config, self._best[1].get("player"), self.env, self.network)
        except DamagedFile as error:
            raise DamagedFile(f"{self.directory.best_path}: {error}") from error

    @cached_property
    def delivered(self) -> Best:
        """Scores and parameters of each member's best agent."""
        template = jax.eval_shape(none_best, params_template(self.config, self.opened.player))
        return snapshot.from_arrays(template, self._best[0])

    @property
    def model_given(self) -> Any:
        """The Keras model that the run was trained with, if it was given as an object and its description is stored."""
        if self.config.network != KERAS:
            return None
        described = (self._best[1].get("player") or {}).get("keras_model")
        return None if described is None else model_from_json(described)

    @property
    def env_given(self) -> MadeAgain | None:
        """A factory for the run's environment, if that was given as an object; else None."""
        if not self.config.env.endswith(GIVEN):
            return None
        described = (self._best[1].get("player") or {}).get("environment") or {}
        return MadeAgain.from_json(described["registered"]) if described.get("registered") else None

    @property
    def bound_steps(self) -> int:
        """Steps after which an evaluation episode is cut, as in the run's own evaluations."""
        # Runs of earlier versions have not stored their longest episode.
        longest = int(self._best[1].get("longest_episode", 0))
        return episode_bound(self.config.eval_episode_steps, longest, self.opened.spec.max_episode_steps)

    @cached_property
    def _best(self) -> tuple[checkpoint.Arrays, dict[str, Any]]:
        try:
            return checkpoint.load(self.directory.best_path)
        except DamagedFile as error:
            mend = f"`qdojo resume {shlex.quote(str(self.path))}` writes it again from the last checkpoint."
            raise DamagedFile(f"{str(error).removesuffix('.')}; {mend}") from error
