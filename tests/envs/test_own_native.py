"""A user's environment in JAX: trained on the device loop, evaluated, resumed and filmed, with no twin in Gymnasium."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes.killed import Copies

import qdojo
from qdojo.api import Run
from qdojo.build.training import build
from qdojo.cli import run as command
from qdojo.config import make_config
from qdojo.envs.contract import NativeEnvironment, Transition, advance, start
from qdojo.envs.doctor import examine
from qdojo.envs.gymnasium import HostEnvironment
from qdojo.envs.native.hosted import HostedNative
from qdojo.envs.native.own import adapted
from qdojo.envs.resolve import resolve
from qdojo.envs.spaces import check_spaces
from qdojo.errors import UsageError
from qdojo.types import Masked, Report

SIDE = 4
LIMIT = 20
MOVES = jnp.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
STRAYED = -100.0
SMALL: dict[str, Any] = {
    "steps": 600,
    "hidden": [16],
    "warmup_steps": 100,
    "eval_every_steps": 300,
    "final_eval_episodes": 20,
}


class Walker(NamedTuple):
    """Where it is, and for how long: a number of Python at a reset, as one would write it."""

    at: Any
    steps: Any


def legal(at: Any) -> Any:
    """Only moves that stay on the grid."""
    return jnp.array([at[0] > 0, at[0] < SIDE - 1, at[1] > 0, at[1] < SIDE - 1])


def shown(at: Any) -> Masked:
    picture = jnp.zeros((SIDE, SIDE), jnp.uint8).at[at[0], at[1]].set(1)
    # At its goal nothing is legal any more.
    return Masked(picture, legal(at) & ~(at == SIDE - 1).all())


def reset(noise: Any) -> Any:
    at = (noise % (SIDE - 1)).astype(jnp.int32)
    return Walker(at, 0), shown(at)


def step(walker: Walker, action: Any, noise: Any) -> Any:
    at = jnp.clip(walker.at + MOVES[action], 0, SIDE - 1)
    there, steps = (at == SIDE - 1).all(), walker.steps + 1
    reward = jnp.where(legal(walker.at)[action], jnp.where(there, 1, 0), int(STRAYED))
    return Walker(at, steps), Transition(shown(at), reward, there, steps >= LIMIT)


def render(walker: Walker) -> Any:
    return jnp.zeros((32, 32, 3), jnp.uint8).at[walker.at[0] * 8, walker.at[1] * 8].set(255)


GRID = NativeEnvironment(
    name="Grid-v0",
    observation_shape=(SIDE, SIDE),
    num_actions=4,
    noise_words=2,
    max_episode_steps=LIMIT,
    reset=reset,
    step=step,
    observation_dtype="uint8",
    observation_high=1,
    masked=True,
    reward_threshold=0.9,
    render=render,
)


def make() -> NativeEnvironment:
    """A factory, as a path may name one."""
    return GRID


def test_it_says_all_of_itself() -> None:
    spec = resolve(GRID)
    assert (spec.name, spec.max_episode_steps, spec.reward_threshold) == ("Grid-v0", LIMIT, 0.9)
    found = check_spaces(spec)
    assert (found.observation_shape, found.observation_dtype, found.observation_scale) == ((SIDE, SIDE), np.uint8, 1)
    assert (found.num_actions, found.masked, found.mask_source) == (4, True, "info")
    assert resolve(make).native is not None
    assert build(make_config("Grid-v0"), GRID).loop.name == "device"


EXPLORING: dict[str, Any] = SMALL | {"epsilon_end": 1.0, "seeds": 2, "num_envs": 2}
SAVED: dict[str, Any] = {"report_every_steps": 100, "checkpoint_every_seconds": 0.0}


class Scores:
    """Of all episodes of training."""

    def __init__(self) -> None:
        self.heard: list[float] = []

    def reported(self, report: Report) -> None:
        self.heard += [episode.score for episode in report.episodes]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Copies:
    """Of the run below, at step 300 of 600."""
    return Copies(tmp_path_factory.mktemp("killed"), after_reports=4)


@pytest.fixture(scope="module")
def explored(killed: Copies, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Scores]:
    scores, root = Scores(), tmp_path_factory.mktemp("device")
    return qdojo.train(GRID, root=root, observers=[scores, killed], **EXPLORING | SAVED), scores


def assert_legal(run: Run, scores: Scores, episodes: int) -> None:
    """An illegal action costs 100."""
    assert run.evaluate(episodes).returns.min() >= 0
    assert len(scores.heard) > 20
    assert min(scores.heard) >= 0
    assert max(scores.heard) == 1


def test_an_illegal_action_is_never_taken(explored: tuple[Run, Scores]) -> None:
    """In training at full exploration and in evaluation."""
    assert explored[0].result["loop"] == "device"
    assert_legal(*explored, episodes=20)


def test_an_illegal_action_is_never_taken_on_the_host(tmp_path: Path) -> None:
    scores = Scores()
    shorter = {"steps": 400, "eval_every_steps": 200, "final_eval_episodes": 4}
    run = qdojo.train(GRID, root=tmp_path, observers=[scores], loop="host", **EXPLORING | shorter)
    assert run.result["loop"] == "host"
    assert_legal(run, scores, episodes=4)


def test_it_is_resumed_bit_by_bit(explored: tuple[Run, Scores], killed: Copies) -> None:
    whole, _ = explored
    resumed = qdojo.resume(killed.path, env=GRID)
    for one, other in zip(
        jax.tree.leaves(whole.delivered.params), jax.tree.leaves(resumed.delivered.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    name = f"grid_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(Path(__file__).read_text())
    return name


def test_it_is_trained_played_and_filmed_by_its_path(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--steps", "300", "--hidden", "8", "--final-eval-episodes", "2", "--eval-every-steps", "none"]
    assert command(["train", f"{module}:GRID", *flags, "--warmup-steps", "100"]) == 0
    assert "device loop" in capsys.readouterr().err
    assert command(["eval", "last", "--episodes", "2"]) == 0
    assert command(["watch", "last", "--episodes", "1", "--record", "film.gif"]) == 0
    assert Path("film.gif").stat().st_size > 0
    assert command(["doctor", f"{module}:make"]) == 0
    assert "4 actions, masked by info, observations uint8[4, 4]" in capsys.readouterr().out


def test_the_host_and_the_device_see_the_same() -> None:
    """From the same words the same episode, in Gymnasium's terms and in the loop's."""
    own = adapted(GRID, "Grid-v0")
    env = HostedNative(own)
    observation, info = env.reset(seed=3)
    state, seen = own.reset(_words(3, 0))
    rng = np.random.default_rng(0)
    for number in range(1, 15):
        np.testing.assert_array_equal(observation, seen.observation)
        np.testing.assert_array_equal(info["action_mask"], seen.action_mask)
        action = rng.choice(np.flatnonzero(info["action_mask"]))
        observation, reward, terminated, truncated, info = env.step(action)
        state, moved = own.step(state, jnp.int32(action), _words(3, number))
        seen = moved.observation
        assert (reward, terminated, truncated) == (moved.reward, moved.terminated, moved.truncated)
        if terminated:
            assert info["action_mask"].all()  # nothing is chosen there
            return
    raise AssertionError("no episode ended")


def _words(seed: int, number: int) -> jax.Array:
    """What a copy with that seed draws at its reset (0), and at each step."""
    generator, _ = gym.utils.seeding.np_random(seed)
    return jnp.asarray([generator.integers(2**32, size=2, dtype=np.uint32) for _ in range(number + 1)][-1])


def test_numbers_of_python_and_other_dtypes_become_what_loops_keep() -> None:
    own = adapted(GRID._replace(observation_dtype="int32", reset=_int_reset, step=_int_step), "Grid-v0")
    running = start(own, jnp.zeros(2, jnp.uint32))
    moved, transition = jax.jit(partial(advance, own))(running, jnp.int32(1), jnp.zeros(2, jnp.uint32))
    for before, after in zip(jax.tree.leaves(running), jax.tree.leaves(moved), strict=True):
        assert (before.dtype, before.weak_type) == (after.dtype, after.weak_type)
    assert transition.reward.dtype == jnp.float32
    assert moved.observation.observation.dtype == jnp.float32


def _int_reset(noise: Any) -> Any:
    walker, seen = reset(noise)
    return walker, seen._replace(observation=seen.observation.astype(jnp.int32))


def _int_step(walker: Walker, action: Any, noise: Any) -> Any:
    walker, moved = step(walker, action, noise)
    seen = moved.observation
    return walker, moved._replace(observation=seen._replace(observation=seen.observation.astype(jnp.int32)))


def _four(state: Any, action: Any, noise: Any) -> Any:
    walker, moved = step(state, action, noise)
    return walker, *moved


def _changed(**fields: Any) -> Any:
    def changed(state: Any, action: Any, noise: Any) -> Any:
        walker, moved = step(state, action, noise)
        return walker, moved._replace(**fields)

    return changed


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_actions": 0}, "num_actions is 0, but it must be an int of at least 1."),
        ({"max_episode_steps": 0.5}, "max_episode_steps is 0.5, but it must be an int of at least 1."),
        ({"observation_dtype": "float64"}, "observation_dtype is 'float64'; use one of float32, uint8, int32."),
        (
            {"observation_dtype": "float32"},
            "uint8[4, 4], but observation_dtype and observation_shape say float32[4, 4]",
        ),
        ({"observation_shape": (16,)}, "is uint8[4, 4], but observation_dtype and observation_shape say uint8[16]"),
        ({"masked": False}, "the observation of reset is a Masked, but masked is False; set masked=True."),
        ({"num_actions": 3}, "the mask of reset has shape (4,), but num_actions is 3."),
        ({"reset": lambda noise: reset(noise)[0].at}, "reset returned one array; return (state, observation)."),
        ({"reset": lambda noise: 1 / 0}, "tracing its reset raised ZeroDivisionError: division by zero; write it in"),
        ({"step": lambda *_: (1, 2)}, "step returned a tuple of 2; return (state, Transition)."),
        ({"step": _four}, "step returned a tuple of 5; return (state, Transition)."),
        ({"step": lambda *given: (jnp.zeros(3), step(*given)[1])}, "a state of a different structure than reset"),
        (
            {"step": lambda *given: (Walker(jnp.zeros(3), 0), step(*given)[1])},
            ".at has shape (2,) after reset, but (3,) after step; make them equal.",
        ),
        ({"step": _changed(reward=jnp.zeros(1))}, "reward has shape (1,), but step handles one copy; return a scalar."),
        ({"step": _changed(terminated=None)}, "terminated has shape None, but step handles one copy; return a scalar."),
        (
            {"step": _changed(observation=jnp.zeros((4, 4)))},
            "the observation of step is not a Masked, but masked is True",
        ),
        ({"reset": lambda noise: (jax.random.key(0), reset(noise)[1])}, "holds a random key, which cannot be stored"),
        ({"name": "CartPole-v1"}, "name CartPole-v1 already belongs to a Gymnasium environment; choose another."),
    ],
)
def test_what_the_record_gets_wrong_is_named_before_anything_is_compiled(fields: Any, words: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(GRID._replace(**fields))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_what_cannot_be_drawn_is_not_filmed(tmp_path: Path) -> None:
    blind = GRID._replace(render=None)
    with pytest.raises(UsageError, match="Grid-v0 cannot be rendered; give its NativeEnvironment a `render`"):
        resolve(blind).make(render_mode="rgb_array")
    with pytest.raises(UsageError, match="Grid-v0 cannot open a window; record a film instead"):
        resolve(GRID).make(render_mode="human")
    assert resolve(blind).make().render() is None


def test_copies_share_their_programs() -> None:
    traced: list[str] = []

    def counted_reset(noise: Any) -> Any:
        traced.append("reset")
        return reset(noise)

    def counted_step(walker: Walker, action: Any, noise: Any) -> Any:
        traced.append("step")
        return step(walker, action, noise)

    spec = resolve(GRID._replace(reset=counted_reset, step=counted_step))
    counts = []
    for copy in (spec.make() for _ in range(3)):
        _, info = copy.reset(seed=0)
        copy.step(int(np.argmax(info["action_mask"])))
        counts.append(len(traced))
    assert counts[0] == counts[1] == counts[2]


def test_workers_step_it_too() -> None:
    spec = resolve(GRID)
    hosts = [HostEnvironment(spec, [1], 2, how) for how in ("sync", "async")]
    try:
        one, other = (host.reset() for host in hosts)
        np.testing.assert_array_equal(one.observation, other.observation)
        np.testing.assert_array_equal(one.action_mask, other.action_mask)
    finally:
        for host in hosts:
            host.close()


def test_the_doctor_examines_it() -> None:
    assert [finding for finding in examine(GRID) if not finding.ok] == []


def test_the_doctor_finds_a_broken_promise_of_one_number_other_than_zero() -> None:
    assert [finding for finding in examine(GRID._replace(one_hot=True)) if not finding.ok] == []

    def started(noise: Any) -> Any:
        walker, seen = reset(noise)
        return walker, seen._replace(observation=seen.observation.at[0].set(1))

    broken = next(finding for finding in examine(GRID._replace(one_hot=True, reset=started)) if not finding.ok)
    assert broken.message == (
        "reset: the observation has 4 numbers other than zero, but one_hot allows one; leave one_hot out."
    )


def test_a_name_that_needs_no_jax_imports_none() -> None:
    program = "import sys, qdojo.envs.resolve as r; r.resolve('CartPole-v1'); sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
