"""The Gymnasium spaces that qdojo supports, and the conversion of observations and masks to arrays. For environment
names, see `resolve.py`."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Int, Shaped

from qdojo.envs.encoders import BadValueError, Encode, counts_of, scale_of, top_encoder, unsupported
from qdojo.errors import UsageError

if TYPE_CHECKING:
    from qdojo.types import Observation
else:
    # `types` imports JAX, which worker processes do not need.
    Observation = Shaped[np.ndarray, "*observation"] | tuple[Any, Any]

OBSERVATION, MASK = "observation", "action_mask"
"""Keys of a Dict observation that carries an action mask; MASK is also the key in `info`. All keys other than MASK
together form the observation."""

Array = Shaped[np.ndarray, "..."]
MaskSource = Literal["info", "observation", "method"]
"""Where action masks come from: `info`, the observation, or the environment's method `action_masks()`, whose result
`MasksInInfo` puts into `info`."""


@dataclass(frozen=True, eq=False)
class Spaces:
    """What an agent needs to know about an environment's two spaces.

    Everywhere in qdojo actions count from 0 and have shape `action_shape`; Q-values have shape `[*action_shape,
    num_actions]`. Only the `decode` methods and their inverse know the environment's own numbering.
    """

    action_shape: tuple[int, ...]
    """() for Discrete, (branches,) for MultiDiscrete; MultiBinary has one branch of two actions per bit."""
    num_actions: int
    """Number of actions in the largest branch."""
    action_start: int | Int[np.ndarray, "branches"]
    """The environment's own number for action 0; an array for MultiDiscrete and MultiBinary."""
    legal: Bool[np.ndarray, "*branches actions"]
    """Which actions exist: False only as padding in branches with fewer actions than the largest."""
    mask_source: MaskSource | None
    """Where the environment's action masks come from; None if it has none."""
    masked: bool
    """Whether observations are `Masked`: the environment gives masks, or its branches differ in size."""
    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype[Any]
    observation_scale: int
    """Largest value of a uint8 Box, by which qdojo's networks divide observations; 1 for all other spaces."""
    categories: tuple[int, ...]
    """Number of categories of each element, if observations are indices into an embedding; else ()."""
    one_hot: bool
    """Whether at most one number of an observation is not zero, as where the space is Discrete."""
    encoder: Encode
    """Converts one raw observation to an array without its mask; the array may share memory with its argument."""
    observe: tuple[str, ...] | None = None
    """Keys of a Dict observation that the agent sees; None for all of them."""
    binary_shape: tuple[int, ...] | None = None
    """Shape of a MultiBinary action; None for all other action spaces."""

    @property
    def raw_action_shape(self) -> tuple[int, ...]:
        """Shape of an action as the environment expects it."""
        return self.action_shape if self.binary_shape is None else self.binary_shape

    def decode(self, choice: Any) -> Any:
        """Convert an action that counts from 0 to the form that the environment's `step` expects: an int for Discrete,
        int64 [branches] for MultiDiscrete, int8 of the space's shape for MultiBinary."""
        return self.decode_all(choice) if self.action_shape else self.action_start + int(choice)

    def decode_all(self, choices: Any) -> Int[np.ndarray, "*rows_and_action"]:
        """Convert a batch of actions, with any leading axes, to the form that the environment expects."""
        actions = np.asarray(choices, np.int64) + self.action_start
        if self.binary_shape is None:
            return actions
        return actions.astype(np.int8).reshape(*actions.shape[:-1], *self.binary_shape)

    def count_from_zero(self, actions: Int[np.ndarray, "rows *action"]) -> Int[np.ndarray, "rows *branches"]:
        """Invert `decode_all` for arrays with one leading axis."""
        return actions.astype(np.int64).reshape(len(actions), *self.action_shape) - self.action_start

    def encode(self, observation: Any, info: Any = None, terminated: bool = False) -> Observation:
        """Convert one raw observation to what the agent sees: an array, or a `Masked` if `masked`.

        Raises BadValueError, whose text fits into a sentence, if the shape, dtype, category or mask is invalid.
        """
        return seen(self.show(observation, info, terminated))

    def show(self, observation: Any, info: Any, terminated: bool = False) -> Array | dict[str, Array]:
        """Like `encode`, but as a value of a Gymnasium space: an array, or a dict of observation and mask."""
        shown = self.encoder(observation)
        if not self.masked and (info is None or MASK not in info):
            return shown
        return {OBSERVATION: shown, MASK: self.mask(observation, info, terminated)}

    def mask(self, observation: Any, info: Any, terminated: bool = False) -> Bool[np.ndarray, "*branches actions"]:
        """Return the mask of legal actions for one raw observation. Callers must not write to it.

        After a termination no further action is chosen, so a mask that is missing or allows no action counts as
        all-legal. Raises BadValueError for any other mask that allows no action or is invalid.
        """
        if self.mask_source is None:
            if info is not None and MASK in info:
                raise BadValueError("an action mask in its info, although its first reset gave none")
            return self.legal
        source = observation if self.mask_source == "observation" else info
        given = None if source is None else source.get(MASK)
        if given is None and terminated:
            return self.legal
        if given is None:
            raise BadValueError(f"no action mask, although {_PROMISES[self.mask_source]}")
        mask = np.zeros_like(self.legal)
        mask[self.legal] = self._flat_mask(given)
        free = mask.any(axis=-1)
        if free.all():
            return mask
        if terminated:
            return self.legal
        where = f" in branch {int(np.argmin(free))}" if self.action_shape else ""
        raise BadValueError(f"an action mask that allows no action{where}")

    def _flat_mask(self, given: Any) -> Shaped[np.ndarray, "all_actions"]:
        """Return the masks of all branches as one vector of zeros and ones."""
        if self.action_shape and isinstance(given, tuple | list | np.ndarray) and any(np.ndim(part) for part in given):
            parts = [np.asarray(part) for part in given]
            shapes, needed = [part.shape for part in parts], [(int(n),) for n in self.legal.sum(axis=-1)]
            if shapes != needed:
                raise BadValueError(f"action masks of shapes {shapes}, but {needed} are needed")
            flat = np.concatenate(parts)
        else:
            flat = np.asarray(given)
            if flat.shape != (self.legal.sum(),):
                raise BadValueError(f"an action mask of shape {flat.shape}, but ({self.legal.sum()},) is needed")
        if flat.dtype.kind not in "biuf":
            raise BadValueError(f"an action mask of dtype {flat.dtype}, but bool or numbers are needed")
        if flat.dtype.kind != "b" and ((flat != 0) & (flat != 1)).any():
            raise BadValueError("an action mask that holds numbers other than 0 and 1")
        return flat


