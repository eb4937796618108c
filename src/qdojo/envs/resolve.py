"""Resolves what a user passes as an environment (an id, a `module:name`, a callable, an object) to a factory."""

import difflib
import functools
import importlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from gymnasium.envs import registration
from gymnasium.vector import AutoresetMode, VectorEnv, VectorRewardWrapper, VectorWrapper

from qdojo.envs import atari, atari_names
from qdojo.envs.again import MadeAgain, again, spec_json
from qdojo.envs.failures import close_quietly
from qdojo.envs.masks import mask_method
from qdojo.envs.native import CATCH_ID, SIZED, SIZES, shipped
from qdojo.envs.native.minatar import MINATAR, NAMESPACE
from qdojo.envs.native.minatar.package import AsImages, register_package
from qdojo.envs.prepare import Preparation, prepared
from qdojo.envs.spaces import MASK, MaskSource
from qdojo.errors import UsageError
from qdojo.ids import GIVEN, is_atari

if TYPE_CHECKING:
    from qdojo.envs.contract import NativeEnvironment


@dataclass(frozen=True)
class EnvSpec:
    """An environment that is known to build: its name, how to make copies of it, and its spaces."""

    name: str
    """As a user would write it: an id, or `module:name`."""
    make: Callable[..., Any]
    """`make(**kwargs)` builds a fresh `gymnasium.Env` (a `VectorEnv` if `is_vector`)."""
    native_id: str | None
    """The Gymnasium id, if the environment is a plain registered one; else None."""
    action_space: gym.Space[Any]
    """Space of a single copy, even if `is_vector`."""
    observation_space: gym.Space[Any]
    is_vector: bool
    max_episode_steps: int | None
    """The time limit in steps, if the environment declares one."""
    reward_threshold: float | None
    """Mean return at which the environment counts as solved, if it declares one."""
    pauses: bool = False
    """Whether it is a vector whose copies must wait while others restart; see `ready_made.py`."""
    native: "NativeEnvironment | None" = None
    """A JAX environment that has no Gymnasium counterpart; those that have one are found by `native_id`."""
    is_native: bool = False
    """Whether it is a JAX environment of that kind, even if `native` is not available."""
    mask_source: MaskSource | None = None
    """`info` if its first reset gave `info["action_mask"]`, else `method` if it has a method `action_masks()`."""
    one_hot: bool = False
    """Whether it promises that at most one number of an observation is not zero."""
    registered: str | None = None
    """The Gymnasium spec of the environment that a callable built, as JSON, if it can be made again from that."""
    preparation: str | None = None
    """How it is prepared, as JSON: see `Preparation`. None if it is left as it is."""


def resolve(env: Any, preparation: Preparation | None = None) -> EnvSpec:
    """Find an environment, then build one copy and reset it, to see that it works and whether it gives action masks.

    `env` is a Gymnasium id, `module:Id` (importing the module registers the id), `package.module:factory` (a callable
    attribute of the module), `gymnax:Name`, a callable that returns an environment, a `NativeEnvironment`, or an
    environment object, which is made again from its spec. A `module:name` may also be a `NativeEnvironment`, and a
    callable may return one.

    `preparation` defines image preprocessing and frame skipping. If it is None, an Atari id is played by the rules of
    Machado et al. (2018) and other environments are unchanged. An empty one leaves Atari games unchanged too.

    Raises UsageError, one sentence that says what to do, if any of that fails.
    """
    if isinstance(env, gym.Env | VectorEnv):
        env = again(env).env
    if isinstance(env, str) and is_atari(env) and (preparation is None or preparation):
        return _atari_spec(env, preparation or Preparation())
    spec = _resolve(env)
    return _prepared_spec(spec, preparation) if preparation else spec


def _resolve(env: Any) -> EnvSpec:
    if isinstance(env, str):
        return _resolve_name(env)
    if _is_native(env):
        return _native_spec(name_of(env), env)
    if not callable(env):
        raise UsageError(f"env must be a Gymnasium id, `module:name` or a callable, not {type(env).__name__}.")
    return _try(name_of(env), env, None)


def _atari_spec(env: str, preparation: Preparation) -> EnvSpec:
    """Return the spec of an Atari game, whose preparation contains all of its rules."""
    found = _find_id(env)
    rules = atari.rules_of(found.kwargs["game"], preparation.settings)
    spec = _try(found.id, functools.partial(atari.AtariGame, rules), None)
    complete = Preparation(**atari.settings_of(rules))
    return replace(spec, max_episode_steps=rules.max_steps, preparation=complete.to_json())


