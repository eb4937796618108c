"""Train on an environment of your own, in which some actions are not always allowed.

A treasure lies at the right end of a corridor with a door. A key opens the door: pick it up first, at the left end. At
a wall or the closed door, the action mask forbids that direction, so the agent never tries it.
"""

import gymnasium as gym
import numpy as np

import qdojo

LEFT, RIGHT, PICK_UP = range(3)
LENGTH, START, DOOR = 9, 3, 5


class Corridor(gym.Env):
    """Observation: position, and whether the agent has the key. A step costs 0.01, the treasure gives 1."""

    observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.key = START, False
        return self._observation(), {}

    def step(self, action):
        if action == PICK_UP:
            self.key = True
        else:
            self.position += 1 if action == RIGHT else -1
        done = self.position == LENGTH - 1
        return self._observation(), 1.0 if done else -0.01, done, False, {}

    def action_masks(self):
        """Return which actions are allowed now. qdojo finds this method; `info["action_mask"]` works as well."""
        open_to_the_right = self.key or self.position + 1 != DOOR
        return np.array([self.position > 0, open_to_the_right, self.position == 0 and not self.key])

    def _observation(self):
        return np.array([self.position / (LENGTH - 1), self.key], np.float32)


def make_env():
    return gym.wrappers.TimeLimit(Corridor(), max_episode_steps=100)


if __name__ == "__main__":
    run = qdojo.train(make_env, steps=4_000, hidden=[64, 64], epsilon_decay_steps=2_000, eval_every_steps=1_000)
    print(run)

    agent, env = run.policy(), make_env()
    observation, _ = env.reset()
    agent.reset()
    done, total, actions = False, 0.0, []
    while not done:
        action = agent.act(observation, {"action_mask": env.unwrapped.action_masks()})
        observation, reward, terminated, truncated, _ = env.step(action)
        actions.append(("left", "right", "pick up")[action])
        total, done = total + reward, terminated or truncated
    print(f"return {total:.2f}: {', '.join(actions)}")
