"""A user's program, for `mypy --strict tests/typed_use.py`, which `.ci/run` calls. It is never run.

Lines with an ignored error must be errors: `warn_unused_ignores` holds that.
"""

from pathlib import Path
from typing import assert_type

import gymnasium as gym
import numpy as np
import numpy.typing as npt

import qdojo
from qdojo.api import Evaluation, Policy


def use() -> None:
    run = qdojo.train(
        "CartPole-v1",
        preset="dqn",
        seeds=4,
        hidden=[32, 32],
        learning_rate=[1e-4, 3e-4],
        recurrent=None,
        observe=("image",),
        progress=False,
    )
    assert_type(run, qdojo.Run)
    qdojo.train(gym.make("CartPole-v1"), steps=1_000)
    qdojo.train(lambda: gym.make("CartPole-v1"), root=Path("runs"))
    qdojo.train(config=qdojo.Config(env="CartPole-v1", preset="rainbow", n_step=4))
    qdojo.train("CartPole-v1", learning_rte=1e-3)  # type: ignore[call-arg]
    qdojo.train("CartPole-v1", steps="many")  # type: ignore[arg-type]
    qdojo.train("CartPole-v1", recurrent="rnn")  # type: ignore[arg-type]
    qdojo.train("MlpPolicy", "CartPole-v1")  # type: ignore[call-arg]

    score = run.evaluate(episodes=10)
    assert_type(score, Evaluation)
    assert_type(score.iqm, float)
    assert_type(score.interval, tuple[float, float] | None)
    assert_type(run.result["eval"]["mean"], list[float])
    assert_type(run.result["steps"], int)
    losses: npt.NDArray[np.float64] = run.history.of("loss", member=0).value
    print(losses.mean())

    agent = qdojo.load(run.path)
    assert_type(agent, Policy)
    q: npt.NDArray[np.float32] = agent.q_values(np.zeros(4))
    print(q.max())
    agent.save("agent.safetensors")
    qdojo.resume(run.path, steps=2_000)
    qdojo.evaluate("last", 20, seed=3)
