"""Peers of `screen.py`, each run in its own process: `python -m benchmarks.screen_peers
{update,emulator,gymnasium,sb3}`. Prints one number: ms per update, or agent steps per CPU-second."""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

BATCH, UPDATES, ACTIONS = 32, 8, 6


def update(threads: int) -> float:
    """Return PyTorch's ms per update of DQN with the network of Mnih et al. (2015) on 32 stacks of four frames."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)

    def network() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, ACTIONS)),
        )

    online, target = network(), network()
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-4)
    frames = torch.randint(0, 255, (200, 4, 84, 84), dtype=torch.uint8)

    def learn() -> None:
        rows = torch.randint(0, 199, (BATCH,))
        obs_tm1, obs_t = frames[rows].float() / 255, frames[rows + 1].float() / 255
        with torch.no_grad():
            wanted = 0.99 * target(obs_t).max(1).values
        chosen = online(obs_tm1).gather(1, (rows % ACTIONS)[:, None])[:, 0]
        loss = torch.mean((chosen - wanted) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(UPDATES):
        learn()
    began = time.perf_counter()
    for _ in range(UPDATES):
        learn()
    return (time.perf_counter() - began) / UPDATES * 1e3


def steps_per_cpu_second(step: Callable[[int], Any], steps: int) -> float:
    """Return the number of calls of `step` per CPU-second."""
    began = time.process_time()
    for number in range(steps):
        step(number % ACTIONS)
    return steps / (time.process_time() - began)


def emulator() -> Callable[[int], Any]:
    """Return a step function of the bare emulator: four frames, none of which is read."""
    from ale_py import ALEInterface, LoggerMode, roms

    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    ale.setFloat("repeat_action_probability", 0.25)
    ale.loadROM(roms.get_rom_path("pong"))
    actions = ale.getMinimalActionSet()

    def step(action: int) -> None:
        for _ in range(4):
            ale.act(actions[action])
        if ale.game_over():
            ale.reset_game()

    return step


def gymnasium() -> Callable[[int], Any]:
    """Return a step function with Gymnasium's wrappers: frame skip, max-pooling, 84 x 84 greyscale, stack of four."""
    import ale_py
    import gymnasium as gym
    from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

    gym.register_envs(ale_py)
    env = gym.make("ALE/Pong-v5", frameskip=1)
    stacked = FrameStackObservation(AtariPreprocessing(env, noop_max=0, scale_obs=False), 4)
    stacked.reset(seed=0)

    def step(action: int) -> None:
        *_, terminated, truncated, _ = stacked.step(action)
        if terminated or truncated:
            stacked.reset()

    return step


def sb3() -> Callable[[int], Any]:
    """Return a step function of Stable-Baselines3: a vector of one environment, its wrappers and a stack of four."""
    import ale_py
    import gymnasium as gym
    import numpy as np
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gym.register_envs(ale_py)
    settings = {"noop_max": 0, "terminal_on_life_loss": False, "clip_reward": False}
    env = VecFrameStack(
        make_atari_env("ALE/Pong-v5", 1, seed=0, env_kwargs={"frameskip": 1}, wrapper_kwargs=settings), 4
    )
    env.reset()
    return lambda action: env.step(np.array([action]))


def main() -> None:
    """Measure one peer and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=("update", "emulator", "gymnasium", "sb3"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2_000)
    arguments = parser.parse_args()
    if arguments.peer == "update":
        figure = update(arguments.threads)
    else:
        step = {"emulator": emulator, "gymnasium": gymnasium, "sb3": sb3}[arguments.peer]()
        figure = steps_per_cpu_second(step, arguments.steps)
    print(json.dumps(figure))


if __name__ == "__main__":
    main()
