"""All that training needs, in one record, and the parts of it that both loops make alike. Not for stepping."""

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
    """Episodes in the making, kept on the host: the score and length so far, and what each member has done."""

    score: Float[np.ndarray, "member env"]
    length: Int[np.ndarray, "member env"]
    episodes: Int[np.ndarray, "member"]
    env_steps: Int[np.ndarray, "member"]
    longest: Int[np.ndarray, "member"]
    """Env steps of the longest episode that has ended: the bound of evaluation episodes follows from it."""
    largest_reward: Float[np.ndarray, "member"]
    """The largest absolute reward seen: it bounds what Q-values can be believed."""


class TrainState(NamedTuple):
    """All that training needs: save it, load it in another process, go on, and the same bits come out."""

    agents: PyTree[Shaped[Array, "member ..."]]
    memory: PyTree[Shaped[Array, "member env ..."]]
    tape: Any
    environment: PyTree[Any]
    clock: Clock
    tally: Tally
    partial: Any = None
    """Of a chunk that was left between two reports, what its rest needs: see `pausing.py`."""


NO_TALLY: Any = None
"""What compiled code sees in the tally's place: that one lives on the host."""


def member_seeds(seed: int, members: int, distinct: int | None = None) -> list[int]:
    """One seed a member: seed + k, and from member `distinct` on, where that is given, from `seed` again."""
    return [seed + member % (distinct or members) for member in range(members)]


def member_keys(seed: int, members: int, distinct: int | None = None) -> Array:
    """One key a member, that of a single agent with the member's seed: see `member_seeds`."""
    numbers = jnp.arange(members, dtype=jnp.uint32)
    return jax.vmap(jax.random.key)(seed + (numbers if distinct is None else numbers % distinct))


def streams(keys: Array, name: int) -> Array:
    """Keys of an independent stream of random numbers for each member."""
    return jax.vmap(lambda key: jax.random.fold_in(key, name))(keys)


INIT, COLLECT, LEARN, START, EVALUATE = range(5)
"""Names of the streams."""


def chunk_words(keys: Array, stream: int, rows: Int[Array, ""], shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Random words of a whole chunk, `[cycles, count, member, ...]`, drawn in one call a member.

    They depend on the member's seed and on how many rows came before: nothing to save, nothing to rewind.
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
    """Members before their first step, an empty tape, and nothing yet of the environment nor of the tally.

    `observation` has the shape and dtype of each of its arrays; `numbers` are those of each member, or None.
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
    """Shape and dtype of each array that a row keeps of the agent's memory."""
    return jax.eval_shape(lambda: agent.stored(agent.memory()))


def fresh_memory(player: Plays, members: int, envs: int) -> PyTree[Shaped[Array, "member env ..."]]:
    """What each player carries through an episode, as it is at a start."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (members, envs, *jnp.shape(x))), player.memory())


def best_action(q: Float[Array, "*q"]) -> Int[Array, "*branches"]:
    """The action of highest value, in each branch where there are several."""
    return jnp.argmax(q, axis=-1).astype(jnp.int32)


def renewed(
    player: Plays, memory: PyTree[Shaped[Array, "member env ..."]], over: Bool[AnyArray, "member env"]
) -> PyTree[Shaped[Array, "member env ..."]]:
    """The memory after a row: as at a start where that row closed an episode."""
    return where(over, player.memory(), memory)


def where(condition: Bool[AnyArray, "*rows"], then: PyTree[Array], otherwise: PyTree[Array]) -> PyTree[Array]:
    """For each row all that the one tree has, or the other."""

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (jnp.ndim(b) - condition.ndim)), a, b)

    return jax.tree.map(choose, then, otherwise)


def fresh_tally(members: int, envs: int) -> Tally:
    """Nothing finished, nothing begun."""
    return Tally(
        score=np.zeros((members, envs)),
        length=np.zeros((members, envs), np.int64),
        episodes=np.zeros(members, np.int64),
        env_steps=np.zeros(members, np.int64),
        longest=np.zeros(members, np.int64),
        largest_reward=np.zeros(members),
    )


def count(
    tally: Tally,
    reward: Float[np.ndarray, "rows member env"],
    applied: Bool[np.ndarray, "rows member env"],
    ended: Bool[np.ndarray, "rows member env"],
    first_row: int,
) -> tuple[Tally, list[Episode]]:
    """Add a chunk of rows: the episodes that ended in it, in order of time, and the tally after it."""
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


class Programs:
    """Compiled functions by name, and the seconds that compiling them took."""

    def __init__(self) -> None:
        self.compile_seconds = 0.0
        self._made: dict[Any, Callable[..., Any]] = {}

    def compiled(self, name: Any, function: Callable[..., Any], *args: Any, donate: tuple[int, ...] = ()) -> Any:
        """`function` compiled for these arguments, once; `donate` lists those whose memory it may use up."""
        if name not in self._made:
            began = time.perf_counter()
            self._made[name] = jax.jit(function, donate_argnums=donate).lower(*args).compile()
            self.compile_seconds += time.perf_counter() - began
        return self._made[name]

    def jitted(self, name: Any, function: Callable[..., Any]) -> Any:
        """`function` compiled when first called: for calls so small that dispatch is what they cost."""
        if name not in self._made:
            self._made[name] = jax.jit(function)
        return self._made[name]
