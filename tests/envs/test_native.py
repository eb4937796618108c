"""The JAX tasks against Gymnasium's own, and the NEXT_STEP rule on top of them. Not for the host's environments."""

import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdojo.envs.contract import NativeEnvironment, Running, advance, start
from qdojo.envs.native import NATIVE, native
from qdojo.envs.native.acrobot import AcrobotState
from qdojo.envs.native.acrobot import integrate as integrate_acrobot
from qdojo.envs.native.cartpole import CARTPOLE, CartPoleState
from qdojo.envs.native.mountain_car import MOUNTAIN_CAR, MountainCarState

IDS = list(NATIVE)
STATES = {"CartPole-v1": CartPoleState, "Acrobot-v1": AcrobotState, "MountainCar-v0": MountainCarState}
STEPS = 10_000
TOLERANCE = {"CartPole-v1": 1e-6, "Acrobot-v1": 1e-5, "MountainCar-v0": 2e-7}
"""Greatest difference in an observation: a few float32 roundings at the size of the numbers that a task adds up."""
BOUNDARY = 1e-5
MAX_POSITION, MAX_ANGLE = 2.4, 12 * 2 * np.pi / 360
MIN_POSITION, GOAL_POSITION = -1.2, 0.5


class Records(NamedTuple):
    """What Gymnasium did, one row a step: the float64 state before and after, and what `step` gave back."""

    before: np.ndarray
    elapsed: np.ndarray
    action: np.ndarray
    after: np.ndarray
    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


Policy = Callable[[str, np.ndarray, np.random.Generator], int]


def random_action(env_id: str, state: np.ndarray, rng: np.random.Generator) -> int:
    return int(rng.integers(native(env_id).num_actions))


def driven_action(env_id: str, state: np.ndarray, rng: np.random.Generator) -> int:
    """Good enough to balance the pole to its time limit, and to reach the other two goals."""
    if rng.random() < 0.05:
        return random_action(env_id, state, rng)
    if env_id == "CartPole-v1":
        return int(0.02 * state[0] + 0.1 * state[1] + state[2] + 0.5 * state[3] > 0)
    velocity = state[3] if env_id == "Acrobot-v1" else state[1]
    return 2 if velocity > 0 else 0


def record(env_id: str, policy: Policy, steps: int) -> Records:
    env = gymnasium.make(env_id, disable_env_checker=True)
    rng = np.random.default_rng(7)
    rows = []
    over, elapsed = True, 0
    for step in range(steps):
        if over:
            env.reset(seed=step)
            elapsed = 0
        before = np.array(env.unwrapped.state, np.float64)
        action = policy(env_id, before, rng)
        observation, reward, terminated, truncated, _ = env.step(action)
        after = np.array(env.unwrapped.state, np.float64)
        rows.append((before, elapsed, action, after, observation, reward, terminated, truncated))
        elapsed += 1
        over = terminated or truncated
    return Records(*(np.array(column) for column in zip(*rows, strict=True)))


def near_boundary(env_id: str, records: Records) -> np.ndarray:
    """Steps whose outcome float32 rounding may flip: the number compared lies within 1e-5 of its threshold."""
    after = records.after
    if env_id == "CartPole-v1":
        margins = [np.abs(after[:, 0]) - MAX_POSITION, np.abs(after[:, 2]) - MAX_ANGLE]
    elif env_id == "Acrobot-v1":
        margins = [-np.cos(after[:, 0]) - np.cos(after[:, 0] + after[:, 1]) - 1.0]
    else:
        at_wall = after[:, 0] == MIN_POSITION
        speed = (records.action - 1) * 0.001 - np.cos(3 * records.before[:, 0]) * 0.0025 + records.before[:, 1]
        unclipped = records.before[:, 0] + np.clip(speed, -0.07, 0.07)
        margins = [after[:, 0] - GOAL_POSITION, unclipped - MIN_POSITION, np.where(at_wall, speed, 1.0)]
    return np.min(np.abs(margins), axis=0) < BOUNDARY


@cache
def stepped(env_id: str) -> Callable[..., Any]:
    return jax.jit(native(env_id).step)


@cache
def began(env_id: str) -> Callable[..., Any]:
    return jax.jit(native(env_id).reset)


