"""PQN: Q(lambda) on the rows just collected, without a target network or replay. `learner.py` has the replay agents.

Gallici et al. (2025), "Simplifying Deep Temporal Difference Learning", algorithm 1. LayerNorm (`Design.layer_norm`)
replaces the target network. The loop collects `rollout` rows per update.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt32

from qdojo.agents.diagnosis import of_batch
from qdojo.agents.explore import Choosing, Exploration, Scalar, acting, actor_of, position
from qdojo.agents.learner import NONE, Own, learning_rate
from qdojo.bellman.returns import lambda_return
from qdojo.bellman.targets import greedy_value
from qdojo.networks.network import Network
from qdojo.tape import windows
from qdojo.tape.ring import Tape, newest, take
from qdojo.types import Actor, Agent, Clock, Diagnosis, Metrics, Observation, Params, Words

AT_ONCE = 256
"""Observations that a learning phase values at once: the layers of more of them leave a processor's cache."""


class PqnHyper(NamedTuple):
    """Numeric settings. They are part of the state rather than compiled in, so members may differ in them."""

    learning_rate_start: Scalar
    learning_rate_end: Scalar
    learning_rate_decay_steps: Scalar
    discount: Scalar
    lambda_: Scalar
    exploration: Exploration
    own: Own = NONE
    """Holds `max_grad_norm` if members differ in it; it overrides the `PqnStructure`."""


class PqnStructure(NamedTuple):
    """Settings that are compiled into the program, so all members share them."""

    choosing: Choosing
    rollout: int
    """Rows in one learning phase, which is the number of rows that the loop collects per cycle."""
    epochs: int
    minibatches: int
    """Gradient steps per epoch, each on an equal part of the phase's transitions."""
    max_grad_norm: float
    frames: int = 1
    """Observations that are stacked into one."""


class PqnState(NamedTuple):
    """The state of one member."""

    params: Params
    optimizer: optax.OptState
    hyper: PqnHyper


class Transitions(NamedTuple):
    """The training data of a learning phase. `weight` is 0 for rows that start no transition."""

    observation: Observation
    action: Int[Array, "*transitions"]
    target: Float[Array, "*transitions"]
    weight: Float[Array, "*transitions"]


def capacity_rows(rollout: int, frames: int = 1) -> int:
    """Length of the tape: whole blocks of `rollout` rows, for the newest block and the `frames` rows before it."""
    return rollout * math.ceil((rollout + frames) / rollout)


