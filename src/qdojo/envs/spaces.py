"""Which Gymnasium spaces qdojo plays, and how an observation becomes an array. Not for names: see `resolve.py`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Shaped

from qdojo.errors import UsageError

_FLATTENABLE = (spaces.Dict, spaces.Tuple, spaces.MultiDiscrete, spaces.MultiBinary)


class BadValueError(ValueError):
    """What an environment gave does not fit its spaces; the text fits after 'it gave '."""


@dataclass(frozen=True)
class Spaces:
    """What an agent needs to know of an environment's two spaces.

    Actions are 0 .. num_actions - 1 everywhere in qdojo; `action_start` is added only where the environment is
    called. Observations are uint8 where the environment's are, and float32 otherwise; a Discrete observation
    becomes a one-hot vector.
    """

    num_actions: int
    action_start: int
    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype[Any]
    one_hot: bool = False
    observation_start: int = 0

    def encode(self, observation: Any) -> Shaped[np.ndarray, "*observation"]:
        """One raw observation as an array of `observation_shape` and `observation_dtype`.

        Raises BadValueError, in words that fit into a sentence, where shape, dtype or category do not fit the space.
        The result may share memory with `observation`.
        """
        array = np.asarray(observation)
        if self.one_hot:
            return self._encode_category(array)
        if array.shape != self.observation_shape:
            raise BadValueError(f"an observation of shape {array.shape} where its space has {self.observation_shape}")
        if array.dtype == self.observation_dtype:
            return array
        if array.dtype.kind not in "fiub" or self.observation_dtype == np.uint8:
            raise BadValueError(f"an observation of dtype {array.dtype} where {self.observation_dtype} is needed")
        # A float64 beyond float32's range becomes inf here, and the caller's check for finite values reports it.
        with np.errstate(over="ignore"):
            return array.astype(self.observation_dtype)

    def _encode_category(self, category: np.ndarray) -> Shaped[np.ndarray, "categories"]:
        if category.shape != () or category.dtype.kind not in "iu":
            raise BadValueError(f"the observation {category.tolist()!r} where its Discrete space needs one integer")
        index = int(category) - self.observation_start
        if not 0 <= index < self.observation_shape[0]:
            raise BadValueError(f"the observation {int(category)}, which is outside its Discrete space")
        vector = np.zeros(self.observation_shape, self.observation_dtype)
        vector[index] = 1
        return vector


def check_spaces(env: Any, name: str | None = None) -> Spaces:
    """The `Spaces` of an environment, of a vector environment's single copy, or of an `EnvSpec`.

    Raises UsageError, naming the space and what to do, where qdojo cannot play it.
    """
    action = getattr(env, "single_action_space", env.action_space)
    observation = getattr(env, "single_observation_space", env.observation_space)
    name = name or getattr(env, "name", None) or (env.spec.id if env.spec else type(env).__name__)
    num_actions, action_start = _check_action(action, name)
    if isinstance(observation, spaces.Discrete):
        shape, start = (int(observation.n),), int(observation.start)
        return Spaces(num_actions, action_start, shape, np.dtype(np.float32), True, start)
    if isinstance(observation, spaces.Box):
        dtype = np.dtype(np.uint8 if observation.dtype == np.uint8 else np.float32)
        return Spaces(num_actions, action_start, tuple(observation.shape), dtype)
    kind = type(observation).__name__
    mend = (
        "wrap it in gymnasium.wrappers.FlattenObservation"
        if isinstance(observation, _FLATTENABLE)
        else "wrap it in a gymnasium.ObservationWrapper that returns a Box"
    )
    raise UsageError(f"{name}: the observation space {kind} is not supported (Box and Discrete are); {mend}.")


def _check_action(action: spaces.Space[Any], name: str) -> tuple[int, int]:
    if isinstance(action, spaces.Discrete):
        return int(action.n), int(action.start)
    if isinstance(action, spaces.Box):
        raise UsageError(
            f"{name}: the action space is continuous ({action}), which needs a policy-gradient or actor-critic method "
            "(e.g. SAC, PPO) that qdojo does not do; choose an environment with Discrete actions."
        )
    raise UsageError(
        f"{name}: the action space {type(action).__name__} is not supported; "
        "wrap it in a gymnasium.ActionWrapper with one Discrete action space."
    )
