"""Greedy evaluation episodes on Gymnasium environments, which step in Python. `host.py` trains."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Array, Bool

from qdojo.envs.copies import REST
from qdojo.loops.evaluation import LEAST_BOUND_STEPS, Played, Plays, Watch, unwatched
from qdojo.loops.state import EVALUATE, Programs, best_action, fresh_memory, member_seeds, renewed, where
from qdojo.types import Memory, Observation, Params


class Vector(Protocol):
    """The interface of a vector environment that the host loop requires. Its copies are ordered by member, then env."""

    observation: Any
    size: int
    """Number of copies of all members."""

    def reset(self) -> Any: ...
    def step(self, actions: np.ndarray) -> Any:
        """Step every copy once. A copy whose episode is over begins the next one, or rests if its action is `REST`."""

    def state(self) -> dict[str, np.ndarray]: ...
    def restore(self, state: Any) -> list[int]: ...
    def close(self) -> None: ...


class HostEvaluator:
    """Plays the episodes of all members on separate copies of the environment. It needs no tape and no learner."""

    def __init__(
        self,
        open_vector: Callable[[list[int], int], Vector],
        player: Plays,
        seed: int,
        members: int,
        envs: int,
        action_shape: tuple[int, ...] = (),
        programs: Programs | None = None,
        distinct_seeds: int | None = None,
    ) -> None:
        """`open_vector(member_seeds, envs)` opens `envs` copies of the environment per member, of which an evaluation
        uses at most one per episode; `seed` and `distinct_seeds` are as in `member_seeds`; `programs` are those of the
        loop that owns this evaluator, if any."""
        self.open_vector, self.player = open_vector, player
        self.seed, self.members, self.envs, self.action_shape = seed, members, envs, action_shape
        self.programs, self.distinct_seeds = programs or Programs(), distinct_seeds

    def evaluate(
        self, params: Params, seed: int, episodes: int, bound: int = LEAST_BOUND_STEPS, watch: Watch = unwatched
    ) -> Played:
        """Greedy episodes of at most `bound` steps on separate copies of the environment. Their seeds are derived from
        `seed`, independent of training; `watch` is called after every step."""
        seeds = [evaluation_seed(own, seed) for own in member_seeds(self.seed, self.members, self.distinct_seeds)]
        vector = self.open_vector(seeds, min(self.envs, episodes))
        try:
            return self._rollout(vector, params, episodes, bound, watch)
        finally:
            vector.close()

    def _rollout(self, vector: Any, params: Params, episodes: int, bound: int, watch: Watch) -> Played:
        """Greedy episodes, `episodes` per member, assigned to its copies beforehand.

        Taking the first episodes to finish would favour short ones, so the number per copy is fixed before the first
        step. A single copy cannot be restarted in mid-episode, so a copy whose episode was cut waits until no copy is
        playing; then all are reset.
        """
        greedy = self.programs.jitted("greedy", self._greedy)
        shape = (self.members, vector.size // self.members)
        deal = _Deal(shape, episodes)
        steps = 0
        while deal.left():
            running, length = np.zeros(shape), np.zeros(shape, int)
            playing, resting = deal.left_of_each(), np.zeros(shape, bool)
            memory = fresh_memory(self.player, *shape)
            shown = vector.reset()
            while playing.any():
                action, thought = greedy(params, split(shown, shape), memory)
                chosen = np.array(action)
                chosen[resting] = REST
                after = vector.step(chosen.reshape(-1, *self.action_shape))
                memory = remembered(self.player, memory, thought, after, shape)
                shown = after.observation
                running += after.reward.reshape(shape)
                length += after.applied.reshape(shape)
                ended = (after.terminated | after.truncated).reshape(shape)
                over_long = (length >= bound) & ~ended
                for member, copy in np.argwhere((ended | over_long) & playing).tolist():
                    deal.finish(member, copy, float(running[member, copy]), bool(over_long[member, copy]))
                    playing[member, copy] = ended[member, copy] and deal.left_of_each()[member, copy]
                resting |= ended & ~deal.left_of_each()
                running[ended], length[ended] = 0.0, 0
                steps += 1
                watch(deal.finished, steps)
        return Played(deal.scores, deal.cut)

    def _greedy(self, params: Params, observation: Observation, memory: Memory) -> tuple[Array, Memory]:
        member = jax.vmap(self.player.values, in_axes=(None, 0, 0))
        q, memory = jax.vmap(member)(params, observation, memory)
        return best_action(q), memory


class _Deal:
    """The episodes assigned to the copies of each member, and their results."""

    def __init__(self, shape: tuple[int, int], episodes: int) -> None:
        members, self._copies = shape
        self._share = np.array([len(range(copy, episodes, self._copies)) for copy in range(self._copies)])
        self._done = np.zeros(shape, int)
        self.scores = np.zeros((members, episodes))
        self.cut = np.zeros((members, episodes), bool)

    @property
    def finished(self) -> int:
        """Number of finished episodes of all members."""
        return int(self._done.sum())

    def left(self) -> bool:
        """Whether any copy has episodes left to play."""
        return self.finished < self.scores.size

    def left_of_each(self) -> Bool[np.ndarray, "member copy"]:
        """Which copies have episodes left to play."""
        return self._done < self._share

    def finish(self, member: int, copy: int, score: float, cut: bool) -> None:
        """Record a finished episode of one copy."""
        episode = copy + self._done[member, copy] * self._copies
        self.scores[member, episode], self.cut[member, episode] = score, cut
        self._done[member, copy] += 1


def remembered(player: Plays, before: Memory, after: Memory, moved: Any, shape: tuple[int, int]) -> Memory:
    """The memory of each copy after a step: new where an episode begins, and unchanged during a pause."""
    if moved.applied.all():
        return after
    begun, applied = (x.reshape(shape) for x in (moved.begun, moved.applied))
    return renewed(player, where(applied, after, before), begun)


def split(observation: Any, shape: tuple[int, int]) -> Any:
    """Observations of a vector environment as `[member, env, ...]`."""
    if isinstance(observation, np.ndarray):
        return observation.reshape(*shape, *observation.shape[1:])
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), observation)


def evaluation_seed(member_seed: int, seed: int) -> int:
    """The seed of a member's evaluation copies, different from those of training and of other evaluations."""
    return int(np.random.SeedSequence([member_seed, EVALUATE, seed]).generate_state(1)[0])
