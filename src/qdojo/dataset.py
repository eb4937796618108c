"""Reads logged steps as rows of the tape, from the replay memory of a run or from a local Minari data set.
`loops/offline.py` learns from them. Nothing is downloaded.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, PyTree, Shaped

from qdojo import snapshot
from qdojo.envs.encoders import BadValueError
from qdojo.envs.spaces import MASK, Spaces, check_spaces
from qdojo.errors import UsageError
from qdojo.runs import checkpoint
from qdojo.runs.directory import find
from qdojo.tape import ring
from qdojo.types import Masked, Observation, Step

MINARI = "minari:"
"""Prefix of the names of Minari data sets; all other names are names of runs."""
TAPE = "state/tape/"
"""Prefix of the tape's arrays in a checkpoint."""


def read(source: str, spaces: Spaces, memory: PyTree[Any], root: Path, env: str) -> Step:
    """All logged rows of the environment `env` as one stream `[rows]` of NumPy arrays, in the format of the tape.

    `source` is `minari:ID`, or a run as `runs.directory.find` accepts it: a path, or a name under `root`. Every row
    gets `memory`, the stored memory at the start of an episode, because another agent's memory is useless. Raises
    UsageError if the data do not exist or do not fit the environment.
    """
    rows = _of_minari(source, spaces, env) if source.startswith(MINARI) else _of_run(source, spaces, root, env)
    number = len(rows.reward)
    everywhere = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (number, *np.shape(leaf))), memory)
    return rows._replace(memory=everywhere)


def _of_run(source: str, spaces: Spaces, root: Path, env: str) -> Step:
    run = find(root, source)
    loaded = checkpoint.load_latest(run.checkpoints_path)
    played = loaded.meta.get("config", {}).get("env")
    if played != env:
        raise UsageError(f"dataset is {run.path}, a run of {played}, but env is {env}; name a run of {env}.")
    like = _like(spaces)
    for name, needed in snapshot.to_arrays({"state": {"tape": {"like": like}}}).items():
        found = loaded.arrays.get(name)
        if found is None or (found.shape, found.dtype) != (needed.shape, needed.dtype):
            holds = "no such array" if found is None else _described(found)
            raise UsageError(
                f"dataset is {run.path}, where {name} is {holds}, but {_described(needed)} is needed here; "
                "use settings that give both runs the same observations and actions."
            )
    written = int(loaded.arrays[f"{TAPE}written"])
    rows = jax.tree.map(np.asarray, ring.unpack(np.asarray(loaded.arrays[f"{TAPE}words"]), like))
    return _checked(streams(rows, written), spaces, f"dataset {run.path}")


def _like(spaces: Spaces) -> Step:
    """An empty block of rows with their shapes and dtypes. The memory ends each row, so it can be left out."""
    observation = np.zeros((0, *spaces.observation_shape), spaces.observation_dtype)
    return Step(
        observation=Masked(observation, np.zeros((0, *spaces.legal.shape), bool)) if spaces.masked else observation,
        action=np.zeros((0, *spaces.action_shape), np.int32),
        reward=np.zeros(0, np.float32),
        terminated=np.zeros(0, bool),
        last=np.zeros(0, bool),
    )


def _described(rows: Shaped[np.ndarray, "rows ..."]) -> str:
    return f"{rows.dtype}{list(rows.shape[1:])}"


