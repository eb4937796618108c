"""Evaluations end: episodes that an agent never ends are cut at a bound, counted and told, on every loop."""

import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from probes.environments import NEVER, constantly, probe, shows_time
from probes.training import ZERO, device_loop, host_loop, small_agent

import qdojo
from qdojo.api import Run
from qdojo.cli import run as command
from qdojo.envs.resolve import resolve
from qdojo.envs.spaces import check_spaces
from qdojo.loops.evaluation import Played, episode_bound, solved, told_of_cuts
from qdojo.runs import checkpoint, metrics
from qdojo.watch import Watched, watch


class Grid(gym.Env[Any, Any]):
    """A goal in the corner of a grid of 3x3, and no clock: an agent that walks into a wall stays for ever."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 60}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 2, (2,), np.float32)
    action_space = gym.spaces.Discrete(4)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = np.zeros(2, np.float32)
        return self.at.copy(), {}

    def step(self, action: Any) -> Any:
        move = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)][int(action)], np.float32)
        self.at = np.clip(self.at + move, 0, 2)
        over = bool((self.at == 2).all())
        return self.at.copy(), float(over), over, False, {}

    def render(self) -> Any:
        return np.zeros((16, 16, 3), np.uint8)


class Walk(gym.Env[Any, Any]):
    """Ends three steps to the left or right of its start. Action 0 goes to the middle, so that it never ends; action 1
    ends it, except in every second episode."""

    observation_space = gym.spaces.Box(-3, 3, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    episode = -1

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at, self.episode = 0, self.episode + 1
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        away = action == 1 and self.episode % 2 == 0
        self.at += 1 if away or self.at <= 0 else -1
        return np.array([self.at], np.float32), 0.5, abs(self.at) == 3, False, {}


def always(action: int) -> np.ndarray:
    """Parameters of the constant network, for one member."""
    return np.eye(2, dtype=np.float32)[[action]]


def test_episodes_that_never_end_are_cut_with_the_return_until_then() -> None:
    loop = host_loop(Walk, small_agent(ZERO), evaluation_envs=2)
    played = loop.evaluate(always(0), seed=0, episodes=5, bound=7)
    assert played.returns.tolist() == [[3.5] * 5]
    assert played.cut.all()


def test_a_cut_copy_plays_its_share_from_fresh_starts() -> None:
    """Of the episodes of each copy every second one is cut; the others are whole."""
    loop = host_loop(Walk, small_agent(ZERO), evaluation_envs=2)
    played = loop.evaluate(always(1), seed=0, episodes=8, bound=7)
    assert played.returns.tolist() == [[1.5, 1.5, 3.5, 3.5, 1.5, 1.5, 3.5, 3.5]]
    assert played.cut.tolist() == [[False, False, True, True] * 2]


def test_an_episode_that_ends_at_the_bound_is_whole() -> None:
    loop = host_loop(Walk, small_agent(ZERO), evaluation_envs=1)
    played = loop.evaluate(always(1), seed=0, episodes=1, bound=3)
    assert not played.cut.any()
    assert played.returns.tolist() == [[1.5]]


def test_a_ready_made_vector_is_cut_as_well() -> None:
    vector = functools.partial(gym.vector.SyncVectorEnv, [Walk, Walk])
    loop = host_loop(vector, small_agent(ZERO), evaluation_envs=2)
    played = loop.evaluate(always(0), seed=0, episodes=3, bound=6)
    assert played.cut.all()
    assert played.returns.tolist() == [[3.0] * 3]


def test_the_device_loop_cuts_at_the_bound() -> None:
    environment = probe("long", shows_time, constantly(1.0), terminate_after=NEVER, truncate_after=300)
    loop = device_loop(environment, small_agent(ZERO))
    played = loop.evaluate(always(0), seed=0, episodes=4, bound=150)
    assert played.returns.tolist() == [[150.0] * 4]
    assert played.cut.all()
    whole = loop.evaluate(always(0), seed=0, episodes=4, bound=400)
    assert whole.returns.tolist() == [[300.0] * 4]
    assert not whole.cut.any(), "its own time limit ends it"


class Enough(Exception):
    """Raised by a listener."""


@pytest.mark.parametrize("on_device", [True, False])
def test_a_listener_hears_how_far_it_is_and_may_end_it(on_device: bool) -> None:
    environment = probe("long", shows_time, constantly(1.0), terminate_after=NEVER, truncate_after=2_000)
    loop = device_loop(environment, small_agent(ZERO)) if on_device else host_loop(Walk, small_agent(ZERO))
    heard: list[tuple[int, int]] = []

    def listen(done: int, steps: int) -> None:
        heard.append((done, steps))
        if steps >= 128:
            raise Enough

    with pytest.raises(Enough):
        loop.evaluate(always(0), 0, 4, 2_000, listen)
    assert heard[-1] == (0, 128)


def test_the_bound_follows_from_training_and_is_never_below_a_time_limit() -> None:
    assert episode_bound(None, longest=20, time_limit=None) == 10_000
    assert episode_bound(None, longest=5_000, time_limit=None) == 50_000
    assert episode_bound(None, longest=20, time_limit=27_000) == 27_000
    assert episode_bound(500, longest=5_000, time_limit=27_000) == 500


def test_a_member_with_a_cut_episode_has_solved_nothing() -> None:
    cut = np.array([[False, False], [False, True], [False, False]])
    played = Played(np.array([[9.0, 11.0], [20.0, 20.0], [9.0, 10.0]]), cut)
    assert solved(played, 10.0).tolist() == [True, False, False]
    assert told_of_cuts(cut, 10_000) == "1 of 6 episodes was cut at 10,000 steps"
    assert told_of_cuts(cut[:1], 10_000) is None


TINY: dict[str, Any] = {
    "steps": 60,
    "hidden": (4,),
    "capacity_steps": 60,
    "batch_size": 4,
    "warmup_steps": 50,
    "eval_every_steps": 30,
    "eval_episodes": 3,
    "final_eval_episodes": 4,
    "solved_at": -1.0,
}


class Endless(gym.Env[Any, Any]):
    """No step ends it."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.5, False, False, {}


