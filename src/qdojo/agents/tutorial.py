"""A faithful copy of the tutorial's agent: one replay at the end of each episode, fitted one sample at a time.

It is not a good DQN (see `dqn.py`): it has no target network and treats a time limit as termination. Each member has
one env; the loop calls `update` after every row.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

from qdojo.agents.diagnosis import of_batch
from qdojo.agents.explore import Choosing, Scalar, actor_of, choose, legal_actions
from qdojo.agents.learner import NONE, Own
from qdojo.networks.network import Network
from qdojo.noise import integer
from qdojo.tape import windows
from qdojo.tape.ring import Tape, newest, take
from qdojo.types import Agent, Batch, Clock, Diagnosis, Memory, Metrics, Observation, Params, Words

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7  # Keras' defaults


class Adam(NamedTuple):
    """The running moments of the gradient, and the number of gradients in them."""

    mean: Params
    square: Params
    updates: Int[Array, ""]


class TutorialState(NamedTuple):
    """The state of one member. `loss` and `q_mean` are the metrics of the latest replay."""

    params: Params
    adam: Adam
    epsilon: Float[Array, ""]
    episodes: Int[Array, ""]
    loss: Float[Array, ""]
    q_mean: Float[Array, ""]
    own: Own = NONE
    """Settings in which members differ, by name."""


Replay = Callable[[TutorialState, Tape, Words], TutorialState]


def capacity_rows(memory_steps: int) -> int:
    """Rows that hold the last `memory_steps` steps even if all episodes last one step: each ends with an extra row."""
    return 2 * memory_steps


def tutorial_agent(
    network: Network,
    num_actions: int,
    *,
    learning_rate: float = 0.001,
    discount: float = 0.95,
    memory_steps: int = 2000,
    batch_size: int = 32,
    epsilon_start: float = 1.0,
    epsilon_min: float = 0.01,
    epsilon_decay: float = 0.995,
    max_episodes: int = 10_000,
    initial_params: Params | None = None,
) -> Agent:
    """The tutorial's agent. It needs a tape of `capacity_rows(memory_steps)` rows and one env per member.

    With `initial_params`, every member starts from them and explores with `epsilon_min`. A member stops learning after
    `max_episodes`.
    """

    choosing = Choosing(num_actions)

    def init(key: Array, numbers: Own | None = None) -> TutorialState:
        own = {name: jnp.asarray(number, jnp.float32) for name, number in (numbers or NONE).items()}
        params = network.init(key) if initial_params is None else initial_params
        zeros = jax.tree.map(jnp.zeros_like, network.partition(params)[0])
        start, least = own.get("epsilon_start", epsilon_start), own.get("epsilon_end", epsilon_min)
        epsilon = start if initial_params is None else least
        nothing = jnp.zeros((), jnp.float32)
        adam = Adam(zeros, zeros, jnp.zeros((), jnp.int32))
        return TutorialState(params, adam, jnp.float32(epsilon), jnp.zeros((), jnp.int32), nothing, nothing, own)

    def act(
        state: TutorialState, observation: Observation, memory: Memory, noise: Words, clock: Clock, env: Int[Array, ""]
    ) -> tuple[Int[Array, ""], Memory]:
        q = network.apply(state.params, observation)
        return choose(choosing, q, legal_actions(observation), state.epsilon, 1.0, noise), memory

    def squared_error(trainable: Params, fixed: Params, sample: Batch) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Keras' MSE between the output and a copy of it with the target at the chosen action; and Q of that action."""
        params = eqx.combine(trainable, fixed)
        value_t = jnp.max(network.apply(params, sample.obs_t))
        target = jax.lax.stop_gradient(sample.reward_t + sample.discount_t * value_t)
        chosen = network.apply(params, sample.obs_tm1)[sample.action_tm1]
        return jnp.square(chosen - target) / num_actions, chosen

    def replay(state: TutorialState, tape: Tape, noise: Words) -> TutorialState:
        # Episodes end during the warm-up without an update, so the steps must be counted on the tape.
        enough = steps_by_age(tape, memory_steps)[-1] >= batch_size
        return jax.lax.cond(enough, learn, lambda state, tape, noise: state, state, tape, noise)

    def learn(state: TutorialState, tape: Tape, noise: Words) -> TutorialState:
        own = state.own
        samples = memories(tape, noise, memory_steps, own.get("discount", discount))
        rate, least = own.get("learning_rate", learning_rate), own.get("epsilon_end", epsilon_min)
        trainable, fixed = network.partition(state.params)

        def fit(carry: tuple[Params, Adam], sample: Batch) -> tuple[tuple[Params, Adam], tuple[Array, Array]]:
            trainable, adam = carry
            (loss, chosen), gradient = jax.value_and_grad(squared_error, has_aux=True)(trainable, fixed, sample)
            return adam_step(trainable, adam, gradient, rate), (loss, chosen)

        (trainable, adam), (loss, chosen) = jax.lax.scan(fit, (trainable, state.adam), samples)
        factor = own.get("epsilon_decay_factor", epsilon_decay)
        decayed = jnp.where(state.epsilon > least, state.epsilon * factor, state.epsilon)
        return TutorialState(
            eqx.combine(trainable, fixed), adam, decayed, state.episodes, jnp.mean(loss), jnp.mean(chosen), own
        )

    def examine(state: TutorialState, tape: Tape, noise: Words, clock: Clock) -> dict[str, Array]:
        trainable, fixed = network.partition(state.params)
        samples = memories(tape, noise, memory_steps, state.own.get("discount", discount))

        def mean_error(trainable: Params) -> tuple[Float[Array, ""], Float[Array, "batch"]]:
            losses, _ = jax.vmap(squared_error, in_axes=(None, None, 0))(trainable, fixed, samples)
            return jnp.mean(losses), jnp.sqrt(num_actions * losses)

        gradient, errors = jax.grad(mean_error, has_aux=True)(trainable)
        enough = steps_by_age(tape, memory_steps)[-1] >= batch_size
        weight = jnp.full(errors.shape, enough, jnp.float32)
        return {"gradient_norm": optax.tree.norm(gradient), "errors": errors, "weight": weight}

    def update(state: TutorialState, tape: Tape, noise: Words, clock: Clock) -> tuple[TutorialState, Metrics]:
        ended = last(tape, jnp.int32(0), jnp.int32(0))
        episodes = state.episodes + ended.astype(jnp.int32)
        due = ended & (state.episodes < max_episodes)
        state = where_due(replay)(due, state._replace(episodes=episodes), tape, noise)
        return state, {"loss": state.loss, "q_mean": state.q_mean}

    return Agent(
        init=init,
        act=act,
        values=actor_of(network).values,
        update=update,
        exploration=lambda state, clock: state.epsilon,
        memory=tuple,
        act_words=choosing.words,
        update_words=batch_size,
        diagnosis=Diagnosis(examine, batch_size, of_batch),
    )


