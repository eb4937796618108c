"""The offline loop: all updates, from logged rows, and no step. Not for reading these: see `dataset.py`."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from qdojo.errors import UsageError
from qdojo.loops.device import DeviceLoop
from qdojo.loops.evaluation import LEAST_BOUND_STEPS, Played, Watch, unwatched
from qdojo.loops.host import HostLoop
from qdojo.loops.learning import MemberMetrics, improve
from qdojo.loops.state import LEARN, NO_TALLY, TrainState, chunk_words, fresh_state, fresh_tally, member_keys
from qdojo.tape import ring
from qdojo.types import Clock, Params, Report, Step


class OfflineLoop:
    """Trains a population on logged rows that all members share. Another loop evaluates it.

    A cycle counts as many rows as in that loop, and so do schedules and budgets, but no environment is stepped. The
    rows are part of the state: each checkpoint holds all the tape, and to go on needs no data set.
    """

    name = "offline"

    def __init__(self, inner: DeviceLoop | HostLoop, read: Callable[[], Step]) -> None:
        """`inner` has one env a member, a tape that the data fit into, and as many `warmup_rows` as they must have.

        `read` gives one stream of rows `[rows]`; it is asked once, by `init`.
        """
        assert inner.envs == 1, "one stream of rows is one env"
        self.inner, self.read = inner, read
        # The tape is whole before the first update.
        self.rhythm = inner.rhythm._replace(warmup_rows=0)
        self.programs = inner.programs

    def init(self) -> TrainState:
        """The state before the first update. Raises UsageError where the data are too few or too many."""
        data = self.read()
        rows, least, most = len(data.reward), self.inner.rhythm.warmup_rows, self.inner.capacity_rows
        if rows < least:
            raise UsageError(f"dataset holds {rows:,} rows, but learning needs {least:,}; use a larger one.")
        if rows > most:
            raise UsageError(f"dataset holds {rows:,} rows, but the replay memory {most:,}; set capacity_steps={rows}.")
        block = jax.tree.map(lambda leaf: leaf[:, None, None], data)
        state: TrainState = self.programs.compiled("offline init", self._init)()
        filled = self.programs.compiled("offline fill", ring.write, state.tape, block, donate=(0,))(state.tape, block)
        return state._replace(tape=filled, tally=fresh_tally(self.inner.members, 1))

    def reopened(self, state: TrainState) -> tuple[TrainState, str | None]:
        """A saved state as it is: the rows are in it, and there is nothing to warn of."""
        return state, None

    def run(self, state: TrainState) -> Iterator[tuple[TrainState, Report]]:
        """Train for ever, one chunk and one report at a time. A state given in is used up: keep what comes out."""
        while True:
            arrays, tally = state._replace(tally=NO_TALLY), state.tally
            chunk = self.programs.compiled("offline chunk", self._chunk, arrays, donate=(0,))
            began = time.perf_counter()
            arrays, metrics = chunk(arrays)
            metrics = jax.tree.map(np.asarray, metrics)
            state = arrays._replace(tally=tally)
            yield (
                state,
                Report(
                    steps=int(state.clock.rows),
                    updates=int(state.clock.updates),
                    env_steps=tally.env_steps,
                    episodes=[],
                    metrics=metrics,
                    seconds=time.perf_counter() - began,
                ),
            )

    def evaluate(
        self, params: Params, seed: int, episodes: int, bound: int = LEAST_BOUND_STEPS, watch: Watch = unwatched
    ) -> Played:
        """Greedy episodes, as the inner loop plays them."""
        return self.inner.evaluate(params, seed, episodes, bound, watch)

    def close(self) -> None:
        """Close what the inner loop may have opened."""
        self.inner.close()

    def template(self) -> TrainState:
        """Shapes and dtypes of the state."""
        return jax.eval_shape(self._init)._replace(tally=fresh_tally(self.inner.members, 1))

    def _init(self) -> TrainState:
        inner, like = self.inner, self.inner.template().tape.like
        observation, action = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (like.observation, like.action)
        )
        keys = member_keys(inner.seed, inner.members)
        state = fresh_state(inner.agent, keys, 1, inner.capacity_rows, observation, action.shape)
        # One copy of the rows, that of member 0, whoever reads.
        shared = state.tape._replace(
            words=state.tape.words[:, :1], member=jnp.zeros(inner.members, state.tape.member.dtype)
        )
        return state._replace(tape=shared, environment=())

    def _chunk(self, state: TrainState) -> tuple[TrainState, MemberMetrics]:
        inner, rhythm = self.inner, self.rhythm
        shape = (inner.cycles, rhythm.updates, inner.agent.update_words)
        noise = chunk_words(member_keys(inner.seed, inner.members), LEARN, state.clock.rows, shape)

        def cycle(
            carry: tuple[Any, Clock], words: UInt32[Array, "updates member words"]
        ) -> tuple[tuple[Any, Clock], MemberMetrics]:
            agents, clock = carry
            agents, clock, sums, _ = improve(inner.agent, rhythm, agents, state.tape, clock, words)
            return (agents, clock), sums

        (agents, clock), sums = jax.lax.scan(cycle, (state.agents, state.clock), noise)
        means = jax.tree.map(lambda m: jnp.sum(m, axis=0) / (inner.cycles * rhythm.updates), sums)
        explored = jax.vmap(inner.agent.exploration, in_axes=(0, None))(agents, clock)
        return state._replace(agents=agents, clock=clock), means | {"epsilon": explored}
