"""The host loop: Gymnasium environments step in Python, the same agent acts and learns. JAX ones: `loops/device.py`."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from qdojo.loops.evaluation import LEAST_BOUND_STEPS, Played, Watch, unwatched
from qdojo.loops.learning import Rhythm, learn
from qdojo.loops.packing import Packed, Packing
from qdojo.loops.state import (
    COLLECT,
    EVALUATE,
    LEARN,
    Programs,
    TrainState,
    best_action,
    chunk_words,
    count,
    fresh_memory,
    fresh_state,
    fresh_tally,
    member_keys,
    renewed,
    where,
)
from qdojo.tape import ring
from qdojo.types import Agent, AnyArray, Clock, Memory, Observation, Params, Report, Step

OVERLAPPED_UPDATES = 16
"""Updates of a phase from which on the next rows are collected while it is computed, by the agents from before it.
Shorter phases end sooner than another thread is awake."""


class Vector(Protocol):
    """What the loop asks of a vector of environments; rows are members, and within them envs."""

    observation: Any

    def reset(self) -> Any: ...
    def step(self, actions: np.ndarray) -> Any: ...
    def state(self) -> dict[str, np.ndarray]: ...
    def restore(self, state: Any) -> list[int]: ...
    def close(self) -> None: ...


class Rows(NamedTuple):
    """What the tally needs of the rows of a chunk."""

    reward: Float[np.ndarray, "rows member env"]
    applied: Bool[np.ndarray, "rows member env"]
    ended: Bool[np.ndarray, "rows member env"]


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
    ) -> None:
        """`open_vector(member_seeds, envs)` opens environments; `cycles` make a chunk, the shortest thing reported.

        `observation` has the shape and dtype of each array of one observation.
        """
        self.open_vector, self.observation, self.action_shape = open_vector, observation, action_shape
        self.agent, self.rhythm = agent, rhythm
        self.members, self.envs = members, envs
        self.capacity_rows, self.cycles, self.seed = capacity_rows, cycles, seed
        self.evaluation_envs = evaluation_envs
        self.programs = Programs()
        self._packing = Packing(jax.eval_shape(self._init).agents)
        self._vector: Any = None  # a Vector, from `init` or `reopened` to `close`

    def init(self) -> TrainState:
        """The state before the first step."""
        self._vector = self.open_vector([self.seed + k for k in range(self.members)], self.envs)
        self._vector.reset()
        state: TrainState = self.programs.compiled("init", self._init)()
        return state._replace(tally=fresh_tally(self.members, self.envs), environment=self._vector.state())

    def reopened(self, state: TrainState) -> tuple[TrainState, str | None]:
        """A saved state with its environments where they were, and a warning where that could not be exactly so.

        An environment that cannot be rebuilt begins its next episode, and the row it left open starts no transition.
        """
        self._vector = self.open_vector([self.seed + k for k in range(self.members)], self.envs)
        lost = self._vector.restore(state.environment)
        if not lost:
            return state, None
        member, env = np.divmod(np.array(lost), self.envs)
        tape = ring.cut(state.tape, member, env)
        score, length = state.tally.score.copy(), state.tally.length.copy()
        score[member, env], length[member, env] = 0.0, 0
        warning = (
            f"{len(lost)} of {self.members * self.envs} environments could not be rebuilt from seed and actions and "
            "begin a new episode: this is a statistical resume, not an exact one."
        )
        over = np.isin(np.arange(self.members * self.envs), lost).reshape(self.members, self.envs)
        memory = renewed(self.agent, state.memory, over)
        tally = state.tally._replace(score=score, length=length)
        return state._replace(tape=tape, memory=memory, tally=tally), warning

    def run(self, state: TrainState) -> Iterator[tuple[TrainState, Report]]:
        """Train for ever, one chunk and one report at a time. A state given in is used up: keep what comes out."""
        while True:
            began, compiling = time.perf_counter(), self.programs.compile_seconds
            first_row = int(state.clock.rows)
            state, rows, metrics = self._chunk(state)
            tally, episodes = count(state.tally, rows.reward, rows.applied, rows.ended, first_row)
            state = state._replace(tally=tally, environment=self._vector.state())
            yield (
                state,
                Report(
                    steps=int(state.clock.rows) * self.envs,
                    updates=int(state.clock.updates),
                    env_steps=tally.env_steps,
                    episodes=episodes,
                    metrics=metrics,
                    seconds=time.perf_counter() - began - (self.programs.compile_seconds - compiling),
                ),
            )

    def evaluate(
        self, params: Params, seed: int, episodes: int, bound: int = LEAST_BOUND_STEPS, watch: Watch = unwatched
    ) -> Played:
        """Greedy episodes of at most `bound` steps on copies of their own, whose seeds come from `seed`, not from
        training; `watch` hears how far they are."""
        seeds = [evaluation_seed(self.seed + k, seed) for k in range(self.members)]
        vector = self.open_vector(seeds, self.evaluation_envs)
        try:
            return self._rollout(vector, params, episodes, bound, watch)
        finally:
            vector.close()

    def close(self) -> None:
        """Close the training environments."""
        if self._vector is not None:
            self._vector.close()
            self._vector = None

    def template(self) -> TrainState:
        """Shapes and dtypes of the state; the environment's part is None, for it grows with its episodes."""
        return jax.eval_shape(self._init)._replace(tally=fresh_tally(self.members, self.envs))

    def _init(self) -> TrainState:
        keys = member_keys(self.seed, self.members)
        return fresh_state(self.agent, keys, self.envs, self.capacity_rows, self.observation, self.action_shape)

    def _chunk(self, state: TrainState) -> tuple[TrainState, Rows, dict[str, np.ndarray]]:
        act_words, learn_words = self.programs.compiled("words", self._words, state.clock.rows)(state.clock.rows)
        act_words, learn_words = np.asarray(act_words), np.asarray(learn_words)
        first_row = int(state.clock.rows)
        agents = self.programs.jitted("pack", self._packing.pack)(state.agents)
        memory, tape, clock = state.memory, state.tape, state.clock
        latest = agents, tape, clock
        collected, sums, learned = [], [], []

        def outcome(agents: Any, tape: Any, clock: Clock, metrics: Any, ready: Any) -> tuple[Any, Any, Clock]:
            sums.append(metrics)
            learned.append(ready)
            return agents, tape, clock

        overlapping = self.rhythm.updates >= OVERLAPPED_UPDATES
        learning = None
        with ThreadPoolExecutor(1) as thread:
            for cycle in range(self.cycles):
                position = np.array(first_row + cycle * self.rhythm.rows, np.int32)
                now = clock._replace(rows=position)  # type: ignore[arg-type]
                memory, block, rows = self._collect(agents, memory, now, act_words[cycle])
                collected.append(rows)
                if learning is not None:
                    latest = outcome(*learning.result())
                arguments = (*latest, block, learn_words[cycle])
                # The agents that act while others are learned must stay.
                donated = (1,) if overlapping else (0, 1)
                program = self.programs.compiled("learn", self._learn, *arguments, donate=donated)
                if overlapping:
                    learning = thread.submit(program, *arguments)
                else:
                    latest = outcome(*program(*arguments))
                agents = latest[0]
            if learning is not None:
                latest = outcome(*learning.result())
        packed, tape, clock = latest
        agents = self.programs.jitted("unpack", self._packing.unpack)(packed)
        state = state._replace(agents=agents, memory=memory, tape=tape, clock=clock)
        means = self._means(state, sums, int(np.sum(learned)))
        return state, jax.tree.map(lambda *x: np.concatenate(x), *collected), means

    def _words(self, rows: Int[Array, ""]) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
        keys = member_keys(self.seed, self.members)
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

    def _collect(self, agents: Packed, memory: Any, clock: Clock, words: np.ndarray) -> tuple[Any, Step, Rows]:
        vector, shape = self._vector, (self.members, self.envs)
        act = self.programs.jitted("act", self._act)
        steps, kept = [], []
        for noise in words:
            seen, carried = _split(vector.observation, shape), memory
            chosen, memory = act(agents, seen, carried, noise, clock)
            action = np.asarray(chosen)
            after = vector.step(action.reshape(-1, *self.action_shape))
            last = ~after.applied.reshape(shape)
            memory = self._remembered(carried, memory, after)
            reward, terminated = after.reward.reshape(shape), after.terminated.reshape(shape)
            steps.append(Step(seen, action, reward, terminated, last, carried))
            kept.append(Rows(reward, ~last, terminated | after.truncated.reshape(shape)))
        return memory, jax.tree.map(_stacked, *steps), jax.tree.map(_stacked, *kept)

    def _means(self, state: TrainState, sums: list[Any], learned: int) -> dict[str, np.ndarray]:
        explored = self.programs.jitted("exploration", jax.vmap(self.agent.exploration, in_axes=(0, None)))
        means = {"epsilon": np.asarray(explored(state.agents, state.clock))}
        if learned:
            total = jax.tree.map(lambda *x: np.sum(x, axis=0), *sums)
            means |= {name: value / (learned * self.rhythm.updates) for name, value in total.items()}
        return means

    def _rollout(self, vector: Any, params: Params, episodes: int, bound: int, watch: Watch) -> Played:
        """Greedy episodes, `episodes` a member, dealt to its copies beforehand.

        The first to finish would be the shortest, so the share of each copy is fixed before the first step. No single
        copy can be restarted in mid-episode, so one that was cut waits until none is playing; then all start anew.
        """
        greedy = self.programs.jitted("greedy", self._greedy)
        shape = (self.members, self.evaluation_envs)
        deal = _Deal(shape, episodes)
        steps = 0
        while deal.left():
            running, length = np.zeros(shape), np.zeros(shape, int)
            playing = deal.left_of_each()
            memory = fresh_memory(self.agent, *shape)
            shown = vector.reset()
            while playing.any():
                action, thought = greedy(params, _split(shown, shape), memory)
                after = vector.step(np.asarray(action).reshape(-1, *self.action_shape))
                memory = self._remembered(memory, thought, after)
                shown = after.observation
                running += after.reward.reshape(shape)
                length += after.applied.reshape(shape)
                ended = (after.terminated | after.truncated).reshape(shape)
                over_long = (length >= bound) & ~ended
                for member, copy in np.argwhere((ended | over_long) & playing).tolist():
                    deal.finish(member, copy, float(running[member, copy]), bool(over_long[member, copy]))
                    playing[member, copy] = ended[member, copy] and deal.left_of_each()[member, copy]
                running[ended], length[ended] = 0.0, 0
                steps += 1
                watch(deal.finished, steps)
        return Played(deal.scores, deal.cut)

    def _remembered(self, before: Memory, after: Memory, moved: Any) -> Memory:
        """What each copy carries on: nothing yet where an episode begins, and in a pause what it had before."""
        if moved.applied.all():
            return after
        begun, applied = (x.reshape(self.members, -1) for x in (moved.begun, moved.applied))
        return renewed(self.agent, where(applied, after, before), begun)

    def _greedy(self, params: Params, observation: Observation, memory: Memory) -> tuple[Array, Memory]:
        member = jax.vmap(self.agent.values, in_axes=(None, 0, 0))
        q, memory = jax.vmap(member)(params, observation, memory)
        return best_action(q), memory


