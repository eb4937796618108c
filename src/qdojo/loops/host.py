"""The host loop: Gymnasium environments step in Python, the agent is compiled. `loops/device.py` runs JAX ones."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

from qdojo.loops.evaluation import LEAST_BOUND_STEPS, Played, Watch, unwatched
from qdojo.loops.host_chunk import ROW_NAMES, SUM, Rows, StopWatch, Work, stacked, without_open_episodes
from qdojo.loops.host_evaluation import HostEvaluator, Vector, remembered, split
from qdojo.loops.learning import Rhythm, improve
from qdojo.loops.packing import Packed, Packing
from qdojo.loops.pausing import Partial, Pause, check_partial, never, numbered, plan, regrouped
from qdojo.loops.sharding import Shards
from qdojo.loops.state import (
    AXES,
    COLLECT,
    LEARN,
    Programs,
    TrainState,
    chunk_words,
    count,
    fresh_memory,
    fresh_state,
    fresh_tally,
    keys_of,
    member_seeds,
    renewed,
)
from qdojo.tape import ring
from qdojo.types import Agent, Clock, Memory, Observation, Params, Report, Step

OVERLAPPED_UPDATES = 16
"""If a learning phase has at least this many updates, the agents from before it collect the next rows while it runs.
Shorter phases end before a second thread would start."""


class HostLoop:
    """Trains a population on Gymnasium environments: `members * envs` copies of one environment, stepped together."""

    name = "host"

    def __init__(
        self,
        open_vector: Callable[[list[int], int], Vector],
        observation: Any,
        agent: Agent,
        rhythm: Rhythm,
        *,
        seed: int,
        members: int,
        envs: int,
        capacity_rows: int,
        cycles: int,
        evaluation_envs: int,
        action_shape: tuple[int, ...] = (),
        numbers: Any = None,
        distinct_seeds: int | None = None,
        clip_rewards: bool = False,
        shards: int = 1,
        tape_on_host: bool = False,
    ) -> None:
        """`open_vector(member_seeds, envs)` opens environments. A chunk has `cycles` cycles; one report covers a chunk.

        `observation` has the shape and dtype of each array of one observation. `numbers` are the `agent.init` arguments
        of the members, `[member]`, if they differ; else None. With `clip_rewards`, agents learn from rewards clipped
        to [-1, 1]; scores use unclipped rewards. `shards` is the largest number of devices that share the members:
        they learn on all of them and act on the first one. With `tape_on_host` and one shard, the tape is in the
        host's memory instead of the device's.
        """
        self.open_vector, self.observation, self.action_shape = open_vector, observation, action_shape
        self.agent, self.rhythm, self.numbers = agent, rhythm, numbers
        self.members, self.envs = members, envs
        self.capacity_rows, self.cycles = capacity_rows, cycles
        self.seed, self.distinct_seeds, self.clip_rewards = seed, distinct_seeds, clip_rewards
        self.programs, self.shards, self.tape_on_host = Programs(), Shards(members, shards), tape_on_host
        self.axes = AXES._replace(memory=None, environment=None)
        self.evaluator = HostEvaluator(
            open_vector,
            agent,
            seed,
            members,
            evaluation_envs,
            action_shape,
            programs=self.programs,
            distinct_seeds=distinct_seeds,
        )
        over = self.shards.over
        self._all_init = over(self._init, (), AXES)
        self._packing = Packing(jax.eval_shape(self._all_init).agents)
        self._all_pack, self._all_unpack = over(self._packing.pack, (0,), 0), over(self._packing.unpack, (0,), 0)
        self._vector: Any = None  # a Vector, from `init` or `reopened` to `close`

    def init(self) -> TrainState:
        """The state before the first step."""
        self._vector = self.open_vector(member_seeds(self.seed, self.members, self.distinct_seeds), self.envs)
        self._vector.reset()
        state: TrainState = self.programs.compiled("init", self._all_init, quickly=True)()
        return state._replace(
            memory=self.shards.gathered(state.memory),
            tape=self._tape(state),
            tally=fresh_tally(self.members, self.envs),
            environment=self._vector.state(),
        )

    def reopened(self, state: TrainState) -> tuple[TrainState, str | None]:
        """A saved state with its environments restored, and a warning if they could not all be restored exactly.

        An environment that cannot be rebuilt begins its next episode, and its newest row starts no transition.
        """
        self._vector = self.open_vector(member_seeds(self.seed, self.members, self.distinct_seeds), self.envs)
        lost = self._vector.restore(state.environment)
        if not lost:
            return state, None
        member, env = np.divmod(np.array(lost), self.envs)
        state = without_open_episodes(state, member, env)
        warning = (
            f"{len(lost)} of {self.members * self.envs} environments could not be rebuilt from seed and actions and "
            "begin a new episode: this is a statistical resume, not an exact one."
        )
        over = np.isin(np.arange(self.members * self.envs), lost).reshape(self.members, self.envs)
        memory = renewed(self.agent, state.memory, over)
        return state._replace(memory=memory, tape=self.shards.placed(state.tape, ring.AXES)), warning

    def run(self, state: TrainState, pause: Pause = never) -> Iterator[tuple[TrainState, Report | None]]:
        """Train without end; yields the state and a report after each chunk, and within a chunk the state alone
        whenever `pause` asks for it.

        The buffers of the given state are donated: use the yielded states only.
        """
        with ThreadPoolExecutor(1) as thread:
            while True:
                work = self._opened(state, thread)
                yield from ((paused, None) for paused in self._work(work, pause))
                rows = jax.tree.map(stacked, *work.rows)
                tally, episodes = count(work.before.tally, rows.reward, rows.applied, rows.ended, work.first_row)
                state = self._state(work)._replace(tally=tally)
                metrics = self._means(state, work.sums, int(np.sum(work.learned)))
                yield (
                    state,
                    Report(
                        steps=int(state.clock.rows) * self.envs,
                        updates=int(state.clock.updates),
                        env_steps=tally.env_steps,
                        episodes=episodes,
                        metrics=metrics,
                        seconds=work.clock.seconds(),
                    ),
                )

    def evaluate(
        self, params: Params, seed: int, episodes: int, bound: int = LEAST_BOUND_STEPS, watch: Watch = unwatched
    ) -> Played:
        """Greedy episodes: see `HostEvaluator.evaluate`."""
        return self.evaluator.evaluate(self.shards.gathered(params), seed, episodes, bound, watch)

    def close(self) -> None:
        """Close the training environments."""
        if self._vector is not None:
            self._vector.close()
            self._vector = None

    def check_partial(self, partial: Partial) -> None:
        """Raises UsageError if this is not an unfinished chunk of this loop with these settings."""
        check_partial(partial, self.name, self.cycles, self.rhythm)

    def template(self) -> TrainState:
        """Shapes and dtypes of the state. The environment's part is None, because it grows with its episodes."""
        state = self.shards.described(jax.eval_shape(self._all_init), AXES)
        memory = jax.eval_shape(lambda: fresh_memory(self.agent, self.members, self.envs))
        return state._replace(memory=memory, tape=self._tape(state), tally=fresh_tally(self.members, self.envs))

    def _tape(self, state: TrainState) -> ring.Tape:
        """The empty tape of a new state."""
        return ring.moved_to_host(state.tape, self.capacity_rows) if self.tape_on_host else state.tape

    def _init(self) -> TrainState:
        keys = keys_of(self.seed, self.shards.numbers(), self.distinct_seeds)
        shapes = self.observation, self.action_shape
        rows = 0 if self.tape_on_host else self.capacity_rows
        return fresh_state(self.agent, keys, self.envs, rows, *shapes, self.shards.own(self.numbers))

    def _opened(self, state: TrainState, thread: ThreadPoolExecutor) -> "Work":
        """A new chunk, or the rest of an unfinished one."""
        pack = self.programs.jitted("pack", self._all_pack)
        partial: Partial = state.partial or {}
        cycle = int(partial.get("cycle", 0))
        agents = acting = pack(state.agents)
        if "acting 0" in partial:
            stored = self.shards.placed(regrouped("acting", partial, state.agents), 0)
            acting = pack(jax.tree.map(jnp.asarray, stored))
        rows = [Rows(*row) for row in zip(*(partial[name] for name in ROW_NAMES), strict=True)] if partial else []
        sums = [
            {
                name.removeprefix(SUM): self.shards.filled(each[i], 0)
                for name, each in partial.items()
                if name.startswith(SUM)
            }
            for i in range(cycle)
        ]
        block = []
        if "block 0" in partial:
            stacked = regrouped("block", partial, state.tape.like)
            block = [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(len(stacked.reward))]
        clock = StopWatch(self.programs, float(partial.get("seconds", 0.0)))
        first_row = int(state.clock.rows) - cycle * self.rhythm.rows
        learned = list(partial.get("learned", ()))
        tape = ring.for_programs(state.tape) if self.tape_on_host else state.tape
        latest = (agents, tape, state.clock)
        updates = np.asarray(partial.get("updates", state.clock.updates))
        playing = (acting, self.shards.gathered(acting))
        return Work(
            state, first_row, updates, cycle, *playing, latest, state.memory, rows, block, sums, learned, thread, clock
        )

    def _work(self, work: "Work", pause: Pause) -> Iterator[TrainState]:
        """Run the remaining cycles of a chunk; yields the state whenever `pause` asks for it."""
        first_row = np.array(work.first_row, np.int32)
        all_words = self.shards.over(self._words, (None,), (2, 2))
        words = self.programs.compiled("words", all_words, first_row, quickly=True)(first_row)
        act_words, learn_words = (np.asarray(each) for each in words)
        act_words = self.shards.cut(act_words, 2)
        learn = self.shards.over(self._learn, (0, ring.AXES, None, 1, 1), (0, ring.AXES, None, 0, None))
        overlapping = self.rhythm.updates >= OVERLAPPED_UPDATES
        # Do not donate the agents if collection overlaps with learning: they are still acting.
        donated = (1,) if overlapping else (0, 1)
        for cycle in range(work.cycle, self.cycles):
            for row in range(len(work.block), self.rhythm.rows):
                self._step(work, act_words[cycle, row])
                if pause():
                    work.clock.stop()
                    yield self._paused(work)
                    work.clock.start()
            work.settle()
            block = self.shards.filled(jax.tree.map(stacked, *work.block), 1)
            packed, tape, clock = work.latest
            if self.tape_on_host:
                tape, block = ring.write(tape, block), None
            arguments: tuple[Any, ...] = (packed, tape, clock, block, learn_words[cycle])
            program = self.programs.compiled("learn", learn, *arguments, donate=donated)
            if overlapping:
                self._act_with(work, work.latest[0])
                work.learning = work.thread.submit(program, *arguments)
            else:
                work.learns(program(*arguments))
                self._act_with(work, work.latest[0])
            work.block, work.cycle = [], cycle + 1
        work.settle()

    def _act_with(self, work: "Work", packed: Packed) -> None:
        work.acting, work.gathered = packed, self.shards.gathered(packed)

    def _state(self, work: "Work") -> TrainState:
        """The state of the run, with the tally from before the chunk."""
        packed, tape, clock = work.latest
        agents = self.programs.jitted("unpack", self._all_unpack)(packed)
        tape, environment = ring.for_storage(tape), self._vector.state()
        return work.before._replace(
            agents=agents, memory=work.memory, tape=tape, clock=clock, environment=environment, partial=None
        )

    def _paused(self, work: "Work") -> TrainState:
        work.settle()
        partial = {f"{self.name} plan": plan(self.cycles, self.rhythm), "cycle": np.array(work.cycle)}
        partial["updates"], partial["seconds"] = work.updates, np.array(work.clock.seconds())
        partial |= dict(zip(ROW_NAMES, jax.tree.map(stacked, *work.rows), strict=True))
        if work.cycle:
            sums = self.shards.cut(jax.tree.map(stacked, *work.sums), 1)
            partial |= {SUM + name: each for name, each in sums.items()}
            partial["learned"] = np.stack(work.learned)
        if work.block:
            partial |= numbered("block", jax.tree.map(stacked, *work.block))
        if work.acting is not work.latest[0]:
            unpack = self.programs.jitted("unpack", self._all_unpack)
            partial |= numbered("acting", self.shards.cut(unpack(work.acting), 0))
        return self._state(work)._replace(partial=partial)

    def _words(self, rows: Int[Array, ""]) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
        keys = keys_of(self.seed, self.shards.numbers(), self.distinct_seeds)
        collecting = (self.cycles, self.rhythm.rows, self.envs, self.agent.act_words)
        learning = (self.cycles, self.rhythm.updates, self.agent.update_words)
        return chunk_words(keys, COLLECT, rows, collecting), chunk_words(keys, LEARN, rows, learning)

    def _learn(self, packed: Packed, tape: Any, clock: Clock, block: Step | None, noise: Any) -> Any:
        tape = tape if block is None else ring.write(tape, block)
        agents, *rest = improve(self.agent, self.rhythm, self._packing.unpack(packed), tape, clock, noise)
        return self._packing.pack(agents), tape, *rest

    def _act(
        self, packed: Packed, observation: Observation, memory: Memory, noise: Array, clock: Clock
    ) -> tuple[Array, Memory]:
        agents = self._packing.unpack(packed)
        member = jax.vmap(self.agent.act, in_axes=(None, 0, 0, 0, None, 0))
        every = jax.vmap(member, in_axes=(0, 0, 0, 0, None, None))
        return every(agents, observation, memory, noise, clock, jnp.arange(self.envs))

    def _step(self, work: "Work", noise: np.ndarray) -> None:
        """Act once in each environment and append the row."""
        vector, shape = self._vector, (self.members, self.envs)
        # Schedules use the position at the start of the cycle.
        position = np.array(work.first_row + work.cycle * self.rhythm.rows, np.int32)
        now = Clock(position, work.updates)  # type: ignore[arg-type]
        seen, carried = split(vector.observation, shape), work.memory
        chosen, thought = self.programs.jitted("act", self._act)(work.gathered, seen, carried, noise, now)
        action = np.asarray(chosen)
        after = vector.step(action.reshape(-1, *self.action_shape))
        last = ~after.applied.reshape(shape)
        work.memory = remembered(self.agent, carried, thought, after, shape)
        reward, terminated = after.reward.reshape(shape), after.terminated.reshape(shape)
        learned = np.clip(reward, -1.0, 1.0) if self.clip_rewards else reward
        work.block.append(Step(seen, action, learned, after.final.reshape(shape), last, self.agent.stored(carried)))
        work.rows.append(Rows(reward, ~last, terminated | after.truncated.reshape(shape)))

    def _means(self, state: TrainState, sums: list[Any], learned: int) -> dict[str, np.ndarray]:
        explore = self.shards.over(jax.vmap(self.agent.exploration, in_axes=(0, None)), (0, None), 0)
        explored = self.programs.jitted("exploration", explore)(state.agents, state.clock)
        means = {"epsilon": self.shards.cut(np.asarray(explored), 0)}
        if learned:
            total = self.shards.cut(jax.tree.map(lambda *x: np.sum(x, axis=0), *sums), 0)
            means |= {name: value / (learned * self.rhythm.updates) for name, value in total.items()}
        return means
