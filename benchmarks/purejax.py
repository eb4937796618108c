"""PureJaxRL's DQN as a peer, in its own process: `python -m benchmarks.purejax --seeds N --steps N`.

The algorithm and settings of Lu et al., "Discovered Policy Optimisation" (2022), whose repository trains a vmapped
population in one compiled program: environments of gymnax, a buffer of flashbax. Prints the seconds as one JSON object.
"""

import argparse
import itertools
import json
from typing import Any, NamedTuple

import flashbax
import gymnax
import jax
import jax.numpy as jnp
import optax

ENVS, BATCH, CAPACITY, WARMUP = 10, 128, 10_000, 10_000
HIDDEN = (120, 84)
EVERY_STEPS, SYNC_STEPS = 10, 500
EPSILON_END, EPSILON_DECAY_STEPS = 0.05, 250_000
LEARNING_RATE, DISCOUNT = 2.5e-4, 0.99


class Row(NamedTuple):
    """What the buffer holds of a step."""

    obs: jax.Array
    action: jax.Array
    reward: jax.Array
    done: jax.Array


def q_values(layers: Any, x: jax.Array) -> jax.Array:
    """Dense layers with ReLU between them."""
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias


def trained(key: jax.Array, iterations: int) -> jax.Array:
    """Train one member; returns the sum of its rewards."""
    env, settings = gymnax.make("CartPole-v1")
    adam = optax.adam(LEARNING_RATE)
    buffer = flashbax.make_flat_buffer(
        max_length=CAPACITY, min_length=BATCH, sample_batch_size=BATCH, add_batch_size=ENVS
    )
    begun, key = jax.random.split(key)
    obs, states = jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(begun, ENVS), settings)
    widths = (obs.shape[-1], *HIDDEN, env.num_actions)
    first = jax.nn.initializers.lecun_normal()
    layers = [(first(jax.random.fold_in(key, a), (a, b)), jnp.zeros(b)) for a, b in itertools.pairwise(widths)]
    blank = Row(obs[0], jnp.int32(0), jnp.float32(0.0), jnp.float32(0.0))

    def learned(layers: Any, target: Any, moments: Any, stored: Any, key: jax.Array) -> tuple[Any, Any]:
        pair = buffer.sample(stored, key).experience
        following = jnp.max(q_values(target, pair.second.obs), axis=-1)
        goal = pair.first.reward + DISCOUNT * (1.0 - pair.first.done) * following

        def loss(layers: Any) -> jax.Array:
            chosen = jnp.take_along_axis(q_values(layers, pair.first.obs), pair.first.action[:, None], axis=-1)[:, 0]
            return jnp.mean(jnp.square(chosen - goal))

        step, moments = adam.update(jax.grad(loss)(layers), moments, layers)
        return optax.apply_updates(layers, step), moments

    def iteration(carry: Any, i: jax.Array) -> tuple[Any, jax.Array]:
        layers, target, moments, stored, obs, states, key = carry
        key, explore, act, move, draw = jax.random.split(key, 5)
        steps = (i + 1) * ENVS
        epsilon = jnp.maximum(1.0 - (1.0 - EPSILON_END) * steps / EPSILON_DECAY_STEPS, EPSILON_END)
        greedy = jnp.argmax(q_values(layers, obs), axis=-1)
        random = jax.random.randint(act, (ENVS,), 0, env.num_actions)
        action = jnp.where(jax.random.uniform(explore, (ENVS,)) < epsilon, random, greedy)
        seen, states, reward, terminated, truncated, _ = jax.vmap(env.step, in_axes=(0, 0, 0, None))(
            jax.random.split(move, ENVS), states, action, settings
        )
        stored = buffer.add(
            stored, Row(obs, action.astype(jnp.int32), reward, (terminated | truncated).astype(jnp.float32))
        )
        due = buffer.can_sample(stored) & (steps > WARMUP) & (steps % EVERY_STEPS == 0)
        layers, moments = jax.lax.cond(
            due, lambda: learned(layers, target, moments, stored, draw), lambda: (layers, moments)
        )
        target = jax.lax.cond(steps % SYNC_STEPS == 0, lambda: layers, lambda: target)
        return (layers, target, moments, stored, seen, states, key), reward.sum()

    carry = (layers, layers, adam.init(layers), buffer.init(blank), obs, states, key)
    return jax.lax.scan(iteration, carry, jnp.arange(iterations))[1].sum()


def main() -> None:
    """Train the population; the caller times the whole process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100_000)
    arguments = parser.parse_args()
    keys = jax.random.split(jax.random.key(0), arguments.seeds)
    run = jax.jit(jax.vmap(lambda key: trained(key, arguments.steps // ENVS)))
    print(json.dumps({"reward": float(run(keys).mean())}))


if __name__ == "__main__":
    main()
