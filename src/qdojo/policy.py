"""A trained agent as a policy, and the single file that it can be saved in. For runs, see `delivered.py`."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from qdojo import snapshot
from qdojo.build.opening import Opened, description, open_player
from qdojo.config import Config, stored_config
from qdojo.envs.spaces import BadValueError
from qdojo.errors import DamagedFile, QdojoError, UsageError
from qdojo.runs.directory import write_atomically
from qdojo.types import Observation

SUFFIX = ".safetensors"
ENTRY = "qdojo"
"""Key of the file's metadata entry that describes the agent."""
FORMAT = 1
"""Version of that entry; a later version of qdojo may write a greater one."""


class Policy:
    """A trained member of a run: observations in, greedy actions out. It neither explores nor learns."""

    def __init__(self, config: Config, opened: Opened, params: Any, member: int) -> None:
        """`params` are those of this member, without a member axis."""
        self.config = config
        """Settings that it was trained with."""
        self.member = member
        """Its index in the population that it was trained in."""
        self.params = params
        """Parameters of its network."""
        self._opened, self._spaces, self._actor = opened, opened.spaces, opened.player.actor
        self._values = jax.jit(self._actor.values)
        self.reset()

    def reset(self) -> None:
        """Clear the memory of a recurrent agent; call this at the start of each episode."""
        self._memory = self._actor.memory()

    def act(self, observation: Any, info: Any = None) -> Any:
        """Return the greedy action for one raw observation, in the form that the environment expects: an int, an int64
        array [branches] for MultiDiscrete, or an int8 array of the space's shape for MultiBinary.

        `info` is the dict that came with the observation; it is needed only for action masks. Raises UsageError if
        either does not fit the environment's spaces.
        """
        return self._spaces.decode(self.choose(self._seen(observation, info)))

    def choose(self, observation: Observation) -> Int[np.ndarray, "*branches"]:
        """Return the greedy action, counted from 0, for an observation that `Spaces.encode` has already converted."""
        q, self._memory = self._values(self.params, observation, self._memory)
        return np.asarray(np.argmax(np.asarray(q), axis=-1))

    def q_values(self, observation: Any, info: Any = None) -> Float[np.ndarray, "*branches actions"]:
        """Return the estimated return of each action. A recurrent agent uses its memory but does not update it.

        Values are in units of the return, even if the agent was trained with `value_rescaling`.
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

    def save(self, path: Path | str) -> None:
        """Write the agent to a single file, from which `qdojo.load` restores it without the run.

        `path` ends in .safetensors. The file holds the weights, the settings and a description of the environment's
        spaces, but no code. Raises `UsageError` for another suffix, `QdojoError` if it cannot be written.
        """
        path = Path(path)
        if path.suffix != SUFFIX:
            raise UsageError(f"{path}: an agent's file name must end in {SUFFIX}, not in {path.suffix!r}.")
        opened = self._opened
        entry = {
            "format": FORMAT,
            "config": self.config.model_dump(mode="json"),
            "player": description(self.config, opened.spec, opened.spaces, opened.model),
            "member": self.member,
        }
        try:
            arrays = snapshot.to_arrays(self.params)
            write_atomically(path, to_safetensors(arrays, {ENTRY: json.dumps(entry, ensure_ascii=False)}))
        except (OSError, SafetensorError) as error:
            raise QdojoError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}.") from error

    def __repr__(self) -> str:
        spaces = self._spaces
        weights = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        actions = " x ".join(map(str, (*spaces.action_shape, spaces.num_actions)))
        shape = " x ".join(map(str, spaces.observation_shape)) or "one number"
        return (
            f"Policy of member {self.member}, trained on {self.config.env} with preset {self.config.preset}: "
            f"observations {shape}, actions {actions}, {weights:,} weights"
        )


def _unfit(observation: Any, error: Exception) -> UsageError:
    """Return the error that explains why an observation cannot be used."""
    if isinstance(observation, tuple) and len(observation) in (2, 5) and isinstance(observation[-1], dict):
        method = "reset" if len(observation) == 2 else "step"
        return UsageError(f"The observation is all that {method} returned; pass the first part of that tuple alone.")
    given = (
        str(error)
        if isinstance(error, BadValueError)
        else f"a {type(observation).__name__}, which is not an observation"
    )
    return UsageError(
        f"The agent was given {given}; pass one observation, as the environment's reset and step return it."
    )


def load_policy(path: Path, network: Any = None) -> Policy:
    """Load an agent from a file that `Policy.save` wrote. No environment is built, and no code from the file is run.

    `network` is the Keras model that it was trained with, needed only if Keras cannot serialize it. Raises
    `UsageError` if there is no file, and `DamagedFile` for any other file.
    """
    if not path.is_file():
        raise UsageError(
            f"There is no file {path}; `Policy.save` writes one, as in qdojo.load(RUN).save({path.name!r})."
        )
    try:
        with safe_open(path, framework="np") as file:
            entry = json.loads((file.metadata() or {})[ENTRY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if entry["format"] != FORMAT:
            raise DamagedFile(f"{path} is not in format {FORMAT}, which this version reads; use a later version.")
        config, member = stored_config(entry["config"]), int(entry["member"])
        opened = open_player(config, entry["player"], network=network)
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read: {error.strerror or error}.") from error
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is not an agent's file; `Policy.save` writes one.") from error
    template = jax.eval_shape(opened.player.network.init, jax.eval_shape(lambda: jax.random.key(0)))
    return Policy(config, opened, snapshot.from_arrays(template, arrays), member)
