"""Any supported space, nested to any depth, becomes one array of the promised shape and dtype, and nothing is lost."""

import copy
import sys
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

import qdojo
from qdojo.envs.doctor import examine
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.resolve import resolve
from qdojo.envs.spaces import BadValueError, Spaces, check_spaces
from qdojo.errors import UsageError

# Workers cannot import a test module, so they are sent its classes themselves.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Shown(gym.Env[Any, Any]):
    """Shows samples of its observation space, from its seed; remembers its actions."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any] | None = None) -> None:
        # Copies must not share its random numbers.
        self.observation_space = copy.deepcopy(observation)
        self.action_space = spaces.Discrete(2) if action is None else action
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert action in self.action_space
        self.actions.append(action)
        return self.observation_space.sample(), float(np.sum(action)), False, False, {}


def checked(observation: spaces.Space[Any], **options: Any) -> Spaces:
    return check_spaces(Shown(observation), **options)


NESTED = spaces.Dict(
    {
        "z": spaces.Tuple([spaces.Discrete(3, start=-1), spaces.MultiBinary((2, 1))]),
        "a": spaces.Box(0, 255, (1, 2), np.uint8),
        "m": spaces.MultiDiscrete([[2], [3]], start=[[5], [0]]),
    }
)


@pytest.mark.parametrize(
    ("space", "value", "dtype", "shown"),
    [
        (spaces.MultiBinary((2, 2)), np.array([[0, 1], [1, 1]], np.int8), np.uint8, [0, 1, 1, 1]),
        (spaces.MultiDiscrete([2, 3], start=[4, -1]), np.array([5, -1]), np.uint8, [0, 1, 1, 0, 0]),
        (spaces.MultiDiscrete([[2], [2]]), np.array([[1], [0]]), np.uint8, [0, 1, 1, 0]),
        (
            NESTED,
            {
                "z": (0, np.array([[1], [0]], np.int8)),
                "a": np.array([[7, 9]], np.uint8),
                "m": np.array([[6], [2]]),
            },
            np.uint8,
            # In the order that the space keeps: a, m, z, or as it was given.
            {"a": [7, 9], "m": [0, 1, 0, 0, 1], "z": [0, 1, 0, 1, 0]},
        ),
        (
            spaces.Tuple([spaces.Box(-1, 1, (), np.float64), spaces.Discrete(2)]),
            (np.float64(0.5), 1),
            np.float32,
            [0.5, 0, 1],
        ),
    ],
)
def test_composite_observations_are_flattened_side_by_side(space: Any, value: Any, dtype: Any, shown: Any) -> None:
    if isinstance(shown, dict):
        shown = [number for key in space for number in shown[key]]
    found = checked(space)
    encoded = found.encode(value)
    assert encoded.tolist() == shown
    assert encoded.dtype == found.observation_dtype == dtype
    assert encoded.shape == found.observation_shape
    assert (found.masked, found.categories) == (False, ())


PLAIN = st.one_of(
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 5), st.integers(-3, 3)),
    st.builds(spaces.MultiBinary, st.integers(1, 4)),
    st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 4), min_size=1, max_size=3)),
    st.builds(lambda shape: spaces.Box(-1, 1, shape, np.float32), st.sampled_from([(), (2,), (1, 3)])),
    st.builds(lambda shape: spaces.Box(0, 255, shape, np.uint8), st.sampled_from([(), (2,), (1, 3)])),
)
ANY = st.recursive(
    PLAIN,
    lambda parts: st.one_of(
        st.builds(spaces.Tuple, st.lists(parts, min_size=1, max_size=3)),
        st.builds(spaces.Dict, st.dictionaries(st.sampled_from("abcd"), parts, min_size=1, max_size=3)),
    ),
    max_leaves=6,
)


def leaves(value: Any) -> tuple[Any, ...]:
    """A sample as something that can be compared."""
    if isinstance(value, dict):
        return tuple(leaves(part) for part in value.values())
    return tuple(map(leaves, value)) if isinstance(value, tuple) else tuple(np.ravel(value).tolist())


@given(space=ANY, seed=st.integers(0, 1000))
@settings(max_examples=80)
def test_samples_have_the_promised_form_and_distinct_ones_stay_distinct(space: spaces.Space[Any], seed: int) -> None:
    found = checked(space)
    space.seed(seed)
    samples = [space.sample() for _ in range(8)]
    encoded = [found.encode(sample) for sample in samples]
    for vector in encoded:
        assert (vector.shape, vector.dtype) == (found.observation_shape, found.observation_dtype)
    for one, vector in zip(samples, encoded, strict=True):
        for other, another in zip(samples, encoded, strict=True):
            assert (leaves(one) == leaves(other)) == np.array_equal(vector, another)


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        (spaces.MultiBinary(2), np.array([0, 2]), "numbers other than the 0 and 1"),
        (spaces.MultiBinary(2), np.array([0, 1, 0]), r"shape \(3,\) and dtype int64, but its MultiBinary .*\(2,\)"),
        (spaces.MultiBinary(2), np.array([0.0, 1.0]), "dtype float64, but its MultiBinary"),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 3]), "element 1 is 3, outside its MultiDiscrete"),
        (spaces.MultiDiscrete([2, 3], start=[1, 0]), np.array([0, 0]), "element 0 is 0, outside"),
        (spaces.MultiDiscrete([2, 3]), np.array([1.0, 2.0]), "dtype float64, but its MultiDiscrete"),
        (spaces.MultiDiscrete([2, 3]), np.array([1]), r"shape \(1,\)"),
        (NESTED, [1], "the observation list, but its Dict space has the keys"),
        (NESTED, {"a": 1, "b": 2}, r"the observation \['a', 'b'\], but its Dict space has the keys"),
        (spaces.Tuple([spaces.Discrete(2)]), (1, 1), "of 2 parts, but its Tuple space has 1 parts"),
        (spaces.Tuple([spaces.Discrete(2)]), 1, "of type int, but its Tuple space"),
        (
            spaces.Dict(x=spaces.Tuple([spaces.Discrete(2)])),
            {"x": (2,)},
            "Discrete space, in its part 0, in .* 'x'",
        ),
        (spaces.Dict(x=spaces.Box(0, 1, (2,))), {"x": np.zeros(3)}, r"shape \(3,\), .* \(2,\), in its part 'x'"),
    ],
)
def test_a_value_outside_its_space_is_described(space: Any, value: Any, words: str) -> None:
    with pytest.raises(BadValueError, match=words):
        checked(space).encode(value)


@pytest.mark.parametrize(
    ("space", "value", "categories", "indices"),
    [
        (spaces.Discrete(3, start=5), 6, (3,), [1]),
        (spaces.MultiDiscrete([4, 2], start=[1, 0]), np.array([4, 0]), (4, 2), [3, 0]),
        (spaces.MultiDiscrete([[2, 3]]), np.array([[1, 2]]), (2, 3), [1, 2]),
    ],
)
def test_embedded_observations_are_indices(space: Any, value: Any, categories: Any, indices: list[int]) -> None:
    found = checked(space, embedded=True)
    encoded = found.encode(value)
    assert found.categories == categories
    assert encoded.tolist() == indices
    assert encoded.dtype == found.observation_dtype == np.int32
    assert encoded.shape == found.observation_shape
    with pytest.raises(BadValueError, match="outside"):
        found.encode(np.asarray(value) + 9)


def test_only_categories_can_be_embedded() -> None:
    with pytest.raises(UsageError) as error:
        checked(spaces.Box(0, 1, (2,)), name="Room", embedded=True)
    assert str(error.value) == (
        "embedding is set, but the observations of Room are not Discrete or MultiDiscrete; leave it out."
    )


def test_actions_are_decoded_to_what_the_environment_takes() -> None:
    one = check_spaces(Shown(spaces.Discrete(2), spaces.Discrete(3, start=-1)))
    assert (one.action_shape, one.num_actions, one.masked) == ((), 3, False)
    assert one.decode(np.int32(2)) == 1
    assert type(one.decode(np.int32(2))) is int
    many = check_spaces(Shown(spaces.Discrete(2), spaces.MultiDiscrete([3, 3], start=[0, 7])))
    assert (many.action_shape, many.num_actions, many.masked) == ((2,), 3, False)
    decoded = many.decode(np.array([2, 1], np.int32))
    assert (decoded.tolist(), decoded.dtype) == ([2, 8], np.int64)


def test_padding_of_ragged_branches_is_masked() -> None:
    found = check_spaces(Shown(spaces.Discrete(2), spaces.MultiDiscrete([3, 1])))
    assert (found.action_shape, found.num_actions, found.masked) == ((2,), 3, True)
    shown = found.encode(1)
    assert shown.observation.tolist() == [0, 1]
    assert shown.action_mask.tolist() == [[True, True, True], [True, False, False]]


def test_spaces_survive_the_way_to_a_worker() -> None:
    found = cloudpickle.loads(cloudpickle.dumps(checked(NESTED)))
    assert found.encode(NESTED.sample()).shape == found.observation_shape


@pytest.mark.parametrize("embedded", [False, True])
def test_branches_play_in_this_process_in_workers_and_in_a_vector(embedded: bool) -> None:
    space = spaces.MultiDiscrete([3, 4]) if embedded else NESTED

    def make() -> Shown:
        return Shown(space, spaces.MultiDiscrete([2, 3], start=[0, 5]))

    actions = np.random.default_rng(0).integers(2, size=(6, 2, 2))
    spec = resolve(make)
    found = check_spaces(spec, embedded=embedded)
    sync, workers = HostEnvironment(spec, [1], 2, spaces=found), HostEnvironment(spec, [1], 2, "async", spaces=found)
    vector = resolve(lambda: gym.vector.SyncVectorEnv([make, make]))
    ready = HostEnvironment(vector, [1], 2, spaces=check_spaces(vector, embedded=embedded))
    shapes = ((2, *found.observation_shape), (2, 2, 3))
    try:
        for host in (sync, workers, ready):
            shown = host.reset()
            assert (shown.observation.shape, shown.action_mask.shape) == shapes
            assert shown.observation.dtype == found.observation_dtype
        for action in actions:
            one, other, third = (host.step(action) for host in (sync, workers, ready))
            assert all(map(np.array_equal, one.observation, other.observation))
            assert one.reward.tolist() == third.reward.tolist() == (action.sum(axis=-1) + 5).tolist()
        state = sync.state()
        assert state["actions"].shape == (2, 6, 2)
        assert state["actions"][1].tolist() == actions[:, 1].tolist()
        for host in (HostEnvironment(spec, [1], 2, spaces=found), workers):
            assert host.restore(state) == []
            assert all(map(np.array_equal, host.observation, sync.observation))
            assert np.array_equal(host.state()["actions"], state["actions"])
    finally:
        workers.close()


def test_a_failure_names_the_action_of_every_branch() -> None:
    class Fails(Shown):
        def step(self, action: Any) -> Any:
            if len(self.actions) == 2:
                raise RuntimeError("enough")
            return super().step(action)

    host = HostEnvironment(resolve(lambda: Fails(spaces.Discrete(2), spaces.MultiDiscrete([2, 3]))), [1])
    host.reset()
    for _ in range(2):
        host.step(np.array([[0, 2]]))
    with pytest.raises(Exception, match=r"at step 3, action \[1, 2\]\): it raised RuntimeError: enough"):
        host.step(np.array([[1, 2]]))


def test_a_part_that_is_not_finite_is_found() -> None:
    class Nan(Shown):
        def reset(self, **_: Any) -> Any:
            return {"a": np.array([np.nan], np.float32), "b": 0}, {}

    room = spaces.Dict(a=spaces.Box(-1, 1, (1,)), b=spaces.Discrete(2))
    host = HostEnvironment(resolve(lambda: Nan(room, spaces.MultiDiscrete([1, 2]))), [1])
    with pytest.raises(Exception, match="NaN or inf"):
        host.reset()


@pytest.mark.parametrize("shape", [3, (2, 2)])
def test_bits_are_branches_of_two_actions_and_reach_the_environment_as_its_space_has_them(shape: Any) -> None:
    space = spaces.MultiBinary(shape)
    bits = int(np.prod(shape))

    def make() -> Shown:
        return Shown(spaces.Box(-1, 1, (2,)), space)

    spec = resolve(make)
    found = check_spaces(spec)
    assert (found.action_shape, found.num_actions, found.masked, found.legal.all()) == ((bits,), 2, False, True)
    choice = np.arange(bits, dtype=np.int32) % 2
    decoded = found.decode(choice)
    assert decoded in space
    assert (decoded.dtype, decoded.ravel().tolist()) == (np.int8, choice.tolist())
    assert found.count_from_zero(found.decode_all([choice, 1 - choice])).tolist() == [[*choice], [*(1 - choice)]]
    choices = np.random.default_rng(0).integers(2, size=(4, 2, bits))
    vector = resolve(lambda: gym.vector.SyncVectorEnv([make, make]))
    hosts = [HostEnvironment(each, [1], 2, spaces=found) for each in (spec, vector)]
    for host in hosts:
        host.reset()
    for choice in choices:
        rewards = [host.step(choice).reward.tolist() for host in hosts]
        assert rewards[0] == rewards[1] == choice.sum(axis=-1).tolist()
    again = HostEnvironment(spec, [1], 2, spaces=found)
    assert again.restore(hosts[0].state()) == []


def test_bits_are_masked_and_examined_like_any_branches() -> None:
    class Masked(Shown):
        """The second bit may never be set."""

        def reset(self, **options: Any) -> Any:
            return super().reset(**options)[0], {"action_mask": np.array([1, 1, 1, 0], np.int8)}

        def step(self, action: Any) -> Any:
            assert not action[1]
            *moved, _ = super().step(action)
            return *moved[:3], True, {"action_mask": np.array([1, 1, 1, 0], np.int8)}

    findings = examine(lambda: Masked(spaces.Box(-1, 1, (2,)), spaces.MultiBinary(2)))
    assert findings[1].message == "MultiBinary [2] actions, masked by info, observations float32[2]"
    assert findings[3].ok


GRID = spaces.Dict(image=spaces.Box(0, 255, (7, 7, 3), np.uint8), direction=spaces.Discrete(4), mission=spaces.Text(20))
SEEN = {"image": np.arange(147, dtype=np.uint8).reshape(7, 7, 3), "direction": 2, "mission": "go to the goal"}


def test_parts_of_a_dict_are_chosen() -> None:
    both = checked(GRID, observe=["image", "direction"])
    assert (both.observation_shape, both.observation_dtype, both.observation_scale) == ((151,), np.uint8, 1)
    # Side by side, sorted by their keys.
    assert both.encode(SEEN).tolist() == [0, 0, 1, 0, *range(147)]
    image = checked(GRID, observe=["image"])
    assert (image.observation_shape, image.observation_dtype, image.observation_scale) == ((7, 7, 3), np.uint8, 255)
    assert np.array_equal(image.encode(SEEN), SEEN["image"])
    direction = checked(GRID, observe=("direction",), embedded=True)
    assert (direction.categories, direction.encode(SEEN).tolist()) == ((4,), [2])
    with pytest.raises(BadValueError, match=r"an observation without 'image'"):
        image.encode({"direction": 1})
    with pytest.raises(BadValueError, match=r"the observation \['direction'\], but its Dict space has the keys"):
        both.encode({"direction": 1})


def test_parts_are_chosen_beside_a_mask() -> None:
    space = spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(-1, 1, (2,)), action_mask=spaces.MultiBinary(2))
    seen = {"a": 1, "b": np.zeros(2, np.float32), "action_mask": np.array([0, 1], np.int8)}
    for observe, shown in ((None, [0, 1, 0, 0]), (["b"], [0, 0]), (["a", "b"], [0, 1, 0, 0])):
        found = checked(space, observe=observe)
        assert (found.mask_source, found.masked) == ("observation", True)
        assert found.encode(seen).observation.tolist() == shown
        assert found.encode(seen).action_mask.tolist() == [False, True]


@pytest.mark.parametrize(
    ("space", "observe", "words"),
    [
        (
            GRID,
            None,
            "'mission' is not supported .* use the others .*`--observe image direction`\\), or wrap it",
        ),
        (GRID, ["image", "mission"], "its part 'mission' is not supported .* use the others \\(observe=\\['image'\\]"),
        (GRID, ["imag"], "have no key 'imag'; the keys are image, direction, mission."),
        (GRID, [], r"observe is \[\]; name one or more of image, direction, mission, each once."),
        (GRID, ["image", "image"], "name one or more of image, direction, mission, each once."),
        (spaces.Discrete(2), ["image"], "observe is set, but the observations of Shown are not a Dict; leave it out."),
        (spaces.Dict(mission=spaces.Text(3)), None, "its part 'mission' is not supported .* are\\); wrap it in"),
    ],
)
def test_parts_that_cannot_be_chosen_are_named(space: Any, observe: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        checked(space, observe=observe)
    assert "\n" not in str(error.value)


def test_the_doctor_sees_the_chosen_parts() -> None:
    assert not examine(lambda: Shown(GRID))[1].ok
    assert examine(lambda: Shown(GRID), ["image"])[1].message == "2 actions, observations uint8[7, 7, 3]"


def test_chosen_parts_are_trained_on_and_kept(tmp_path: Any) -> None:
    class Grid(Shown):
        def __init__(self, render_mode: str | None = None) -> None:
            super().__init__(GRID, spaces.MultiBinary(2))

        def step(self, action: Any) -> Any:
            self.observation_space.seed(len(self.actions))
            return *super().step(action)[:3], len(self.actions) % 9 == 0, {}

    small: dict[str, Any] = {"hidden": [8], "warmup_steps": 50, "eval_every_steps": None, "final_eval_episodes": 2}
    run = qdojo.train(Grid, root=tmp_path, steps=200, observe=["image", "direction"], **small)
    assert run.config.observe == ("image", "direction")
    assert qdojo.resume(run.path, env=Grid, steps=300).config.observe == ("image", "direction")
    assert run.policy().act(SEEN) in spaces.MultiBinary(2)
    assert run.evaluate(2).returns.shape == (1, 2)
