"""Logged steps as rows: rings taken apart, runs and Minari data sets read, and all that does not fit refused."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from probes.training import device_loop, small_agent, small_network

from qdojo import snapshot
from qdojo.dataset import read, streams
from qdojo.envs.native.cartpole import CARTPOLE
from qdojo.envs.resolve import resolve
from qdojo.envs.spaces import Spaces, check_spaces
from qdojo.errors import UsageError
from qdojo.runs import checkpoint
from qdojo.runs.directory import create
from qdojo.tape import ring
from qdojo.tape.windows import transitions
from qdojo.types import Masked, Step


def ringed(numbers: Any, last: Any = 0) -> Step:
    """Rows `[time, member, env]` whose observation is their number, and their reward, and their action."""
    at = np.asarray(numbers)
    over = np.broadcast_to(np.asarray(last, bool), at.shape)
    return Step(at[..., None].astype(np.float32), at.astype(np.int32), at.astype(np.float32), over & False, over)


def test_a_ring_is_read_from_its_oldest_row() -> None:
    # Six rows were written to a ring of four: 4 and 5 lie over 0 and 1.
    rows = streams(ringed([[[4]], [[5]], [[2]], [[3]]]), 6)
    assert rows.action.tolist() == [2, 3, 4, 5]
    assert rows.observation.tolist() == [[2.0], [3.0], [4.0], [5.0]]
    assert rows.last.tolist() == [False, False, False, True]


@pytest.mark.parametrize(("written", "expected"), [(1, [0]), (2, [0, 1]), (4, [0, 1, 2, 3]), (8, [0, 1, 2, 3])])
def test_rows_that_were_never_written_are_left_out(written: int, expected: list[int]) -> None:
    rows = streams(ringed(np.arange(4)[:, None, None]), written)
    assert rows.action.tolist() == expected
    assert rows.last.tolist() == [row == expected[-1] for row in expected]


def test_each_member_and_env_is_a_stream_of_its_own() -> None:
    numbers = np.arange(2)[:, None, None] + 10 * np.arange(2)[None, :, None] + 100 * np.arange(3)[None, None, :]
    over = np.zeros((2, 2, 3), bool)
    over[0, 1, 0] = True
    rows = streams(ringed(numbers, over), 2)
    assert rows.action.tolist() == [0, 1, 100, 101, 200, 201, 10, 11, 110, 111, 210, 211]
    assert rows.last.tolist() == [i % 2 == 1 or number == 10 for i, number in enumerate(rows.action.tolist())]


def test_a_ring_with_nothing_on_it_has_no_rows() -> None:
    assert streams(ringed([[[0]], [[0]]]), 0).action.shape == (0,)


class Logged(NamedTuple):
    root: Path
    name: str
    tape: Any
    spaces: Spaces


def save(root: Path, state: Any, env: str) -> str:
    run = create(root, env, "default", "seed = 0\n")
    arrays = snapshot.to_arrays({"state": {"tape": state.tape}})
    checkpoint.save(run.checkpoints_path, checkpoint.step_name(1), arrays, {"config": {"env": env}})
    return run.name


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    """A run of two members with two environments each, whose ring has gone round once and a half."""
    root = tmp_path_factory.mktemp("runs")
    loop = device_loop(CARTPOLE, small_agent(small_network(4)), members=2, capacity_rows=64, cycles=48)
    state, _ = next(loop.run(loop.init()))
    assert int(state.tape.written) == 96
    return Logged(root, save(root, state, "CartPole-v1"), state.tape, check_spaces(resolve("CartPole-v1")))


def test_a_run_gives_the_transitions_of_its_tape(logged: Logged) -> None:
    rows = read(logged.name, logged.spaces, (), logged.root, "CartPole-v1")
    size, number = 64, 64 * 4
    assert (len(rows.reward), type(rows.reward)) == (number, np.ndarray)
    assert rows.last.reshape(4, size).sum() > 4, "no episode ended"
    flat = ring.empty(number, 1, 1, jax.ShapeDtypeStruct((4,), jnp.float32))
    flat = ring.write(flat, jax.tree.map(lambda leaf: leaf[:, None, None], rows))
    read_one = transitions(3).read

    def of_run(member: Any, env: Any, row: Any) -> Any:
        return read_one(logged.tape._replace(member=member), size - 1 - row, env, 0.5)

    def of_data(stream: Any, row: Any) -> Any:
        return read_one(flat._replace(member=jnp.int32(0)), number - 1 - (stream * size + row), jnp.int32(0), 0.5)

    # All rows but the newest of each stream: what follows that one is not written yet.
    member, env, row = (grid.ravel() for grid in jnp.meshgrid(jnp.arange(2), jnp.arange(2), jnp.arange(size - 1)))
    expected = jax.jit(jax.vmap(of_run))(member, env, row)
    found = jax.jit(jax.vmap(of_data))(2 * member + env, row)
    counts = np.asarray(expected.weight) > 0
    assert 200 < counts.sum() < 252
    np.testing.assert_array_equal(found.weight, expected.weight)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[counts], b[counts]), found, expected)
    assert rows.last.reshape(4, size)[:, -1].all()


def test_a_run_is_also_found_by_its_path_and_its_rows_get_the_memory_of_the_reader(logged: Logged) -> None:
    memory = {"state": jnp.array([1.0, 2.0]), "head": jnp.int32(3)}
    rows = read(str(logged.root / logged.name), logged.spaces, memory, Path("elsewhere"), "CartPole-v1")
    assert rows.memory["state"].shape == (256, 2)
    assert rows.memory["state"][255].tolist() == [1.0, 2.0]
    assert rows.memory["head"].tolist() == [3] * 256


def test_what_another_agent_remembered_is_left_behind(tmp_path: Path) -> None:
    memory = jax.ShapeDtypeStruct((3,), jnp.float32)
    tape = ring.empty(2, 1, 1, jax.ShapeDtypeStruct((4,), jnp.float32), (), memory)
    rows = ringed([[[0]], [[1]]])._replace(observation=np.ones((2, 1, 1, 4), np.float32))
    tape = ring.write(tape, rows._replace(memory=np.full((2, 1, 1, 3), 9.0, np.float32)))
    name = save(tmp_path, Logged(tmp_path, "", tape, None), "CartPole-v1")
    found = read(name, check_spaces(resolve("CartPole-v1")), (), tmp_path, "CartPole-v1")
    assert found.observation.tolist() == [[1.0] * 4] * 2
    assert found.memory == ()


def test_a_run_of_another_environment_is_refused(logged: Logged) -> None:
    with pytest.raises(UsageError, match=r"a run of CartPole-v1, but env is Acrobot-v1; name a run of Acrobot-v1\.$"):
        read(logged.name, logged.spaces, (), logged.root, "Acrobot-v1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation_shape": (6,)}, r"like/observation is float32\[4\], but float32\[6\] is needed"),
        ({"observation_dtype": np.dtype(np.uint8)}, r"is float32\[4\], but uint8\[4\] is needed"),
        ({"action_shape": (2,)}, r"like/action is int32\[\], but int32\[2\] is needed"),
        ({"masked": True}, r"like/observation/observation is no such array, but float32\[4\] is needed"),
        ({"num_actions": 1, "legal": np.ones(1, bool)}, r"its action 1 is not legal there"),
    ],
)
def test_rows_that_do_not_fit_are_refused(logged: Logged, change: dict[str, Any], message: str) -> None:
    others = Spaces(**vars(logged.spaces) | change)
    with pytest.raises(UsageError, match=message):
        read(logged.name, others, (), logged.root, "CartPole-v1")


def test_runs_that_are_not_there_or_hold_nothing_are_refused(logged: Logged, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run called 'nobody'"):
        read("nobody", logged.spaces, (), logged.root, "CartPole-v1")
    run = create(tmp_path, "CartPole-v1", "default", "seed = 0\n")
    with pytest.raises(UsageError, match="holds no checkpoint yet"):
        read(run.name, logged.spaces, (), tmp_path, "CartPole-v1")
    empty = logged.tape._replace(written=jnp.int32(0))
    name = save(tmp_path, logged._replace(tape=empty), "CartPole-v1")
    with pytest.raises(UsageError, match=f"{name} has no steps; use another"):
        read(name, logged.spaces, (), tmp_path, "CartPole-v1")


# Minari.


class Counting(gym.Env[Any, Any]):
    """Shows a count and a sign; begins to count actions at 1, of which the one that is forbidden goes round."""

    def __init__(self, masks: str = "observation", terminates: bool = True) -> None:
        shown = spaces.Dict(count=spaces.Discrete(10, start=5), sign=spaces.Box(-1, 1, (2,), np.float32))
        if masks == "observation":
            shown = spaces.Dict(observation=shown, action_mask=spaces.MultiBinary(3))
        self.observation_space, self.masks, self.terminates = shown, masks, terminates
        self.action_space = spaces.Discrete(3, start=1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 5
        return self.show()

    def step(self, action: Any) -> Any:
        self.count += 1
        shown, info = self.show()
        return shown, 0.5 * float(action), self.terminates and self.count == 8, False, info

    def show(self) -> Any:
        mask = np.array([number != self.count % 3 for number in range(3)], np.int8)
        shown = {"count": np.int64(self.count), "sign": np.array([-1.0, 1.0], np.float32)}
        if self.masks == "observation":
            return {"observation": shown, "action_mask": mask}, {}
        return shown, {"action_mask": mask} if self.masks == "info" else {}


@pytest.fixture
def minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, with an empty folder of data sets."""
    library = pytest.importorskip("minari", reason="Minari is not installed: pip install 'qdojo[offline]'")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return library


