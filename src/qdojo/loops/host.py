"""The host loop: Gymnasium environments step in Python, the same agent acts and learns. JAX ones: `loops/device.py`."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from qdojo.loops.evaluation import LEAST_BOUND_STEPS, Played, Watch, unwatched
from qdojo.loops.host_evaluation import HostEvaluator, Vector, remembered, split
from qdojo.loops.learning import Rhythm, learn
from qdojo.loops.packing import Packed, Packing
from qdojo.loops.pausing import Partial, Pause, check_partial, never, numbered, plan, regrouped
from qdojo.loops.state import (
    COLLECT,
    LEARN,
    Programs,
    TrainState,
    chunk_words,
    count,
    fresh_state,
    fresh_tally,
    member_keys,
    member_seeds,
    renewed,
)
from qdojo.tape import ring
from qdojo.types import Agent, AnyArray, Clock, Memory, Observation, Params, Report, Step

OVERLAPPED_UPDATES = 16
"""Updates of a phase from which on the next rows are collected while it is computed, by the agents from before it.
Shorter phases end sooner than another thread is awake."""


class Rows(NamedTuple):
    """What the tally needs of the rows of a chunk."""

    reward: Float[np.ndarray, "rows member env"]
    applied: Bool[np.ndarray, "rows member env"]
    ended: Bool[np.ndarray, "rows member env"]


ROW_NAMES = ("row reward", "row applied", "row ended")
SUM = "sum "
"""Names in the `partial` of this loop's state."""