def _prepared_spec(spec: EnvSpec, preparation: Preparation) -> EnvSpec:
    made = _try(spec.name, functools.partial(prepared, spec.make, spec.name, preparation), None)
    limit = spec.max_episode_steps and -(-spec.max_episode_steps // (preparation.frame_skip or 1))
    return replace(made, max_episode_steps=limit, registered=spec.registered, preparation=preparation.to_json())


def name_of(env: Any) -> str:
    """Return the name of an environment that `resolve` accepts, as a user would write it."""
    if isinstance(env, str) or _is_native(env):
        return env if isinstance(env, str) else env.name
    if isinstance(env, MadeAgain):
        return env.name
    if isinstance(env, functools.partial):  # imported by this name, it would lack its arguments
        return name_of(env.func).removesuffix(GIVEN) + GIVEN
    return f"{getattr(env, '__module__', '?')}:{getattr(env, '__qualname__', type(env).__name__)}"


def asked_for(name: str, error: UsageError) -> UsageError:
    """The error where `resolve(name)` failed for an environment that was given as a Python object."""
    if name.endswith(GIVEN):
        return error
    return UsageError(f"{str(error).removesuffix('.')} (it was given in Python); pass it as env=.")


def _is_native(env: Any) -> bool:
    """Return whether `env` is a `NativeEnvironment`, without importing its module, which would import jax."""
    contract = sys.modules.get("qdojo.envs.contract")
    return contract is not None and isinstance(env, contract.NativeEnvironment)


def _native_spec(name: str, env: Any) -> EnvSpec:
    from qdojo.envs.native.hosted import Hosting, observation_space
    from qdojo.envs.native.own import adapted

    if name in registration.registry:
        raise UsageError(f"The environment's name {name} already belongs to a Gymnasium environment; choose another.")
    fitted = adapted(env, name)
    return EnvSpec(
        name=name,
        make=Hosting(env, name),
        native_id=None,
        action_space=gym.spaces.Discrete(fitted.num_actions),
        observation_space=observation_space(fitted),
        is_vector=False,
        max_episode_steps=fitted.max_episode_steps,
        reward_threshold=fitted.reward_threshold,
        native=fitted,
        is_native=True,
        mask_source="info" if fitted.masked else None,
        one_hot=fitted.one_hot,
    )


def _resolve_name(env: str) -> EnvSpec:
    if env.endswith(GIVEN):
        raise UsageError(
            f"{env.removesuffix(GIVEN)} was given as an object whose spec cannot be stored in a file; pass it as env=."
        )
    module_name, colon, attribute = env.partition(":")
    if env in MINATAR:
        register_package()
    if not colon and env not in registration.registry and (ours := shipped(env)) is not None:
        return _native_spec(env, ours)
    if not colon:
        found = _find_id(env)
        return _try(found.id, functools.partial(_make_registered, found), found.id)
    if not (module_name and attribute):
        raise UsageError(f"env is {env!r}, but a colon needs a name on each side, as in `module:Id`; write both.")
    if module_name == "gymnax":
        from qdojo.envs.native.gymnax import made

        return _native_spec(env, made(attribute))
    module = import_module(module_name, env)
    factory = getattr(module, attribute, None)
    if _is_native(factory):
        return _native_spec(env, factory)
    if callable(factory):
        return _try(env, factory, None)
    return _try(env, functools.partial(_make_registered, _find_id(attribute, module_name)), None)


def import_module(module_name: str, env: str) -> ModuleType:
    """Import a module that a user named in `env`, also from the current directory."""
    # A console script has its own directory on the path instead of the current one.
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(f"{env}: {error}; install it, or run from the folder that holds it.") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"{env}: importing {module_name} raised {_brief(error)}.") from error


def _find_id(env_id: str, module_name: str | None = None) -> registration.EnvSpec:
    if module_name is None and (told := atari_names.advice(env_id)):
        raise UsageError(told)
    if env_id.startswith("ALE/"):
        try:
            importlib.import_module("ale_py")
        except ImportError as error:
            raise UsageError(f"{env_id} needs the Atari emulator: pip install 'qdojo[atari]'") from error
    if env_id in registration.registry:
        return registration.registry[env_id]
    try:
        namespace, name, version = registration.parse_env_id(env_id)
    except gym.error.Error:
        raise _unknown(env_id, module_name) from None
    latest = registration.find_highest_version(namespace, name)
    if latest is None:
        raise _unknown(env_id, module_name)
    current = registration.get_env_id(namespace, name, latest)
    if version is None:
        return registration.registry[current]
    trouble = "is deprecated" if version < latest else "does not exist"
    raise UsageError(f"{env_id} {trouble}: the current version is {current}.")


