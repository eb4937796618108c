"""The device loop: a JAX environment, acting, tape and updates in one compiled scan, chunk after chunk."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from qdojo.envs.contract import NativeEnvironment, Running, advance, start
from qdojo.loops.learning import MemberMetrics, Rhythm, learn
from qdojo.loops.state import (
    COLLECT,
    EVALUATE,
    LEARN,
    NO_TALLY,
    START,
    Programs,
    TrainState,
    best_action,
    chunk_words,
    count,
    fresh_state,
    fresh_tally,
    member_keys,
    renewed,
    streams,
)
from qdojo.types import Agent, Params, Report, Step


class ChunkLog(NamedTuple):
    """What a compiled chunk tells the host: rewards and ends, row by row, and the mean metrics of its updates."""

    reward: Float[Array, "rows member env"]
    applied: Bool[Array, "rows member env"]
    ended: Bool[Array, "rows member env"]
    metrics: MemberMetrics
    updates: Int[Array, ""]


class DeviceLoop:
    """Trains a population on an environment written in JAX. See `loops/host.py` for all other environments."""

    name = "device"

    def __init__(
        self,
        environment: NativeEnvironment,
        agent: Agent,
        rhythm: Rhythm,
        *,
        seed: int,
        members: int,
        envs: int,
        capacity_rows: int,
        cycles: int,
    ) -> None:
        """`cycles` make a chunk, the shortest thing that is reported; `capacity_rows` is the tape's length."""
        self.environment, self.agent, self.rhythm = environment, agent, rhythm
        self.members, self.envs = members, envs
        self.capacity_rows, self.cycles = capacity_rows, cycles
        self.seed = seed
        self.programs = Programs()

    def init(self) -> TrainState:
        """The state before the first step."""
        return self.programs.compiled("init", self._init)()._replace(tally=fresh_tally(self.members, self.envs))

    def reopened(self, state: TrainState) -> tuple[TrainState, str | None]:
        """A saved state as it is: what was on the device comes back exactly, and there is nothing to warn of."""
        return state, None

    def run(self, state: TrainState) -> Iterator[tuple[TrainState, Report]]:
        """Train for ever, one chunk and one report at a time. A state given in is used up: keep what comes out."""
        while True:
            arrays, tally = state._replace(tally=NO_TALLY), state.tally
            chunk = self.programs.compiled("chunk", self._chunk, arrays, donate=(0,))
            began = time.perf_counter()
            arrays, log = chunk(arrays)
            log = jax.tree.map(np.asarray, log)
            rows = int(arrays.clock.rows)
            tally, episodes = count(tally, log.reward, log.applied, log.ended, rows - log.reward.shape[0])
            state = arrays._replace(tally=tally)
            yield (
                state,
                Report(
                    steps=rows * self.envs,
                    updates=int(arrays.clock.updates),
                    env_steps=tally.env_steps,
                    episodes=episodes,
                    metrics=log.metrics if log.updates else {"epsilon": log.metrics["epsilon"]},
                    seconds=time.perf_counter() - began,
                ),
            )

    def evaluate(self, params: Params, seed: int, episodes: int) -> Float[np.ndarray, "member episodes"]:
        """Greedy scores of whole episodes that start from `seed`'s own draw, never from training's."""
        arguments = (params, jnp.uint32(seed))
        program = self.programs.compiled(
            ("evaluate", episodes), lambda params, seed: self._evaluate(params, seed, episodes), *arguments
        )
        return np.asarray(program(*arguments))

    def close(self) -> None:
        """Nothing to give back."""

    def template(self) -> TrainState:
        """Shapes and dtypes of the state."""
        return jax.eval_shape(self._init)._replace(tally=fresh_tally(self.members, self.envs))

    def _init(self) -> TrainState:
        keys = member_keys(self.seed, self.members)
        shape = (self.envs, self.environment.noise_words)
        words = jax.vmap(lambda key: jax.random.bits(key, shape, jnp.uint32))(streams(keys, START))
        running = jax.vmap(jax.vmap(lambda noise: start(self.environment, noise)))(words)
        observation = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), running.observation)
        state = fresh_state(self.agent, keys, self.envs, self.capacity_rows, observation)
        return state._replace(environment=running)

    def _chunk(self, state: TrainState) -> tuple[TrainState, ChunkLog]:
        keys = member_keys(self.seed, self.members)
        rows, updates = self.rhythm.rows, self.rhythm.updates
        collecting = chunk_words(
            keys,
            COLLECT,
            state.clock.rows,
            (self.cycles, rows, self.envs, self.agent.act_words + self.environment.noise_words),
        )
        learning = chunk_words(keys, LEARN, state.clock.rows, (self.cycles, updates, self.agent.update_words))

        def cycle(
            state: TrainState, noise: tuple[UInt32[Array, "..."], UInt32[Array, "..."]]
        ) -> tuple[TrainState, tuple[Any, ...]]:
            (running, memory), (block, ended) = self._collect(state, noise[0])
            agents, tape, clock, metrics, learned = learn(
                self.agent, self.rhythm, state.agents, state.tape, state.clock, block, noise[1]
            )
            state = state._replace(agents=agents, memory=memory, tape=tape, environment=running, clock=clock)
            return state, (block.reward, ~block.last, ended, metrics, learned)

        before = state.clock
        state, (reward, applied, ended, metrics, learned) = jax.lax.scan(cycle, state, (collecting, learning))
        explored = jax.vmap(self.agent.exploration, in_axes=(0, None))(state.agents, state.clock)
        done = jnp.sum(learned) * updates
        means = jax.tree.map(lambda m: jnp.sum(m, axis=0) / jnp.maximum(done, 1), metrics)

        def flat(x: Array) -> Array:
            return x.reshape(-1, *x.shape[2:])

        return state, ChunkLog(
            reward=flat(reward),
            applied=flat(applied),
            ended=flat(ended),
            metrics=means | {"epsilon": explored},
            updates=state.clock.updates - before.updates,
        )

    def _collect(
        self, state: TrainState, noise: UInt32[Array, "rows member env words"]
    ) -> tuple[tuple[Running, Any], tuple[Step, Bool[Array, "rows member env"]]]:
        act = jax.vmap(jax.vmap(self.agent.act, in_axes=(None, 0, 0, 0, None, 0)), in_axes=(0, 0, 0, 0, None, None))
        env = jnp.arange(self.envs)
        step = jax.vmap(jax.vmap(lambda *args: advance(self.environment, *args)))
        split = self.agent.act_words

        def row(
            carry: tuple[Running, Any], words: UInt32[Array, "member env words"]
        ) -> tuple[tuple[Running, Any], tuple[Step, Bool[Array, "member env"]]]:
            running, memory = carry
            action, after = act(state.agents, running.observation, memory, words[..., :split], state.clock, env)
            moved, transition = step(running, action, words[..., split:])
            written = Step(running.observation, action, transition.reward, transition.terminated, running.over, memory)
            return (moved, renewed(self.agent, after, running.over)), (written, moved.over)

        return jax.lax.scan(row, (state.environment, state.memory), noise)

    def _evaluate(self, params: Params, seed: UInt32[Array, ""], episodes: int) -> Float[Array, "member episodes"]:
        env, agent = self.environment, self.agent
        limit = env.max_episode_steps

        def member(params: Params, key: Array) -> Float[Array, "episodes"]:
            words = jax.random.bits(key, (limit + 1, episodes, env.noise_words), jnp.uint32)
            running = jax.vmap(lambda noise: start(env, noise))(words[0])
            memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (episodes, *jnp.shape(x))), agent.memory())

            def going(carry: tuple[Any, ...]) -> Bool[Array, ""]:
                return ~jnp.all(carry[0].over)

            def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
                running, memory, score, at = carry
                q, memory = jax.vmap(agent.values, in_axes=(None, 0, 0))(params, running.observation, memory)
                action = best_action(q)
                moved, transition = jax.vmap(lambda *args: advance(env, *args))(running, action, words[at])
                score = score + jnp.where(running.over, 0.0, transition.reward)
                return moved._replace(over=running.over | moved.over), memory, score, at + 1

            return jax.lax.while_loop(going, step, (running, memory, jnp.zeros(episodes), jnp.int32(1)))[2]

        keys = jax.vmap(lambda key: jax.random.fold_in(key, seed))(
            streams(member_keys(self.seed, self.members), EVALUATE)
        )
        return jax.vmap(member)(params, keys)
