"""The MinAtar games against recorded games of the package `minatar` 1.0.15, given its random choices; see
`probes/minatar_reference.py`."""

from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes.minatar_records import IDS, RECORDS, recorded, words
from probes.minatar_reference import REAL

import qdojo
from qdojo.envs.native.minatar import MINATAR, minatar
from qdojo.envs.resolve import resolve

MINIMAL = {"asterix": 5, "breakout": 3, "freeway": 3, "seaquest": 6, "space_invaders": 4}


@cache
def played(record: str) -> tuple[Any, ...]:
    """What our game gives for the actions and words of a record: observations, rewards, ends and states."""
    game = record.rpartition("_")[0]
    env = minatar(f"MinAtar/{IDS[game]}-v0")
    rows, _ = recorded(record)

    def step(state: Any, row: Any) -> Any:
        starts, action, noise = row
        began, first = env.reset(noise)
        after, moved = env.step(state, action, noise)
        state = jax.tree.map(lambda a, b: jnp.where(starts, a, b), began, after)
        shown = jnp.where(starts, first, moved.observation)
        return state, (shown, moved.reward, moved.terminated, moved.truncated, state.game)

    noise = words(game, rows["draws"])
    run = jax.jit(lambda *given: jax.lax.scan(step, env.reset(given[2][0])[0], given)[1])
    return jax.tree.map(np.asarray, run(rows["starts"], rows["actions"].astype(np.int32), noise))


@pytest.mark.parametrize("record", RECORDS)
def test_equals_the_reference_step_for_step(record: str) -> None:
    rows, expected = recorded(record)
    shown, reward, terminated, truncated, _ = played(record)
    counted = ~rows["starts"]
    differs = np.flatnonzero((shown != expected).any(axis=(1, 2, 3)))
    assert not differs.size, f"first at step {differs[0]}: {np.argwhere(shown[differs[0]] != expected[differs[0]])}"
    np.testing.assert_array_equal(reward[counted], rows["rewards"][counted])
    np.testing.assert_array_equal(terminated[counted], rows["terminated"][counted])
    assert not truncated.any()


def test_the_records_reach_the_late_stages_of_each_game() -> None:
    """The comparison says nothing about what never happened."""
    asterix, breakout, _, seaquest, invaders = (played(f"{game}_good")[4] for game in sorted(REAL))
    assert (asterix.spawn_steps.min(), asterix.move_steps.min()) == (1, 1)
    assert (asterix.there.all(axis=1) & (asterix.until_spawn == 0)).sum() > 100
    assert (np.diff(breakout.bricks.sum(axis=(1, 2))) > 20).any()
    assert recorded("freeway_good")[0]["terminated"].sum() == 2
    assert recorded("freeway_good")[0]["rewards"].sum() > 50
    assert (seaquest.divers_on_board.max(), seaquest.divers_on_board.min()) == (6, -1)
    assert recorded("seaquest_good")[0]["rewards"].max() > 1
    assert seaquest.oxygen.min() < 100
    assert invaders.move_steps.min() < 12


@pytest.mark.parametrize("env_id", MINATAR)
def test_ids_need_no_package(env_id: str) -> None:
    game = minatar(env_id)
    spec = resolve(env_id)
    assert spec.name == game.name == env_id
    assert spec.observation_space.shape == game.observation_shape == (10, 10, game.observation_shape[2])
    assert spec.action_space.n == game.num_actions
    assert game.num_actions == (6 if env_id.endswith("v0") else MINIMAL[MINATAR[env_id][0]])
    state, _ = game.reset(jnp.arange(game.noise_words, dtype=jnp.uint32))
    picture = np.asarray(game.render(state))
    assert (picture.dtype, picture.shape) == (np.uint8, (160, 160, 3))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1


def test_minimal_actions_are_some_of_the_six() -> None:
    full, minimal = minatar("MinAtar/SpaceInvaders-v0"), minatar("MinAtar/SpaceInvaders-v1")
    noise = jnp.full(1, 2**32 - 1, jnp.uint32)
    state, _ = full.reset(noise)
    for few, many in enumerate((0, 1, 3, 5)):
        np.testing.assert_array_equal(
            minimal.step(state, jnp.int32(few), noise)[1].observation,
            full.step(state, jnp.int32(many), noise)[1].observation,
        )


def test_one_action_in_ten_is_the_previous_one() -> None:
    env = minatar("MinAtar/Breakout-v1")
    noise = jax.random.bits(jax.random.key(0), (4000, 2), np.uint32)
    state, _ = env.reset(noise[0])
    moving = state._replace(last_action=jnp.int32(1))
    after, _ = jax.vmap(lambda words: env.step(moving, jnp.int32(2), words))(noise)
    assert abs(np.mean(after.game.paddle == 3) - 0.1) < 0.02
    np.testing.assert_array_equal(after.last_action, np.where(after.game.paddle == 3, 1, 3))


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> qdojo.Run:
    """Breakout, trained for a short time."""
    return qdojo.train(
        "MinAtar/Breakout-v1",
        root=tmp_path_factory.mktemp("runs"),
        steps=12_000,
        warmup_steps=1_000,
        epsilon_decay_steps=4_000,
        learning_rate_end=None,
        eval_every_steps=None,
        final_eval_episodes=100,
    )


@pytest.mark.slow
def test_breakout_is_learned_in_a_few_thousand_steps(learner: qdojo.Run) -> None:
    """Random play earns about 0.5, and a paddle that does not move less than 1."""
    assert learner.config.torso == "minatar"
    assert learner.result["eval"]["mean"][0] > 2.0


@pytest.mark.slow
def test_what_is_learned_plays_the_package_as_well(learner: qdojo.Run) -> None:
    pytest.importorskip("minatar", reason="the package minatar is not installed")
    env, policy, scores = gymnasium.make("MinAtar/Breakout-v1"), learner.policy(), []
    for seed in range(60):
        observation, _ = env.reset(seed=seed)
        policy.reset()
        over, score = False, 0.0
        while not over:
            observation, reward, over, _, _ = env.step(policy.act(observation.astype(np.uint8)))
            score += reward
        scores.append(score)
    ours = learner.evaluate(300).returns[0]
    spread = np.hypot(np.std(scores) / np.sqrt(len(scores)), np.std(ours) / np.sqrt(len(ours)))
    assert abs(np.mean(scores) - np.mean(ours)) < 4 * spread


def test_the_package_trains_on_the_host_loop(tmp_path: Path) -> None:
    pytest.importorskip("minatar", reason="the package minatar is not installed")
    spec = resolve("MinAtar/Breakout-v1")
    assert (spec.native_id, spec.observation_space.dtype) == ("MinAtar/Breakout-v1", np.uint8)
    run = qdojo.train(
        "MinAtar/Breakout-v1",
        loop="host",
        root=tmp_path,
        steps=400,
        warmup_steps=100,
        eval_every_steps=None,
        final_eval_episodes=5,
    )
    assert run.result["eval"]["episodes"] == 5
