"""The offline loop: updates from logged rows without any environment steps. `dataset.py` reads the rows."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from qdojo.errors import UsageError
from qdojo.loops.device import DeviceLoop
from qdojo.loops.evaluation import LEAST_BOUND_STEPS, Played, Watch, unwatched
from qdojo.loops.host import HostLoop
from qdojo.loops.learning import MemberMetrics, improve
from qdojo.loops.pausing import Partial, Pause, Stretches, check_partial, never, numbered, plan, regrouped
from qdojo.loops.state import AXES, LEARN, NO_TALLY, TrainState, chunk_words, fresh_state, fresh_tally, keys_of
from qdojo.tape import ring
from qdojo.types import AnyArray, Clock, Params, Report, Step

Sums = dict[str, Float[Array, "cycles member"]]
"""The metrics of each cycle of a chunk, summed over its updates."""


class OfflineLoop:
    """Trains a population on logged rows that all members share. An inner loop evaluates it.

    Cycles, schedules and budgets count rows as the inner loop does, but no environment is stepped. The rows are part
    of the state: each checkpoint holds the whole tape, so resuming does not need the data set.
    """

    name = "offline"

    def __init__(self, inner: DeviceLoop | HostLoop, read: Callable[[], Step]) -> None:
        """`inner` has one env per member; its tape must hold all data, which must have at least `warmup_rows` rows.

        `read` returns one stream of rows `[rows]`; `init` calls it once.
        """
        assert inner.envs == 1, "one stream of rows is one env"
        self.inner, self.read = inner, read
        # The tape is full of data before the first update.
        self.rhythm = inner.rhythm._replace(warmup_rows=0)
        self.programs, self.shards = inner.programs, inner.shards
        # Each device has a copy of the rows, which all members read.
        self.axes = AXES._replace(tape=ring.READERS)
        self._like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), inner.template().tape.like
        )
        over = self.shards.over
        self._all_init, self._all_words = over(self._init, (), self.axes), over(self._words, (None,), 2)
        # A chunk and its sums share one trace, as in `DeviceLoop`.
        self._improve = jax.jit(functools.partial(improve, inner.agent, self.rhythm), inline=True)
        self._stretches = Stretches(inner.cycles, self.rhythm)

    def init(self) -> TrainState:
        """The state before the first update. Raises UsageError if there are too few or too many rows."""
        data = self.read()
        if self.inner.clip_rewards:
            data = data._replace(reward=np.clip(data.reward, -1.0, 1.0))
        rows, least, most = len(data.reward), self.inner.rhythm.warmup_rows, self.inner.capacity_rows
        if rows < least:
            raise UsageError(f"dataset holds {rows:,} rows, but learning needs {least:,}; use a larger one.")
        if rows > most:
            raise UsageError(f"dataset holds {rows:,} rows, but at most {most:,} fit; set capacity_steps={rows}.")
        block = jax.tree.map(lambda leaf: leaf[:, None, None], data)
        state: TrainState = self.programs.compiled("offline init", self._all_init, quickly=True)()
        write = self.shards.over(ring.write, (ring.READERS, None), ring.READERS)
        filled = self.programs.compiled("offline fill", write, state.tape, block, donate=(0,))(state.tape, block)
        tally = fresh_tally(self.inner.members, 1)
        largest = np.full_like(tally.largest_reward, np.abs(data.reward).max())
        return state._replace(tape=filled, tally=tally._replace(largest_reward=largest))

    def reopened(self, state: TrainState) -> tuple[TrainState, str | None]:
        """A saved state, unchanged, and no warning: it contains the rows."""
        return state, None

    def run(self, state: TrainState, pause: Pause = never) -> Iterator[tuple[TrainState, Report | None]]:
        """Train without end; yields the state and a report after each chunk, and within a chunk the state alone
        whenever `pause` asks for it.

        The buffers of the given state are donated: use the yielded states only.
        """
        cycles = self.inner.cycles
        while True:
            arrays, tally, partial = state._replace(tally=NO_TALLY, partial=None), state.tally, state.partial
            sums, cycle, seconds = self._opened(partial)
            first_row = int(arrays.clock.rows) - cycle * self.rhythm.rows
            words = self.programs.compiled("offline words", self._all_words, arrays.clock.rows, quickly=True)(
                np.int32(first_row)
            )
            over = self.shards.over(self._chunk, (self.axes, 1, 2, None, None), (self.axes, 1))
            while cycle < cycles:
                stop = self._stretches.end(cycle, first_row)
                arguments = (arrays, sums, words, np.int32(cycle), np.int32(stop))
                chunk = self.programs.compiled("offline chunk", over, *arguments, donate=(0, 1))
                began = time.perf_counter()
                arrays, sums = jax.block_until_ready(chunk(*arguments))
                took = time.perf_counter() - began
                self._stretches.took(stop - cycle, took)
                cycle, seconds = stop, seconds + took
                if cycle < cycles and pause():
                    yield arrays._replace(tally=tally, partial=self._left(sums, cycle, seconds)), None
            report = self.programs.compiled("offline report", self.shards.over(self._report, (1,), 0), sums)
            metrics = jax.tree.map(np.asarray, self.shards.cut(report(sums), 0))
            state = arrays._replace(tally=tally)
            yield (
                state,
                Report(
                    steps=int(state.clock.rows),
                    updates=int(state.clock.updates),
                    env_steps=tally.env_steps,
                    episodes=[],
                    metrics=metrics,
                    seconds=seconds,
                ),
            )

    def _opened(self, partial: Partial | None) -> tuple[Sums, int, float]:
        """The summed metrics of a chunk's cycles, the number of completed cycles, and the seconds they took."""
        sums = self.programs.compiled("offline sums", self.shards.over(self._blank_sums, (), 1))()
        if not partial:
            return sums, 0, 0.0
        sums = jax.tree.map(jnp.asarray, self.shards.placed(regrouped("sums", partial, sums), 1))
        return sums, int(partial["cycle"]), float(partial["seconds"])

    def _left(self, sums: Sums, cycle: int, seconds: float) -> Partial:
        return numbered("sums", self.shards.cut(sums, 1)) | {
            f"{self.name} plan": plan(self.inner.cycles, self.rhythm),
            "cycle": np.array(cycle),
            "seconds": np.array(seconds),
        }

    def evaluate(
        self, params: Params, seed: int, episodes: int, bound: int = LEAST_BOUND_STEPS, watch: Watch = unwatched
    ) -> Played:
        """Greedy episodes, as the inner loop plays them."""
        return self.inner.evaluate(params, seed, episodes, bound, watch)

    def close(self) -> None:
        """Close the environments of the inner loop, if any."""
        self.inner.close()

    def check_partial(self, partial: Partial) -> None:
        """Raises UsageError if this is not an unfinished chunk of this loop with these settings."""
        check_partial(partial, self.name, self.inner.cycles, self.rhythm)

    def template(self) -> TrainState:
        """Shapes and dtypes of the state."""
        state = self.shards.described(jax.eval_shape(self._all_init), self.axes)
        return state._replace(tally=fresh_tally(self.inner.members, 1))

    def _init(self) -> TrainState:
        inner, observation, action = self.inner, self._like.observation, self._like.action
        keys = keys_of(inner.seed, self.shards.numbers(), inner.distinct_seeds)
        numbers = self.shards.own(inner.numbers)
        state = fresh_state(inner.agent, keys, 1, inner.capacity_rows, observation, action.shape, numbers)
        # All members read a single copy of the rows, stored as member 0.
        shared = state.tape._replace(words=state.tape.words[:, :1], member=jnp.zeros_like(state.tape.member))
        return state._replace(tape=shared, environment=())

    def _words(self, first_row: Int[Array, ""]) -> UInt32[Array, "..."]:
        """Random words for a whole chunk, `[cycles, updates, member, words]`."""
        inner = self.inner
        shape = (inner.cycles, self.rhythm.updates, inner.agent.update_words)
        return chunk_words(keys_of(inner.seed, self.shards.numbers(), inner.distinct_seeds), LEARN, first_row, shape)

    def _chunk(
        self,
        state: TrainState,
        sums: Sums,
        noise: UInt32[Array, "..."],
        start: Int[AnyArray, ""],
        stop: Int[AnyArray, ""],
    ) -> tuple[TrainState, Sums]:
        """Run the cycles from `start` to `stop` of a chunk with this `noise`, and enter their metrics into `sums`."""

        def cycle(i: Int[Array, ""], carry: tuple[Any, Clock, Any]) -> tuple[Any, Clock, Any]:
            agents, clock, sums = carry
            agents, clock, one, _ = self._improve(agents, state.tape, clock, noise[i])
            return agents, clock, jax.tree.map(lambda every, now: every.at[i].set(now), sums, one)

        agents, clock, sums = jax.lax.fori_loop(start, stop, cycle, (state.agents, state.clock, sums))
        return state._replace(agents=agents, clock=clock), sums

    def _blank_sums(self) -> Sums:
        inner, state = self.inner, jax.eval_shape(self._init)
        words = jax.ShapeDtypeStruct((self.rhythm.updates, self.shards.each, inner.agent.update_words), jnp.uint32)
        one = jax.eval_shape(self._improve, state.agents, state.tape, state.clock, words)[2]
        return jax.tree.map(lambda leaf: jnp.zeros((inner.cycles, *leaf.shape), leaf.dtype), one)

    def _report(self, sums: Sums) -> MemberMetrics:
        """The metrics averaged over a chunk. Offline training has no exploration to report."""
        return jax.tree.map(lambda m: jnp.sum(m, axis=0) / (self.inner.cycles * self.rhythm.updates), sums)