_PROMISES = {
    "info": "its first reset gave one",
    "observation": "its observation space has one",
    "method": "it has a method action_masks()",
}


def seen(shown: Any) -> Observation:
    """Convert a result of `Spaces.show`, for one copy or for many, to an array or a `Masked`."""
    if not isinstance(shown, dict):
        return shown
    from qdojo.types import Masked

    return Masked(shown[OBSERVATION], shown[MASK])


def check_spaces(
    env: Any, name: str | None = None, embedded: bool = False, observe: Sequence[str] | None = None
) -> Spaces:
    """Return the `Spaces` of an environment, of one copy in a vector environment, or of an `EnvSpec`.

    Only an `EnvSpec` says whether masks come from `info` or from a method. With `embedded`, observations are category
    indices, int32 [k], instead of one-hot vectors. `observe` limits a Dict observation to these keys: a single key
    keeps its shape, several are concatenated, sorted by key. Raises UsageError, naming the space and the fix, if
    qdojo does not support it.
    """
    action = getattr(env, "single_action_space", env.action_space)
    observation = getattr(env, "single_observation_space", env.observation_space)
    name = name or getattr(env, "name", None) or (env.spec.id if env.spec else type(env).__name__)
    counts, start = _check_action(action, name)
    legal = np.arange(np.max(counts)) < counts[..., None]
    source: MaskSource | None = getattr(env, "mask_source", None)
    keys: tuple[str, ...] | str | None = None
    if isinstance(observation, spaces.Dict):
        source = "observation" if MASK in observation.spaces else source
        observation, keys = seen_parts(observation, name, observe)
    elif observe is not None:
        raise UsageError(f"observe is set, but the observations of {name} are not a Dict; leave it out.")
    if refused := unsupported(observation):
        raise UsageError(_refusal(name, *refused, observation))
    shape, dtype, encode = top_encoder(observation, name, embedded)
    return Spaces(
        action_shape=counts.shape,
        num_actions=int(np.max(counts)),
        action_start=start,
        legal=legal,
        mask_source=source,
        masked=source is not None or not legal.all(),
        observation_shape=shape,
        observation_dtype=dtype,
        observation_scale=scale_of(observation),
        categories=tuple(counts_of(observation).ravel().tolist()) if embedded else (),
        one_hot=getattr(env, "one_hot", False) or (isinstance(observation, spaces.Discrete) and not embedded),
        encoder=encode if keys is None else functools.partial(_encode_parts, keys, encode),
        observe=None if observe is None else tuple(observe),
        binary_shape=tuple(action.shape) if isinstance(action, spaces.MultiBinary) else None,
    )


