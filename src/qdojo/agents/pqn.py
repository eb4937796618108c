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

from qdojo.agents.explore import EPSILON_GREEDY_WORDS, epsilon_greedy, linear
from qdojo.agents.learner import Scalar
from qdojo.bellman.returns import lambda_return
from qdojo.bellman.targets import greedy_value
from qdojo.tape.ring import Tape, newest, take
from qdojo.types import Agent, Clock, Metrics, Network, Observation, Params, Words


class PqnHyper(NamedTuple):
    """Numbers that change no shape. They are part of the state, so members may differ and none is compiled in."""

    learning_rate_start: Scalar
    learning_rate_end: Scalar
    learning_rate_decay_steps: Scalar
    discount: Scalar
    lambda_: Scalar
    epsilon_start: Scalar
    epsilon_end: Scalar
    epsilon_decay_steps: Scalar


class PqnStructure(NamedTuple):
    """What the compiled program is built around: the same for all members."""

    num_actions: int
    num_envs: int
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
    transitions = structure.rollout * structure.num_envs
    steps = structure.epochs * structure.minibatches
    if transitions % structure.minibatches:
        raise ValueError(
            f"minibatches={structure.minibatches} must divide rollout * num_envs = {transitions}, the transitions of a "
            "learning phase."
        )
    optimizer = optax.chain(optax.clip_by_global_norm(structure.max_grad_norm), optax.scale_by_radam())

    def position(clock: Clock) -> Float[Array, ""]:
        return clock.rows.astype(jnp.float32) * structure.num_envs

    def init(key: Array) -> PqnState:
        params = network.init(key) if initial_params is None else initial_params
        numbers = PqnHyper(*(jnp.asarray(number, jnp.float32) for number in hyper))
        return PqnState(params, optimizer.init(eqx.filter(params, eqx.is_inexact_array)), numbers)

    def exploration(state: PqnState, clock: Clock) -> Float[Array, ""]:
        hyper = state.hyper
        return linear(hyper.epsilon_start, hyper.epsilon_end, hyper.epsilon_decay_steps, position(clock))

    def greedy(params: Params, observation: Observation, memory: tuple[()]) -> tuple[Int[Array, ""], tuple[()]]:
        return jnp.argmax(network.apply(params, observation)), memory

    def act(
        state: PqnState, observation: Observation, memory: tuple[()], noise: Words, clock: Clock
    ) -> tuple[Int[Array, ""], tuple[()]]:
        exploring, noise = noise[:EPSILON_GREEDY_WORDS], noise[EPSILON_GREEDY_WORDS:]
        best, memory = greedy(network.perturb(state.params, noise), observation, memory)
        return epsilon_greedy(best, structure.num_actions, exploration(state, clock), exploring), memory

    def mean_loss(
        trainable: Params, frozen: Params, batch: Transitions, noise: Words
    ) -> tuple[Float[Array, ""], Metrics]:
        params = network.perturb(eqx.combine(trainable, frozen), noise)
        q = jax.vmap(network.apply, in_axes=(None, 0))(params, batch.observation)
        chosen = jnp.take_along_axis(q, batch.action[:, None], axis=1)[:, 0]
        loss = 0.5 * jnp.mean(batch.weight * jnp.square(batch.target - chosen))
        return loss, {"loss": loss, "q_mean": jnp.mean(chosen)}

    def update(state: PqnState, tape: Tape, noise: Words, clock: Clock) -> tuple[PqnState, Metrics]:
        shuffling, perturbing = jnp.split(noise, [structure.epochs * transitions])
        perturbing = perturbing.reshape(1 + steps, network.words)
        data = read(network, network.perturb(state.params, perturbing[0]), tape, structure.rollout, state.hyper)
        trainable, frozen = eqx.partition(state.params, eqx.is_inexact_array)
        hyper = state.hyper
        rate = linear(
            hyper.learning_rate_start, hyper.learning_rate_end, hyper.learning_rate_decay_steps, position(clock)
        )

        def fit(
            carry: tuple[Params, optax.OptState], at: tuple[Int[Array, "batch"], Words]
        ) -> tuple[tuple[Params, optax.OptState], Metrics]:
            (trainable, optimizer_state), (chosen, noise) = carry, at
            batch = jax.tree.map(lambda x: x[chosen], data)
            gradient, metrics = jax.grad(mean_loss, has_aux=True)(trainable, frozen, batch, noise)
            direction, optimizer_state = optimizer.update(gradient, optimizer_state)
            trainable = jax.tree.map(lambda p, d: p - rate * d, trainable, direction)
            return (trainable, optimizer_state), metrics

        batches = shuffled(shuffling.reshape(structure.epochs, transitions)).reshape(steps, -1)
        (trainable, optimizer_state), metrics = jax.lax.scan(
            fit, (trainable, state.optimizer), (batches, perturbing[1:])
        )
        params = eqx.combine(trainable, frozen)
        return PqnState(params, optimizer_state, hyper), jax.tree.map(jnp.mean, metrics)

    return Agent(
        init=init,
        act=act,
        greedy=greedy,
        update=update,
        exploration=exploration,
        memory=tuple,
        act_words=EPSILON_GREEDY_WORDS + network.words,
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
    rows = jax.tree.map(jnp.asarray, take(tape, newest(tape, age), env))
    q = jax.vmap(jax.vmap(network.apply, in_axes=(None, 0)), in_axes=(None, 0))(params, rows.observation)
    value = jax.vmap(jax.vmap(greedy_value))(q)
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
