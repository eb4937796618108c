"""Builds the parts of a training run from a config: environment, network, agent and loop."""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qdojo import dataset
from qdojo.agents.averaging import averaging
from qdojo.agents.bootstrapped import bootstrapped_loss
from qdojo.agents.categorical import c51_loss
from qdojo.agents.conservative import conservative
from qdojo.agents.dqn import Rule, dqn_loss
from qdojo.agents.explore import Choosing
from qdojo.agents.learner import Adam, Loss, Own, Structure, replay_agent
from qdojo.agents.own import own_loss
from qdojo.agents.pqn import PqnStructure, pqn_agent
from qdojo.agents.quantile import fqf_loss, iqn_loss, qrdqn_loss
from qdojo.agents.recurrent import recurrent_loss
from qdojo.agents.tutorial import tutorial_agent
from qdojo.bellman.targets import Munchausen
from qdojo.build.beginning import Beginning, beginning
from qdojo.build.declared import Check, Export, checks, exports
from qdojo.build.diagnosing import diagnosed, examined
from qdojo.build.images import check_images
from qdojo.build.memory import at_once, capacity_rows, check_memory
from qdojo.build.named import named
from qdojo.build.numbers import member_numbers, pqn_numbers, replay_numbers
from qdojo.build.opening import description
from qdojo.build.player import Player, build_player, network_model, seen_spaces, support, torso_kind
from qdojo.build.stepping import device_environment, evaluation_envs, vector_opener
from qdojo.config import Config
from qdojo.envs.prepare import Preparation
from qdojo.envs.resolve import EnvSpec, resolve
from qdojo.envs.spaces import Spaces, check_spaces
from qdojo.envs.trial import try_out
from qdojo.errors import UsageError
from qdojo.loops.device import DeviceLoop
from qdojo.loops.host import HostLoop
from qdojo.loops.learning import Rhythm
from qdojo.loops.offline import OfflineLoop
from qdojo.loops.sharding import Shards
from qdojo.networks.network import Network
from qdojo.processor import prepare
from qdojo.tape import windows
from qdojo.tape.sampling import UNIFORM, prioritized
from qdojo.tape.windows import Window
from qdojo.types import Agent, Masked

Loop: TypeAlias = DeviceLoop | HostLoop | OfflineLoop


class Parts(NamedTuple):
    """The parts of a run."""

    spec: EnvSpec
    spaces: Spaces
    network: Network
    agent: Agent
    loop: Loop
    solved_at: float | None
    model: Any
    """The Keras model, or the function that builds a network, if one was given; else None."""
    description: dict[str, Any]
    """What a player needs besides the delivered weights, as JSON data."""
    told: str | None
    """A notice for the user before training begins, or None."""
    checks: tuple[Check, ...]
    """Checks of every report; each warns at most once."""
    numbers: Any
    """The numeric settings in each member's state, of shape `[member]`, if members differ in them; else None."""
    exports: tuple[Export, ...]
    """Writers of files with the learned weights for the run directory, called however the run ends."""


MUNCHAUSEN = ("munchausen_alpha", "munchausen_temperature", "munchausen_floor")


