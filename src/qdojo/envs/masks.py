"""Copies the action masks that an environment returns from a method into `info`. `spaces.py` reads masks."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym

from qdojo.envs.failures import CallError, describe
from qdojo.envs.spaces import MASK, Spaces


def mask_method(env: Any) -> Callable[[], Any] | None:
    """Return the `action_masks` method of an environment or of one of its wrappers; None if there is none."""
    try:
        method = env.get_wrapper_attr("action_masks")
    except AttributeError:
        return None
    return method if callable(method) else None


def with_masks(env: Any, spaces: Spaces) -> Any:
    """Wrap the environment so that every `info` holds its `action_masks()`, if that method is its source of masks."""
    method = mask_method(env) if spaces.mask_source == "method" else None
    return env if method is None else MasksInInfo(env, method)


class MasksInInfo(gym.Wrapper[Any, Any, Any, Any]):
    """Puts the mask that `method` returns into `info["action_mask"]`.

    `method` is not called after a termination, when no further action is chosen. `reset` and `step` raise CallError if
    it raises.
    """

    def __init__(self, env: gym.Env[Any, Any], method: Callable[[], Any]) -> None:
        super().__init__(env)
        self._method = method

    def reset(self, **options: Any) -> Any:
        """Reset the environment and add the mask; a return value that is not a pair is passed on unchanged."""
        returned = self.env.reset(**options)
        return self._with_mask(returned) if isinstance(returned, tuple) and len(returned) == 2 else returned

    def step(self, action: Any) -> Any:
        """Step the environment and add the mask; a return value that is not a 5-tuple is passed on unchanged."""
        returned: Any = self.env.step(action)
        is_step = isinstance(returned, tuple) and len(returned) == 5
        return self._with_mask(returned) if is_step and not returned[2] else returned

    def _with_mask(self, returned: tuple[Any, ...]) -> tuple[Any, ...]:
        try:
            mask = self._method()
        except (Exception, SystemExit) as error:
            raise CallError(f"its action_masks() {describe(error).removeprefix('it ')}") from error
        return *returned[:-1], {**(returned[-1] or {}), MASK: mask}
