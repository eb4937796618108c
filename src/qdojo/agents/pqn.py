"""PQN: Q(lambda) from the rows just collected, without a target network or a replay. Not for replay: see `learner.py`.

Gallici et al. (2025), "Simplifying Deep Temporal Difference Learning", algorithm 1. What stands in for the target
network is LayerNorm (`mlp(..., layer_norm=True)`). The loop's rhythm is `rollout` rows, one update.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt32

from qdojo.agents.explore import Choosing, Exploration, Scalar, acting, actor_of, position
from qdojo.agents.learner import NONE, Own, learning_rate
from qdojo.bellman.returns import lambda_return
from qdojo.bellman.targets import greedy_value
from qdojo.networks.network import Network
from qdojo.tape.ring import Tape, newest, take
from qdojo.types import Agent, Clock, Metrics, Observation, Params, Words


class PqnHyper(NamedTuple):
    """Numbers that change no shape. They are part of the state, so members may differ and none is compiled in."""

    learning_rate_start: Scalar
    learning_rate_end: Scalar
    learning_rate_decay_steps: Scalar
    discount: Scalar
    lambda_: Scalar
    exploration: Exploration
    own: Own = NONE
    """`max_grad_norm`, where members differ in it, in place of that of the structure."""


class PqnStructure(NamedTuple):
    """What the compiled program is built around: the same for all members."""

    choosing: Choosing
    rollout: int
    """Rows that one learning phase learns from: those that the loop collects a cycle."""
    epochs: int
    minibatches: int
    """Gradient steps an epoch, each on its share of the phase's transitions."""
    max_grad_norm: float


class PqnState(NamedTuple):
    """All that one member learns and carries."""

    params: Params
    optimizer: optax.OptState
    hyper: PqnHyper


class Transitions(NamedTuple):
    """What a learning phase learns from. `weight` is 0 for rows that start no transition."""

    observation: Observation
    action: Int[Array, "*transitions"]
    target: Float[Array, "*transitions"]
    weight: Float[Array, "*transitions"]


def capacity_rows(rollout: int) -> int:
    """The tape's length: whole blocks of `rollout` rows that hold the newest block and the row before it."""
    return 2 * rollout


def pqn_agent(
    network: Network, hyper: PqnHyper, structure: PqnStructure, initial_params: Params | None = None
) -> Agent:
    """An epsilon-greedy agent whose one `update` a cycle is a whole learning phase on the newest rows of the tape.

    The tape needs `capacity_rows(rollout)`. Every member starts from `initial_params` where they are given, else from
    weights of its own. Raises `ValueError` where the minibatches do not divide the transitions evenly.

    Deviations from the paper's own code: the learning rate falls by env steps and not by gradient steps, and the
    newest row, whose successor is not there yet, waits for the next phase.
    """
    num_envs = structure.choosing.num_envs
    transitions = structure.rollout * num_envs
    steps = structure.epochs * structure.minibatches
    if transitions % structure.minibatches:
        raise ValueError(
            f"minibatches={structure.minibatches} must divide rollout * num_envs = {transitions}, the transitions of a "
            "learning phase."
        )
    plays = acting(actor_of(network), structure.choosing)

    def optimizer(own: Own) -> optax.GradientTransformation:
        clip = optax.clip_by_global_norm(own.get("max_grad_norm", structure.max_grad_norm))
        return optax.chain(clip, optax.scale_by_radam())

    def init(key: Array, numbers: PqnHyper | None = None) -> PqnState:
        params = network.init(key) if initial_params is None else initial_params
        numbers = jax.tree.map(lambda number: jnp.asarray(number, jnp.float32), hyper if numbers is None else numbers)
        return PqnState(params, optimizer(NONE).init(eqx.filter(params, eqx.is_inexact_array)), numbers)

    def mean_loss(
        trainable: Params, frozen: Params, batch: Transitions, noise: Words
    ) -> tuple[Float[Array, ""], Metrics]:
        params = network.perturb(eqx.combine(trainable, frozen), noise)
        q = jax.vmap(network.apply, in_axes=(None, 0))(params, batch.observation)
        chosen = jnp.take_along_axis(q, batch.action[..., None], axis=-1).reshape(batch.target.shape[0], -1)
        errors = jnp.mean(jnp.square(batch.target[:, None] - chosen), axis=1)
        loss = 0.5 * jnp.mean(batch.weight * errors)
        return loss, {"loss": loss, "q_mean": jnp.mean(chosen)}

    def update(state: PqnState, tape: Tape, noise: Words, clock: Clock) -> tuple[PqnState, Metrics]:
        shuffling, perturbing = jnp.split(noise, [structure.epochs * transitions])
        perturbing = perturbing.reshape(1 + steps, network.words)
        data = read(network, network.perturb(state.params, perturbing[0]), tape, structure.rollout, state.hyper)
        trainable, frozen = eqx.partition(state.params, eqx.is_inexact_array)
        rate = learning_rate(state.hyper, position(clock, num_envs))

        def fit(
            carry: tuple[Params, optax.OptState], at: tuple[Int[Array, "batch"], Words]
        ) -> tuple[tuple[Params, optax.OptState], Metrics]:
            (trainable, optimizer_state), (chosen, noise) = carry, at
            batch = jax.tree.map(lambda x: x[chosen], data)
            gradient, metrics = jax.grad(mean_loss, has_aux=True)(trainable, frozen, batch, noise)
            direction, optimizer_state = optimizer(state.hyper.own).update(gradient, optimizer_state)
            trainable = jax.tree.map(lambda p, d: p - rate * d, trainable, direction)
            return (trainable, optimizer_state), metrics

        batches = shuffled(shuffling.reshape(structure.epochs, transitions)).reshape(steps, -1)
        (trainable, optimizer_state), metrics = jax.lax.scan(
            fit, (trainable, state.optimizer), (batches, perturbing[1:])
        )
        params = network.observe(eqx.combine(trainable, frozen), data.observation)
        return PqnState(params, optimizer_state, state.hyper), jax.tree.map(jnp.mean, metrics)

    return Agent(
        init=init,
        act=plays.act,
        values=actor_of(network).values,
        update=update,
        exploration=plays.exploration,
        memory=tuple,
        act_words=plays.words,
        update_words=structure.epochs * transitions + (1 + steps) * network.words,
    )


def shuffled(noise: UInt32[Array, "epochs transitions"]) -> Int[Array, "epochs transitions"]:
    """The transitions in random order, another one each epoch."""
    return jnp.argsort(noise, axis=1)


def read(network: Network, params: Params, tape: Tape, rollout: int, hyper: PqnHyper) -> Transitions:
    """The newest `rollout` rows that have a successor, as transitions, flattened over `[rollout, env]`, oldest first.

    The successor of the newest of them is the newest row of all, which only tells what comes next.
    """
    age, env = jnp.meshgrid(jnp.arange(rollout, -1, -1), jnp.arange(tape.num_envs), indexing="ij")
    # At the start of a run the oldest of them was never written; the one after it stands in its place.
    rows = jax.tree.map(jnp.asarray, take(tape, newest(tape, jnp.minimum(age, tape.size - 1)), env))
    q = jax.vmap(jax.vmap(network.apply, in_axes=(None, 0)), in_axes=(None, 0))(params, rows.observation)
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
    found = Transitions(rows.observation, rows.action, target, starts.astype(jnp.float32))
    return jax.tree.map(lambda x: x[:rollout].reshape(-1, *x.shape[2:]), found)
