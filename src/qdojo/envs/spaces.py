"""Which Gymnasium spaces qdojo plays, and how observations and masks become arrays. Not for names: see `resolve.py`."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Int, Shaped

from qdojo.envs.encoders import BadValueError, Encode, counts_of, scale_of, top_encoder
from qdojo.errors import UsageError

if TYPE_CHECKING:
    from qdojo.types import Observation
else:
    # `types` imports JAX, which no worker process needs.
    Observation = Shaped[np.ndarray, "*observation"] | tuple[Any, Any]

OBSERVATION, MASK = "observation", "action_mask"
"""Keys of an observation space that carries masks; the second also of an `info` that does. Other keys beside the mask
are one observation together."""

Array = Shaped[np.ndarray, "..."]
MaskSource = Literal["info", "observation", "method"]
"""Where action masks are: beside an observation, in it, or in what the method `action_masks()` of an environment
returns, which whoever steps it puts into `info`."""


@dataclass(frozen=True, eq=False)
class Spaces:
    """What an agent needs to know of an environment's two spaces.

    Everywhere in qdojo actions count from 0 and have shape `action_shape`; Q-values have `[*action_shape,
    num_actions]`. Only `decode` knows how the environment itself counts.
    """

    action_shape: tuple[int, ...]
    """() for Discrete, (branches,) for MultiDiscrete."""
    num_actions: int
    """Of the largest branch."""
    action_start: int | Int[np.ndarray, "branches"]
    """What the environment calls action 0; an array for MultiDiscrete."""
    legal: Bool[np.ndarray, "*branches actions"]
    """Which actions exist at all: False only where a branch has fewer than the largest."""
    mask_source: MaskSource | None
    """Where the environment puts its action masks, if it gives any."""
    masked: bool
    """Whether observations are `Masked`: masks are given, or branches differ in size."""
    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype[Any]
    observation_scale: int
    """The largest number of a uint8 Box, by which qdojo's own networks divide what it shows; else 1."""
    categories: tuple[int, ...]
    """How many categories each element of an observation has, where it holds indices for an embedding; else ()."""
    encoder: Encode
    """One raw observation, without its mask, as an array; it may share memory with what it is given."""

    def decode(self, choice: Any) -> Any:
        """An action, counted from 0, as the environment's own `step` takes it: an int, or int64 [branches]."""
        if self.action_shape:
            return np.asarray(choice, np.int64) + self.action_start
        return self.action_start + int(choice)

    def encode(self, observation: Any, info: Any = None, terminated: bool = False) -> Observation:
        """One raw observation as the agent sees it: an array, or a `Masked` of two where `masked`.

        Raises BadValueError, in words that fit into a sentence, where shape, dtype, category or mask do not fit.
        """
        return seen(self.show(observation, info, terminated))

    def show(self, observation: Any, info: Any, terminated: bool = False) -> Array | dict[str, Array]:
        """What `encode` gives, as Gymnasium has it: an array, or a dict of observation and mask."""
        shown = self.encoder(observation)
        if not self.masked and (info is None or MASK not in info):
            return shown
        return {OBSERVATION: shown, MASK: self.mask(observation, info, terminated)}

    def mask(self, observation: Any, info: Any, terminated: bool = False) -> Bool[np.ndarray, "*branches actions"]:
        """The legal actions at one raw observation. Not to be written to.

        After a termination nothing is chosen any more, so a mask that is missing or allows nothing is taken as all
        legal. Raises BadValueError for any other mask that leaves no choice or does not fit.
        """
        if self.mask_source is None:
            if info is not None and MASK in info:
                raise BadValueError(
                    f"an action mask in its info, although its first reset gave none; give info[{MASK!r}] with every "
                    "reset and step"
                )
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
        """The mask of every branch, one after the other, of zeros and ones."""
        if self.action_shape and isinstance(given, tuple | list | np.ndarray) and any(np.ndim(part) for part in given):
            parts = [np.asarray(part) for part in given]
            shapes, needed = [part.shape for part in parts], [(int(n),) for n in self.legal.sum(axis=-1)]
            if shapes != needed:
                raise BadValueError(f"action masks of shapes {shapes} where {needed} are needed")
            flat = np.concatenate(parts)
        else:
            flat = np.asarray(given)
            if flat.shape != (self.legal.sum(),):
                raise BadValueError(f"an action mask of shape {flat.shape} where ({self.legal.sum()},) is needed")
        if flat.dtype.kind not in "biuf":
            raise BadValueError(f"an action mask of dtype {flat.dtype} where bool or numbers are needed")
        if flat.dtype.kind != "b" and ((flat != 0) & (flat != 1)).any():
            raise BadValueError("an action mask that holds other numbers than 0 and 1")
        return flat


