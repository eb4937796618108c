"""The update that all replay agents share: sampling, loss, gradient, optimizer step, target network.

A variant passes its `Loss` (see `dqn.py`) to `replay_agent`, and an `Actor` or a `Window` if it acts or reads the tape
differently.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from qdojo.agents.diagnosis import replay_diagnosis
from qdojo.agents.explore import Choosing, Exploration, Scalar, acting, actor_of, linear, position
from qdojo.agents.sparse import on_rows
from qdojo.networks.network import Network
from qdojo.tape import windows
from qdojo.tape.ring import Tape
from qdojo.tape.sampling import UNIFORM, Drawn, Exponents, Sampler
from qdojo.tape.windows import Window
from qdojo.types import Actor, Agent, Clock, Metrics, Params, Words


class Loss(NamedTuple):
    """The loss of a variant for one example. Noisy parameters, online and target, are already perturbed."""

    of: Callable[[Params, Params, Any, Words], tuple[Float[Array, ""], Float[Array, ""], Metrics]]
    """(params, target_params, example, noise) -> loss, priority, metrics. An example is a `Batch` without its batch
    axis, or what another `Window` reads; the priority is an absolute error."""
    words: int = 0
    """Random words that one example consumes."""
    td_error: Callable[[Params, Params, Any, Words], Float[Array, ""]] | None = None
    """Like `of`, but -> the absolute TD error, if that is not the priority."""


Own: TypeAlias = Mapping[str, Scalar]
"""Settings in which members differ, by name."""
NONE: Own = {}
Learned: TypeAlias = tuple[Params, optax.OptState]
"""What a gradient step changes."""


class Hyper(NamedTuple):
    """Numeric settings. They are part of the state rather than compiled in, so members may differ in them."""

    learning_rate_start: Scalar
    learning_rate_end: Scalar
    learning_rate_decay_steps: Scalar
    discount: Scalar
    exploration: Exploration
    target_tau: Scalar
    priority_alpha: Scalar = 0.0
    priority_beta: Scalar = 1.0
    priority_beta_steps: Scalar = 1.0
    """Env steps in which beta rises to 1."""
    own: Own = NONE
    """Other settings in which members differ: `adam_beta1`, `adam_beta2`, `adam_epsilon` and `max_grad_norm`, which
    override the `Structure`, and settings that the loss reads."""


class LearnerState(NamedTuple):
    """The state of one member of a replay agent."""

    params: Params
    target_params: Params
    optimizer: optax.OptState
    hyper: Hyper
    priorities: Any
    """The sampler's state, such as a sum tree of priorities."""


class Adam(NamedTuple):
    """Constants of Adam (Kingma and Ba, 2015, algorithm 1)."""

    beta1: float = 0.9
    """Decay rate of the mean gradient."""
    beta2: float = 0.999
    """Decay rate of the mean squared gradient."""
    epsilon: float = 1e-8
    """Added to the square root of the mean squared gradient."""


class Structure(NamedTuple):
    """Settings that are compiled into the program, so all members share them."""

    choosing: Choosing
    batch_size: int
    window: Window
    target_sync_updates: int
    max_grad_norm: float | None
    sampler: Sampler = UNIFORM
    adam: Adam = Adam()
    sparse_adam: bool = False
    """Whether a step leaves the rows of a `Table` that the batch does not look up as they are: see `sparse.py`."""