@pytest.mark.parametrize("policy", [random_action, driven_action])
@pytest.mark.parametrize("env_id", IDS)
def test_equals_gymnasium_step_for_step(env_id, policy):
    records = record(env_id, policy, STEPS)
    env = native(env_id)
    state = STATES[env_id](jnp.asarray(records.before, jnp.float32), jnp.asarray(records.elapsed, jnp.int32))
    noise = jnp.zeros((STEPS, env.noise_words), jnp.uint32)
    next_state, moved = jax.jit(jax.vmap(env.step))(state, jnp.asarray(records.action, jnp.int32), noise)

    clear = ~near_boundary(env_id, records)
    assert np.sum(~clear) <= 5
    assert moved.observation.dtype == moved.reward.dtype == jnp.float32
    np.testing.assert_allclose(moved.observation[clear], records.observation[clear], rtol=1e-6, atol=TOLERANCE[env_id])
    np.testing.assert_array_equal(moved.reward[clear], records.reward[clear])
    np.testing.assert_array_equal(moved.terminated[clear], records.terminated[clear])
    np.testing.assert_array_equal(moved.truncated, records.truncated)
    np.testing.assert_array_equal(next_state.elapsed, records.elapsed + 1)

    if policy is driven_action:
        # The comparison above says nothing about an end that never happened.
        assert (records.truncated if env_id == "CartPole-v1" else records.terminated).sum() >= 10
        assert env_id != "MountainCar-v0" or (records.after[:, 0] == MIN_POSITION).any()


def test_acrobot_wraps_angles_and_bounds_velocities_as_gymnasium():
    rng = np.random.default_rng(0)
    bodies = rng.uniform([-np.pi, -np.pi, -12.5, -28.0], [np.pi, np.pi, 12.5, 28.0], (500, 4)).astype(np.float32)
    env = gymnasium.make("Acrobot-v1", disable_env_checker=True).unwrapped
    env.reset(seed=0)
    expected = []
    for body in bodies:
        env.state = body.astype(np.float64)
        env.step(2)
        expected.append(env.state)
    expected = np.array(expected)
    found = jax.jit(jax.vmap(partial(integrate_acrobot, torque=jnp.float32(1.0))))(jnp.asarray(bodies))

    assert np.max(np.abs(found[:, :2])) <= np.pi + 1e-6
    turn = np.abs(found[:, :2] - expected[:, :2])
    np.testing.assert_allclose(np.minimum(turn, 2 * np.pi - turn), 0.0, atol=1e-3)
    np.testing.assert_allclose(found[:, 2:], expected[:, 2:], rtol=1e-4, atol=1e-3)
    assert (np.abs(expected[:, 3]) == 9 * np.pi).any()
    assert (np.abs(expected[:, 2]) == 4 * np.pi).any()


def test_cartpole_runs_free_beside_gymnasium_to_the_same_last_step():
    episodes, longest = 200, 150
    env = gymnasium.make("CartPole-v1", disable_env_checker=True)
    rng = np.random.default_rng(3)
    actions = rng.integers(2, size=(episodes, longest)).astype(np.int32)
    starts = np.zeros((episodes, 4), np.float32)
    lengths = np.zeros(episodes, np.int64)
    paths = np.zeros((episodes, longest, 4), np.float32)
    clear = np.ones(episodes, bool)
    for episode in range(episodes):
        starts[episode], _ = env.reset(seed=episode)
        env.unwrapped.state = starts[episode].astype(np.float64)
        terminated = False
        while not terminated:
            step = lengths[episode]
            paths[episode, step], _, terminated, _, _ = env.step(actions[episode, step])
            x, _, angle, _ = env.unwrapped.state
            clear[episode] &= min(abs(abs(x) - MAX_POSITION), abs(abs(angle) - MAX_ANGLE)) > BOUNDARY
            lengths[episode] += 1

    noise = jnp.zeros(4, jnp.uint32)

    def run(body, actions):
        state = CartPoleState(body, jnp.int32(0))
        return jax.lax.scan(lambda state, action: CARTPOLE.step(state, action, noise), state, actions)[1]

    moved = jax.jit(jax.vmap(run))(jnp.asarray(starts), jnp.asarray(actions))
    first_end = np.argmax(moved.terminated, axis=1) + 1
    assert np.sum(~clear) <= 2
    np.testing.assert_array_equal(first_end[clear], lengths[clear])
    lived = np.arange(longest) < lengths[:, None]
    np.testing.assert_allclose(moved.observation[lived], paths[lived], atol=1e-4)