class HostLoop:
    """Trains a population on Gymnasium environments: `members * envs` copies of one, stepped together."""

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
    ) -> None:
        """`open_vector(member_seeds, envs)` opens environments; `cycles` make a chunk, the shortest thing reported.

        `observation` has the shape and dtype of each array of one observation; `numbers` are those of each member,
        `[member]`, for `agent.init`, or None.
        """
        self.open_vector, self.observation, self.action_shape = open_vector, observation, action_shape
        self.agent, self.rhythm, self.numbers = agent, rhythm, numbers
        self.members, self.envs = members, envs
        self.capacity_rows, self.cycles = capacity_rows, cycles
        self.seed, self.distinct_seeds = seed, distinct_seeds
        self.programs = Programs()
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
        self._packing = Packing(jax.eval_shape(self._init).agents)
        self._vector: Any = None  # a Vector, from `init` or `reopened` to `close`

    def init(self) -> TrainState:
        """The state before the first step."""
        self._vector = self.open_vector(member_seeds(self.seed, self.members, self.distinct_seeds), self.envs)
        self._vector.reset()
        state: TrainState = self.programs.compiled("init", self._init)()
        return state._replace(tally=fresh_tally(self.members, self.envs), environment=self._vector.state())

    def reopened(self, state: TrainState) -> tuple[TrainState, str | None]:
        """A saved state with its environments where they were, and a warning where that could not be exactly so.

        An environment that cannot be rebuilt begins its next episode, and the row it left open starts no transition.
        """
        self._vector = self.open_vector(member_seeds(self.seed, self.members, self.distinct_seeds), self.envs)
        lost = self._vector.restore(state.environment)
        if not lost:
            return state, None
        member, env = np.divmod(np.array(lost), self.envs)
        state = _without_open_episodes(state, member, env)
        warning = (
            f"{len(lost)} of {self.members * self.envs} environments could not be rebuilt from seed and actions and "
            "begin a new episode: this is a statistical resume, not an exact one."
        )
        over = np.isin(np.arange(self.members * self.envs), lost).reshape(self.members, self.envs)
        memory = renewed(self.agent, state.memory, over)
        return state._replace(memory=memory), warning

    def run(self, state: TrainState, pause: Pause = never) -> Iterator[tuple[TrainState, Report | None]]:
        """Train for ever, one chunk and one report at a time; within a chunk, where `pause` says so, the state alone.

        A state given in is used up: keep what comes out.
        """
        with ThreadPoolExecutor(1) as thread:
            while True:
                work = self._opened(state, thread)
                yield from ((paused, None) for paused in self._work(work, pause))
                rows = jax.tree.map(_stacked, *work.rows)
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
        return self.evaluator.evaluate(params, seed, episodes, bound, watch)

    def close(self) -> None:
        """Close the training environments."""
        if self._vector is not None:
            self._vector.close()
            self._vector = None

    def check_partial(self, partial: Partial) -> None:
        """Raises UsageError where this is no unfinished chunk of this loop, with these settings."""
        check_partial(partial, self.name, self.cycles, self.rhythm)

    def template(self) -> TrainState:
        """Shapes and dtypes of the state; the environment's part is None, for it grows with its episodes."""
        return jax.eval_shape(self._init)._replace(tally=fresh_tally(self.members, self.envs))

    def _init(self) -> TrainState:
        keys = member_keys(self.seed, self.members, self.distinct_seeds)
        shapes = self.observation, self.action_shape
        return fresh_state(self.agent, keys, self.envs, self.capacity_rows, *shapes, self.numbers)

    def _opened(self, state: TrainState, thread: ThreadPoolExecutor) -> "_Work":
        """A chunk about to begin, or what is left of one."""
        pack = self.programs.jitted("pack", self._packing.pack)
        partial: Partial = state.partial or {}
        cycle = int(partial.get("cycle", 0))
        agents = acting = pack(state.agents)
        if "acting 0" in partial:
            acting = pack(jax.tree.map(jnp.asarray, regrouped("acting", partial, state.agents)))
        rows = [Rows(*row) for row in zip(*(partial[name] for name in ROW_NAMES), strict=True)] if partial else []
        sums = [
            {name.removeprefix(SUM): each[i] for name, each in partial.items() if name.startswith(SUM)}
            for i in range(cycle)
        ]
        block = []
        if "block 0" in partial:
            stacked = regrouped("block", partial, state.tape.like)
            block = [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(len(stacked.reward))]
        clock = _StopWatch(self.programs, float(partial.get("seconds", 0.0)))
        first_row = int(state.clock.rows) - cycle * self.rhythm.rows
        learned = list(partial.get("learned", ()))
        latest = (agents, state.tape, state.clock)
        updates = np.asarray(partial.get("updates", state.clock.updates))
        return _Work(
            state, first_row, updates, cycle, acting, latest, state.memory, rows, block, sums, learned, thread, clock
        )

    def _work(self, work: "_Work", pause: Pause) -> Iterator[TrainState]:
        """The cycles of a chunk that are left; yields the state wherever it is left in between."""
        first_row = np.array(work.first_row, np.int32)
        words = self.programs.compiled("words", self._words, first_row)(first_row)
        act_words, learn_words = (np.asarray(each) for each in words)
        overlapping = self.rhythm.updates >= OVERLAPPED_UPDATES
        # Do not donate where the next rows are collected meanwhile: these agents are still acting.
        donated = (1,) if overlapping else (0, 1)
        for cycle in range(work.cycle, self.cycles):
            for row in range(len(work.block), self.rhythm.rows):
                self._step(work, act_words[cycle, row])
                if pause():
                    work.clock.stop()
                    yield self._paused(work)
                    work.clock.start()
            work.settle()
            arguments: tuple[Any, ...] = (*work.latest, jax.tree.map(_stacked, *work.block), learn_words[cycle])
            program = self.programs.compiled("learn", self._learn, *arguments, donate=donated)
            if overlapping:
                work.acting = work.latest[0]
                work.learning = work.thread.submit(program, *arguments)
            else:
                work.learns(program(*arguments))
                work.acting = work.latest[0]
            work.block, work.cycle = [], cycle + 1
        work.settle()

    def _state(self, work: "_Work") -> TrainState:
        """Where the run is, but for the tally."""
        packed, tape, clock = work.latest
        agents = self.programs.jitted("unpack", self._packing.unpack)(packed)
        return work.before._replace(
            agents=agents, memory=work.memory, tape=tape, clock=clock, environment=self._vector.state(), partial=None
        )

    def _paused(self, work: "_Work") -> TrainState:
        work.settle()
        partial = {f"{self.name} plan": plan(self.cycles, self.rhythm), "cycle": np.array(work.cycle)}
        partial["updates"], partial["seconds"] = work.updates, np.array(work.clock.seconds())
        partial |= dict(zip(ROW_NAMES, jax.tree.map(_stacked, *work.rows), strict=True))
        if work.cycle:
            partial |= {SUM + name: each for name, each in jax.tree.map(_stacked, *work.sums).items()}
            partial["learned"] = np.stack(work.learned)
        if work.block:
            partial |= numbered("block", jax.tree.map(_stacked, *work.block))
        if work.acting is not work.latest[0]:
            unpack = self.programs.jitted("unpack", self._packing.unpack)
            partial |= numbered("acting", unpack(work.acting))
        return self._state(work)._replace(partial=partial)

    def _words(self, rows: Int[Array, ""]) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
        keys = member_keys(self.seed, self.members, self.distinct_seeds)
        collecting = (self.cycles, self.rhythm.rows, self.envs, self.agent.act_words)
        learning = (self.cycles, self.rhythm.updates, self.agent.update_words)
        return chunk_words(keys, COLLECT, rows, collecting), chunk_words(keys, LEARN, rows, learning)

    def _learn(self, packed: Packed, tape: Any, clock: Clock, block: Step, noise: Any) -> Any:
        agents, *rest = learn(self.agent, self.rhythm, self._packing.unpack(packed), tape, clock, block, noise)
        return self._packing.pack(agents), *rest

    def _act(
        self, packed: Packed, observation: Observation, memory: Memory, noise: Array, clock: Clock
    ) -> tuple[Array, Memory]:
        agents = self._packing.unpack(packed)
        member = jax.vmap(self.agent.act, in_axes=(None, 0, 0, 0, None, 0))
        every = jax.vmap(member, in_axes=(0, 0, 0, 0, None, None))
        return every(agents, observation, memory, noise, clock, jnp.arange(self.envs))

    def _step(self, work: "_Work", noise: np.ndarray) -> None:
        """Act once in each environment, and add the row."""
        vector, shape = self._vector, (self.members, self.envs)
        # Schedules look at the row where a cycle begins.
        position = np.array(work.first_row + work.cycle * self.rhythm.rows, np.int32)
        now = Clock(position, work.updates)  # type: ignore[arg-type]
        seen, carried = split(vector.observation, shape), work.memory
        chosen, thought = self.programs.jitted("act", self._act)(work.acting, seen, carried, noise, now)
        action = np.asarray(chosen)
        after = vector.step(action.reshape(-1, *self.action_shape))
        last = ~after.applied.reshape(shape)
        work.memory = remembered(self.agent, carried, thought, after, shape)
        reward, terminated = after.reward.reshape(shape), after.terminated.reshape(shape)
        work.block.append(Step(seen, action, reward, terminated, last, self.agent.stored(carried)))
        work.rows.append(Rows(reward, ~last, terminated | after.truncated.reshape(shape)))

    def _means(self, state: TrainState, sums: list[Any], learned: int) -> dict[str, np.ndarray]:
        explored = self.programs.jitted("exploration", jax.vmap(self.agent.exploration, in_axes=(0, None)))
        means = {"epsilon": np.asarray(explored(state.agents, state.clock))}
        if learned:
            total = jax.tree.map(lambda *x: np.sum(x, axis=0), *sums)
            means |= {name: value / (learned * self.rhythm.updates) for name, value in total.items()}
        return means