def collect(minari: Any, env: Any, actions: list[list[Any]], name: str = "test/data-v0", **options: Any) -> str:
    """A data set of episodes of these actions, and what qdojo calls it."""
    collector = minari.DataCollector(env, **options)
    for episode in actions:
        collector.reset(seed=0)
        for action in episode:
            collector.step(action)
    collector.create_dataset(dataset_id=name)
    collector.close()
    return f"minari:{name}"


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
"""Minari warns of missing authors and of whatever else it would like to be told."""


def spaces_of(make: Any) -> Spaces:
    return check_spaces(resolve(make))


def test_minari_episodes_become_rows_with_the_final_observation(minari: Any, tmp_path: Path) -> None:
    """CartPole pushed one way falls; pushed to and fro it is cut short by its limit of 12 steps."""
    actions = [[1] * 20, [0, 1] * 6]
    make = lambda: TimeLimit(gym.make("CartPole-v1").unwrapped, 12)  # noqa: E731
    env, episodes = make(), []
    for episode in actions:
        shown, _ = env.reset(seed=0)
        seen, done = [shown], False
        for length, action in enumerate(episode, 1):
            shown, _, terminated, truncated, _ = env.step(action)
            seen.append(shown)
            if terminated or truncated:
                episodes.append((np.array(seen), episode[:length], terminated))
                done = True
                break
        assert done
    assert [terminated for _, _, terminated in episodes] == [True, False]
    source = collect(minari, make(), [episode for _, episode, _ in episodes])
    rows = read(source, spaces_of("CartPole-v1"), jnp.zeros(2), tmp_path, "CartPole-v1")
    first, second = len(episodes[0][1]), 12
    np.testing.assert_array_equal(rows.observation, np.concatenate([seen for seen, _, _ in episodes]))
    assert rows.action.tolist() == [1] * first + [0] + [0, 1] * 6 + [0]
    assert rows.reward.tolist() == [1.0] * first + [0.0] + [1.0] * second + [0.0]
    assert np.flatnonzero(rows.terminated).tolist() == [first - 1]
    assert np.flatnonzero(rows.last).tolist() == [first, first + second + 1]
    assert (rows.observation.dtype, rows.action.dtype, rows.reward.dtype) == (np.float32, np.int32, np.float32)
    assert rows.memory.shape == (first + second + 2, 2)


