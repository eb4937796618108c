"""Checks a real copy of an environment and says what is wrong and how to fix it. Training does not use this."""

import copy
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env, data_equivalence

from qdojo.envs.encoders import BadValueError
from qdojo.envs.failures import CallError, close_quietly, describe
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.masks import with_masks
from qdojo.envs.promises import kind, wrong_observation, wrong_step
from qdojo.envs.resolve import EnvSpec, resolve
from qdojo.envs.spaces import Spaces, check_spaces, seen_parts
from qdojo.envs.trial import CLOSE_MEND, MASK_MEND, RESET_MEND
from qdojo.errors import EnvironmentFailure, UsageError

_STEPS = 1000
_MOST_SECONDS = 20.0
_REPLAYED_STEPS = 100


class Finding(NamedTuple):
    """One check: its name, whether it passed, and a message with what was seen and, if it failed, how to fix it."""

    check: str
    ok: bool
    message: str


class Stepped(NamedTuple):
    """Counts from `_play` or `_play_vector`."""

    steps: int
    seconds: float
    terminations: int
    truncations: int


def examine(env: Any, observe: Sequence[str] | None = None) -> list[Finding]:
    """Check an environment, step it 1,000 times, and report each check in a fixed order.

    `env` is whatever `resolve` accepts; `observe` selects keys of a Dict observation, as in `check_spaces`.

    The checks are resolves, spaces, reset, step, seed, time limit, Gymnasium's own checker, speed and close; for a
    ready-made vector environment resolves, spaces, step, speed and close. If a failed check makes the later ones
    impossible, only close follows it. Never raises because of anything that the environment does.
    """
    try:
        spec = resolve(env)
    except UsageError as error:
        return [Finding("resolves", False, str(error))]
    findings = [Finding("resolves", True, f"{spec.name} builds")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for finding in _examine_vector(spec, observe) if spec.is_vector else _examine_single(spec, observe):
                findings.append(finding)
        except (Exception, SystemExit) as error:
            findings.append(Finding("repeats", False, f"{describe(error)}, after it had passed the earlier checks"))
    return findings


def _examine_single(spec: EnvSpec, observe: Sequence[str] | None) -> Iterator[Finding]:
    finding, spaces = _spaces(spec, observe)
    yield finding
    env = _built_again(spec, spaces)
    try:
        yield from _examine_copy(env, spec, spaces)
        yield _close(env)
    finally:
        close_quietly(env)


def _examine_copy(env: gym.Env[Any, Any], spec: EnvSpec, spaces: Spaces | None) -> Iterator[Finding]:
    reset = _reset(env, spaces)
    yield reset
    if not reset.ok:
        return
    step, seen = _step(env, spaces)
    yield step
    if seen is None:
        return
    yield _seed(env, spec, spaces)
    yield _time_limit(spec, seen)
    yield _gymnasium_checker(env, spaces)
    yield _speed(seen)


def _built_again(spec: EnvSpec, spaces: Spaces | None) -> Any:
    """Build another copy, with its masks in `info`. Raises CallError if the factory fails when it is called again."""
    try:
        env = spec.make()
        return env if spaces is None else with_masks(env, spaces)
    except (Exception, SystemExit) as error:
        raise CallError(f"its factory, called once more, {describe(error).removeprefix('it ')}") from error


def _close(env: Any) -> Finding:
    try:
        env.close()
    except (Exception, SystemExit) as error:
        return Finding("close", False, f"close(): {describe(error)}; {CLOSE_MEND}.")
    return Finding("close", True, "close() works")


def _spaces(spec: EnvSpec, observe: Sequence[str] | None) -> tuple[Finding, Spaces | None]:
    try:
        spaces = check_spaces(spec, observe=observe)
    except UsageError as error:
        return Finding("spaces", False, str(error)), None
    counts = spaces.legal.sum(axis=-1).tolist()
    branches = f"MultiDiscrete {' x '.join(map(str, counts))}" if spaces.action_shape else f"{counts}"
    actions = branches if spaces.binary_shape is None else f"MultiBinary {list(spaces.binary_shape)}"
    masks = _MASKED_BY[spaces.mask_source]
    space: Any = spec.observation_space
    if isinstance(space, gym.spaces.Dict):
        space, _ = seen_parts(space, spec.name, observe)
    one_hot = "one-hot " if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete) else ""
    shape = f"{one_hot}{spaces.observation_dtype}{list(spaces.observation_shape)}"
    return Finding("spaces", True, f"{actions} actions{masks}, observations {shape}"), spaces


