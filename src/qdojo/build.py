"""From a config to the parts of a run. The one place where a name becomes an object."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from qdojo import dataset
from qdojo.agents.bootstrapped import bootstrapped, bootstrapped_actor, bootstrapped_loss
from qdojo.agents.categorical import c51_loss, c51_network
from qdojo.agents.conservative import conservative
from qdojo.agents.dqn import Rule, dqn_loss
from qdojo.agents.explore import Choosing, Exploration, actor_of
from qdojo.agents.learner import Hyper, Loss, Prioritized, Structure, replay_agent
from qdojo.agents.pqn import PqnHyper, PqnStructure, pqn_agent
from qdojo.agents.pqn import capacity_rows as pqn_rows
from qdojo.agents.quantile import fqf_loss, iqn_loss, qrdqn_loss, qrdqn_network
from qdojo.agents.recurrent import first_values, reading, recurrent_actor, recurrent_loss
from qdojo.agents.tutorial import capacity_rows as tutorial_rows
from qdojo.agents.tutorial import tutorial_agent
from qdojo.bellman.targets import Munchausen
from qdojo.config import Config, beyond_preset
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.native import native
from qdojo.envs.resolve import EnvSpec, import_module, resolve
from qdojo.envs.spaces import Spaces, check_spaces
from qdojo.errors import UsageError
from qdojo.loops.device import DeviceLoop
from qdojo.loops.host import HostLoop
from qdojo.loops.learning import Rhythm
from qdojo.loops.offline import OfflineLoop
from qdojo.networks import torsos
from qdojo.networks.implicit import ImplicitNetwork, acting, implicit
from qdojo.networks.inputs import Design
from qdojo.networks.keras import keras_network, read_weights, tutorial_network
from qdojo.networks.mlp import mlp
from qdojo.networks.noisy import noisy
from qdojo.networks.prior import with_prior
from qdojo.networks.recurrent import head_design, recurrent
from qdojo.networks.torsos import Kind
from qdojo.processor import prepare
from qdojo.tape import priority, ring, windows
from qdojo.tape.windows import Window
from qdojo.types import Actor, Agent, Masked, Network

Loop: TypeAlias = DeviceLoop | HostLoop | OfflineLoop
EVALUATION_ENVS = 10
"""Copies that play a member's evaluation episodes, on the host loop."""
MEMORY_SHARE = 0.8
"""Of the memory that is free, what a tape may take."""


class Parts(NamedTuple):
    """What a run is made of."""

    spec: EnvSpec
    spaces: Spaces
    network: Network
    agent: Agent
    loop: Loop
    solved_at: float | None
    model: Any
    """The Keras model, or the function that builds it, where the network is one; else None."""


def build(config: Config, env: Callable[..., Any] | None = None, network: Any = None) -> Parts:
    """All parts of a run. `env` and `network` stand in for the config's names where a caller has the objects.

    Raises UsageError, before anything is compiled, for whatever does not fit together.
    """
    spec = resolve(env if env is not None else config.env)
    spaces = check_spaces(spec, embedded=config.embedding is not None)
    solved_at = config.solved_at if config.solved_at is not None else spec.reward_threshold
    if config.until_solved and solved_at is None:
        raise UsageError(f"until_solved is set, but {spec.name} does not say when it is solved; set solved_at.")
    if config.recurrent is not None and spec.pauses:
        raise UsageError(
            f"recurrent is set, but copies of {spec.name} wait while others restart, which no sequence shows; "
            "give the vector AutoresetMode.NEXT_STEP."
        )
    convolutions = _torso(config, spaces) != "dense"
    prepare(config, spaces.observation_shape, spaces.num_actions, convolutions)
    model = _model(config, spaces, network)
    variant = _variant(config, spaces, model)
    agent = _agent(config, spaces, variant)
    return Parts(
        spec=spec,
        spaces=spaces,
        network=variant.network,
        agent=agent,
        loop=_loop(config, spec, spaces, agent, variant.window.following + 1),
        solved_at=solved_at,
        model=model,
    )


class Variant(NamedTuple):
    """One member of the family: what acts, the loss that it learns by, and what one example of it is."""

    network: Network
    loss: Loss
    actor: Actor
    window: Window