def streams(ringed: Step, written: int) -> Step:
    """The rows `[time, member, env]` of a ring as one stream `[rows]`: env after env, each in order of time.

    The newest row of each env becomes `last`, because the row that followed it is missing.
    """
    capacity = len(ringed.reward)
    size = min(written, capacity)

    def ordered(leaf: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        return np.roll(leaf, -((written - size) % max(capacity, 1)), axis=0)[:size]

    rows = jax.tree.map(ordered, ringed)
    rows.last[-1:] = True
    return jax.tree.map(lambda leaf: np.moveaxis(leaf, 0, 2).reshape(-1, *leaf.shape[3:]), rows)


def _of_minari(source: str, spaces: Spaces, env: str) -> Step:
    dataset = _opened(source)
    theirs = check_spaces(dataset, source, embedded=bool(spaces.categories), observe=spaces.observe)
    if not (
        theirs.action_shape == spaces.action_shape
        and np.array_equal(theirs.legal, spaces.legal)
        and np.array_equal(theirs.action_start, spaces.action_start)
    ):
        raise UsageError(
            f"dataset is {source}, whose actions {dataset.action_space} are not those of env={env!r}; "
            "set env to the environment of the data set."
        )
    seen, needed = (f"{each.observation_dtype}{list(each.observation_shape)}" for each in (theirs, spaces))
    if seen != needed:
        raise UsageError(
            f"dataset is {source}, whose observations are {seen}, but those of env={env!r} are {needed}; "
            "set env to the environment of the data set."
        )
    episodes = [_episode(episode, spaces, f"{source}, episode {episode.id}") for episode in _episodes(dataset, source)]
    if not episodes:
        raise UsageError(f"dataset is {source}, which has no steps; use another.")
    return jax.tree.map(lambda *parts: np.concatenate(parts), *episodes)


def minari_folder(source: str) -> Path:
    """The folder with the files of `minari:ID`. Raises UsageError if it does not exist or Minari is not installed."""
    try:
        import minari.storage
    except ImportError as error:
        raise UsageError(f"dataset is {source!r}, which needs Minari: pip install 'qdojo[offline]'.") from error
    name = source.removeprefix(MINARI)
    folder = minari.storage.get_dataset_path(name) / "data"
    if not name or not folder.is_dir():
        root = minari.storage.get_dataset_path()
        raise UsageError(f"There is no {source} in {root}; get it with `minari download {name or 'ID'}`.")
    return folder


def _opened(source: str) -> Any:
    """The `MinariDataset` of this name."""
    folder = minari_folder(source)
    import minari
    from minari.dataset.minari_storage import MinariStorage

    try:
        # If the file does not declare the spaces, Minari would build the environment that it names to find them.
        described = MinariStorage.read_raw_metadata(folder)
        if not {"observation_space", "action_space"} <= described.keys():
            raise ValueError("it does not declare its spaces")
        return minari.load_dataset(source.removeprefix(MINARI), download=False)
    except (OSError, ValueError, KeyError, AssertionError, ImportError) as error:
        raise _unreadable(source, error) from error


def _episodes(dataset: Any, source: str) -> Iterator[Any]:
    """The episodes that have at least one step."""
    try:
        for episode in dataset.iterate_episodes():
            if len(episode.rewards):
                yield episode
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise _unreadable(source, error) from error


def _unreadable(source: str, error: Exception) -> UsageError:
    return UsageError(f"dataset is {source}, which cannot be read ({type(error).__name__}: {error}); get it again.")


def _episode(episode: Any, spaces: Spaces, name: str) -> Step:
    """The rows of one episode: its steps, and one row for its final observation."""
    steps = len(episode.rewards)
    terminated, truncated = (np.asarray(flags, bool) for flags in (episode.terminations, episode.truncations))
    if (terminated | truncated)[:-1].any():
        raise UsageError(f"dataset {name} continues after its end; split it there.")
    observation = _observations(episode, spaces, name, bool(terminated[-1]))
    action = _actions(episode.actions, steps, spaces, name)
    legal = observation.action_mask[-1] if isinstance(observation, Masked) else spaces.legal
    if np.asarray(episode.rewards).dtype.kind not in "biuf":
        raise UsageError(f"dataset {name} has rewards that are not numbers; correct the data.")
    with np.errstate(over="ignore"):  # too large values become inf, which is refused
        reward = np.append(np.asarray(episode.rewards), 0.0).astype(np.float32)
    rows = Step(
        observation=observation,
        # The action of the final row has no meaning, but it must be legal.
        action=np.concatenate([action, np.argmax(legal, axis=-1)[None]]).astype(np.int32),
        reward=reward,
        terminated=np.append(terminated, False),
        last=np.arange(steps + 1) == steps,
    )
    return _checked(rows, spaces, f"dataset {name}")


def _observations(episode: Any, spaces: Spaces, name: str, terminated: bool) -> Observation:
    """All `steps + 1` observations, as the agent sees them."""
    beside = spaces.mask_source in ("info", "method")
    masks = (episode.infos or {}).get(MASK) if beside else None
    if beside and masks is None:
        raise UsageError(
            f"dataset {name} has no action masks in its infos, which this environment needs; "
            "collect it with DataCollector(env, record_infos=True)."
        )
    steps = len(episode.rewards)
    numbers = {len(leaf) for leaf in jax.tree.leaves(episode.observations)}
    if numbers != {steps + 1}:
        raise UsageError(
            f"dataset {name} has {steps} steps and {min(numbers)} observations, but the final one is needed too; "
            f"store all {steps + 1} observations."
        )
    seen = []
    for row in range(steps + 1):
        shown = jax.tree.map(lambda leaf, row=row: leaf[row], episode.observations)
        info = None if masks is None else {MASK: masks[row]}
        try:
            seen.append(spaces.encode(shown, info, terminated and row == steps))
        except BadValueError as error:
            raise UsageError(f"dataset {name}, row {row} has {error}; set env to that of the data set.") from error
    return jax.tree.map(lambda *rows: np.stack(rows), *seen)


def _actions(given: Any, steps: int, spaces: Spaces, name: str) -> Int[np.ndarray, "steps *branches"]:
    """The actions of an episode, counted from 0."""
    actions = np.asarray(given)
    if actions.shape != (steps, *spaces.raw_action_shape) or actions.dtype.kind not in "iu":
        raise UsageError(
            f"dataset {name} has actions of shape {actions.shape} and dtype {actions.dtype}; "
            f"integers of shape {(steps, *spaces.raw_action_shape)} are needed."
        )
    return spaces.count_from_zero(actions)


def _checked(rows: Step, spaces: Spaces, name: str) -> Step:
    """The rows, unchanged. Raises UsageError if they have no step, a value that is not finite, or an illegal action."""
    if rows.last.all():
        raise UsageError(f"{name} has no steps; use another.")
    legal = np.broadcast_to(spaces.legal, (len(rows.last), *spaces.legal.shape))
    observation: Any = rows.observation
    if isinstance(observation, Masked):
        observation, legal = observation.observation, np.asarray(observation.action_mask)
    for part, values in {"observation": observation, "reward": rows.reward}.items():
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            raise UsageError(f"{name}, row {int(np.argmin(finite))}: its {part} is not finite; correct the data.")
    exists = (rows.action >= 0) & (rows.action < spaces.num_actions)
    allowed = np.take_along_axis(legal, np.where(exists, rows.action, 0)[..., None], axis=-1)[..., 0] & exists
    allowed = allowed.reshape(len(rows.last), -1).all(axis=1) | np.asarray(rows.last)
    if not allowed.all():
        row = int(np.argmin(allowed))
        raise UsageError(f"{name}, row {row}: its action {rows.action[row]} is not legal there; correct the data.")
    return rows