_MASKED_BY = {
    None: "",
    "info": ", masked by info",
    "observation": ", masked by its observations",
    "method": ", masked by its method action_masks()",
}


def _reset(env: gym.Env[Any, Any], spaces: Spaces | None) -> Finding:
    try:
        result = env.reset(seed=0)
    except (Exception, SystemExit) as error:
        return Finding("reset", False, f"reset(seed=0) failed: {describe(error)}; {RESET_MEND}.")
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        return Finding("reset", False, f"reset returned {kind(result)}; {RESET_MEND}.")
    wrong = wrong_observation(result[0], env.observation_space) or _wrong_for_agent(spaces, *result)
    return Finding("reset", not wrong, f"reset: {wrong}" if wrong else "reset(seed=...) gives (observation, info)")


def _step(env: gym.Env[Any, Any], spaces: Spaces | None) -> tuple[Finding, Stepped | None]:
    try:
        seen = _play(env, spaces)
    except BadValueError as error:
        return Finding("step", False, str(error)), None
    except (Exception, SystemExit) as error:
        mend = "step() after reset() must work for every action of the action space, in every episode."
        return Finding("step", False, f"{describe(error)}; {mend}"), None
    ends = f"{seen.terminations} terminations and {seen.truncations} truncations"
    return Finding("step", True, f"{seen.steps} random steps as declared, {ends}, each followed by a valid reset"), seen


def _play(env: gym.Env[Any, Any], spaces: Spaces | None) -> Stepped:
    """Take random steps over as many episodes as needed. Raises BadValueError at the first invalid value."""
    env.action_space.seed(0)
    observation, info = env.reset(seed=0)
    began = time.perf_counter()
    terminations = truncations = steps = 0
    while steps < _STEPS and time.perf_counter() - began < _MOST_SECONDS:
        result = env.step(_sample(env, spaces, observation, info))
        steps += 1
        wrong = wrong_step(result, env.observation_space)
        if wrong:
            raise BadValueError(f"step {steps}: {wrong}")
        observation, _, terminated, truncated, info = result
        wrong = _wrong_for_agent(spaces, observation, info, terminated)
        if wrong:
            raise BadValueError(f"step {steps}: {wrong}")
        terminations += bool(terminated)
        truncations += bool(truncated)
        if terminated or truncated:
            observation, info = env.reset()
            wrong = wrong_observation(observation, env.observation_space) or _wrong_for_agent(spaces, observation, info)
            if wrong:
                raise BadValueError(f"the reset after step {steps}: {wrong}")
    return Stepped(steps, time.perf_counter() - began, terminations, truncations)


def _sample(env: gym.Env[Any, Any], spaces: Spaces | None, observation: Any, info: Any) -> Any:
    """Draw a random legal action."""
    if spaces is None or spaces.mask_source is None:
        return env.action_space.sample()
    mask = spaces.mask(observation, info)
    draws = env.action_space.np_random.random(mask.shape)
    return spaces.decode(np.where(mask, draws, -1.0).argmax(axis=-1))


def _wrong_for_agent(spaces: Spaces | None, observation: Any, info: Any, terminated: bool = False) -> str:
    """Return what is wrong with a mask or a promised one-hot observation; empty if nothing is wrong."""
    if spaces is None:
        return ""
    try:
        spaces.mask(observation, info, terminated)
    except BadValueError as error:
        return f"{describe(error)}; {MASK_MEND}."
    if spaces.one_hot and (nonzero := np.count_nonzero(observation)) > 1:
        return f"the observation has {nonzero} numbers other than zero, but one_hot allows one; leave one_hot out."
    return ""