@pytest.mark.parametrize("margin", [-2e-5, 2e-5])
@pytest.mark.parametrize(
    ("env_id", "action", "at_threshold"),
    [
        ("CartPole-v1", 0, [2.4, 0.0, 0.0, 0.0]),
        ("CartPole-v1", 1, [-2.4, 0.0, 0.0, 0.0]),
        ("CartPole-v1", 0, [0.0, 0.0, MAX_ANGLE, 0.0]),
        ("CartPole-v1", 1, [0.0, 0.0, -MAX_ANGLE, 0.0]),
        ("MountainCar-v0", 1, [0.5 - 0.03, 0.03 + 0.0025 * np.cos(3 * 0.47)]),
    ],
)
def test_ends_on_the_same_side_of_a_threshold_as_gymnasium(env_id, action, at_threshold, margin):
    state = np.array(at_threshold)
    place = np.argmax(np.abs(state))
    state[place] += margin * np.sign(state[place])
    env = gymnasium.make(env_id, disable_env_checker=True)
    env.reset(seed=0)
    env.unwrapped.state = state
    assert env.step(action)[2] is (margin > 0)
    noise = np.zeros(native(env_id).noise_words, np.uint32)
    body = STATES[env_id](np.float32(state), np.int32(0))
    assert bool(stepped(env_id)(body, np.int32(action), noise)[1].terminated) is (margin > 0)


def test_both_flags_on_one_step_as_in_gymnasium():
    env = gymnasium.make("CartPole-v1", max_episode_steps=1, disable_env_checker=True)
    env.reset(seed=0)
    env.unwrapped.state = np.array([2.39, 1.0, 0.0, 0.0])
    _, reward, terminated, truncated, _ = env.step(1)
    assert (reward, terminated, truncated) == (1.0, True, True)

    state = CartPoleState(np.float32([2.39, 1.0, 0.0, 0.0]), np.int32(499))
    _, moved = stepped("CartPole-v1")(state, np.int32(1), np.zeros(4, np.uint32))
    assert (float(moved.reward), bool(moved.terminated), bool(moved.truncated)) == (1.0, True, True)


@pytest.mark.parametrize("env_id", IDS)
def test_truncates_at_the_time_limit_and_not_before(env_id):
    env = native(env_id)
    noise = np.zeros(env.noise_words, np.uint32)
    state, _ = began(env_id)(noise)
    for elapsed, expected in [(0, False), (env.max_episode_steps - 2, False), (env.max_episode_steps - 1, True)]:
        _, moved = stepped(env_id)(state._replace(elapsed=np.int32(elapsed)), np.int32(0), noise)
        assert bool(moved.truncated) is expected
        assert not moved.terminated


@pytest.mark.parametrize(
    ("env_id", "low", "high"),
    [
        ("CartPole-v1", [-0.05] * 4, [0.05] * 4),
        ("Acrobot-v1", [-0.1] * 4, [0.1] * 4),
        ("MountainCar-v0", [-0.6, 0.0], [-0.4, 0.0]),
    ],
)
def test_starts_are_uniform_in_gymnasiums_range(env_id, low, high):
    env = native(env_id)
    draws = 20_000
    noise = jax.random.bits(jax.random.key(1), (draws, env.noise_words), jnp.uint32)
    state, observation = jax.jit(jax.vmap(env.reset))(noise)
    low, high = np.array(low, np.float32), np.array(high, np.float32)
    width = high - low

    assert observation.shape == (draws, *env.observation_shape)
    assert observation.dtype == jnp.float32
    np.testing.assert_array_equal(state.elapsed, 0)
    body = np.asarray(state.body)
    assert np.all((body >= low) & (body <= high))
    np.testing.assert_allclose(
        np.quantile(body, [0.0, 0.25, 0.5, 0.75, 1.0], axis=0).T,
        low[:, None] + width[:, None] * [0.0, 0.25, 0.5, 0.75, 1.0],
        atol=0.02 * width.max(),
    )
    moving = body[:, width > 0]
    assert len(np.unique(moving, axis=0)) == draws or moving.shape[1] == 1
    between = np.atleast_2d(np.corrcoef(moving.T))
    np.testing.assert_allclose(between, np.eye(moving.shape[1]), atol=0.04)