def pqn_agent(
    network: Network,
    hyper: PqnHyper,
    structure: PqnStructure,
    initial_params: Params | None = None,
    actor: Actor | None = None,
) -> Agent:
    """An agent with one `update` per cycle, a whole learning phase on the newest rows of the tape.

    The tape needs `capacity_rows(rollout)` rows. Every member starts from `initial_params` if given, otherwise from its
    own random weights. Raises `ValueError` if the minibatches do not divide the transitions evenly.

    Deviations from the authors' code: the learning rate decays with env steps instead of gradient steps, and the newest
    row, whose successor is not written yet, is used in the next phase.
    """
    num_envs = structure.choosing.num_envs
    transitions = structure.rollout * num_envs
    steps = structure.epochs * structure.minibatches
    if transitions % structure.minibatches:
        raise ValueError(
            f"minibatches={structure.minibatches} must divide rollout * num_envs = {transitions}, the transitions of a "
            "learning phase."
        )
    actor = actor_of(network) if actor is None else actor
    plays = acting(actor, structure.choosing)

    def optimizer(own: Own) -> optax.GradientTransformation:
        clip = optax.clip_by_global_norm(own.get("max_grad_norm", structure.max_grad_norm))
        return optax.chain(clip, optax.scale_by_radam())

    def init(key: Array, numbers: PqnHyper | None = None) -> PqnState:
        params = network.init(key) if initial_params is None else initial_params
        numbers = jax.tree.map(lambda number: jnp.asarray(number, jnp.float32), hyper if numbers is None else numbers)
        return PqnState(params, optimizer(NONE).init(network.partition(params)[0]), numbers)

    def mean_loss(
        trainable: Params, fixed: Params, batch: Transitions, noise: Words
    ) -> tuple[Float[Array, ""], Metrics]:
        params = network.perturb(eqx.combine(trainable, fixed), noise)
        q = jax.vmap(network.apply, in_axes=(None, 0))(params, batch.observation)
        chosen = jnp.take_along_axis(q, batch.action[..., None], axis=-1).reshape(batch.target.shape[0], -1)
        errors = jnp.mean(jnp.square(batch.target[:, None] - chosen), axis=1)
        loss = 0.5 * jnp.mean(batch.weight * errors)
        return loss, {"loss": loss, "q_mean": jnp.mean(chosen)}

    def examine(state: PqnState, tape: Tape, noise: Words, clock: Clock) -> dict[str, Array]:
        data = read(network, state.params, tape, structure.rollout, state.hyper, structure.frames)
        trainable, fixed = network.partition(state.params)

        def whole_loss(trainable: Params) -> tuple[Float[Array, ""], Float[Array, "transitions"]]:
            """The loss of all transitions as one batch, and the absolute error of each."""
            q = jax.vmap(network.apply, in_axes=(None, 0))(eqx.combine(trainable, fixed), data.observation)
            chosen = jnp.take_along_axis(q, data.action[..., None], axis=-1).reshape(transitions, -1)
            errors = data.target[:, None] - chosen
            return 0.5 * jnp.mean(data.weight * jnp.mean(jnp.square(errors), 1)), jnp.mean(jnp.abs(errors), 1)

        gradient, errors = jax.grad(whole_loss, has_aux=True)(trainable)
        return {"gradient_norm": optax.tree.norm(gradient), "errors": errors, "weight": data.weight}

    def update(state: PqnState, tape: Tape, noise: Words, clock: Clock) -> tuple[PqnState, Metrics]:
        shuffling, perturbing = jnp.split(noise, [structure.epochs * transitions])
        perturbing = perturbing.reshape(1 + steps, network.words)
        data = read(
            network,
            network.perturb(state.params, perturbing[0]),
            tape,
            structure.rollout,
            state.hyper,
            structure.frames,
        )
        trainable, fixed = network.partition(state.params)
        rate = learning_rate(state.hyper, position(clock, num_envs))

        def fit(
            carry: tuple[Params, optax.OptState], at: tuple[Int[Array, "batch"], Words]
        ) -> tuple[tuple[Params, optax.OptState], Metrics]:
            (trainable, optimizer_state), (chosen, noise) = carry, at
            batch = jax.tree.map(lambda x: x[chosen], data)
            gradient, metrics = jax.grad(mean_loss, has_aux=True)(trainable, fixed, batch, noise)
            direction, optimizer_state = optimizer(state.hyper.own).update(gradient, optimizer_state)
            trainable = jax.tree.map(lambda p, d: p - rate * d, trainable, direction)
            return (trainable, optimizer_state), metrics

        batches = shuffled(shuffling.reshape(structure.epochs, transitions)).reshape(steps, -1)
        (trainable, optimizer_state), metrics = jax.lax.scan(
            fit, (trainable, state.optimizer), (batches, perturbing[1:])
        )
        params = network.observe(eqx.combine(trainable, fixed), data.observation)
        return PqnState(params, optimizer_state, state.hyper), jax.tree.map(jnp.mean, metrics)

    return Agent(
        init=init,
        act=plays.act,
        values=actor.values,
        update=update,
        exploration=plays.exploration,
        memory=actor.memory,
        act_words=plays.words,
        update_words=structure.epochs * transitions + (1 + steps) * network.words,
        worth=actor.worth,
        stored=actor.stored,
        diagnosis=Diagnosis(examine, 0, of_batch),
    )


def shuffled(noise: UInt32[Array, "epochs transitions"]) -> Int[Array, "epochs transitions"]:
    """Indices of the transitions in a new random order for each epoch."""
    return jnp.argsort(noise, axis=1)


def read(network: Network, params: Params, tape: Tape, rollout: int, hyper: PqnHyper, frames: int = 1) -> Transitions:
    """The newest `rollout` rows that have a successor, as transitions, flattened over `[rollout, env]`, oldest first.

    The newest row of the tape starts no transition here; it only serves as the successor of the row before it.
    """
    age, env = jnp.meshgrid(jnp.arange(rollout, -1, -1), jnp.arange(tape.num_envs), indexing="ij")
    # At the start of a run the oldest of these rows does not exist yet; the next one replaces it, with weight 0.
    rows = jax.tree.map(jnp.asarray, take(tape, newest(tape, jnp.minimum(age, tape.size - 1)), env))
    observation = rows.observation
    if frames > 1:
        stacks = jax.vmap(jax.vmap(windows.seen, in_axes=(None, 0, 0, None)), in_axes=(None, 0, 0, None))
        observation = stacks(tape, jnp.minimum(age, tape.size - 1), env, frames)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), observation)
    q = jax.lax.map(lambda seen: network.apply(params, seen), flat, batch_size=AT_ONCE)
    # The branches of a MultiDiscrete action share one value, their mean (Tavakoli et al., 2018, equation 6).
    value = jnp.mean(jax.vmap(greedy_value)(q.reshape(-1, q.shape[-1])).reshape(*age.shape, -1), axis=-1)
    target = jax.vmap(lambda_return, in_axes=(1, 1, 1, 1, None), out_axes=1)(
        rows.reward[:-1],
        jnp.where(rows.terminated[:-1], 0.0, hyper.discount),
        value[1:],
        ~rows.last[1:],
        hyper.lambda_,
    )
    starts = ~rows.last & (age < tape.size)
    found = Transitions(observation, rows.action, target, starts.astype(jnp.float32))
    return jax.tree.map(lambda x: x[:rollout].reshape(-1, *x.shape[2:]), found)