class _Deal:
    """Episodes dealt to the copies of each member, and what came of them."""

    def __init__(self, shape: tuple[int, int], episodes: int) -> None:
        members, self._copies = shape
        self._share = np.array([len(range(copy, episodes, self._copies)) for copy in range(self._copies)])
        self._done = np.zeros(shape, int)
        self.scores = np.zeros((members, episodes))
        self.cut = np.zeros((members, episodes), bool)

    @property
    def finished(self) -> int:
        """Episodes of all members that are over."""
        return int(self._done.sum())

    def left(self) -> bool:
        """Whether any copy has episodes to play."""
        return self.finished < self.scores.size

    def left_of_each(self) -> Bool[np.ndarray, "member copy"]:
        """Which copies have episodes to play."""
        return self._done < self._share

    def finish(self, member: int, copy: int, score: float, cut: bool) -> None:
        """Note one copy's episode."""
        episode = copy + self._done[member, copy] * self._copies
        self.scores[member, episode], self.cut[member, episode] = score, cut
        self._done[member, copy] += 1


def _split(observation: Any, shape: tuple[int, int]) -> Any:
    """Rows of a vector as `[member, env]`."""
    if isinstance(observation, np.ndarray):
        return observation.reshape(*shape, *observation.shape[1:])
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), observation)


def _stacked(*rows: AnyArray) -> np.ndarray:
    return np.stack(rows)


def evaluation_seed(member_seed: int, seed: int) -> int:
    """The seed of a member's evaluation copies: apart from those of training, and from other evaluations."""
    return int(np.random.SeedSequence([member_seed, EVALUATE, seed]).generate_state(1)[0])