def where_due(replay: Replay) -> Callable[[Bool[Array, ""], TutorialState, Tape, Words], TutorialState]:
    """Runs `replay` if `due`, otherwise returns the state unchanged.

    Under `vmap`, `cond` becomes `select`, and all members would replay on every row. So a loop runs over the members
    that are due, and only over those.
    """

    @jax.custom_batching.custom_vmap
    def replay_if_due(due: Bool[Array, ""], state: TutorialState, tape: Tape, noise: Words) -> TutorialState:
        return jax.lax.cond(due, replay, lambda state, tape, noise: state, state, tape, noise)

    @replay_if_due.def_vmap
    def replay_members_due(
        members: int,
        batched: Any,
        due: Bool[Array, "member"],
        state: TutorialState,
        tape: Tape,
        noise: UInt32[Array, "member words"],
    ) -> tuple[TutorialState, TutorialState]:
        def turn(carry: tuple[Bool[Array, "member"], TutorialState]) -> tuple[Bool[Array, "member"], TutorialState]:
            due, state = carry
            # A single member's samples depend on nothing that the loop changes, and XLA would draw them before the
            # loop, on every row (20 to 60 us each). The barrier makes them depend on `due`.
            due, words, written = jax.lax.optimization_barrier((due, noise, tape.written))
            k = jnp.argmax(due)
            reader = tape._replace(written=written, member=tape.member[k])
            after = replay(jax.tree.map(lambda x: x[k], state), reader, words[k])
            return due.at[k].set(False), jax.tree.map(lambda x, new: x.at[k].set(new), state, after)

        _, state = jax.lax.while_loop(lambda carry: jnp.any(carry[0]), turn, (due, state))
        return state, jax.tree.map(lambda _: True, state)

    return replay_if_due