def _variant(config: Config, spaces: Spaces, model: Any) -> Variant:
    """What the config names: the place for another variant."""
    _check_model(config, spaces, model)
    design = Design(
        observation_shape=spaces.observation_shape,
        num_actions=spaces.num_actions,
        hidden=config.hidden,
        layer_norm=config.layer_norm,
        dueling=config.dueling,
        action_shape=spaces.action_shape,
        branch_sizes=() if spaces.legal.all() else tuple(spaces.legal.sum(axis=-1).tolist()),
        categories=spaces.categories,
        embedding=config.embedding or 0,
        normalized=config.normalize_observations,
        scale=spaces.observation_scale,
        torso=_torso(config, spaces),
        torso_width=config.torso_width,
        spectral_norm=config.spectral_norm,
    )
    munchausen = None
    if config.munchausen:
        munchausen = Munchausen(config.munchausen_alpha, config.munchausen_temperature, config.munchausen_floor)
    rule = Rule(config.double, config.error, munchausen, config.value_rescaling)
    if config.recurrent is not None:
        return _recurrent_variant(config, design, rule)
    q, loss = _valued(config, _network(config, design, model), rule)
    window = windows.transitions(config.n_step)
    if config.heads == 1:
        return Variant(q, loss, actor_of(q), window)
    ensemble, acting_head = bootstrapped(q, config.heads), bootstrapped_actor(q, config.heads)
    return Variant(ensemble, bootstrapped_loss(loss, config.heads), acting_head, window)


LEAST_PICTURE = 8
"""The shortest side of what `auto` takes for a picture."""


def _torso(config: Config, spaces: Spaces) -> Kind:
    """What reads the observations. Raises UsageError where it cannot, or where nothing reads its settings."""
    shape = spaces.observation_shape
    has_axes = len(shape) in (2, 3)
    *sides, _ = torsos.sides_and_channels(shape) if has_axes else (0, 0)
    is_picture = spaces.observation_dtype == "uint8" and min(sides) >= LEAST_PICTURE
    by_size: Kind = "nature" if min(sides) >= torsos.LEAST_SIDE else "impala"
    # What a preset has for pictures is idle elsewhere.
    chosen = config.torso if is_picture or beyond_preset(config, ("torso",)) else "auto"
    torso = chosen if chosen != "auto" else by_size if is_picture else "dense"
    if torso != "dense" and not has_axes:
        raise UsageError(
            f"torso is {torso!r}, but observations of shape {shape} are no pictures, which have two axes or three; "
            "leave it out."
        )
    if torso != "dense" and config.normalize_observations:
        raise UsageError(
            f"normalize_observations is set, but pictures are not normalised by torso={torso!r}; "
            "leave it out, or use torso='dense'."
        )
    torsos.features(torso, shape, config.torso_width)
    if torso != "impala" and (unread := beyond_preset(config, ("torso_width", "spectral_norm"))):
        raise UsageError(
            f"{unread[0]} is set, but only torso='impala' reads it, and observations of shape {shape} are read by "
            f"{torso!r}; leave {unread[0]} out."
        )
    return torso


def _recurrent_variant(config: Config, design: Design, rule: Rule) -> Variant:
    assert config.recurrent is not None
    head = _outputs(config, head_design(design, config.distribution in ("iqn", "fqf")))
    network = recurrent(design, config.recurrent, head)
    network = noisy(network) if config.noisy else network
    q, loss = _valued(config, reading(network.head), rule)
    loss = recurrent_loss(loss, network, config.sequence_steps, config.burn_in_steps, config.stored_state)
    window = windows.sequences(config.burn_in_steps, config.sequence_steps, config.n_step)
    return Variant(first_values(network, q), loss, recurrent_actor(network, q), window)


def _network(config: Config, design: Design, model: Any) -> Network | ImplicitNetwork:
    """What one member, or one head of an ensemble, learns."""
    network = _outputs(config, design)
    if model is not None:
        network = keras_network(model, design.observation_shape, design.num_actions)
    network = noisy(network) if config.noisy else network
    return with_prior(network, config.prior_scale) if config.prior_scale else network


def _outputs(config: Config, design: Design) -> Network | ImplicitNetwork:
    """Layers that give Q-values, or what describes the distribution of returns."""
    if config.distribution in ("iqn", "fqf"):
        return implicit(design, config.quantiles if config.distribution == "fqf" else None)
    return mlp(design, {"c51": config.atoms, "qrdqn": config.quantiles}.get(config.distribution or ""))


def _valued(config: Config, network: Network | ImplicitNetwork, rule: Rule) -> tuple[Network, Loss]:
    """The Q-values of what a network gives, and the loss that it learns by."""
    q, loss = _head(config, network, rule)
    return q, conservative(loss, q, config.conservative) if config.conservative else loss