# With a count of 5, 6 and 7 the actions 3, 1 and 2 are forbidden: two of each three are left.
LEGAL = [[1, 2, 3], [2, 3]]


@pytest.mark.parametrize("masks", ["observation", "info"])
def test_dict_observations_starts_and_masks_are_read_as_they_are_played(
    minari: Any, tmp_path: Path, masks: str
) -> None:
    source = collect(minari, Counting(masks), LEGAL, record_infos=masks == "info")
    rows = read(source, spaces_of(lambda: Counting(masks)), (), tmp_path, "mine")
    assert isinstance(rows.observation, Masked)
    count = np.eye(10)[[0, 1, 2, 3, 0, 1, 2]]
    np.testing.assert_array_equal(rows.observation.observation[:, :10], count)
    np.testing.assert_array_equal(rows.observation.observation[:, 10:], [[-1.0, 1.0]] * 7)
    assert np.argmin(rows.observation.action_mask, axis=1).tolist() == [2, 0, 1, 2, 2, 0, 1]
    # Counted from 0; where nothing is done it is the first that may be done.
    assert rows.action.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert rows.reward.tolist() == [0.5, 1.0, 1.5, 0.0, 1.0, 1.5, 0.0]
    assert np.flatnonzero(rows.terminated).tolist() == [2], "an episode that was broken off did not terminate"
    assert np.flatnonzero(rows.last).tolist() == [3, 6]


