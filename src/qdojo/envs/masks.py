"""Action masks that a method of the environment gives, brought into `info`. Not for reading masks: see `spaces.py`."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym

from qdojo.envs.failures import CallError, describe
from qdojo.envs.spaces import MASK, Spaces


def mask_method(env: Any) -> Callable[[], Any] | None:
    """The method `action_masks` of an environment, through its wrappers; None where it has none."""
    try:
        method = env.get_wrapper_attr("action_masks")
    except AttributeError:
        return None
    return method if callable(method) else None


def with_masks(env: Any, spaces: Spaces) -> Any:
    """The environment, with what its method `action_masks()` returns in every `info` where that is the source."""
    method = mask_method(env) if spaces.mask_source == "method" else None
    return env if method is None else MasksInInfo(env, method)


class MasksInInfo(gym.Wrapper[Any, Any, Any, Any]):
    """Puts what `method` returns into `info["action_mask"]`. After a termination, where nothing is chosen any more, it
    is not called. `reset` and `step` raise CallError where it raises."""

    def __init__(self, env: gym.Env[Any, Any], method: Callable[[], Any]) -> None:
        super().__init__(env)
        self._method = method

    def reset(self, **options: Any) -> Any:
        """What the environment returns, with the mask; as it is where that is no pair."""
        returned = self.env.reset(**options)
        return self._with_mask(returned) if isinstance(returned, tuple) and len(returned) == 2 else returned

    def step(self, action: Any) -> Any:
        """What the environment returns, with the mask; as it is where that is no tuple of 5."""
        returned: Any = self.env.step(action)
        is_step = isinstance(returned, tuple) and len(returned) == 5
        return self._with_mask(returned) if is_step and not returned[2] else returned

    def _with_mask(self, returned: tuple[Any, ...]) -> tuple[Any, ...]:
        try:
            mask = self._method()
        except (Exception, SystemExit) as error:
            raise CallError(f"its action_masks() {describe(error).removeprefix('it ')}") from error
        return *returned[:-1], {**(returned[-1] or {}), MASK: mask}
