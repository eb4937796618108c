"""The training state as one record, and the functions on it that the loops share."""

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped, UInt32

from qdojo.loops.evaluation import Plays
from qdojo.tape import ring
from qdojo.types import Agent, AnyArray, Clock, Episode


class Tally(NamedTuple):
    """Counts kept on the host: score and length of the open episode per env, and totals per member."""

    score: Float[np.ndarray, "member env"]
    length: Int[np.ndarray, "member env"]
    episodes: Int[np.ndarray, "member"]
    env_steps: Int[np.ndarray, "member"]
    longest: Int[np.ndarray, "member"]
    """Env steps of the longest finished episode, from which the bound of evaluation episodes is derived."""
    largest_reward: Float[np.ndarray, "member"]
    """The largest absolute reward seen, which limits plausible Q-values."""


class TrainState(NamedTuple):
    """The complete state of training. Saved, loaded in another process and continued, it gives the same bits."""

    agents: PyTree[Shaped[Array, "member ..."]]
    memory: PyTree[Shaped[Array, "member env ..."]]
    tape: Any
    environment: PyTree[Any]
    clock: Clock
    tally: Tally
    partial: Any = None
    """Data of a chunk that was interrupted between two reports, else None: see `pausing.py`."""


AXES = TrainState(
    agents=0,
    memory=0,
    tape=ring.AXES,
    environment=0,
    clock=None,  # type: ignore[arg-type]
    tally=None,  # type: ignore[arg-type]
)
"""Member axes of the state in compiled code, as `Shards` reads them."""
NO_TALLY: Any = None
"""Replaces the tally in compiled code, because the tally is kept on the host."""


def member_seeds(seed: int, members: int, distinct: int | None = None) -> list[int]:
    """One seed per member: member k has `seed + k`, or with `distinct`, `seed + k % distinct`."""
    return [seed + member % (distinct or members) for member in range(members)]


def member_keys(seed: int, members: int, distinct: int | None = None) -> Array:
    """One key per member, equal to that of a single agent with the member's seed: see `member_seeds`."""
    return keys_of(seed, jnp.arange(members, dtype=jnp.uint32), distinct)


def keys_of(seed: int, numbers: UInt32[Array, "member"], distinct: int | None = None) -> Array:
    """The keys of the members with these numbers."""
    return jax.vmap(jax.random.key)(seed + (numbers if distinct is None else numbers % distinct))


def streams(keys: Array, name: int) -> Array:
    """Keys of an independent stream of random numbers for each member."""
    return jax.vmap(lambda key: jax.random.fold_in(key, name))(keys)


INIT, COLLECT, LEARN, START, EVALUATE = range(5)
"""Names of the streams."""


