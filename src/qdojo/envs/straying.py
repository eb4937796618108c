"""Epsilon-greedy evaluation: random actions replace some of the agent's. `agents/explore.py` has exploration during
training."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from qdojo.envs.copies import REST
from qdojo.envs.gymnasium import HostEnvironment, HostStep
from qdojo.envs.spaces import Observation


class StrayingVector:
    """A `HostEnvironment` that replaces each action with a random legal one with probability `epsilon`.

    Each member draws from its own seed. The random actions keep an agent from getting stuck, for example one that never
    starts the game.
    """

    def __init__(self, inner: HostEnvironment, epsilon: float, member_seeds: Sequence[int]) -> None:
        self.observation: Observation
        """The current observation of every copy."""
        self.size = inner.size
        self._inner, self._epsilon = inner, epsilon
        self._chance = [np.random.default_rng([seed, 1]) for seed in member_seeds]

    def reset(self) -> Observation:
        """Start the next episode of every copy."""
        self.observation = self._inner.reset()
        return self.observation

    def step(self, actions: Int[np.ndarray, "size *branches"]) -> HostStep:
        """Step every copy once, with these actions or random ones."""
        legal = self._inner.spaces.legal
        mask = self.observation.action_mask if isinstance(self.observation, tuple) else legal
        envs = self._inner.size // len(self._chance)
        strays = np.concatenate([chance.random(envs) for chance in self._chance]) < self._epsilon
        draws = np.concatenate([chance.random((envs, *legal.shape)) for chance in self._chance])
        drawn = np.where(mask, draws, -1.0).argmax(axis=-1)
        strays = strays.reshape(-1, *(1,) * (drawn.ndim - 1)) & (actions != REST)
        after = self._inner.step(np.where(strays, drawn, actions))
        self.observation = after.observation
        return after

    def state(self) -> dict[str, np.ndarray]:
        """The state of the environments alone: evaluations are not resumed, so the random generators are left out."""
        return self._inner.state()

    def restore(self, state: Any) -> list[int]:
        """Restore the environments; see `HostEnvironment.restore`."""
        lost = self._inner.restore(state)
        self.observation = self._inner.observation
        return lost

    def close(self) -> None:
        """Close every copy."""
        self._inner.close()


def straying(
    act: Callable[[Observation], Any], legal: Bool[np.ndarray, "*branches actions"], epsilon: float, seed: int
) -> Callable[[Observation], Any]:
    """Return `act` for single observations, with random legal actions at probability `epsilon`."""
    if epsilon == 0.0:
        return act
    chance = np.random.default_rng([seed, 2])

    def acting(observation: Observation) -> Any:
        chosen = act(observation)  # always called, so that a recurrent agent sees every observation
        mask = observation.action_mask if isinstance(observation, tuple) else legal
        strays, draws = chance.random() < epsilon, chance.random(legal.shape)
        return np.where(mask, draws, -1.0).argmax(axis=-1) if strays else chosen

    return acting