def replay_agent(
    network: Network,
    loss: Callable[[Own], Loss],
    hyper: Hyper,
    structure: Structure,
    initial_params: Params | None = None,
    actor: Actor | None = None,
    diagnosed: Callable[[Own], Loss] | None = None,
) -> Agent:
    """An agent that learns from samples of the tape with a target network, and acts with `actor` or with the network.

    `loss` returns the loss for the settings in which a member differs; `diagnosed`, for diagnostics, the same with the
    absolute TD error as its priority. Every member starts from `initial_params` if given, else from random weights.
    """
    loss_words = loss(hyper.own).words
    words = structure.batch_size * (1 + loss_words) + 2 * network.words
    actor = actor_of(network) if actor is None else actor
    num_envs, window, sampler = structure.choosing.num_envs, structure.window, structure.sampler
    plays = acting(actor, structure.choosing)

    def adam(own: Own) -> optax.GradientTransformation:
        return optax.scale_by_adam(
            *(own.get(f"adam_{name}", usual) for name, usual in structure.adam._asdict().items())
        )

    def init(key: Array, numbers: Hyper | None = None) -> LearnerState:
        params = network.init(key) if initial_params is None else initial_params
        trainable, _ = network.partition(params)
        numbers = jax.tree.map(lambda number: jnp.asarray(number, jnp.float32), hyper if numbers is None else numbers)
        return LearnerState(params, params, adam(NONE).init(trainable), numbers, structure.sampler.init())

    def mean_loss(
        trainable: Params, fixed: Params, target: Params, batch: Any, noise: Words, of: Callable[..., Any]
    ) -> tuple[Float[Array, ""], tuple[Float[Array, "batch"], Metrics]]:
        online_words, target_words, example_words = jnp.split(noise, [network.words, 2 * network.words])
        params = network.perturb(eqx.combine(trainable, fixed), online_words)
        target = network.perturb(target, target_words)
        each = example_words.reshape(structure.batch_size, loss_words)
        losses, errors, metrics = jax.vmap(of, in_axes=(None, None, 0, 0))(params, target, batch, each)
        mean = jnp.mean(batch.weight * losses)
        # Metrics ignore rows that start no transition. Importance weights apply to the loss only.
        real = (batch.weight > 0.0).astype(jnp.float32)
        share = real / jnp.maximum(jnp.sum(real), 1.0)
        return mean, (errors, {"loss": mean} | jax.tree.map(lambda each: jnp.dot(share, each), metrics))

    def gradient_of(
        state: LearnerState, batch: Any, noise: Words, of: Callable[..., Any]
    ) -> tuple[Params, tuple[Float[Array, "batch"], Metrics]]:
        trainable, fixed = network.partition(state.params)
        return jax.grad(mean_loss, has_aux=True)(trainable, fixed, state.target_params, batch, noise, of)

    def step(
        learned: Learned, others: tuple[Params, Params], batch: Any, noise: Words, own: Own, rate: Scalar
    ) -> tuple[Learned, tuple[Float[Array, "batch"], Metrics]]:
        trainable, optimizer = learned
        gradient, found = jax.grad(mean_loss, has_aux=True)(trainable, *others, batch, noise, loss(own).of)
        max_grad_norm = own.get("max_grad_norm", structure.max_grad_norm)
        if max_grad_norm is not None:
            scale = jnp.minimum(1.0, max_grad_norm / jnp.maximum(optax.tree.norm(gradient), 1e-12))
            gradient = jax.tree.map(lambda g: g * scale, gradient)
        direction, optimizer = adam(own).update(gradient, optimizer)
        return (jax.tree.map(lambda p, d: p - rate * d, trainable, direction), optimizer), found

    def draw(state: LearnerState, tape: Tape, noise: Words, clock: Clock) -> tuple[Any, Drawn, Exponents, Any]:
        numbers = state.hyper
        beta = linear(numbers.priority_beta, 1.0, numbers.priority_beta_steps, position(clock, num_envs))
        exponents = Exponents(numbers.priority_alpha, beta)
        priorities, drawn = sampler.sample(state.priorities, tape, window, noise, exponents)
        batch = windows.read(window, tape, drawn.age, drawn.env, numbers.discount)
        return priorities, drawn, exponents, batch._replace(weight=batch.weight * drawn.weight)

    def update(state: LearnerState, tape: Tape, noise: Words, clock: Clock) -> tuple[LearnerState, Metrics]:
        drawing, noise = noise[: structure.batch_size], noise[structure.batch_size :]
        numbers = state.hyper
        priorities, drawn, exponents, batch = draw(state, tape, drawing, clock)
        trainable, fixed = network.partition(state.params)
        learned, others = (trainable, state.optimizer), (fixed, state.target_params)
        rate = learning_rate(numbers, position(clock, num_envs))
        stepping = on_rows(step) if structure.sparse_adam else step
        (trainable, optimizer), (errors, metrics) = stepping(learned, others, batch, noise, numbers.own, rate)
        params = network.observe(eqx.combine(trainable, fixed), batch.obs_tm1)
        # Both networks keep the same observation statistics, independent of target syncs.
        before = network.observe(state.target_params, batch.obs_tm1)
        target_params = sync_target(params, before, numbers, clock)
        priorities = sampler.update(priorities, tape, drawn, errors, exponents)
        return LearnerState(params, target_params, optimizer, numbers, priorities), metrics

    def sync_target(params: Params, target_params: Params, hyper: Hyper, clock: Clock) -> Params:
        tau, (online, _), (target, fixed) = hyper.target_tau, *map(network.partition, (params, target_params))

        def moved() -> Params:
            return jax.tree.map(lambda new, old: tau * new + (1.0 - tau) * old, online, target)

        if structure.target_sync_updates == 1:
            return eqx.combine(moved(), fixed)
        due = (clock.updates + 1) % structure.target_sync_updates == 0
        return eqx.combine(jax.lax.cond(due, moved, lambda: target), fixed)

    return Agent(
        init=init,
        act=plays.act,
        values=actor.values,
        update=update,
        exploration=plays.exploration,
        memory=actor.memory,
        act_words=plays.words,
        update_words=words,
        worth=actor.worth,
        stored=actor.stored,
        diagnosis=replay_diagnosis(draw, gradient_of, diagnosed or loss, structure.batch_size, words),
    )


def learning_rate(hyper: Any, position: Float[Array, ""]) -> Float[Array, ""]:
    """The learning rate at a position in env steps, from three fields that the `hyper` of every agent has."""
    return linear(hyper.learning_rate_start, hyper.learning_rate_end, hyper.learning_rate_decay_steps, position)