class Heard:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warned(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Heard]:
    """A run whose agent never ends an episode, and what was heard of it."""
    heard, root = Heard(), tmp_path_factory.mktemp("endless")
    return qdojo.train(Endless, root=root, observers=[heard], eval_episode_steps=20, until_solved=True, **TINY), heard


def test_a_run_whose_agent_never_ends_an_episode_ends_and_says_so(endless: tuple[Run, Heard]) -> None:
    """What was cut is in the metrics, a warning, the result and evaluations that come after."""
    run, heard = endless
    result = run.result
    assert result["status"] == "finished"
    assert result["eval"]["cut"] == [4]
    assert result["eval"]["bound_steps"] == 20
    assert result["solved"] == [False], "nobody knows how a cut episode ends"
    assert result["steps"] == 60, "until_solved does not stop at one either"
    assert [w for w in heard.warnings if "3 of 3 episodes were cut at 20 steps" in w]
    assert metrics.metric(run.directory.metrics_path, "evaluation_cut")[0].values.tolist() == [3.0, 3.0]
    again = run.evaluate(5)
    assert again.cut.sum() == 5
    assert again.bound_steps == 20


class Coin(Endless):
    """Each episode is one step that pays 0 or 2, whatever the agent does."""

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 2.0 * self.np_random.integers(2), True, False, {}


def test_an_agent_that_reaches_the_threshold_only_by_luck_trains_on(tmp_path: Path) -> None:
    """Coins pay 1 on average, so about every second evaluation reaches 1, and few by a standard error more."""
    budget = {"steps": 240, "solved_at": 1.0, "final_eval_episodes": 30}
    assert qdojo.train(Coin, root=tmp_path, until_solved=True, **TINY | budget).result["steps"] == 240
    sure = qdojo.train(Coin, root=tmp_path, until_solved=True, **TINY | budget | {"solved_at": 0.5})
    assert sure.result["steps"] == 30
    assert sure.result["solved"] == [True]


@pytest.mark.slow
def test_the_bound_is_kept_by_the_run(tmp_path: Path) -> None:
    """Ten times the longest episode of training, also after a resume."""
    longer = {"steps": 1_300, "eval_every_steps": None, "warmup_steps": 1_290, "final_eval_episodes": 1}
    fields = {name: value for name, value in TINY.items() if name != "eval_episodes"}
    run = qdojo.train(Long, root=tmp_path, **fields | longer)
    assert run.result["eval"]["bound_steps"] == 11_000
    assert run.bound_steps == 11_000
    _, meta = checkpoint.load(run.directory.best_path)
    assert meta["longest_episode"] == 1_100
    again = qdojo.resume(run.path, env=Long, root=tmp_path, steps=1_301)
    assert again.result["eval"]["bound_steps"] == 11_000


class Long(Walk):
    """Its first episode is of 1,100 steps, the others of 2."""

    def step(self, action: Any) -> Any:
        self.at += 1
        return np.zeros(1, np.float32), 0.5, self.at == (1_100 if self.episode == 0 else 2), False, {}


def test_a_film_of_an_endless_episode_ends(tmp_path: Path) -> None:
    spec = resolve(Grid)
    record = tmp_path / "wall.gif"
    shown = watch(spec, check_spaces(spec), lambda: None, lambda _: 1, 2, 0, record, bound_steps=5)
    assert shown == [Watched(0.0, True)] * 2
    assert record.is_file()


def test_a_long_evaluation_afterwards_tells_how_far_it_is(
    endless: tuple[Run, Heard], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `qdojo eval`, of an agent that never ends an episode."""
    run, _ = endless
    monkeypatch.setattr("qdojo.progress.PLAIN_EVERY_SECONDS", 0.0)
    assert command(["eval", str(run.path), "--episodes", "4"]) == 0
    out, err = capsys.readouterr()
    assert "4 of 4 episodes were cut at 20 steps" in out
    assert "evaluating: 0 of 4 episodes, 1 steps" in err.splitlines()