def _head(config: Config, network: Network | ImplicitNetwork, rule: Rule) -> tuple[Network, Loss]:
    if isinstance(network, ImplicitNetwork):
        q = acting(network, config.quantiles, config.cvar)
        if config.distribution == "fqf":
            return q, fqf_loss(network, rule.double, rule.munchausen)
        return q, iqn_loss(network, rule.double, rule.munchausen, cvar=config.cvar)
    if config.distribution == "c51":
        support = jnp.linspace(config.vmin, config.vmax, config.atoms)
        return c51_network(network, support), c51_loss(network, support, rule.double, rule.munchausen)
    if config.distribution == "qrdqn":
        return qrdqn_network(network), qrdqn_loss(network, rule.double, rule.munchausen)
    return network, dqn_loss(network, rule)


def _check_model(config: Config, spaces: Spaces, model: Any) -> None:
    """Whether a Keras model, or the tutorial's agent, can do what is asked."""
    if model is not None and config.parts_of_the_mlp:
        raise UsageError(
            f"{config.parts_of_the_mlp[0]} is set, but the network is a Keras model; leave one of them out."
        )
    if model is not None and (unread := beyond_preset(config, ("torso", "torso_width", "spectral_norm"))):
        raise UsageError(f"{unread[0]} is set, but the network is a Keras model; leave one of them out.")
    if not spaces.action_shape:
        return
    unable = "agent='tutorial'" if config.agent == "tutorial" else "a Keras model"
    if model is not None:
        raise UsageError(f"{unable} has one value an action, but the actions are MultiDiscrete; leave it out.")


def _model(config: Config, spaces: Spaces, given: Any) -> Any:
    if given is not None or config.network == "mlp":
        return given
    if config.network == "tutorial":
        return functools.partial(tutorial_network, spaces.observation_shape, spaces.num_actions)
    module, colon, name = config.network.partition(":")
    if not colon:
        raise UsageError(f"network is {config.network!r}; use 'mlp', 'tutorial' or 'module:build'.")
    build = getattr(import_module(module, config.network), name, None)
    if not callable(build):
        raise UsageError(f"network is {config.network!r}, but {module} has no function {name!r} that builds a model.")
    return build


def _agent(config: Config, spaces: Spaces, variant: Variant) -> Agent:
    network = variant.network
    initial = None if config.weights is None else read_weights(config.weights, network)
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
            epsilon_decay=config.epsilon_decay,
            max_episodes=config.episodes or 2**31 - 1,
            initial_params=initial,
        )
    learning_rate_end = config.learning_rate if config.learning_rate_end is None else config.learning_rate_end
    exploration = Exploration(
        epsilon_start=config.epsilon_start if initial is None else config.epsilon_end,
        epsilon_end=config.epsilon_end,
        decay_steps=config.epsilon_decay_steps,
        ladder=config.epsilon_ladder,
        temperature_start=config.temperature_start if initial is None else config.temperature_end,
        temperature_end=config.temperature_end,
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
            PqnHyper(
                learning_rate_start=config.learning_rate,
                learning_rate_end=learning_rate_end,
                learning_rate_decay_steps=config.learning_rate_decay_steps or config.steps,
                discount=config.discount,
                lambda_=config.trace_decay,
                exploration=exploration,
            ),
            PqnStructure(
                choosing=choosing,
                rollout=config.rows_per_cycle,
                epochs=config.epochs,
                minibatches=config.minibatches,
                max_grad_norm=math.inf if config.max_grad_norm is None else config.max_grad_norm,
            ),
            initial,
        )
    hyper = Hyper(
        learning_rate_start=config.learning_rate,
        learning_rate_end=learning_rate_end,
        learning_rate_decay_steps=config.learning_rate_decay_steps or config.steps,
        discount=config.discount,
        exploration=exploration,
        target_tau=config.target_tau,
        priority_alpha=config.priority_alpha,
        priority_beta=config.priority_beta,
        priority_beta_steps=config.priority_beta_steps or config.steps,
    )
    prioritized = None
    if config.prioritized:
        prioritized = Prioritized(_capacity_rows(config), config.rows_per_cycle)
    structure = Structure(
        choosing=choosing,
        batch_size=config.batch_size,
        window=variant.window,
        target_sync_updates=config.target_sync_updates,
        max_grad_norm=config.max_grad_norm,
        prioritized=prioritized,
    )
    return replay_agent(network, variant.loss, hyper, structure, initial, variant.actor)


