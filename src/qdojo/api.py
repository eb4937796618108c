"""The Python interface: train, resume, evaluate, load. The command line calls these functions too."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from qdojo.build.named import takes_spaces
from qdojo.build.training import build, refuse_unread
from qdojo.calling import declared_by
from qdojo.config import Config, is_keras_file, make_config, stored_config
from qdojo.dataset import MINARI, minari_folder
from qdojo.delivered import Evaluation as Evaluation
from qdojo.delivered import Run as Run
from qdojo.envs.again import again
from qdojo.envs.contract import NativeEnvironment
from qdojo.envs.resolve import name_of
from qdojo.errors import UsageError
from qdojo.networks.keras import KERAS
from qdojo.policy import SUFFIX, load_policy
from qdojo.policy import Policy as Policy
from qdojo.processor import check_shards, open_devices, use_compilation_cache
from qdojo.progress import Progress
from qdojo.runs import checkpoint
from qdojo.runs.directory import find
from qdojo.signature import train as declaration
from qdojo.training.changing import changed
from qdojo.training.forking import fork as forked
from qdojo.training.observers import Observers, check_observers
from qdojo.training.observers.curve import CurveObserver
from qdojo.training.observers.metrics import MetricsObserver
from qdojo.training.observers.snapshots import SnapshotsObserver
from qdojo.training.restoring import changes
from qdojo.training.trainer import proceed, start
from qdojo.watch import has_screen


@declared_by(declaration)
def train(
    env: str | gym.Env[Any, Any] | VectorEnv[Any, Any, Any] | Callable[..., Any] | NativeEnvironment | None = None,
    *,
    preset: str = "default",
    config: Config | None = None,
    network: Any = None,
    loss: Any = None,
    root: Path | str = "runs",
    observers: Sequence[Any] = (),
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Train one agent, or `seeds` agents in parallel, and return the finished run.

    An omitted setting has the value of the preset, or else its default.

    Args:
        env: A Gymnasium id, `module:Id`, `module:function`, a function that returns an environment, a JAX environment,
            or a Gymnasium environment object. From an object, fresh copies are made by its `spec`; a vector environment
            also sets `num_envs`.
        preset: Named collection of settings to start from; `qdojo presets` lists them.
        config: All settings in one `Config`, instead of `env`, `preset` and single settings.
        network: A `keras.Model`, a function that builds one, or a function of (spaces, key) that returns an Equinox
            module. By default, dense layers or convolutions, depending on the observations.
        loss: A function of (network, rule) that returns a `qdojo.agents.learner.Loss`.
        root: Folder in which the run directory is created.
        observers: Objects that receive reports and evaluations, and may stop the run: `qdojo.training.observers`.
        progress: Show progress: a bar on a terminal, a line in a notebook, else an occasional line on stderr.
        **settings: The settings of `config/fields.py`; `signature.py` declares each of them.

    Raises:
        UsageError: An argument is wrong. The message is one sentence with the fix; nothing has started yet.
        EnvironmentFailure: The environment failed during training.
        Interrupted: Ctrl-C, after a checkpoint was saved (`qdojo.training.stopping`).
    """
    use_compilation_cache()
    check_observers(observers)
    fields: dict[str, Any] = dict(settings)
    if isinstance(env, gym.Env | VectorEnv):
        env, copies = again(env)
        if copies is not None and "dataset" not in fields:
            fields.setdefault("num_envs", copies)
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
        # Resolve names such as `last` now, before the new run becomes the last one.
        config = config.model_copy(update={"dataset": str(find(Path(root), config.dataset).path.resolve())})
    if config.weights is not None and not is_keras_file(config.weights):
        config = config.model_copy(update={"weights": str(find(Path(root), config.weights).path.resolve())})
    if config.render == "human" and not has_screen():
        raise UsageError("render is 'human', but there is no screen to open a window on; leave it out.")
    check_shards(config.shards)
    open_devices(config.shards)
    environment = None if isinstance(env, str) else env
    parts = build(config, environment, network, loss)
    refuse_unread(config, parts)
    # A resume needs this number for the same bits. One member alone leaves the choice to a run with other `seeds`.
    config = config.model_copy(update={"shards": None if config.members == 1 else parts.loop.shards.count})
    with _shown(progress) as shown:
        return Run(start(config, parts, Path(root), _everyone(shown, observers)), environment, network)


def _configured(
    env: Any, preset: str, config: Config | None, fields: dict[str, Any], objects: dict[str, Any]
) -> Config:
    """Return the settings of a new run: `config`, validated again, or those of `preset` overridden by `fields`.

    `objects` holds the text that stands for each setting whose value was given as an object.
    """
    if config is None:
        if env is None:
            raise UsageError("env is missing; name an environment, or pass a config.")
        return make_config(name_of(env), preset, **fields | objects)
    if fields or preset != "default":
        word = next(iter(fields), "preset")
        raise UsageError(f"{word} is given together with config; set it in the Config instead.")
    if isinstance(env, str) and env != config.env:
        raise UsageError(f"env is {env!r}, but config has env={config.env!r}; leave env out.")
    # A copy made by `model_copy` with other values was never validated.
    return stored_config(config.model_dump() | ({} if env is None else {"env": name_of(env)}) | objects)