@pytest.mark.parametrize("env_id", IDS)
def test_different_noise_gives_different_starts_and_the_same_noise_the_same(env_id):
    env = native(env_id)
    one, other = np.random.default_rng(2).integers(2**32, size=(2, env.noise_words), dtype=np.uint32)
    first, again, different = (began(env_id)(noise)[1] for noise in (one, one, other))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, different)


def scanned(env: NativeEnvironment, steps: int, envs: int):
    """`steps` vector steps of random actions through `advance`: running before each step, transition after it."""
    action_key, noise_key = jax.random.split(jax.random.key(5))
    actions = jax.random.randint(action_key, (steps, envs), 0, env.num_actions, jnp.int32)
    noise = jax.random.bits(noise_key, (steps + 1, envs, env.noise_words), jnp.uint32)

    def body(running, inputs):
        next_running, transition = jax.vmap(partial(advance, env))(running, *inputs)
        return next_running, (running, transition)

    running = jax.jit(jax.vmap(partial(start, env)))(noise[0])
    _, (before, transition) = jax.jit(partial(jax.lax.scan, body))(running, (actions, noise[1:]))
    return before, transition, noise[1:]


@pytest.mark.parametrize("env_id", IDS)
def test_the_step_after_an_end_restarts_pays_nothing_and_ends_nothing(env_id):
    env = native(env_id)
    before, transition, noise = scanned(env, steps=1_200, envs=4)
    over = np.asarray(before.over)
    assert over.sum() >= 8

    np.testing.assert_array_equal(transition.reward[over], 0.0)
    assert not transition.terminated[over].any()
    assert not transition.truncated[over].any()
    fresh = jax.jit(jax.vmap(env.reset))(noise[over])[1]
    np.testing.assert_allclose(transition.observation[over], fresh, atol=1e-6)
    assert len(np.unique(fresh, axis=0)) == over.sum()
    ended = np.asarray(transition.terminated | transition.truncated)
    np.testing.assert_array_equal(over[1:], ended[:-1])
    np.testing.assert_array_equal(before.observation[1:], transition.observation[:-1])
    np.testing.assert_array_equal(before.state.elapsed[1:][over[:-1]], 0)
    assert np.max(before.state.elapsed) <= env.max_episode_steps
    assert (transition.reward[~over] != 0).any()


def test_the_action_of_a_restarting_step_changes_nothing():
    fallen = jnp.array([3.0, 0.0, 0.0, 0.0], jnp.float32)
    running = Running(CartPoleState(fallen, jnp.int32(20)), fallen, jnp.asarray(True))
    noise = jnp.arange(4, dtype=jnp.uint32) * jnp.uint32(0x12345678)
    advanced = jax.jit(partial(advance, CARTPOLE))
    left, right = (advanced(running, np.int32(action), noise) for action in (0, 1))
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(one, other)


def test_mountain_car_episodes_under_random_actions_last_200_steps():
    before, transition, _ = scanned(MOUNTAIN_CAR, steps=603, envs=3)
    ends = np.nonzero(np.asarray(transition.truncated)[:, 0])[0]
    # 200 steps, then one row that restarts.
    np.testing.assert_array_equal(ends, [199, 400, 601])
    assert not transition.terminated.any()
    np.testing.assert_array_equal(np.nonzero(np.asarray(before.over)[:, 0])[0], [200, 401, 602])


@pytest.mark.parametrize("env_id", IDS)
def test_says_of_itself_what_gymnasium_says(env_id):
    env, spec = native(env_id), gymnasium.spec(env_id)
    spaces = gymnasium.make(env_id, disable_env_checker=True)
    assert env.name == env_id
    assert env.max_episode_steps == spec.max_episode_steps
    assert env.num_actions == spaces.action_space.n
    assert env.observation_shape == spaces.observation_space.shape


def test_a_task_without_a_jax_version_is_none_and_the_table_imports_no_jax():
    assert native("LunarLander-v3") is None
    program = "import sys, qdojo.envs.native as n; assert 'CartPole-v1' in n.NATIVE; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
