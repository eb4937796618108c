"""Examine an environment's contract on a real copy, and say what is wrong and how to mend it. Not used in training."""

import math
import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env

from qdojo.envs.copies import describe
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.resolve import EnvSpec, resolve
from qdojo.envs.spaces import BadValueError, check_spaces
from qdojo.errors import EnvironmentFailure, UsageError

_STEPS = 1000
_MOST_SECONDS = 20.0
_REPLAYED_STEPS = 100


class Finding(NamedTuple):
    """One check: its name, whether it passed, and what was seen; where it failed, also how to mend it."""

    check: str
    ok: bool
    message: str


class Stepped(NamedTuple):
    """What `_play` saw."""

    steps: int
    seconds: float
    terminations: int
    truncations: int


def examine(env: Any) -> list[Finding]:
    """Check an environment (named as for `resolve`), step it 1,000 times, and report each check in a fixed order.

    The checks: resolves, spaces, reset, step, seed, time limit, Gymnasium's own checker, speed; of a ready-made
    vector environment resolves, spaces, step, speed. Where a check leaves nothing to try the rest with, it is the
    last. Never raises for what an environment does.
    """
    try:
        spec = resolve(env)
    except UsageError as error:
        return [Finding("resolves", False, str(error))]
    findings = [Finding("resolves", True, f"{spec.name} builds")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for finding in _examine_vector(spec) if spec.is_vector else _examine_single(spec):
                findings.append(finding)
        except Exception as error:
            findings.append(Finding("repeats", False, f"{describe(error)}, after it had passed the checks before"))
    return findings


def _examine_single(spec: EnvSpec) -> Iterator[Finding]:
    spaces = _spaces(spec)
    yield spaces
    env = spec.make()
    try:
        reset = _reset(env)
        yield reset
        if not reset.ok:
            return
        step, seen = _step(env)
        yield step
        if seen is None:
            return
        yield _seed(env, spec)
        yield _time_limit(spec, seen)
        yield _gymnasium_checker(env)
        yield _speed(seen)
    finally:
        env.close()


def _spaces(spec: EnvSpec) -> Finding:
    try:
        spaces = check_spaces(spec)
    except UsageError as error:
        return Finding("spaces", False, str(error))
    shape = "one-hot " * spaces.one_hot + f"{spaces.observation_dtype}{list(spaces.observation_shape)}"
    return Finding("spaces", True, f"{spaces.num_actions} actions, observations {shape}")


def _reset(env: gym.Env[Any, Any]) -> Finding:
    try:
        result = env.reset(seed=0)
    except Exception as error:
        return Finding("reset", False, f"reset(seed=0) failed: {describe(error)}; {_RESET_MEND}")
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        return Finding("reset", False, f"reset returned {_kind(result)}; {_RESET_MEND}")
    wrong = _wrong_observation(result[0], env.observation_space)
    return Finding("reset", not wrong, f"reset: {wrong}" if wrong else "reset(seed=...) gives (observation, info)")


_RESET_MEND = "define reset(self, *, seed=None, options=None) and return (observation, info) with a dict as info."


def _step(env: gym.Env[Any, Any]) -> tuple[Finding, Stepped | None]:
    try:
        seen = _play(env)
    except BadValueError as error:
        return Finding("step", False, str(error)), None
    except Exception as error:
        mend = "a step after reset() must work for every action of the action space, also after an end and a reset."
        return Finding("step", False, f"{describe(error)}; {mend}"), None
    ends = f"{seen.terminations} terminations and {seen.truncations} truncations"
    return Finding("step", True, f"{seen.steps} random steps as promised, {ends}, each followed by a good reset"), seen


def _play(env: gym.Env[Any, Any]) -> Stepped:
    """Random steps over as many episodes as they take. Raises BadValueError at the first broken promise."""
    env.action_space.seed(0)
    began = time.perf_counter()
    terminations = truncations = steps = 0
    while steps < _STEPS and time.perf_counter() - began < _MOST_SECONDS:
        result = env.step(env.action_space.sample())
        steps += 1
        wrong = _wrong_step(result, env.observation_space)
        if wrong:
            raise BadValueError(f"step {steps}: {wrong}")
        _, _, terminated, truncated, _ = result
        terminations += bool(terminated)
        truncations += bool(truncated)
        if terminated or truncated:
            observation, _ = env.reset()
            wrong = _wrong_observation(observation, env.observation_space)
            if wrong:
                raise BadValueError(f"the reset after step {steps}: {wrong}")
    return Stepped(steps, time.perf_counter() - began, terminations, truncations)


def _wrong_step(result: Any, space: gym.Space[Any]) -> str:
    if not isinstance(result, tuple) or len(result) != 5:
        return f"it returned {_kind(result)}; return (observation, reward, terminated, truncated, info)."
    observation, reward, terminated, truncated, info = result
    try:
        finite = math.isfinite(float(reward)) and np.ndim(reward) == 0
    except (TypeError, ValueError):
        finite = False
    if not finite:
        return f"the reward is {reward!r}; return one finite float."
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, bool | np.bool_):
            return f"{name} is {flag!r} of type {type(flag).__name__}; return bool({name})."
    if not isinstance(info, dict):
        return f"info is a {type(info).__name__}; return a dict."
    return _wrong_observation(observation, space)


