"""The Python interface: train, resume, evaluate, load. Everything a command of the CLI does, it does through here."""

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from qdojo import snapshot
from qdojo.build.named import takes_spaces
from qdojo.build.opening import Opened, open_player, params_template
from qdojo.build.stepping import build_evaluator
from qdojo.build.training import build, refuse_unread
from qdojo.config import Config, is_keras_file, make_config, read_config, stored_config
from qdojo.dataset import MINARI, minari_folder
from qdojo.envs.contract import NativeEnvironment
from qdojo.envs.resolve import name_of
from qdojo.envs.spaces import BadValueError
from qdojo.errors import DamagedFile, UsageError
from qdojo.loops.evaluation import episode_bound
from qdojo.networks.keras import KERAS, model_from_json
from qdojo.runs import checkpoint
from qdojo.runs.directory import RunDirectory, find, read_result
from qdojo.statistics import interquartile_mean, member_interval
from qdojo.training.judging import FINAL_SEED
from qdojo.training.observers import Observers
from qdojo.training.observers.curve import CurveObserver
from qdojo.training.observers.metrics import MetricsObserver
from qdojo.training.restoring import changes
from qdojo.training.selection import Best, none_best
from qdojo.training.trainer import fork as forked
from qdojo.training.trainer import proceed, start
from qdojo.types import Observation
from qdojo.watch import has_screen

RUNS = Path("runs")


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

    def evaluate(self, episodes: int = 100, seed: int = 0) -> Evaluation:
        """Play greedily. `seed` chooses the starts; none of them is one that training or selection has seen."""
        if episodes < 1:
            raise UsageError(f"episodes is {episodes}, but it must be at least 1.")
        if not 0 <= seed < FINAL_SEED:
            raise UsageError(f"seed is {seed}, but it must be from 0 to {FINAL_SEED - 1}.")
        opened = self.opened
        evaluator = build_evaluator(self.config, opened.spec, opened.spaces, opened.player.actor)
        played = evaluator.evaluate(self.delivered.params, FINAL_SEED + seed, episodes, self.bound_steps)
        return Evaluation(*played, self.bound_steps)

    def policy(self, member: int | None = None) -> Policy:
        """One member, ready to play: by default the one with the best evaluation."""
        best = self.delivered
        chosen = int(np.argmax(best.score)) if member is None else member
        if not 0 <= chosen < self.config.seeds:
            raise UsageError(f"member is {member}, but this run has members 0 to {self.config.seeds - 1}.")
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


def train(
    env: str | Callable[..., Any] | NativeEnvironment | None = None,
    *,
    preset: str = "default",
    config: Config | None = None,
    network: Any = None,
    loss: Any = None,
    root: Path | str = RUNS,
    observers: Sequence[Any] = (),
    **fields: Any,
) -> Run:
    """Train a population on an environment and return its finished run.

    `env` is an id, a path, a callable that returns an environment, or an environment in JAX. `network` is a
    `keras.Model`, a function that builds one, or a function of (spaces, key) that returns an Equinox module; `loss` a
    function of (network, rule) that returns a `qdojo.agents.learner.Loss`; `observers` hear of the run and may end it
    (`qdojo.training.observers`): docs/adding.md shows one of each. `fields` are those of `Config`; a `config`, which
    names its own env, stands in for them.

    Raises UsageError before anything starts, EnvironmentFailure where the environment breaks, and
    `qdojo.training.stopping.Interrupted` on Ctrl-C, after saving.
    """
    use_compilation_cache()
    everyone = _observers(observers)
    given: dict[str, Any] = {}
    if isinstance(network, str):
        fields["network"], network = network, None
    elif network is not None:
        given["network"] = name_of(network) if takes_spaces(network) else KERAS
    if isinstance(loss, str):
        fields["loss"], loss = loss, None
    elif loss is not None:
        given["loss"] = name_of(loss)
    config = _configured(env, preset, config, fields, given)
    if config.dataset is not None and config.dataset.startswith(MINARI):
        minari_folder(config.dataset)
    elif config.dataset is not None:
        # The new run must not be what a name such as `last` means.
        config = config.model_copy(update={"dataset": str(find(Path(root), config.dataset).path.resolve())})
    if config.weights is not None and not is_keras_file(config.weights):
        config = config.model_copy(update={"weights": str(find(Path(root), config.weights).path.resolve())})
    if config.render == "human" and not has_screen():
        raise UsageError("render is 'human', but there is no screen to open a window on; leave it out.")
    environment = None if isinstance(env, str) else env
    parts = build(config, environment, network, loss)
    refuse_unread(config, parts)
    return Run(start(config, parts, Path(root), everyone), environment, network)


