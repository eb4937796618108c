"""Frame stacks: what the agent sees when it acts and when it learns, and tasks that need a stack."""

import functools
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from probes.memory import t_maze
from probes.training import RHYTHM, STILL, device_loop, host_loop

import qdojo
from qdojo.agents.dqn import Rule, dqn_loss
from qdojo.agents.explore import Choosing, Exploration, actor_of
from qdojo.agents.learner import Structure, replay_agent
from qdojo.agents.stacking import stacking
from qdojo.build.memory import capacity_rows
from qdojo.build.player import build_player
from qdojo.build.training import build_agent
from qdojo.config import Config, make_config
from qdojo.envs.spaces import check_spaces
from qdojo.errors import UsageError
from qdojo.loops.learning import Rhythm
from qdojo.networks.network import Network
from qdojo.observations import channels_first, stacked, stacked_shape
from qdojo.tape import windows
from qdojo.tape.ring import Tape, newest, take
from qdojo.types import Agent

FRAMES, ENVS = 3, 2


class Counting(gym.Env[Any, Any]):
    """Shows the number of the episode and the step, (100 e + i, -i); episode e has 1 + e % 5 steps."""

    observation_space, action_space = Box(-np.inf, np.inf, (2,)), Discrete(2)
    episode = -1

    def shown(self) -> np.ndarray:
        return np.array([100 * self.episode + self.elapsed, -self.elapsed], np.float32)

    def reset(self, **kwargs: Any) -> Any:
        super().reset(**kwargs)
        self.episode, self.elapsed = self.episode + 1, 0
        return self.shown(), {}

    def step(self, action: int) -> Any:
        self.elapsed += 1
        over = self.elapsed == 1 + self.episode % 5
        return self.shown(), float(self.elapsed), over and self.episode % 2 == 0, over and self.episode % 2 == 1, {}


def projecting(features: int) -> Network:
    """Two Q-values, each a random sum of what is seen: which of them is larger tells two stacks apart."""
    return Network(
        init=lambda key: jax.random.normal(jax.random.key(7), (2, features)),
        apply=lambda params, observation: params @ jnp.sin(observation),
    )


def greedy(features: int) -> Agent:
    """Stacks frames of so many numbers, always acts greedily and learns nothing."""
    network = projecting(FRAMES * features)
    window = windows.transitions(2, FRAMES)
    return replay_agent(
        network,
        lambda own: dqn_loss(network, Rule(double=False, error="mse")),
        STILL._replace(exploration=Exploration(0.0, 0.0, 1.0)),
        Structure(Choosing(2, num_envs=ENVS), 8, window, 1, None),
        actor=stacking(actor_of(network), FRAMES, (features,), jnp.float32),
    )


def rows_of(tape: Tape, env: int) -> Any:
    """All rows that the tape holds of one env, oldest first."""
    ages = jnp.arange(int(tape.size) - 1, -1, -1)
    return take(tape._replace(member=jnp.int32(0)), newest(tape, ages), jnp.full(len(ages), env))


def seen_by_hand(rows: Any) -> list[np.ndarray]:
    """What is seen in each row: the last `FRAMES` observations of its episode, the first one repeated before it."""
    found, episode = [], []
    for observation, last in zip(np.asarray(rows.observation), np.asarray(rows.last), strict=True):
        episode.append(observation)
        padded = [episode[0]] * FRAMES + episode
        found.append(np.concatenate(padded[-FRAMES:]))
        episode = [] if last else episode
    return found


@pytest.mark.parametrize("kind", ["device", "host"])
def test_what_is_acted_on_is_what_is_learned_from(kind: str) -> None:
    """On the real loops: each action on the tape is the greedy one for the stack that is read there."""
    features = 3 if kind == "device" else 2
    agent = greedy(features)
    settings = {"rhythm": RHYTHM, "envs": ENVS, "capacity_rows": 64, "cycles": 24}
    loop: Any
    loop = device_loop(t_maze(2), agent, **settings) if kind == "device" else host_loop(Counting, agent, **settings)
    state, _ = next(loop.run(loop.init()))
    tape = state.tape._replace(member=jnp.int32(0))
    read = jax.jit(functools.partial(windows.seen, frames=FRAMES))
    params = jax.tree.map(lambda leaf: leaf[0], state.agents.params)
    for env in range(ENVS):
        rows = rows_of(tape, env)
        by_hand = seen_by_hand(rows)
        assert sum(np.asarray(rows.last)) >= 5
        for row, expected in enumerate(by_hand):
            found = read(tape, jnp.int32(len(by_hand) - 1 - row), jnp.int32(env))
            np.testing.assert_array_equal(found, expected)
            if not rows.last[row]:
                assert rows.action[row] == np.argmax(params @ np.sin(expected))
    loop.close()


