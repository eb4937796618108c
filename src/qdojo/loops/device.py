"""The device loop: a JAX environment, acting, the tape and updates in one compiled program per chunk."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from qdojo.envs.contract import NativeEnvironment, Running, advance, start
from qdojo.loops.blocks import OWN, Blocks, parted, whole
from qdojo.loops.device_evaluation import DeviceEvaluator
from qdojo.loops.evaluation import LEAST_BOUND_STEPS, Played, Watch, unwatched
from qdojo.loops.learning import MemberMetrics, Rhythm, improve
from qdojo.loops.pausing import Partial, Pause, Stretches, check_partial, never, numbered, plan, regrouped
from qdojo.loops.sharding import Shards
from qdojo.loops.state import (
    AXES,
    COLLECT,
    LEARN,
    START,
    Programs,
    TrainState,
    by_rows,
    chunk_words,
    count,
    fresh_state,
    fresh_tally,
    keys_of,
    renewed,
    streams,
)
from qdojo.tape import ring
from qdojo.types import Agent, AnyArray, Clock, Params, Report, Step


class ChunkLog(NamedTuple):
    """What a compiled chunk returns to the host, per cycle: rewards, episode ends, and metrics summed over updates."""

    reward: Float[AnyArray, "*cycles rows member env"]
    applied: Bool[AnyArray, "*cycles rows member env"]
    ended: Bool[AnyArray, "*cycles rows member env"]
    metrics: dict[str, Float[Array, "*cycles member"]]
    learned: Bool[Array, "*cycles"]


RANDOM = (2, 2)
"""Member axes of a chunk's random words, for acting and for learning."""