def memories(tape: Tape, noise: Words, memory_steps: int, discount: Scalar) -> Batch:
    """Distinct transitions from the last `memory_steps` steps, in random order, one per random word of `noise`.

    The tape must hold at least that many.
    """
    steps = steps_by_age(tape, memory_steps)
    chosen = distinct(noise, jnp.minimum(steps[-1], memory_steps))
    # The n-th newest step is where the count of steps first reaches n.
    age = jnp.searchsorted(steps, chosen + 1, method="scan_unrolled")
    env = jnp.zeros_like(age)
    batch = windows.read(windows.transitions(1), tape, age, env, discount)
    # The tutorial uses old gym's `done`, which is also true at the time limit, so it does not bootstrap there.
    done = last(tape, age - 1, env)
    return batch._replace(discount_t=jnp.where(done, 0.0, batch.discount_t))


def steps_by_age(tape: Tape, memory_steps: int) -> Int[Array, "ages"]:
    """Number of rows up to each age that start a transition; the last entry counts all that can be drawn."""
    ages = jnp.arange(min(tape.capacity, capacity_rows(memory_steps)))
    written = (ages > 0) & (ages < tape.size)
    return jnp.cumsum(written & ~last(tape, ages, jnp.zeros_like(ages)))


def last(tape: Tape, age: Int[Array, "*ages"], env: Int[Array, "*ages"]) -> Bool[Array, "*ages"]:
    """The `last` flags of these rows, which start no transition."""
    return jnp.asarray(take(tape, newest(tape, age), env).last)


def distinct(noise: Words, bound: Int[Array, ""]) -> Int[Array, "batch"]:
    """Distinct integers in [0, bound), one per word, in random order. `bound` must be at least the number of words.

    These are the first steps of a Fisher-Yates shuffle (Knuth, volume 2, algorithm P) of an array that is never
    allocated: only the swapped positions are stored.
    """
    count = noise.shape[0]
    turns = jnp.arange(count)

    def value_at(place: Array, places: Array, values: Array) -> Array:
        latest = jnp.max(jnp.where(places == place, turns, -1))
        return jnp.where(latest >= 0, values[latest], place)

    def turn(swapped: tuple[Array, Array], at: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        (places, values), (i, word) = swapped, at
        other = i + integer(word, bound - i)
        drawn, moved = value_at(other, places, values), value_at(i, places, values)
        return (places.at[i].set(other), values.at[i].set(moved)), drawn

    untouched = jnp.full(count, -1, jnp.int32)
    return jax.lax.scan(turn, (untouched, untouched), (turns, noise))[1]


def adam_step(params: Params, adam: Adam, gradient: Params, learning_rate: Scalar) -> tuple[Params, Adam]:
    """One step of Keras' Adam: Kingma and Ba (2015), the form before section 2.1, whose epsilon is "epsilon hat".

    Optax adds epsilon to the root of the bias-corrected moment instead, which gives different results.
    """
    updates = adam.updates + 1
    power = updates.astype(jnp.float32)
    rate = learning_rate * jnp.sqrt(1.0 - BETA_2**power) / (1.0 - BETA_1**power)
    mean = jax.tree.map(lambda m, g: m + (g - m) * (1.0 - BETA_1), adam.mean, gradient)
    square = jax.tree.map(lambda v, g: v + (jnp.square(g) - v) * (1.0 - BETA_2), adam.square, gradient)
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + EPSILON), params, mean, square)
    return params, Adam(mean, square, updates)