def build(
    config: Config,
    env: Any = None,
    network: Any = None,
    loss: Any = None,
    resumed: bool = False,
    hyper: Sequence[Mapping[str, float]] | None = None,
) -> Parts:
    """All parts of a run. `env`, `network` and `loss` are objects that replace the names in the config.

    A `resumed` run already has weights and does not load initial ones. `hyper` gives each member its own settings by
    name, instead of the setting `vary`: see `member_numbers`.

    Raises UsageError, before anything is compiled, if the settings and objects do not fit together.
    """
    spec = resolve(env if env is not None else config.env, Preparation.of(config))
    spaces = check_spaces(spec, embedded=config.embedding is not None, observe=config.observe)
    check_images(config, spec)
    solved_at = config.solved_at if config.solved_at is not None else spec.reward_threshold
    if config.until_solved and solved_at is None:
        raise UsageError(f"until_solved is set, but {spec.name} declares no reward threshold; set solved_at.")
    back = "recurrent" if config.recurrent is not None else "frame_stack" if config.frame_stack > 1 else None
    if back is not None and spec.pauses:
        raise UsageError(
            f"{back} is set, but copies of {spec.name} wait while others restart, which breaks sequences; "
            "give the vector environment AutoresetMode.NEXT_STEP."
        )
    on_host = device_environment(config, spec) is None
    if on_host:
        try_out(spec, spaces)
    convolutions = torso_kind(config, spaces) != "dense"
    shape = seen_spaces(config, spaces).observation_shape
    shards = prepare(config, shape, spaces.num_actions, convolutions, on_host)
    model = network_model(config, spaces, network)
    player = build_player(config, spaces, model)
    begun = None if resumed else beginning(config, player.network)
    if hyper is None and config.vary:
        hyper = [own for own in config.combinations for _ in range(config.seeds)]
    numbers = None if hyper is None else member_numbers(config, hyper)
    make_loss = loss if loss is not None or config.loss is None else named("loss", config.loss, "a Loss")
    agent = diagnosed(config, spaces, player, build_agent(config, spaces, player, begun, make_loss))
    agent = averaging(agent, player.network.partition, config.average_tau) if config.average_tau else agent
    return Parts(
        spec=spec,
        spaces=spaces,
        network=player.network,
        agent=agent,
        loop=_loop(config, spec, spaces, agent, numbers, shards),
        solved_at=solved_at,
        model=model,
        description=description(config, spec, spaces, model),
        numbers=numbers,
        told=None if begun is None else begun.told,
        checks=checks(config, spaces),
        exports=exports(config, spaces, model),
    )


def refuse_unread(config: Config, parts: Parts) -> None:
    """Raises UsageError for a setting that the built parts do not read in this environment."""
    playing = parts.loop.inner if isinstance(parts.loop, OfflineLoop) else parts.loop
    on_host = {"vectorization": config.vectorization == "async", "eval_epsilon": config.eval_epsilon > 0.0}
    for name in (name for name, is_set in on_host.items() if is_set and isinstance(playing, DeviceLoop)):
        raise UsageError(
            f"{name} is set, but nothing reads it where {parts.spec.name} is stepped on the device loop; "
            f"use loop='host', or leave {name} out."
        )


def _loss(
    config: Config, spaces: Spaces, player: Player, atoms: Any, make_loss: Any, own: Own, seen: Any = lambda loss: loss
) -> Loss:
    """The loss that the config or the user's `make_loss` defines, with the numbers in which members differ; `seen` is
    applied to its formula."""
    munchausen = None
    if config.munchausen:
        munchausen = Munchausen(*(own.get(name, getattr(config, name)) for name in MUNCHAUSEN))
    rule = Rule(config.double, config.error, munchausen, config.value_rescaling)
    if make_loss is None:
        loss = _formula(config, player.outputs, rule, atoms)
    else:
        # The loss of a recurrent network gets features instead of observations.
        shown = None if config.recurrent is not None else _shown(seen_spaces(config, spaces))
        loss = own_loss(make_loss, player.outputs, rule, shown, spaces.action_shape)
    loss = seen(loss)
    if config.conservative or "conservative" in own:
        loss = conservative(loss, player.q, own.get("conservative", config.conservative))
    if config.recurrent is not None:
        return recurrent_loss(loss, player.network, config.sequence_steps, config.burn_in_steps, config.stored_state)
    return loss if config.heads == 1 else bootstrapped_loss(loss, config.heads)


def _formula(config: Config, network: Network, rule: Rule, atoms: Float[Array, "atoms"] | None) -> Loss:
    """The built-in loss that the config selects. New variants are added here."""
    if config.distribution == "fqf":
        return fqf_loss(network, rule.double, rule.munchausen)
    if config.distribution == "iqn":
        samples = config.iqn_fractions, config.iqn_target_fractions
        return iqn_loss(network, rule.double, rule.munchausen, *samples, cvar=config.cvar)
    if atoms is not None:
        return c51_loss(network, atoms, rule.double, rule.munchausen)
    if config.distribution == "qrdqn":
        return qrdqn_loss(network, rule.double, rule.munchausen)
    return dqn_loss(network, rule)


def build_window(config: Config) -> Window:
    """The window through which the loss reads the tape."""
    if config.recurrent is not None:
        return windows.sequences(config.burn_in_steps, config.sequence_steps, config.n_step, config.frame_stack)
    return windows.transitions(config.n_step, config.frame_stack)