def _unknown(env_id: str, module_name: str | None) -> UsageError:
    by_lower_case = {known.lower(): known for known in (*registration.registry, *MINATAR)}
    near = [by_lower_case[match] for match in difflib.get_close_matches(env_id.lower(), by_lower_case, n=3)]
    if module_name:
        hint = f"the module {module_name} neither has a callable of that name nor registers such an id"
    elif env_id.lower().startswith("qdojo/"):
        hint = f"there are {CATCH_ID} and, with an N from {SIZES[0]} to {SIZES[-1]}, " + " and ".join(
            f"qdojo/{name}N-v0" for name in SIZED
        )
    elif near:
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = "name a Gymnasium id, `module:Id`, or `package.module:factory`"
    return UsageError(f"There is no environment called {env_id!r}; {hint}{'' if hint.endswith('?') else '.'}")


def _make_registered(found: registration.EnvSpec, **kwargs: Any) -> gym.Env[Any, Any]:
    # Gymnasium's per-step checker costs more than a step of CartPole; `qdojo doctor` runs those checks once.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = gym.make(found, disable_env_checker=True, **kwargs)
    return AsImages(env) if found.namespace == NAMESPACE else env


def _try(name: str, make: Callable[..., Any], native_id: str | None) -> EnvSpec:
    try:
        env = make()
    except UsageError:
        raise
    except gym.error.DependencyNotInstalled as error:
        raise UsageError(_missing_dependency(name, error)) from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"{name} could not be built: it raised {_brief(error)}.") from error
    if _is_native(env):
        return _native_spec(name, env)
    if not isinstance(env, gym.Env | VectorEnv):
        raise UsageError(f"{name} returned a {type(env).__name__}; it must return a gymnasium.Env (or a VectorEnv).")
    try:
        return _describe(name, make, native_id, env)
    except UsageError:
        raise
    except AttributeError as error:
        raise UsageError(f"{name} lacks an attribute of gymnasium.Env ({error}); set it in __init__.") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"{name}: reading its spaces raised {_brief(error)}; set them in __init__.") from error
    finally:
        close_quietly(env)


def _describe(name: str, make: Callable[..., Any], native_id: str | None, env: Any) -> EnvSpec:
    is_vector = isinstance(env, VectorEnv)
    spec = getattr(env, "spec", None)
    return EnvSpec(
        name=name,
        make=make,
        native_id=native_id,
        action_space=env.single_action_space if is_vector else env.action_space,
        observation_space=env.single_observation_space if is_vector else env.observation_space,
        is_vector=is_vector,
        pauses=is_vector and env.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP,
        max_episode_steps=spec.max_episode_steps if spec else _time_limit(env),
        reward_threshold=_reward_threshold(env, spec),
        mask_source=_mask_source(env, name),
        registered=spec_json(spec) if native_id is None and not is_vector else None,
    )


def _reward_threshold(env: Any, spec: Any) -> float | None:
    """The return at which the environment counts as solved, if no wrapper puts its rewards on another scale."""
    scaling = (
        gym.RewardWrapper,
        VectorRewardWrapper,
        gym.wrappers.NormalizeReward,
        gym.wrappers.vector.NormalizeReward,
    )
    while isinstance(env, gym.Wrapper | VectorWrapper):
        if isinstance(env, scaling):
            return None
        env = env.env
    return None if spec is None or spec.reward_threshold is None else float(spec.reward_threshold)


def _mask_source(env: Any, name: str) -> MaskSource | None:
    """Return where action masks come from, if not from observations. `try_out` and the loops report a failed reset."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, info = env.reset(seed=0)
        if MASK in info:
            return "info"
    except (Exception, SystemExit):
        pass
    if not isinstance(env, VectorEnv):
        return None if mask_method(env) is None else "method"
    if hasattr(env, "action_masks") or any(mask_method(copy) for copy in getattr(env, "envs", ())):
        raise UsageError(
            f"{name} is a vector whose masks come from a method action_masks(), which qdojo calls only on single "
            f"environments; put them into info[{MASK!r}], or pass a function that returns one environment."
        )
    return None


def _time_limit(env: Any) -> int | None:
    """Return the limit of a TimeLimit wrapper: an unregistered environment declares it nowhere else."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.TimeLimit):
            return env._max_episode_steps
        env = env.env
    return None


def _missing_dependency(name: str, error: Exception) -> str:
    if "box2d" in str(error).lower():
        return f"{name} needs Box2D: pip install 'qdojo[box2d]'"
    return f"{name} needs a package that is not installed: {_brief(error, with_type=False)}."


def _brief(error: BaseException, with_type: bool = True) -> str:
    """Return the first line of an error, without a full stop, so that it fits into a sentence."""
    first = (str(error).splitlines() or [""])[0].rstrip(". ")
    return f"{type(error).__name__}: {first}" if with_type else first