def test_masks_that_were_not_recorded_are_asked_for(minari: Any, tmp_path: Path) -> None:
    source = collect(minari, Counting("info"), LEGAL)
    with pytest.raises(UsageError, match=r"no action masks in its infos, .* DataCollector\(env, record_infos=True\)"):
        read(source, spaces_of(lambda: Counting("info")), (), tmp_path, "mine")


def test_forbidden_actions_are_refused(minari: Any, tmp_path: Path) -> None:
    source = collect(minari, Counting(), [[1, 2, 3], [1, 1]])
    with pytest.raises(UsageError, match="episode 1, row 1: its action 0 is not legal there"):
        read(source, spaces_of(Counting), (), tmp_path, "mine")


class Odd(gym.Env[Any, Any]):
    """Shows and pays what it is told to; ends after two steps."""

    def __init__(self, shown: float = 0.0, reward: float = 1.0, actions: Any = None, size: int = 1) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = spaces.Discrete(2) if actions is None else actions
        self.shown, self.reward, self.size = shown, reward, size

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = 0
        return np.zeros(self.size, np.float32), {}

    def step(self, action: Any) -> Any:
        self.at += 1
        return np.full(self.size, self.shown, np.float32), self.reward, self.at == 2, False, {}


TRIPLE = spaces.MultiDiscrete([2, 3])


@pytest.mark.parametrize(
    ("env", "actions", "message"),
    [
        (Odd(reward=1e39), [[0, 1]], "episode 0, row 0: its reward is not finite; correct the data"),
        (Odd(shown=np.nan), [[0, 1]], "episode 0, row 1: its observation is not finite"),
        (Odd(actions=spaces.Discrete(3)), [[0, 1]], r"whose actions Discrete\(3\) are not those of env='mine'"),
        (Odd(actions=spaces.Discrete(2, start=1)), [[1, 2]], r"whose actions Discrete\(2, start=1\) are not those"),
        (Odd(actions=TRIPLE), [[np.array([1, 2])]], "whose actions MultiDiscrete"),
        (Odd(actions=spaces.Box(-1, 1, (1,))), [[np.zeros(1, np.float32)]], "the action space is continuous"),
        (Odd(size=2), [[0, 1]], r"observations are float32\[2\], but those of env='mine' are float32\[1\]"),
        (Odd(), [], "which has no steps; use another"),
    ],
)
def test_data_that_do_not_fit_are_refused(
    minari: Any, tmp_path: Path, env: Any, actions: list[list[Any]], message: str
) -> None:
    source = collect(minari, env, actions)
    with pytest.raises(UsageError, match=message):
        read(source, spaces_of(Odd), (), tmp_path, "mine")