class _StopWatch:
    """Seconds of work on a chunk, without those of compiling."""

    def __init__(self, programs: Programs, before: float) -> None:
        self._programs, self._before = programs, before
        self.start()

    def start(self) -> None:
        """Go on."""
        self._began: float | None = time.perf_counter() - self._programs.compile_seconds

    def stop(self) -> None:
        """What comes now is no work."""
        self._before, self._began = self.seconds(), None

    def seconds(self) -> float:
        """So far."""
        now = time.perf_counter() - self._programs.compile_seconds
        return self._before + (0.0 if self._began is None else now - self._began)


@dataclass
class _Work:
    """A chunk under way."""

    before: TrainState
    """As it was when the chunk, or the rest of it, began."""
    first_row: int
    updates: Int[np.ndarray, ""]
    """Updates before the chunk."""
    cycle: int
    acting: Packed
    """The agents that collect rows; where learning overlaps, those from before it."""
    latest: tuple[Packed, Any, Clock]
    """Agents, tape and clock after the last update that is done."""
    memory: Memory
    rows: list[Rows]
    block: list[Step]
    """The rows of this cycle so far."""
    sums: list[dict[str, Any]]
    learned: list[Any]
    thread: ThreadPoolExecutor
    clock: _StopWatch
    learning: "Future[Any] | None" = None

    def learns(self, outcome: Any) -> None:
        """Take in what a learning phase made."""
        packed, tape, clock, metrics, ready = outcome
        self.latest = packed, tape, clock
        self.sums.append(metrics)
        self.learned.append(ready)

    def settle(self) -> None:
        """Wait for a learning phase that goes on beside."""
        if self.learning is not None:
            self.learns(self.learning.result())
            self.learning = None


def _without_open_episodes(
    state: TrainState, member: Int[np.ndarray, "lost"], env: Int[np.ndarray, "lost"]
) -> TrainState:
    """The state where the newest row of these envs starts no transition, and what was half played is not counted."""
    tally = state.tally._replace(
        score=state.tally.score.copy(), length=state.tally.length.copy(), env_steps=state.tally.env_steps.copy()
    )
    partial = dict(state.partial or {})
    at = list(zip(member.tolist(), env.tolist(), strict=True))
    if not partial:
        tally.score[member, env], tally.length[member, env] = 0.0, 0
        return state._replace(tape=ring.cut(state.tape, member, env), tally=tally)
    reward, applied, ended = (partial[name].copy() for name in ROW_NAMES)
    for m, e in at:
        ends = np.flatnonzero(ended[:, m, e])
        if not ends.size:
            tally.score[m, e], tally.length[m, e] = 0.0, 0
        open_from = int(ends[-1]) + 1 if ends.size else 0
        tally.env_steps[m] += int(applied[open_from:, m, e].sum())
        reward[open_from:, m, e], applied[open_from:, m, e] = 0.0, False
    partial |= dict(zip(ROW_NAMES, (reward, applied, ended), strict=True))
    if "block 0" not in partial:
        return state._replace(tape=ring.cut(state.tape, member, env), tally=tally, partial=partial)
    block = regrouped("block", partial, state.tape.like)
    last = np.array(block.last)
    last[-1, member, env] = True
    return state._replace(tally=tally, partial=partial | numbered("block", block._replace(last=last)))


def _stacked(*rows: AnyArray) -> np.ndarray:
    return np.stack(rows)