def build_agent(
    config: Config, spaces: Spaces, player: Player, begun: Beginning | None = None, make_loss: Any = None
) -> Agent:
    """The agent of a player, with its loss and optimizer. `begun` gives initial weights and `make_loss` a user's
    loss, if there are any."""
    network = player.network
    initial = None if begun is None else begun.params
    if config.agent == "tutorial":
        return tutorial_agent(
            network,
            spaces.num_actions,
            learning_rate=config.learning_rate,
            discount=config.discount,
            memory_steps=config.capacity_steps,
            batch_size=config.batch_size,
            epsilon_start=config.epsilon_start,
            epsilon_min=config.epsilon_end,
            epsilon_decay=config.epsilon_decay_factor,
            max_episodes=config.episodes or 2**31 - 1,
            initial_params=initial,
        )
    choosing = Choosing(
        num_actions=spaces.num_actions,
        action_shape=spaces.action_shape,
        num_envs=config.num_envs,
        exponential=config.epsilon_schedule == "exponential",
        boltzmann=config.boltzmann,
    )
    if config.agent == "pqn":
        return pqn_agent(
            network,
            pqn_numbers(config),
            PqnStructure(
                choosing=choosing,
                rollout=config.rows_per_cycle,
                frames=config.frame_stack,
                epochs=config.epochs,
                minibatches=config.minibatches,
                max_grad_norm=math.inf if config.max_grad_norm is None else config.max_grad_norm,
            ),
            initial,
            player.actor,
        )
    sampler = UNIFORM
    if config.prioritized:
        sampler = prioritized(capacity_rows(config), config.num_envs, config.rows_per_cycle)
    structure = Structure(
        choosing=choosing,
        batch_size=config.batch_size,
        window=build_window(config),
        target_sync_updates=config.target_sync_updates,
        max_grad_norm=config.max_grad_norm,
        sampler=sampler,
        adam=Adam(config.adam_beta1, config.adam_beta2, config.adam_epsilon),
        sparse_adam=config.sparse_adam,
    )
    atoms = support(config) if config.distribution == "c51" else None
    loss = functools.partial(_loss, config, spaces, player, atoms, make_loss)
    return replay_agent(network, loss, replay_numbers(config), structure, initial, player.actor, examined(loss))


def _loop(config: Config, spec: EnvSpec, spaces: Spaces, agent: Agent, numbers: Any, shards: int) -> Loop:
    """The loop that steps the environment and learns. `numbers` are each member's own, or None."""
    environment, shared = device_environment(config, spec), Shards(config.members, shards)
    rows, observation, stepped = capacity_rows(config), _shown(spaces), environment is None
    stays = check_memory(config, rows, observation, spaces.action_shape, agent, shared, stepped)
    warmup = 0 if config.dataset is not None else math.ceil(config.warmup_steps / config.num_envs)
    rhythm = Rhythm(config.rows_per_cycle, config.updates_per_cycle, max(build_window(config).rows, warmup))
    size: dict[str, Any] = {
        "seed": config.seed,
        "members": config.members,
        "envs": config.num_envs,
        "capacity_rows": rows,
        "cycles": config.cycles_per_report,
        "numbers": numbers,
        "distinct_seeds": config.distinct_seeds,
        "clip_rewards": bool(config.clip_rewards),
        "shards": shards,
    }
    playing: DeviceLoop | HostLoop
    if environment is not None:
        playing = DeviceLoop(environment, agent, rhythm, at_once=at_once(config, observation, agent), **size)
    else:
        playing = HostLoop(
            vector_opener(config, spec, spaces),
            observation,
            agent,
            rhythm,
            evaluation_envs=evaluation_envs(config, spec),
            action_shape=spaces.action_shape,
            tape_on_host=stays,
            **size,
        )
    if config.dataset is None:
        return playing
    memory = agent.stored(agent.memory())
    return OfflineLoop(playing, functools.partial(dataset.read, config.dataset, spaces, memory, Path.cwd(), config.env))


def _shown(spaces: Spaces) -> Any:
    """Shape and dtype of each array of one observation."""
    observation = jax.ShapeDtypeStruct(spaces.observation_shape, jnp.dtype(spaces.observation_dtype))
    if not spaces.masked:
        return observation
    mask: Any = jax.ShapeDtypeStruct((*spaces.action_shape, spaces.num_actions), jnp.bool_)
    return Masked(observation, mask)  # type: ignore[arg-type]