def test_multidiscrete_actions_are_read(minari: Any, tmp_path: Path) -> None:
    source = collect(minari, Odd(actions=TRIPLE), [[np.array([1, 2]), np.array([0, 1])]])
    rows = read(source, spaces_of(lambda: Odd(actions=TRIPLE)), (), tmp_path, "mine")
    assert rows.action.tolist() == [[1, 2], [0, 1], [0, 0]]
    assert isinstance(rows.observation, Masked)


def edit(tmp_path: Path, change: Any) -> None:
    """Alter the file of the data set."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "minari/test/data-v0/data/main_data.hdf5", "r+") as file:
        change(file["episode_0"])


def shorten(episode: Any) -> None:
    observations = episode["observations"][:-1]
    del episode["observations"]
    episode["observations"] = observations


def test_episodes_of_another_make_are_refused(minari: Any, tmp_path: Path) -> None:
    source = collect(minari, Odd(), [[0, 1]])
    edit(tmp_path, lambda episode: episode["truncations"].write_direct(np.array([True, False])))
    with pytest.raises(UsageError, match="episode 0 continues after its end; split it there"):
        read(source, spaces_of(Odd), (), tmp_path, "mine")
    edit(tmp_path, lambda episode: episode["truncations"].write_direct(np.array([False, False])))
    edit(tmp_path, lambda episode: episode["actions"].write_direct(np.array([0, 7])))
    with pytest.raises(UsageError, match="row 1: its action 7 is not legal there"):
        read(source, spaces_of(Odd), (), tmp_path, "mine")
    edit(tmp_path, shorten)
    with pytest.raises(UsageError, match=r"episode 0 has 2 steps and 2 observations, .* store all 3"):
        read(source, spaces_of(Odd), (), tmp_path, "mine")


def test_a_file_that_cannot_be_read_is_named(minari: Any, tmp_path: Path) -> None:
    source = collect(minari, Odd(), [[0, 1]])
    folder = tmp_path / "minari/test/data-v0/data"
    data = (folder / "main_data.hdf5").read_bytes()
    (folder / "main_data.hdf5").write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match=f"{source}, which cannot be read"):
        read(source, spaces_of(Odd), (), tmp_path, "mine")
    described = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps({k: v for k, v in described.items() if k != "action_space"}))
    with pytest.raises(UsageError, match="it does not declare its spaces"):
        read(source, spaces_of(Odd), (), tmp_path, "mine")
    (folder / "metadata.json").write_text("{")
    with pytest.raises(UsageError, match="which cannot be read"):
        read(source, spaces_of(Odd), (), tmp_path, "mine")


def test_a_data_set_that_is_not_here_is_not_fetched(minari: Any, tmp_path: Path) -> None:
    get_it = r"get it with `minari download D4RL/none-v0`\."
    with pytest.raises(UsageError, match=rf"^There is no minari:D4RL/none-v0 in {tmp_path}/minari; {get_it}"):
        read("minari:D4RL/none-v0", spaces_of(Odd), (), tmp_path, "mine")
    with pytest.raises(UsageError, match="There is no minari: in"):
        read("minari:", spaces_of(Odd), (), tmp_path, "mine")


def test_without_minari_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(UsageError, match=r"needs Minari: pip install 'qdojo\[offline\]'"):
        read("minari:any-v0", spaces_of(Odd), (), tmp_path, "mine")
