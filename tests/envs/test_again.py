"""Environment objects: what makes copies of one, and what is said where nothing does."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.vector import SyncVectorEnv

from qdojo.envs.again import MadeAgain, again
from qdojo.envs.describe import described, from_description
from qdojo.envs.resolve import resolve
from qdojo.errors import UsageError
from qdojo.ids import GIVEN

CARTPOLE = "CartPole-v1"


class Doubled(gym.RewardWrapper):
    """Records nothing of how it was made."""

    def reward(self, reward: float) -> float:  # type: ignore[override]
        return 2 * reward


def test_a_registered_environment_as_it_is_is_its_id() -> None:
    """So that it may train on the device loop."""
    for made in (gym.make(CARTPOLE), gym.make(CARTPOLE, render_mode="rgb_array")):
        assert again(made) == (CARTPOLE, None)
        assert resolve(made).native_id == CARTPOLE
        made.close()


def test_arguments_limits_and_wrappers_are_made_again() -> None:
    limited = gym.make(CARTPOLE, max_episode_steps=7, sutton_barto_reward=True)
    wrapped = gym.wrappers.RescaleObservation(gym.make("MountainCar-v0"), np.float32(-1), np.float32(1))
    spec = resolve(limited)
    assert (spec.name, spec.native_id, spec.max_episode_steps) == (CARTPOLE + GIVEN, None, 7)
    assert spec.make().unwrapped._sutton_barto_reward
    space = resolve(wrapped).observation_space
    assert isinstance(space, gym.spaces.Box)
    np.testing.assert_array_equal(space.high, [1, 1])


def test_a_description_makes_it_again_and_never_what_is_registered_by_its_id() -> None:
    spec = resolve(gym.make(CARTPOLE, max_episode_steps=7))
    assert from_description(described(spec)).make().spec.max_episode_steps == 7
    assert spec.registered is not None
    assert MadeAgain.from_json(spec.registered)().spec.max_episode_steps == 7


def test_one_whose_spec_no_file_can_hold_is_asked_for_later() -> None:
    spec = resolve(gym.wrappers.RescaleObservation(gym.make("MountainCar-v0"), np.float32(-1), np.float32(1)))
    assert spec.registered is None
    with pytest.raises(UsageError, match=r"MountainCar-v0 was given as an object .* pass it as env="):
        resolve(spec.name)


def test_the_object_itself_is_left_alone() -> None:
    env = gym.make(CARTPOLE, max_episode_steps=7)
    env.reset(seed=3)
    before = np.array(env.unwrapped.state)  # type: ignore[attr-defined]
    resolve(env)
    assert np.array_equal(env.unwrapped.state, before)  # type: ignore[attr-defined]
    env.step(0)


@pytest.mark.parametrize("mode", ["sync", "vector_entry_point"])
def test_a_vector_is_copies_of_what_its_spec_says(mode: str) -> None:
    vector = gym.make_vec(CARTPOLE, num_envs=3, vectorization_mode=mode)
    assert again(vector) == (CARTPOLE, 3)
    vector.close()


def test_a_vector_by_hand_is_copies_of_its_first_environment() -> None:
    vector = SyncVectorEnv([lambda: gym.make(CARTPOLE, max_episode_steps=9)] * 2)
    env, copies = again(vector)
    assert isinstance(env, MadeAgain)
    assert (copies, env().spec.max_episode_steps) == (2, 9)


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (lambda: CartPoleEnv(), "CartPoleEnv without a spec"),
        (lambda: Doubled(gym.make(CARTPOLE)), "wrapper Doubled does not record its arguments"),
        (
            lambda: gym.wrappers.TransformReward(gym.make(CARTPOLE), lambda reward: 2 * reward),
            r"wrapper TransformReward was given a function \(func\)",
        ),
        (
            lambda: gym.make_vec(CARTPOLE, num_envs=2, vectorization_mode="sync", wrappers=[Doubled]),
            "whose spec does not say how to make one of its copies",
        ),
    ],
)
def test_what_cannot_be_made_again_is_one_sentence_with_the_way_out(env: object, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        again(env())  # type: ignore[operator]
    assert "function that returns" in str(caught.value)
    assert "\n" not in str(caught.value)
