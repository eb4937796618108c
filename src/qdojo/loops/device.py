"""The device loop: a JAX environment, acting, tape and updates in one compiled scan, chunk after chunk."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from qdojo.envs.contract import NativeEnvironment, Running, advance, start
from qdojo.loops.evaluation import LEAST_BOUND_STEPS, Played, Watch, unwatched
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

FIRST_STRETCH_STEPS = 128
STRETCH_SECONDS = 0.25
"""Steps of an evaluation that are taken in one call: doubled until a call takes about that long, so that a stop is
answered and progress is shown."""


class ChunkLog(NamedTuple):
    """What a compiled chunk tells the host: rewards and ends, row by row, and the mean metrics of its updates."""

    reward: Float[Array, "rows member env"]
    applied: Bool[Array, "rows member env"]
    ended: Bool[Array, "rows member env"]
    metrics: MemberMetrics
    updates: Int[Array, ""]


class _Rollout(NamedTuple):
    """Evaluation episodes under way, with a leading member axis outside `vmap`."""

    running: Running
    memory: Any
    score: Float[Array, "episodes"]
    at: Int[Array, ""]
    """The step that comes next, counted from 1."""


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

    def evaluate(
        self, params: Params, seed: int, episodes: int, bound: int = LEAST_BOUND_STEPS, watch: Watch = unwatched
    ) -> Played:
        """Greedy episodes of at most `bound` steps that start from `seed`'s own draw, never from training's.

        The steps are taken in stretches that double until one takes long enough, and `watch` hears of each: how they
        are cut changes no bit.
        """
        begin = self.programs.compiled(
            ("evaluation", episodes), lambda seed: self._evaluation(seed, episodes), jnp.uint32(seed)
        )
        rollout, words = begin(jnp.uint32(seed))
        arguments = (params, rollout, words, jnp.int32(0))
        play = self.programs.compiled(("play", episodes), self._play, *arguments, donate=(1,))
        end = min(bound, self.environment.max_episode_steps)
        step, stretch = 0, FIRST_STRETCH_STEPS
        while True:
            began = time.perf_counter()
            step = min(step + stretch, end)
            rollout = play(params, rollout, words, jnp.int32(step))
            over = np.asarray(rollout.running.over)
            watch(int(over.sum()), step)
            if over.all() or step == end:
                return Played(np.asarray(rollout.score), ~over)
            if time.perf_counter() - began < STRETCH_SECONDS:
                stretch *= 2

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

    def _evaluation(self, seed: UInt32[Array, ""], episodes: int) -> tuple["_Rollout", UInt32[Array, "..."]]:
        """Episodes at their start, and the words of all their steps, `[member, time, episodes, words]`."""
        env = self.environment

        def member(key: Array) -> tuple[_Rollout, UInt32[Array, "time episodes words"]]:
            words = jax.random.bits(key, (env.max_episode_steps + 1, episodes, env.noise_words), jnp.uint32)
            running = jax.vmap(lambda noise: start(env, noise))(words[0])
            memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (episodes, *jnp.shape(x))), self.agent.memory())
            return _Rollout(running, memory, jnp.zeros(episodes), jnp.int32(1)), words

        keys = jax.vmap(lambda key: jax.random.fold_in(key, seed))(
            streams(member_keys(self.seed, self.members), EVALUATE)
        )
        return jax.vmap(member)(keys)

    def _play(
        self, params: Params, rollout: "_Rollout", words: UInt32[Array, "..."], until: Int[Array, ""]
    ) -> "_Rollout":
        """The episodes after `until` steps, or when all are over."""
        env, agent = self.environment, self.agent

        def member(params: Params, rollout: _Rollout, words: UInt32[Array, "time episodes words"]) -> _Rollout:
            def going(now: _Rollout) -> Bool[Array, ""]:
                return ~jnp.all(now.running.over) & (now.at <= until)

            def step(now: _Rollout) -> _Rollout:
                running = now.running
                q, memory = jax.vmap(agent.values, in_axes=(None, 0, 0))(params, running.observation, now.memory)
                action = best_action(q)
                moved, transition = jax.vmap(lambda *args: advance(env, *args))(running, action, words[now.at])
                score = now.score + jnp.where(running.over, 0.0, transition.reward)
                return _Rollout(moved._replace(over=running.over | moved.over), memory, score, now.at + 1)

            return jax.lax.while_loop(going, step, rollout)

        return jax.vmap(member)(params, rollout, words)