def _configured(
    env: Any, preset: str, config: Config | None, fields: dict[str, Any], objects: dict[str, Any]
) -> Config:
    """The settings of a new run: `config` as it is, checked again, or those of `preset` with `fields` on top.

    `objects` is what settings say where their value was given as an object.
    """
    if config is None:
        if env is None:
            raise UsageError("env is missing; name an environment, or give a config.")
        return make_config(name_of(env), preset, **fields | objects)
    if fields or preset != "default":
        word = next(iter(fields), "preset")
        raise UsageError(f"{word} is given beside config; give it to Config instead.")
    if isinstance(env, str) and env != config.env:
        raise UsageError(f"env is {env!r}, but config has env={config.env!r}; leave env out.")
    # A copy with other values, as `model_copy` makes it, was never checked.
    return stored_config(config.model_dump() | ({} if env is None else {"env": name_of(env)}) | objects)


def resume(
    run: Path | str,
    *,
    env: Callable[..., Any] | NativeEnvironment | None = None,
    network: Any = None,
    loss: Any = None,
    root: Path | str = RUNS,
    observers: Sequence[Any] = (),
    steps: int | None = None,
    fork: bool = False,
) -> Run:
    """Go on with a run from its last checkpoint, bit by bit as if it had never stopped.

    `steps` is a new budget, which the run keeps; one below what is done is refused. A config or versions that
    changed since are refused with the difference; with `fork` the run goes on under them, in a new run directory.
    """
    use_compilation_cache()
    everyone = _observers(observers)
    found = Run(find(Path(root), str(run)), env, network)
    if steps is not None and steps < 1:
        raise UsageError(f"steps is {steps}, but it must be at least 1.")
    changed: dict[str, Any] = {} if steps is None else {"steps": steps}
    if not has_screen():
        changed["render"] = "none"
    config = found.config.model_copy(update=changed)
    loaded = checkpoint.load_latest(found.directory.checkpoints_path)
    done = int(loaded.meta["steps"])
    # A run goes a little past its budget, to the end of a chunk; that budget is none that was lowered.
    if steps is not None and steps < done and steps != found.config.steps:
        raise UsageError(f"steps is {steps}, but {done} are done already; use more, or leave steps out.")
    changed_since = changes(config, loaded.meta)
    if config.dataset != loaded.meta["config"].get("dataset"):
        raise UsageError(f"{found.path} has another dataset than its checkpoint, which holds all rows; undo it.")
    if changed_since and not fork:
        told = "; ".join(changed_since)
        raise UsageError(f"{found.path} has changed since its checkpoint: {told}; undo it or use --fork.")
    parts = build(config, env, network if network is not None else found.model_given, loss, resumed=True)
    directory = forked(loaded, config, parts, Path(root)) if fork else found.directory
    # Where a window cannot be shown now, it may be the next time: only the budget is kept.
    rewritten = None if steps is None or fork else found.config.model_copy(update={"steps": steps})
    proceed(directory, config, parts, everyone, rewritten)
    return Run(directory, env, network)


def _observers(others: Sequence[Any]) -> Observers:
    """Everyone who hears of a run. The curve is drawn last, from a metrics file that is complete."""
    return Observers([MetricsObserver(), *others, CurveObserver()])


def load(
    run: Path | str,
    *,
    root: Path | str = RUNS,
    member: int | None = None,
    env: Callable[..., Any] | NativeEnvironment | None = None,
    network: Any = None,
) -> Policy:
    """A trained agent that plays: `qdojo.load(path).act(observation)`. It builds no environment.

    `network` is the Keras model that the run was trained with, needed only where Keras cannot write it as data (one
    with classes of its own); `env` the callable, needed only for runs of earlier versions.
    """
    use_compilation_cache()
    return Run(find(Path(root), str(run)), env, network).policy(member)


def evaluate(
    run: Path | str,
    episodes: int = 100,
    *,
    seed: int = 0,
    root: Path | str = RUNS,
    env: Callable[..., Any] | NativeEnvironment | None = None,
    network: Any = None,
) -> Evaluation:
    """Greedy scores of what a run delivered, on unseen episodes.

    `env` is the callable that the run was trained with, needed only where it cannot be imported again and Gymnasium
    cannot make its environment from a spec; `network` is as for `load`.
    """
    use_compilation_cache()
    return Run(find(Path(root), str(run)), env, network).evaluate(episodes, seed)


def use_compilation_cache() -> None:
    """Keep compiled programs on disk, where XDG_CACHE_HOME or JAX_COMPILATION_CACHE_DIR says, for the next process."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "qdojo" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