def _loop(config: Config, spec: EnvSpec, spaces: Spaces, agent: Agent, example_rows: int) -> Loop:
    """What steps the environment and learns; `example_rows` of the tape make the first example."""
    environment = native(spec.native_id) if spec.native_id is not None else None
    if config.loop == "device" and environment is None:
        raise UsageError(f"loop is 'device', but {spec.name} has no JAX version; use loop='host'.")
    capacity_rows = _capacity_rows(config)
    observation = _shown(spaces)
    _check_memory(config, capacity_rows, observation, spaces.action_shape, agent)
    cycles = max(1, (config.report_every_steps or config.collect_steps) // config.collect_steps)
    warmup = 0 if config.dataset is not None else math.ceil(config.warmup_steps / config.num_envs)
    rhythm = Rhythm(config.rows_per_cycle, config.updates_per_cycle, max(example_rows, warmup))
    size: dict[str, int] = {
        "seed": config.seed,
        "members": config.seeds,
        "envs": config.num_envs,
        "capacity_rows": capacity_rows,
        "cycles": cycles,
    }
    playing: DeviceLoop | HostLoop
    if environment is not None and config.loop != "host":
        playing = DeviceLoop(environment, agent, rhythm, **size)
    else:
        playing = _host_loop(config, spec, spaces, agent, rhythm, observation, size)
    if config.dataset is None:
        return playing
    memory = agent.memory()
    return OfflineLoop(playing, functools.partial(dataset.read, config.dataset, spaces, memory, Path.cwd(), config.env))


def _host_loop(
    config: Config,
    spec: EnvSpec,
    spaces: Spaces,
    agent: Agent,
    rhythm: Rhythm,
    observation: Any,
    size: dict[str, int],
) -> HostLoop:
    training_seeds = [config.seed + member for member in range(config.seeds)]
    with_window = dataclasses.replace(spec, make=functools.partial(spec.make, render_mode="human"))

    def open_vector(member_seeds: list[int], envs: int) -> HostEnvironment:
        # Evaluation plays from seeds of its own, and is not shown.
        shown = config.render == "human" and member_seeds == training_seeds
        chosen = with_window if shown else spec
        return HostEnvironment(chosen, member_seeds, envs, config.vectorization, spaces=spaces)

    # A ready-made vector has the size it has, and processes are dear: only copies in this process are free to be many.
    free = config.vectorization == "sync" and not spec.is_vector
    return HostLoop(
        open_vector,
        observation,
        agent,
        rhythm,
        evaluation_envs=EVALUATION_ENVS if free else config.num_envs,
        action_shape=spaces.action_shape,
        **size,
    )


def _shown(spaces: Spaces) -> Any:
    """Shape and dtype of each array of one observation."""
    observation = jax.ShapeDtypeStruct(spaces.observation_shape, jnp.dtype(spaces.observation_dtype))
    if not spaces.masked:
        return observation
    mask: Any = jax.ShapeDtypeStruct((*spaces.action_shape, spaces.num_actions), jnp.bool_)
    return Masked(observation, mask)  # type: ignore[arg-type]


def _capacity_rows(config: Config) -> int:
    if config.agent == "tutorial":
        return tutorial_rows(config.capacity_steps)
    if config.agent == "pqn":
        return pqn_rows(config.rows_per_cycle)
    example = config.n_step
    if config.recurrent is not None:
        example += config.burn_in_steps + config.sequence_steps
    rows = max(math.ceil(config.capacity_steps / config.num_envs), example + 2)
    return math.ceil(rows / config.rows_per_cycle) * config.rows_per_cycle


def _check_memory(
    config: Config, capacity_rows: int, observation: Any, action_shape: tuple[int, ...], agent: Agent
) -> None:
    memory = jax.eval_shape(agent.memory)
    # Members that learn from a data set share its rows.
    members = config.seeds if config.dataset is None else 1
    needed = ring.size_in_bytes(capacity_rows, members, config.num_envs, observation, action_shape, memory)
    if config.prioritized:
        needed += config.seeds * priority.size_in_bytes(capacity_rows, config.num_envs)
    free = _free_bytes()
    if needed > free * MEMORY_SHARE:
        # Whole blocks are held, so a size at the very limit would be rounded up past it.
        fits = int(config.capacity_steps * free * MEMORY_SHARE / needed) - config.collect_steps
        raise UsageError(
            f"capacity_steps={config.capacity_steps:,} for {config.seeds} member(s) needs {needed / 1e9:,.1f} GB, "
            f"but {free * MEMORY_SHARE / 1e9:,.1f} of the {free / 1e9:,.1f} GB that are free may be used; "
            f"use capacity_steps={max(fits, 1):,} or less."
        )


def _free_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