def _seed(env: gym.Env[Any, Any], spec: EnvSpec, spaces: Spaces | None) -> Finding:
    mend = "call super().reset(seed=seed) and draw every random number from self.np_random."
    first, second = _trajectory(env, spaces, 1), _trajectory(env, spaces, 1)
    for step, (a, b) in enumerate(zip(first, second, strict=False)):
        if not data_equivalence(a, b, exact=True):
            where = "two resets with the same seed start differently" if step == 0 else f"they differ from step {step}"
            return Finding("seed", False, f"the same seed and actions give different episodes ({where}); {mend}")
    fresh = _built_again(spec, spaces)
    try:
        if not data_equivalence(first[0], _trajectory(fresh, spaces, 1)[0], exact=True):
            return Finding("seed", False, f"the same seed starts differently in a fresh copy; {mend}")
    finally:
        close_quietly(fresh)
    return Finding("seed", True, f"the same seed gives the same {len(first) - 1} steps, so a resume can be exact")


def _trajectory(env: gym.Env[Any, Any], spaces: Spaces | None, seed: int) -> list[tuple[Any, ...]]:
    """Record at most 100 steps of one episode under legal actions that depend only on `seed`."""
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    shown: list[tuple[Any, ...]] = [(copy.deepcopy(observation),)]
    while len(shown) <= _REPLAYED_STEPS:
        action = _sample(env, spaces, observation, info)
        observation, reward, terminated, truncated, info = env.step(action)
        shown.append((copy.deepcopy(observation), reward, terminated, truncated))
        if terminated or truncated:
            break
    return shown


def _time_limit(spec: EnvSpec, seen: Stepped) -> Finding:
    declared = spec.max_episode_steps
    mend = "register it with max_episode_steps=..., or wrap it in gymnasium.wrappers.TimeLimit."
    if declared:
        return Finding("time limit", True, f"episodes are truncated after {declared} steps")
    if seen.truncations:
        return Finding("time limit", True, f"{seen.truncations} truncations seen")
    if seen.terminations:
        return Finding(
            "time limit", True, f"none, but episodes end by themselves; if a good agent may never end one, {mend}"
        )
    return Finding("time limit", False, f"no limit is declared and no episode ended within {seen.steps} steps; {mend}")


def _gymnasium_checker(env: gym.Env[Any, Any], spaces: Spaces | None) -> Finding:
    if spaces is not None and spaces.mask_source is not None:
        return Finding("gymnasium's checker", True, "not run, because it takes actions that a mask may rule out")
    try:
        check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
    except (Exception, SystemExit) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return Finding("gymnasium's checker", False, f"{first} (gymnasium.utils.env_checker.check_env)")
    return Finding("gymnasium's checker", True, "passes")


def _speed(seen: Stepped) -> Finding:
    return Finding("speed", True, f"{seen.steps / seen.seconds:,.0f} steps per second")


def _examine_vector(spec: EnvSpec, observe: Sequence[str] | None) -> Iterator[Finding]:
    finding, spaces = _spaces(spec, observe)
    yield finding
    if spaces is None:
        return
    made = _built_again(spec, spaces)
    size = made.num_envs
    closed = _close(made)
    try:
        host = HostEnvironment(spec, [0], size, spaces=spaces)
    except (UsageError, EnvironmentFailure) as error:
        yield Finding("step", False, str(error))
        return
    try:
        seen = _play_vector(host)
    except EnvironmentFailure as error:
        mend = f" To fix it, {MASK_MEND}." if "action mask" in str(error) else ""
        yield Finding("step", False, f"{error}{mend}")
        return
    finally:
        host.close()
    yield Finding("step", True, f"{seen.steps} random steps of {size} copies as declared")
    yield _speed(seen)
    yield closed


def _play_vector(host: HostEnvironment) -> Stepped:
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    shown = host.reset()
    terminations = truncations = 0
    rounds = _STEPS // host.size + 1
    for _ in range(rounds):
        mask = shown.action_mask if isinstance(shown, tuple) else host.spaces.legal
        draws = rng.random((host.size, *host.spaces.legal.shape))
        step = host.step(np.where(mask, draws, -1.0).argmax(axis=-1))
        shown = step.observation
        terminations += int(step.terminated.sum())
        truncations += int(step.truncated.sum())
    return Stepped(rounds * host.size, time.perf_counter() - began, terminations, truncations)
