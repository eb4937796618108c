"""Greedy evaluation episodes on an environment written in JAX, in compiled stretches. `device.py` trains."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from qdojo.envs.contract import NativeEnvironment, Running, advance, start
from qdojo.loops.evaluation import LEAST_BOUND_STEPS, Played, Plays, Watch, unwatched
from qdojo.loops.sharding import Shards
from qdojo.loops.state import EVALUATE, Programs, best_action, keys_of, streams
from qdojo.types import Params

FIRST_STRETCH_STEPS = 128
STRETCH_SECONDS = 0.25
"""Steps per compiled call of an evaluation. They double until a call takes `STRETCH_SECONDS`, so that a stop request is
answered and progress is shown without delay."""


class _Rollout(NamedTuple):
    """Evaluation episodes in progress, with a leading member axis outside `vmap`."""

    running: Running
    memory: Any
    score: Float[Array, "episodes"]
    at: Int[Array, ""]
    """Number of the next step, counted from 1."""


class DeviceEvaluator:
    """Plays the episodes of all members in one program. It needs no tape and no learner."""

    def __init__(
        self,
        environment: NativeEnvironment,
        player: Plays,
        seed: int,
        shards: Shards,
        programs: Programs | None = None,
        distinct_seeds: int | None = None,
    ) -> None:
        """`seed` and `distinct_seeds` are as in `member_seeds`; `shards` splits the members;
        `programs` are the compiled programs of the loop that owns this evaluator, if any."""
        self.environment, self.player, self.seed, self.shards = environment, player, seed, shards
        self.programs, self.distinct_seeds = programs or Programs(), distinct_seeds

    def evaluate(
        self, params: Params, seed: int, episodes: int, bound: int = LEAST_BOUND_STEPS, watch: Watch = unwatched
    ) -> Played:
        """Greedy episodes of at most `bound` steps. Their starts are drawn from `seed`, independent of training.

        The steps are taken in stretches that double until one takes long enough, and `watch` is called after each. The
        length of the stretches does not affect the result.
        """
        shards = self.shards
        at_start = shards.over(lambda seed: self._evaluation(seed, episodes), (None,), (0, 0))
        begin = self.programs.compiled(("evaluation", episodes), at_start, np.uint32(seed), quickly=True)
        rollout, words = begin(np.uint32(seed))
        params = shards.placed(params, 0)
        arguments = (params, rollout, words, np.int32(0))
        later = shards.over(self._play, (0, 0, 0, None), 0)
        play = self.programs.compiled(("play", episodes), later, *arguments, donate=(1,))
        limit = self.environment.max_episode_steps
        end = bound if limit is None else min(bound, limit)
        step, stretch = 0, FIRST_STRETCH_STEPS
        while True:
            began = time.perf_counter()
            step = min(step + stretch, end)
            rollout = play(params, rollout, words, np.int32(step))
            over = shards.cut(np.asarray(rollout.running.over), 0)
            watch(int(over.sum()), step)
            if over.all() or step == end:
                return Played(shards.cut(np.asarray(rollout.score), 0), ~over)
            if time.perf_counter() - began < STRETCH_SECONDS:
                stretch *= 2

    def _evaluation(self, seed: UInt32[Array, ""], episodes: int) -> tuple["_Rollout", UInt32[Array, "..."]]:
        """Episodes at their start, and random words for all their steps, `[member, time, episodes, words]`; without a
        time limit, the data of the key that each step's words are drawn from, `[member, key]`."""
        env = self.environment

        def member(key: Array) -> tuple[_Rollout, UInt32[Array, "..."]]:
            if env.max_episode_steps is None:
                words = jax.random.key_data(key)
            else:
                words = jax.random.bits(key, (env.max_episode_steps + 1, episodes, env.noise_words), jnp.uint32)
            running = jax.vmap(lambda noise: start(env, noise))(self._words(words, jnp.int32(0), episodes))
            memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (episodes, *jnp.shape(x))), self.player.memory())
            return _Rollout(running, memory, jnp.zeros(episodes), jnp.int32(1)), words

        keys = jax.vmap(lambda key: jax.random.fold_in(key, seed))(
            streams(keys_of(self.seed, self.shards.numbers(), self.distinct_seeds), EVALUATE)
        )
        return jax.vmap(member)(keys)

    def _words(self, words: UInt32[Array, "..."], at: Int[Array, ""], episodes: int) -> UInt32[Array, "episodes words"]:
        """The random words of step `at` of one member's episodes."""
        if self.environment.max_episode_steps is not None:
            return words[at]
        key = jax.random.fold_in(jax.random.wrap_key_data(words), at)
        return jax.random.bits(key, (episodes, self.environment.noise_words), jnp.uint32)

    def _play(
        self, params: Params, rollout: "_Rollout", words: UInt32[Array, "..."], until: Int[Array, ""]
    ) -> "_Rollout":
        """The episodes after `until` steps, or once all are over."""
        env, player = self.environment, self.player

        def member(params: Params, rollout: _Rollout, words: UInt32[Array, "..."]) -> _Rollout:
            def going(now: _Rollout) -> Bool[Array, ""]:
                return ~jnp.all(now.running.over) & (now.at <= until)

            def step(now: _Rollout) -> _Rollout:
                running = now.running
                q, memory = jax.vmap(player.values, in_axes=(None, 0, 0))(params, running.observation, now.memory)
                action = best_action(q)
                noise = self._words(words, now.at, now.score.size)
                moved, transition = jax.vmap(lambda *args: advance(env, *args))(running, action, noise)
                score = now.score + jnp.where(running.over, 0.0, transition.reward)
                return _Rollout(moved._replace(over=running.over | moved.over), memory, score, now.at + 1)

            return jax.lax.while_loop(going, step, rollout)

        return jax.vmap(member)(params, rollout, words)