def _check_action(action: spaces.Space[Any], name: str) -> tuple[Int[np.ndarray, "*branches"], Any]:
    """Return the number of actions per branch and the environment's first action number per branch."""
    if isinstance(action, spaces.Discrete):
        return counts_of(action), int(action.start)
    if isinstance(action, spaces.MultiDiscrete) and action.nvec.ndim == 1 and action.nvec.size:
        return counts_of(action), np.asarray(action.start, np.int64)
    if isinstance(action, spaces.MultiBinary):
        bits = math.prod(action.shape)
        return np.full(bits, 2), np.zeros(bits, np.int64)
    if isinstance(action, spaces.MultiDiscrete):
        raise UsageError(
            f"{name}: the action space MultiDiscrete has nvec of shape {action.nvec.shape}, which is not supported; "
            "wrap it in a gymnasium.ActionWrapper with a flat nvec."
        )
    if isinstance(action, spaces.Box):
        raise UsageError(
            f"{name}: the action space is continuous ({action}), which needs a policy-gradient or actor-critic method "
            "(e.g. SAC, PPO) that qdojo does not have; choose an environment with Discrete actions."
        )
    raise UsageError(
        f"{name}: the action space {type(action).__name__} is not supported (Discrete, MultiDiscrete "
        "and MultiBinary are); "
        "wrap it in a gymnasium.ActionWrapper with one of these action spaces."
    )


def seen_parts(
    space: Any, name: str, observe: Sequence[str] | None
) -> tuple[spaces.Space[Any], tuple[str, ...] | str | None]:
    """Return the part of a Dict space that the agent sees, and its key, its several keys, or None for all of it."""
    there = {key: part for key, part in space.spaces.items() if key != MASK}
    if observe is None and MASK not in space.spaces:
        return space, None
    chosen = tuple(there if observe is None else observe)
    if unknown := [key for key in chosen if key not in there]:
        raise UsageError(
            f"observe is {list(chosen)}, but the observations of {name} have no key {unknown[0]!r}; "
            f"the keys are {', '.join(map(str, there))}."
        )
    if not chosen or len(set(chosen)) < len(chosen):
        raise UsageError(f"observe is {list(chosen)}; name one or more of {', '.join(map(str, there))}, each once.")
    if len(chosen) == 1 and (observe is not None or chosen == (OBSERVATION,)):
        return there[chosen[0]], chosen[0]
    return spaces.Dict({key: there[key] for key in chosen}), chosen


def _refusal(name: str, kind: str, path: tuple[str | int, ...], space: spaces.Space[Any]) -> str:
    """Return the message for an unsupported observation space, with the possible fixes."""
    where = f" of its part {'/'.join(map(str, path))!r}" if path else ""
    others = [key for key, part in space.items() if not unsupported(part)] if isinstance(space, spaces.Dict) else []
    wrap = "wrap it in a gymnasium.ObservationWrapper that returns a Box"
    fix = f"use the others (observe={others}, `--observe {' '.join(map(str, others))}`), or {wrap}" if others else wrap
    return (
        f"{name}: the observation space {kind}{where} is not supported (Box, Discrete, MultiBinary, MultiDiscrete, and "
        f"a Dict or Tuple of these are); {fix}."
    )


def _encode_parts(keys: tuple[str, ...] | str, encode: Encode, value: Any) -> Shaped[np.ndarray, "*observation"]:
    """Encode one part of a Dict on its own, or several parts concatenated."""
    if isinstance(keys, str):
        if not isinstance(value, Mapping) or keys not in value:
            raise BadValueError(f"an observation without {keys!r}, which its Dict space has")
        return encode(value[keys])
    if not isinstance(value, Mapping):
        raise BadValueError(f"an observation of type {type(value).__name__}, but its space is a Dict")
    return encode({key: value[key] for key in keys if key in value})
