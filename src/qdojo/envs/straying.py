"""A vector of environments in which some actions are replaced by random ones, for evaluations. Not for exploration in
training: see `agents/explore.py`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from qdojo.envs.gymnasium import HostEnvironment, HostStep
from qdojo.envs.spaces import Observation


class StrayingVector:
    """A `HostEnvironment` that takes a random legal action in place of each one with probability `epsilon`.

    Each member draws from its own seed. An agent that would wait for ever, such as one that never starts the game, gets
    on.
    """

    def __init__(self, inner: HostEnvironment, epsilon: float, member_seeds: Sequence[int]) -> None:
        self.observation: Observation
        """What the copies show now."""
        self._inner, self._epsilon = inner, epsilon
        self._chance = [np.random.default_rng([seed, 1]) for seed in member_seeds]

    def reset(self) -> Observation:
        """Begin the next episode of every copy."""
        self.observation = self._inner.reset()
        return self.observation

    def step(self, actions: Int[np.ndarray, "size *branches"]) -> HostStep:
        """Step every copy once, by these actions or random ones."""
        legal = self._inner.spaces.legal
        mask = self.observation.action_mask if isinstance(self.observation, tuple) else legal
        envs = self._inner.size // len(self._chance)
        strays = np.concatenate([chance.random(envs) for chance in self._chance]) < self._epsilon
        draws = np.concatenate([chance.random((envs, *legal.shape)) for chance in self._chance])
        drawn = np.where(mask, draws, -1.0).argmax(axis=-1)
        after = self._inner.step(np.where(strays.reshape(-1, *(1,) * (drawn.ndim - 1)), drawn, actions))
        self.observation = after.observation
        return after

    def state(self) -> dict[str, np.ndarray]:
        """That of the environments: evaluations are not resumed."""
        return self._inner.state()

    def restore(self, state: Any) -> list[int]:
        """As `HostEnvironment.restore`."""
        lost = self._inner.restore(state)
        self.observation = self._inner.observation
        return lost

    def close(self) -> None:
        """Close every copy."""
        self._inner.close()


def straying(
    act: Callable[[Observation], Any], legal: Bool[np.ndarray, "*branches actions"], epsilon: float, seed: int
) -> Callable[[Observation], Any]:
    """Return `act`, whose actions for one observation are random legal ones with probability `epsilon`."""
    if epsilon == 0.0:
        return act
    chance = np.random.default_rng([seed, 2])

    def acting(observation: Observation) -> Any:
        chosen = act(observation)  # an agent with a memory sees every observation
        mask = observation.action_mask if isinstance(observation, tuple) else legal
        strays, draws = chance.random() < epsilon, chance.random(legal.shape)
        return np.where(mask, draws, -1.0).argmax(axis=-1) if strays else chosen

    return acting