_PROMISES = {
    "info": "its first reset gave one",
    "observation": "its observation space has one",
    "method": "it has a method action_masks()",
}


def seen(shown: Any) -> Observation:
    """What `Spaces.show` gave, of one copy or of many, as an array or a `Masked`."""
    if not isinstance(shown, dict):
        return shown
    from qdojo.types import Masked

    return Masked(shown[OBSERVATION], shown[MASK])


def check_spaces(env: Any, name: str | None = None, embedded: bool = False) -> Spaces:
    """The `Spaces` of an environment, of a vector environment's single copy, or of an `EnvSpec`.

    Only an `EnvSpec` knows whether masks come in `info` or from a method. With `embedded` the observations are
    category indices, int32 [k], instead of one-hot vectors. Raises UsageError, naming the space and what to do, where
    qdojo cannot play it.
    """
    action = getattr(env, "single_action_space", env.action_space)
    observation = getattr(env, "single_observation_space", env.observation_space)
    name = name or getattr(env, "name", None) or (env.spec.id if env.spec else type(env).__name__)
    counts, start = _check_action(action, name)
    legal = np.arange(np.max(counts)) < counts[..., None]
    source: MaskSource | None = getattr(env, "mask_source", None)
    beside_mask: Callable[[Encode, Any], np.ndarray] | None = None
    if isinstance(observation, spaces.Dict) and MASK in observation.spaces:
        source, parts = "observation", {key: part for key, part in observation.spaces.items() if key != MASK}
        plain = set(parts) == {OBSERVATION}
        observation = parts[OBSERVATION] if plain else spaces.Dict(parts)
        beside_mask = _encode_inner if plain else _encode_others
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
        encoder=encode if beside_mask is None else functools.partial(beside_mask, encode),
    )


def _check_action(action: spaces.Space[Any], name: str) -> tuple[Int[np.ndarray, "*branches"], Any]:
    """How many actions there are, a number a branch, and where the environment begins to count."""
    if isinstance(action, spaces.Discrete):
        return counts_of(action), int(action.start)
    if isinstance(action, spaces.MultiDiscrete) and action.nvec.ndim == 1 and action.nvec.size:
        return counts_of(action), np.asarray(action.start, np.int64)
    if isinstance(action, spaces.MultiDiscrete):
        raise UsageError(
            f"{name}: the action space MultiDiscrete has nvec of shape {action.nvec.shape}, which is not supported; "
            "wrap it in a gymnasium.ActionWrapper with a flat nvec."
        )
    if isinstance(action, spaces.Box):
        raise UsageError(
            f"{name}: the action space is continuous ({action}), which needs a policy-gradient or actor-critic method "
            "(e.g. SAC, PPO) that qdojo does not do; choose an environment with Discrete actions."
        )
    raise UsageError(
        f"{name}: the action space {type(action).__name__} is not supported (Discrete and MultiDiscrete are); "
        "wrap it in a gymnasium.ActionWrapper with one of these action spaces."
    )


def _encode_inner(encode: Encode, value: Any) -> Shaped[np.ndarray, "*observation"]:
    """The observation of a Dict that holds its mask beside it."""
    if not isinstance(value, Mapping) or OBSERVATION not in value:
        raise BadValueError(f"an observation without {OBSERVATION!r}, which its Dict space has")
    return encode(value[OBSERVATION])


def _encode_others(encode: Encode, value: Any) -> Shaped[np.ndarray, "*observation"]:
    """The parts of a Dict beside its mask."""
    if not isinstance(value, Mapping):
        raise BadValueError(f"an observation of type {type(value).__name__} where its space is a Dict")
    return encode({key: part for key, part in value.items() if key != MASK})