def chunk_words(keys: Array, stream: int, rows: Int[Array, ""], shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Random words for a whole chunk, `[cycles, count, member, ...]`, drawn in one call per member.

    They depend only on the member's seed and the number of rows before the chunk, so no generator state is saved.
    """

    def draw(key: Array) -> UInt32[Array, "..."]:
        return jax.random.bits(jax.random.fold_in(key, rows), shape, jnp.uint32)

    return jax.vmap(draw, out_axes=2)(streams(keys, stream))


def fresh_state(
    agent: Agent,
    keys: Array,
    envs: int,
    capacity_rows: int,
    observation: Any,
    action_shape: tuple[int, ...] = (),
    numbers: Any = None,
) -> TrainState:
    """New members and an empty tape; the environment and the tally are None.

    `observation` has the shape and dtype of each of its arrays. `numbers` are the `agent.init` arguments of the members
    if they differ, else None.
    """
    members = keys.shape[0]
    agents = jax.vmap(agent.init)(streams(keys, INIT), numbers)
    return TrainState(
        agents=agents,
        memory=fresh_memory(agent, members, envs),
        tape=ring.empty(capacity_rows, members, envs, observation, action_shape, stored_shapes(agent)),
        environment=None,
        clock=Clock(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)),
        tally=NO_TALLY,
    )


def stored_shapes(agent: Agent) -> PyTree[Any]:
    """Shapes and dtypes of the part of the agent's memory that each row stores."""
    return jax.eval_shape(lambda: agent.stored(agent.memory()))


def fresh_memory(player: Plays, members: int, envs: int) -> PyTree[Shaped[Array, "member env ..."]]:
    """The player's memory at the start of an episode, for every member and env."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (members, envs, *jnp.shape(x))), player.memory())


def best_action(q: Float[Array, "*q"]) -> Int[Array, "*branches"]:
    """The action with the highest Q-value, in each branch of a MultiDiscrete action."""
    return jnp.argmax(q, axis=-1).astype(jnp.int32)


def renewed(
    player: Plays, memory: PyTree[Shaped[Array, "member env ..."]], over: Bool[AnyArray, "member env"]
) -> PyTree[Shaped[Array, "member env ..."]]:
    """The memory after a row: reset where the row ended an episode."""
    return where(over, player.memory(), memory)


def where(condition: Bool[AnyArray, "*rows"], then: PyTree[Array], otherwise: PyTree[Array]) -> PyTree[Array]:
    """`jnp.where` over trees, with a condition per row."""

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (jnp.ndim(b) - condition.ndim)), a, b)

    return jax.tree.map(choose, then, otherwise)


def fresh_tally(members: int, envs: int) -> Tally:
    """A tally with all counts at zero."""
    return Tally(
        score=np.zeros((members, envs)),
        length=np.zeros((members, envs), np.int64),
        episodes=np.zeros(members, np.int64),
        env_steps=np.zeros(members, np.int64),
        longest=np.zeros(members, np.int64),
        largest_reward=np.zeros(members),
    )


def by_rows(x: Shaped[AnyArray, "cycles rows member env"]) -> Shaped[np.ndarray, "all_rows member env"]:
    """The rows of a chunk's cycles as one axis, on the host."""
    return np.asarray(x).reshape(-1, *x.shape[2:])


def count(
    tally: Tally,
    reward: Float[np.ndarray, "rows member env"],
    applied: Bool[np.ndarray, "rows member env"],
    ended: Bool[np.ndarray, "rows member env"],
    first_row: int,
) -> tuple[Tally, list[Episode]]:
    """Count a chunk of rows: returns the new tally and the episodes that ended in the chunk, in order of time."""
    score, length, episodes = tally.score.copy(), tally.length.copy(), tally.episodes.copy()
    longest = tally.longest.copy()
    finished = []
    total = np.cumsum(reward, axis=0, dtype=np.float64)
    taken = np.cumsum(applied, axis=0)
    counted_score, counted_length = np.zeros_like(score), np.zeros_like(length)
    envs = score.shape[1]
    for row, member, env in np.argwhere(ended):
        at = member, env
        episodes[member] += 1
        finished.append(
            Episode(
                member=int(member),
                episode=int(episodes[member]),
                steps=(first_row + int(row) + 1) * envs,
                score=float(score[at] + total[row][at] - counted_score[at]),
                length=int(length[at] + taken[row][at] - counted_length[at]),
            )
        )
        longest[member] = max(longest[member], finished[-1].length)
        score[at], length[at] = 0.0, 0
        counted_score[at], counted_length[at] = total[row][at], taken[row][at]
    return (
        Tally(
            score=score + total[-1] - counted_score,
            length=length + taken[-1] - counted_length,
            episodes=episodes,
            env_steps=tally.env_steps + taken[-1].sum(axis=1),
            longest=longest,
            largest_reward=np.maximum(tally.largest_reward, np.abs(reward).max(axis=(0, 2), initial=0.0)),
        ),
        finished,
    )


LEVEL = "xla_backend_optimization_level"
QUICK: dict[str, str | bool] = {LEVEL: "1"}
"""Options of XLA for programs that are compiled quickly; a level in XLA_FLAGS goes before it."""


class Programs:
    """A cache of compiled functions by name; `compile_seconds` is the time spent on compiling them."""

    def __init__(self) -> None:
        self.compile_seconds = 0.0
        self._made: dict[Any, Callable[..., Any]] = {}

    def compiled(
        self, name: Any, function: Callable[..., Any], *args: Any, donate: tuple[int, ...] = (), quickly: bool = False
    ) -> Any:
        """`function` compiled once for these arguments; `donate` lists the indices of donated arguments.

        `quickly` optimises less: half the time to compile for programs that mostly draw random numbers, and the same
        bits at about the same speed.
        """
        if name not in self._made:
            began = time.perf_counter()
            options = QUICK if quickly and LEVEL not in os.environ.get("XLA_FLAGS", "") else None
            lowered = jax.jit(function, donate_argnums=donate).lower(*args)
            self._made[name] = lowered.compile(options)
            self.compile_seconds += time.perf_counter() - began
        return self._made[name]

    def jitted(self, name: Any, function: Callable[..., Any]) -> Any:
        """`function` as a `jit` function, compiled on its first call: for small calls, whose cost is dispatch."""
        if name not in self._made:
            self._made[name] = jax.jit(function)
        return self._made[name]