class DeviceLoop:
    """Trains a population on an environment written in JAX. `loops/host.py` handles all other environments."""

    name = "device"
    log_axes = ChunkLog(2, 2, 2, 1, None)  # type: ignore[arg-type]

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
        numbers: Any = None,
        distinct_seeds: int | None = None,
        clip_rewards: bool = False,
        shards: int = 1,
        at_once: int | None = None,
    ) -> None:
        """A chunk has `cycles` cycles, and one report covers a chunk; `capacity_rows` is the length of the tape.

        `numbers` are the `agent.init` arguments of the members, `[member]`, if they differ; else None.
        `clip_rewards` is as for `HostLoop`; `shards` is the largest number of devices that share the members, and
        `at_once` that of the members of a shard that learn at once: by default all.
        """
        self.environment, self.agent, self.rhythm = environment, agent, rhythm
        self.members, self.envs = members, envs
        self.capacity_rows, self.cycles, self.clip_rewards = capacity_rows, cycles, clip_rewards
        self.seed, self.distinct_seeds, self.numbers = seed, distinct_seeds, numbers
        self.programs, self.shards, self.axes = Programs(), Shards(members, shards), AXES
        self.blocks = Blocks(self.shards, at_once or members, self.programs)
        # `jit` lets the chunk and its log share one trace; with `inline=True` the program stays the same.
        self._traced_cycle = jax.jit(self._cycle, inline=True)
        self.evaluator = DeviceEvaluator(environment, agent, seed, self.shards, self.programs, distinct_seeds)
        over = self.shards.over
        self._all_init, self._all_words = over(self._init, (), AXES), over(self._words, (None,), RANDOM)
        changed = 1, OWN, None, self.log_axes
        self._all_chunk = over(self._chunk, (*changed, RANDOM, None, None), changed)
        self._all_report = over(self._report, (0, None, self.log_axes), 0)
        self._stretches = Stretches(cycles, rhythm)

    def init(self) -> TrainState:
        """The state before the first step."""
        return self.programs.compiled("init", self._all_init, quickly=True)()._replace(
            tally=fresh_tally(self.members, self.envs)
        )

    def reopened(self, state: TrainState) -> tuple[TrainState, str | None]:
        """A saved state, unchanged, and no warning: everything on the device is restored exactly."""
        return state, None

    def run(self, state: TrainState, pause: Pause = never) -> Iterator[tuple[TrainState, Report | None]]:
        """Train without end; yields the state and a report after each chunk, and within a chunk the state alone
        whenever `pause` asks for it.

        The buffers of the given state are donated: use the yielded states only.
        """
        tally, partial, rows = state.tally, state.partial, state.tape.words
        blocks, shared = self.blocks.states(state)
        while True:
            logs, cycle, seconds = self._opened(partial)
            first_row = int(shared.clock.rows) - cycle * self.rhythm.rows
            every_word = self.programs.compiled("words", self._all_words, shared.clock.rows, quickly=True)
            words = self.blocks.cut("words", every_word(np.int32(first_row)), RANDOM)
            while cycle < self.cycles:
                stop = self._stretches.end(cycle, first_row)
                began = time.perf_counter()
                for i in range(self.blocks.count):
                    arguments = (rows, blocks[i], shared, logs[i], words[i], np.int32(cycle), np.int32(stop))
                    chunk = self.programs.compiled("chunk", self._all_chunk, *arguments, donate=(0, 1))
                    rows, blocks[i], after, logs[i] = chunk(*arguments)
                shared = jax.block_until_ready(after)
                took = time.perf_counter() - began
                self._stretches.took(stop - cycle, took)
                cycle, seconds = stop, seconds + took
                if cycle < self.cycles and pause():
                    partial = self._left(logs, cycle, seconds)
                    state = self.blocks.state(rows, blocks, shared)
                    yield state._replace(tally=tally, partial=partial), None
                    self.blocks.free(state)
            state, log = self.blocks.state(rows, blocks, shared), self._whole_log(logs)
            metrics = self.programs.compiled("report", self._all_report, state.agents, state.clock, log)
            means = jax.tree.map(np.asarray, self.shards.cut(metrics(state.agents, state.clock, log), 0))
            reward, applied, ended = map(by_rows, self.shards.cut(log, self.log_axes)[:3])
            tally, episodes = count(tally, reward, applied, ended, first_row)
            report = Report(
                steps=int(state.clock.rows) * self.envs,
                updates=int(state.clock.updates),
                env_steps=tally.env_steps,
                episodes=episodes,
                metrics=means if np.asarray(log.learned).any() else {"epsilon": means["epsilon"]},
                seconds=seconds,
            )
            partial = None
            yield state._replace(tally=tally), report
            self.blocks.free(state)

    def _whole_log(self, logs: list[ChunkLog]) -> ChunkLog:
        return self.blocks.joined("log", logs, self.log_axes)

    def _opened(self, partial: Partial | None) -> tuple[list[ChunkLog], int, float]:
        """The log of a chunk, of each block, the number of its completed cycles, and the seconds they took."""
        log = self.programs.compiled("log", self.shards.over(self._blank_log, (), self.log_axes))()
        cycle, seconds = 0, 0.0
        if partial:
            log = self.shards.placed(regrouped("log", partial, log), self.log_axes)
            log = jax.tree.map(jnp.asarray, log)
            cycle, seconds = int(partial["cycle"]), float(partial["seconds"])
        return self.blocks.cut("log", log, self.log_axes), cycle, seconds

    def _left(self, logs: list[ChunkLog], cycle: int, seconds: float) -> Partial:
        return numbered("log", self.shards.cut(self._whole_log(logs), self.log_axes)) | {
            f"{self.name} plan": plan(self.cycles, self.rhythm),
            "cycle": np.array(cycle),
            "seconds": np.array(seconds),
        }

    def evaluate(
        self, params: Params, seed: int, episodes: int, bound: int = LEAST_BOUND_STEPS, watch: Watch = unwatched
    ) -> Played:
        """Greedy episodes: see `DeviceEvaluator.evaluate`."""
        return self.evaluator.evaluate(params, seed, episodes, bound, watch)

    def close(self) -> None:
        """Does nothing: this loop holds no resources."""

    def check_partial(self, partial: Partial) -> None:
        """Raises UsageError if this is not an unfinished chunk of this loop with these settings."""
        check_partial(partial, self.name, self.cycles, self.rhythm)

    def template(self) -> TrainState:
        """Shapes and dtypes of the state."""
        state = self.shards.described(jax.eval_shape(self._all_init), AXES)
        return state._replace(tally=fresh_tally(self.members, self.envs))

    def _init(self) -> TrainState:
        keys, numbers = keys_of(self.seed, self.shards.numbers(), self.distinct_seeds), self.shards.own(self.numbers)
        shape = (self.envs, self.environment.noise_words)
        words = jax.vmap(lambda key: jax.random.bits(key, shape, jnp.uint32))(streams(keys, START))
        running = jax.vmap(jax.vmap(lambda noise: start(self.environment, noise)))(words)
        observation = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), running.observation)
        state = fresh_state(self.agent, keys, self.envs, self.capacity_rows, observation, numbers=numbers)
        return state._replace(environment=running)

    def _words(self, first_row: Int[Array, ""]) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
        """Random words for acting and for learning in a whole chunk, `[cycles, ...]` each."""
        keys = keys_of(self.seed, self.shards.numbers(), self.distinct_seeds)
        acting = (self.cycles, self.rhythm.rows, self.envs, self.agent.act_words + self.environment.noise_words)
        learning = (self.cycles, self.rhythm.updates, self.agent.update_words)
        return chunk_words(keys, COLLECT, first_row, acting), chunk_words(keys, LEARN, first_row, learning)

    def _chunk(
        self,
        rows: UInt32[Array, "..."],
        own: Any,
        shared: Any,
        log: ChunkLog,
        words: tuple[UInt32[Array, "..."], UInt32[Array, "..."]],
        start: Int[AnyArray, ""],
        stop: Int[AnyArray, ""],
    ) -> tuple[UInt32[Array, "..."], Any, Any, ChunkLog]:
        """Run the cycles from `start` to `stop` of a chunk with these `words`, for one block, and enter them into its
        log. `rows` are the words of the whole tape, and `own` and `shared` the rest of the state.

        The words are drawn once per chunk. If they were drawn here, every stretch of the chunk would draw all of them.
        """
        acting, learning = words

        def cycle(i: Int[Array, ""], carry: tuple[TrainState, ChunkLog]) -> tuple[TrainState, ChunkLog]:
            state, log = carry
            state, row = self._traced_cycle(state, acting[i], learning[i])
            return state, jax.tree.map(lambda every, one: every.at[i].set(one), log, row)

        state, log = jax.lax.fori_loop(start, stop, cycle, (whole(rows, own, shared), log))
        return state.tape.words, *parted(state), log

    def _cycle(
        self, state: TrainState, acting: UInt32[Array, "..."], learning: UInt32[Array, "..."]
    ) -> tuple[TrainState, ChunkLog]:
        (running, memory), (block, ended) = self._collect(state, acting)
        kept = block._replace(reward=jnp.clip(block.reward, -1.0, 1.0)) if self.clip_rewards else block
        tape = ring.write(state.tape, kept)
        agents, clock, metrics, learned = improve(self.agent, self.rhythm, state.agents, tape, state.clock, learning)
        state = state._replace(agents=agents, memory=memory, tape=tape, environment=running, clock=clock)
        return state, ChunkLog(block.reward, ~block.last, ended, metrics, learned)

    def _blank_log(self) -> ChunkLog:
        words = self.agent.act_words + self.environment.noise_words
        acting = jax.ShapeDtypeStruct((self.rhythm.rows, self.shards.each, self.envs, words), jnp.uint32)
        learning = jax.ShapeDtypeStruct((self.rhythm.updates, self.shards.each, self.agent.update_words), jnp.uint32)
        _, one = jax.eval_shape(self._traced_cycle, jax.eval_shape(self._init), acting, learning)
        return jax.tree.map(lambda leaf: jnp.zeros((self.cycles, *leaf.shape), leaf.dtype), one)

    def _report(self, agents: Any, clock: Clock, log: ChunkLog) -> MemberMetrics:
        """The metrics averaged over a chunk's updates, and epsilon at its end."""
        done = jnp.sum(log.learned) * self.rhythm.updates
        means = jax.tree.map(lambda m: jnp.sum(m, axis=0) / jnp.maximum(done, 1), log.metrics)
        return means | {"epsilon": jax.vmap(self.agent.exploration, in_axes=(0, None))(agents, clock)}

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
            paid, terminated, stored = transition.reward, transition.terminated, self.agent.stored(memory)
            written = Step(running.observation, action, paid, terminated, running.over, stored)
            return (moved, renewed(self.agent, after, running.over)), (written, moved.over)

        return jax.lax.scan(row, (state.environment, state.memory), noise)