def test_a_transition_has_the_stacks_of_both_its_ends() -> None:
    loop = device_loop(t_maze(2), greedy(3), rhythm=RHYTHM, envs=ENVS, capacity_rows=64, cycles=24)
    state, _ = next(loop.run(loop.init()))
    tape = state.tape._replace(member=jnp.int32(0))
    rows = rows_of(tape, 1)
    by_hand, window = seen_by_hand(rows), windows.transitions(2, FRAMES)
    assert (window.before, window.after) == (FRAMES - 1, 1)
    read = jax.jit(window.read)
    for row in range(len(by_hand) - 2):
        if rows.last[row]:
            continue
        batch = read(tape, jnp.int32(len(by_hand) - 1 - row), jnp.int32(1), jnp.float32(0.5))
        after = row + 1 if rows.last[row + 1] else row + 2
        np.testing.assert_array_equal(batch.obs_tm1, by_hand[row])
        np.testing.assert_array_equal(batch.obs_t, by_hand[after])


CORRIDOR = 2
REPLAY: dict[str, Any] = {
    "hidden": (32,),
    "n_step": 3,
    "num_envs": 8,
    "collect_steps": 32,
    "updates_per_step": 1 / 32,
    "batch_size": 32,
    "learning_rate": 3e-3,
    "capacity_steps": 4_000,
    "epsilon_start": 0.2,
    "epsilon_end": 0.2,
    "steps": 8_000,
}
PQN: dict[str, Any] = {"preset": "pqn", "hidden": (32,), "steps": 16_000, "learning_rate": 3e-3, "epsilon_end": 0.1}


def solved(**settings: Any) -> float:
    """The mean return of greedy episodes in the maze after training, 1 at best and 0 by guessing."""
    config: Config = make_config("t-maze", **settings)
    box = Box(-1.0, 1.0, (3,), np.float32)
    spaces = check_spaces(type("Maze", (), {"action_space": Discrete(2), "observation_space": box}), "t-maze")
    loop = device_loop(
        t_maze(CORRIDOR),
        build_agent(config, spaces, build_player(config, spaces, None)),
        rhythm=Rhythm(config.rows_per_cycle, config.updates_per_cycle, warmup_rows=25),
        envs=config.num_envs,
        capacity_rows=capacity_rows(config),
        cycles=config.steps // config.collect_steps,
    )
    state, _ = next(loop.run(loop.init()))
    return float(loop.evaluate(state.agents.params, seed=1, episodes=100).returns.mean())


@pytest.mark.parametrize("settings", [REPLAY, PQN], ids=["replay", "pqn"])
def test_a_stack_that_reaches_the_cue_solves_the_maze(settings: dict[str, Any]) -> None:
    assert solved(**settings, frame_stack=CORRIDOR + 2) >= 0.95


def test_a_stack_that_does_not_reach_it_guesses() -> None:
    assert abs(solved(**REPLAY, frame_stack=CORRIDOR + 1)) <= 0.4


SHAPES = {
    (84, 84): (84, 84, 4),
    (84, 84, 3): (84, 84, 12),
    (3, 84, 84): (12, 84, 84),
    (10, 10, 6): (10, 10, 24),
    (5,): (20,),
    (): (4,),
}


@pytest.mark.parametrize(("shape", "expected"), SHAPES.items())
def test_stacks_of_images_are_joined_along_their_channels(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    frames = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    found = np.asarray(stacked(jnp.asarray(frames)))
    assert found.shape == stacked_shape(shape, 4) == expected
    if len(shape) in (0, 2):
        np.testing.assert_array_equal(np.moveaxis(found, -1, 0), frames)
        return
    axis = 0 if channels_first(shape) else -1
    np.testing.assert_array_equal(np.stack(np.split(found, 4, axis=axis)), frames)


def test_a_file_of_an_agent_plays_with_its_stack(tmp_path: Any) -> None:
    run = qdojo.train("CartPole-v1", frame_stack=3, steps=600, hidden=(8,), root=tmp_path, progress=False)
    policy, copy = run.policy(), tmp_path / "agent.safetensors"
    policy.save(copy)
    other, env = qdojo.load(copy), gym.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    values = []
    for _ in range(5):
        values.append(policy.q_values(observation))
        np.testing.assert_array_equal(other.q_values(observation), values[-1])
        assert policy.act(observation) == other.act(observation)
        observation, *_ = env.step(0)
    # The same observation in another place of an episode is another stack.
    policy.reset()
    assert not np.allclose(policy.q_values(observation), other.q_values(observation))


def test_the_tutorials_agent_has_no_stack(tmp_path: Any) -> None:
    with pytest.raises(UsageError, match=r"frame_stack=2 does not go with agent='tutorial'"):
        qdojo.train("CartPole-v1", preset="tutorial", frame_stack=2, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_stack_that_no_episode_fills_is_refused(tmp_path: Any) -> None:
    def short() -> gym.Env[Any, Any]:
        return gym.wrappers.TimeLimit(Counting(), 3)

    with pytest.raises(UsageError, match=r"frame_stack is 4, but episodes of .* end after 3 steps; use 3 or less\."):
        qdojo.train(short, frame_stack=4, root=tmp_path)
    assert list(tmp_path.iterdir()) == []