def _wrong_observation(observation: Any, space: gym.Space[Any]) -> str:
    if isinstance(space, gym.spaces.Box):
        return _wrong_array(observation, space)
    if observation not in space:
        return f"the observation {observation!r} is outside {space}; mend whichever of the two is wrong."
    return ""


def _wrong_array(observation: Any, space: gym.spaces.Box) -> str:
    if not isinstance(observation, np.ndarray | np.generic):
        return f"the observation is a {type(observation).__name__}; return np.asarray(..., dtype=np.{space.dtype})."
    observation = np.asarray(observation)
    if observation.shape != space.shape:
        return f"the observation has shape {observation.shape}, its space {space.shape}; make them equal."
    if not np.can_cast(observation.dtype, space.dtype):
        return f"the observation is {observation.dtype}, its space {space.dtype}; return .astype(np.{space.dtype})."
    if not np.isfinite(observation).all():
        return "the observation holds NaN or inf; find the division or overflow that makes it, or clip it."
    below, above = observation < space.low, observation > space.high
    if (below | above).any():
        index = tuple(int(i) for i in np.argwhere(below | above)[0])
        value, low, high = observation[index], space.low[index], space.high[index]
        return f"observation{list(index)} is {value:g}, outside its space's {low:g} .. {high:g}; widen the Box or clip."
    return ""


def _seed(env: gym.Env[Any, Any], spec: EnvSpec) -> Finding:
    mend = "call super().reset(seed=seed) and draw every random number from self.np_random."
    first, second = _trajectory(env, 1), _trajectory(env, 1)
    for step, (a, b) in enumerate(zip(first, second, strict=False)):
        if not _same(a, b):
            where = "two resets with the same seed start differently" if step == 0 else f"they part at step {step}"
            return Finding("seed", False, f"the same seed and actions give different episodes ({where}); {mend}")
    fresh = spec.make()
    try:
        if not _same(first[0], _trajectory(fresh, 1)[0]):
            return Finding("seed", False, f"the same seed starts differently in a fresh copy; {mend}")
    finally:
        fresh.close()
    return Finding("seed", True, f"the same seed gives the same {len(first) - 1} steps, so a resume can be exact")


def _trajectory(env: gym.Env[Any, Any], seed: int) -> list[tuple[Any, ...]]:
    """What one episode shows, at most 100 steps of it, under actions that depend only on `seed`."""
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    shown: list[tuple[Any, ...]] = [(np.array(observation),)]
    while len(shown) <= _REPLAYED_STEPS:
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        shown.append((np.array(observation), reward, terminated, truncated))
        if terminated or truncated:
            break
    return shown


def _same(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def _time_limit(spec: EnvSpec, seen: Stepped) -> Finding:
    declared = spec.max_episode_steps
    mend = "register it with max_episode_steps=..., or wrap it in gymnasium.wrappers.TimeLimit."
    if declared:
        return Finding("time limit", True, f"episodes are truncated after {declared} steps")
    if seen.truncations:
        return Finding("time limit", True, f"{seen.truncations} truncations seen")
    if seen.terminations:
        return Finding(
            "time limit", True, f"none, but episodes end by themselves; if a good agent never ends one, {mend}"
        )
    return Finding("time limit", False, f"no limit is declared and no episode ended within {seen.steps} steps; {mend}")


def _gymnasium_checker(env: gym.Env[Any, Any]) -> Finding:
    try:
        check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return Finding("gymnasium's checker", False, f"{first} (gymnasium.utils.env_checker.check_env)")
    return Finding("gymnasium's checker", True, "passes")


def _speed(seen: Stepped) -> Finding:
    return Finding("speed", True, f"{seen.steps / seen.seconds:,.0f} steps per second")


def _examine_vector(spec: EnvSpec) -> Iterator[Finding]:
    spaces = _spaces(spec)
    yield spaces
    if not spaces.ok:
        return
    made = spec.make()
    size = made.num_envs
    made.close()
    try:
        host = HostEnvironment(spec, [0], size)
    except UsageError as error:
        yield Finding("step", False, str(error))
        return
    try:
        seen = _play_vector(host)
    except EnvironmentFailure as error:
        yield Finding("step", False, str(error))
        return
    finally:
        host.close()
    yield Finding("step", True, f"{seen.steps} random steps of {size} copies as promised")
    yield _speed(seen)


def _play_vector(host: HostEnvironment) -> Stepped:
    actions = np.random.default_rng(0).integers(host.spaces.num_actions, size=(_STEPS // host.size + 1, host.size))
    began = time.perf_counter()
    host.reset()
    terminations = truncations = 0
    for row in actions:
        step = host.step(row)
        terminations += int(step.terminated.sum())
        truncations += int(step.truncated.sum())
    return Stepped(actions.size, time.perf_counter() - began, terminations, truncations)


def _kind(result: Any) -> str:
    if isinstance(result, tuple):
        return f"a tuple of {len(result)}"
    return f"a {type(result).__name__}"
