"""Trains a peer library once, in its own process: `python -m benchmarks.peers {sb3,sbx} --seed N --steps N`.

The settings are those of rl-baselines3-zoo for DQN on CartPole-v1. Prints one JSON object: the seconds of `learn`,
without the import, and the greedy mean of the trained agent. For qdojo's own runs, see `benchmarks.speed`.
"""

import argparse
import json
import time

import gymnasium as gym
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

ZOO = {
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "gamma": 0.99,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
}


def main() -> None:
    """Train the named peer and print how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=("sb3", "sbx"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--threads", type=int, help="number of torch threads; torch chooses by default")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        import torch

        torch.set_num_threads(arguments.threads)
    if arguments.peer == "sb3":
        from stable_baselines3 import DQN
    else:
        from sbx import DQN
    env = gym.make("CartPole-v1")
    agent = DQN("MlpPolicy", env, seed=arguments.seed, policy_kwargs={"net_arch": [256, 256]}, **ZOO)
    began = time.perf_counter()
    agent.learn(arguments.steps)
    seconds = time.perf_counter() - began
    mean, _ = evaluate_policy(agent, Monitor(gym.make("CartPole-v1")), n_eval_episodes=20, deterministic=True)
    print(json.dumps({"peer": arguments.peer, "seconds": seconds, "greedy_mean": float(mean)}))


if __name__ == "__main__":
    main()