def resume(
    run: Path | str,
    *,
    env: Callable[..., Any] | NativeEnvironment | None = None,
    network: Any = None,
    loss: Any = None,
    root: Path | str = "runs",
    observers: Sequence[Any] = (),
    progress: bool = True,
    steps: int | None = None,
    shards: int | None = None,
    fork: bool = False,
) -> Run:
    """Continue a run from its last checkpoint, bit for bit as if it had never stopped, also on fewer cores.

    Args:
        run: A run directory, the name of a run in `root`, the start of such a name, or `last`.
        env: What the run was trained with; needed only if neither its name nor its spec makes the environment again.
        network: As for `train`; needed only if it can be neither imported by its name nor restored by Keras.
        loss: As for `train`; needed only if the function cannot be imported by its name.
        root: Folder of the runs.
        observers: As for `train`.
        progress: As for `train`.
        steps: New budget in environment steps per member, stored in the run; at least the steps already done.
        shards: New number of cores (or GPUs) that share the members; the run then continues, but not bit for bit.
        fork: Continue in a new run directory if the config or library versions have changed since the checkpoint.

    Raises:
        UsageError: An argument is wrong, or the config or library versions have changed; the message lists the changes.
    """
    use_compilation_cache()
    check_observers(observers)
    found = Run(find(Path(root), str(run)), env, network)
    config, rewritten = changed(found.config, steps, shards)
    open_devices(config.shards)
    loaded = checkpoint.load_latest(found.directory.checkpoints_path)
    done = int(loaded.meta["steps"])
    # A run may end slightly past its budget, at the end of a chunk; passing that same budget does not lower it.
    if steps is not None and steps < done and steps != found.config.steps:
        raise UsageError(f"steps is {steps}, but {done} are already done; use more, or leave steps out.")
    if config.dataset != loaded.meta["config"].get("dataset"):
        raise UsageError(f"{found.path} names another dataset than its checkpoint, which holds all rows; undo that.")
    env = env if env is not None else found.env_given
    parts = build(config, env, network if network is not None else found.model_given, loss, resumed=True)
    # Not before `build`, which chooses JAX's threads: it asks JAX for its device.
    if (changed_since := changes(config, loaded.meta)) and not fork:
        told = "; ".join(changed_since)
        raise UsageError(f"{found.path} has changed since its checkpoint: {told}; undo that or use --fork.")
    directory = forked(loaded, config, parts, Path(root)) if fork else found.directory
    with _shown(progress) as shown:
        proceed(directory, config, parts, _everyone(shown, observers), loaded, None if fork else rewritten)
    return Run(directory, env, network)


def _shown(progress: bool) -> contextlib.AbstractContextManager[Progress | None]:
    return Progress(print_episodes=True, tell_result=True) if progress else contextlib.nullcontext()


def _everyone(shown: Progress | None, others: Sequence[Any]) -> Observers:
    """Return all observers of a run. The curve comes last, because it is drawn from the complete metrics file."""
    return Observers([MetricsObserver(), SnapshotsObserver(), *filter(None, [shown]), *others, CurveObserver()])


def load(
    run: Path | str,
    *,
    root: Path | str = "runs",
    member: int | None = None,
    env: Callable[..., Any] | NativeEnvironment | None = None,
    network: Any = None,
) -> Policy:
    """Load a trained agent: `qdojo.load("runs/...").act(observation)`. No environment is built.

    Args:
        run: A run directory, the name of a run in `root`, the start of one, `last`, or a file of `Policy.save`.
        root: Folder of the runs.
        member: Index of the member; by default the one with the best evaluation.
        env: The function that made the environment; needed only for runs of earlier versions.
        network: The Keras model that the run was trained with; needed only if Keras cannot serialize it.

    Raises:
        UsageError: There is no such run or member.
        DamagedFile: A file is missing or damaged.
    """
    use_compilation_cache()
    if Path(run).suffix == SUFFIX and not Path(run).is_dir():
        if member is not None:
            raise UsageError("member is set, but a file holds one agent; leave member out.")
        return load_policy(Path(run), network)
    return Run(find(Path(root), str(run)), env, network).policy(member)


def evaluate(
    run: Path | str,
    episodes: int = 100,
    *,
    seed: int = 0,
    root: Path | str = "runs",
    env: Callable[..., Any] | NativeEnvironment | None = None,
    network: Any = None,
) -> Evaluation:
    """Evaluate the agents that a run delivered, greedily, on unseen episodes.

    Args:
        run: A run directory, the name of a run in `root`, the start of such a name, or `last`.
        episodes: Number of episodes of each agent.
        seed: Seed of the episodes.
        root: Folder of the runs.
        env: What the run was trained with; needed only if neither its name nor its spec makes the environment again.
        network: The Keras model that the run was trained with; needed only if Keras cannot serialize it.
    """
    use_compilation_cache()
    return Run(find(Path(root), str(run)), env, network).evaluate(episodes, seed)
