"""Members split over devices: they learn what they would on one, and a run killed and resumed is the same run."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from probes.killed import Copies
from probes.training import device_loop, small_agent, small_network

import qdojo
from qdojo import processor
from qdojo.api import Run
from qdojo.build import memory
from qdojo.build.training import build
from qdojo.config import make_config
from qdojo.envs.native.cartpole import CARTPOLE
from qdojo.errors import UsageError
from qdojo.loops.learning import Rhythm
from qdojo.loops.offline import OfflineLoop
from qdojo.loops.sharding import Shards
from qdojo.runs import checkpoint
from qdojo.types import Step

MEMBERS = 3
"""They do not fill two shards."""
SETTINGS: dict[str, Any] = {
    "hidden": (8,),
    "batch_size": 8,
    "capacity_steps": 512,
    "warmup_steps": 16,
    "collect_steps": 16,
    "updates_per_step": 1.0,
    "report_every_steps": 64,
    "eval_every_steps": 512,
    "eval_episodes": 2,
    "eval_episode_steps": 50,
    "final_eval_episodes": 2,
    "checkpoint_every_seconds": 0.0,
    "seeds": MEMBERS,
}
STEPS = {"device": 1_024, "host": 256}
"""The device loop makes 1,000 updates and more."""


class Warned:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warned(self, warning: str) -> None:
        self.warnings.append(warning)


class Trained(NamedTuple):
    on_one: Run
    on_two: Run
    killed: Path
    """The second as a kill would have left it."""


@pytest.fixture(scope="module", params=["device", "host"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    def train(shards: int) -> tuple[Run, Path]:
        folders = [tmp_path_factory.mktemp(name) for name in ("whole", "killed")]
        copies = Copies(folders[1], after_reports=3)
        settings = SETTINGS | {"loop": request.param, "steps": STEPS[request.param], "shards": shards}
        run = qdojo.train("CartPole-v1", preset="dqn", root=folders[0], progress=False, observers=[copies], **settings)
        return run, copies.path

    return Trained(train(1)[0], *train(2))


def arrays(run: Run) -> dict[str, np.ndarray]:
    return {
        name: np.array(array) for name, array in checkpoint.load_latest(run.directory.checkpoints_path).arrays.items()
    }


def test_members_do_not_depend_on_the_number_of_shards_beyond_rounding(trained: Trained) -> None:
    one, two = arrays(trained.on_one), arrays(trained.on_two)
    assert one.keys() == two.keys()
    for name, array in one.items():
        assert array.shape == two[name].shape, name
        if name.startswith(("state/agents/params", "state/agents/target_params")):
            np.testing.assert_allclose(array, two[name], rtol=1e-3, atol=1e-4, err_msg=name)
    np.testing.assert_array_equal(one["state/tape/words"][..., :2], two["state/tape/words"][..., :2])
    for name in ("steps", "updates", "env_steps", "eval"):
        assert trained.on_one.result[name] == trained.on_two.result[name], name


def test_a_population_that_was_killed_and_resumed_ends_with_the_same_bits(trained: Trained, tmp_path: Path) -> None:
    copy = shutil.copytree(trained.killed, tmp_path / "run")
    heard = Warned()
    resumed = qdojo.resume(copy, progress=False, observers=[heard])
    assert heard.warnings == []
    whole = arrays(trained.on_two)
    assert whole.keys() == arrays(resumed).keys()
    for name, array in arrays(resumed).items():
        np.testing.assert_array_equal(array, whole[name], err_msg=name)
    assert resumed.result["eval"] == trained.on_two.result["eval"]


def test_a_resume_with_other_shards_says_that_it_is_not_exact_and_goes_on(trained: Trained, tmp_path: Path) -> None:
    copy = shutil.copytree(trained.killed, tmp_path / "run")
    heard = Warned()
    resumed = qdojo.resume(copy, progress=False, observers=[heard], shards=1)
    told = "shards was 2, is 1: members round differently, so the run continues, but no longer bit for bit."
    assert heard.warnings == [told]
    assert resumed.config.shards == 1
    one, now = arrays(trained.on_one), arrays(resumed)
    for name in (name for name in one if name.startswith("state/agents/params")):
        np.testing.assert_allclose(now[name], one[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_each_device_holds_its_own_members_and_nothing_copies_the_tape() -> None:
    loop = build(make_config("CartPole-v1", "dqn", shards=2, **SETTINGS | {"steps": 64})).loop
    state, report = next(loop.run(loop.init()))
    assert report is not None
    words = state.tape.words
    assert [piece.data.shape[1] for piece in words.addressable_shards] == [2, 2]
    assert len({piece.device for piece in words.addressable_shards}) == 2
    assert report.metrics["loss"].shape == report.env_steps.shape == (MEMBERS,)
    program = loop.programs.compiled("chunk", build).as_text()
    size = ",".join(map(str, (words.shape[0], 2, *words.shape[2:])))
    assert f"u32[{size}]" in program
    assert not [line for line in program.splitlines() if f"= u32[{size}]" in line and " copy(" in line]


def test_members_with_numbers_of_their_own_keep_them() -> None:
    rates = (1e-2, 1e-3, 1e-4)
    settings = SETTINGS | {"seeds": 1, "steps": 64, "learning_rate": rates}
    one, two = (build(make_config("CartPole-v1", "dqn", shards=shards, **settings)).loop for shards in (1, 2))
    held = two.shards.cut(two.init().agents, 0)
    np.testing.assert_array_equal(held.hyper.learning_rate_start, np.float32(rates))
    jax.tree.map(np.testing.assert_array_equal, held, one.init().agents)


def test_offline_every_device_reads_all_rows() -> None:
    at = np.arange(100)
    observation = np.stack([np.sin(at * k) for k in (1, 2, 3, 4)], axis=1).astype(np.float32)
    rows = Step(observation, (at % 2).astype(np.int32), np.ones(100, np.float32), at % 10 == 8, at % 10 == 9)

    def learned(shards: int) -> Any:
        settings = {"envs": 1, "capacity_rows": 128, "cycles": 5, "rhythm": Rhythm(2, 3, 2), "members": MEMBERS}
        agent = small_agent(small_network(4), num_envs=1)
        loop = OfflineLoop(device_loop(CARTPOLE, agent, shards=shards, **settings), lambda: rows)
        state, report = next(loop.run(loop.init()))
        assert report is not None
        assert report.metrics["loss"].shape == (MEMBERS,)
        return loop.shards.cut(state.agents.params, 0)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), learned(1), learned(2))


@pytest.mark.parametrize(
    ("members", "most", "each", "slots"), [(4, 1, 4, 4), (2, 16, 1, 2), (5, 2, 3, 6), (1, 2, 1, 1)]
)
def test_members_are_spread_evenly_and_only_the_last_one_is_repeated(
    members: int, most: int, each: int, slots: int
) -> None:
    shards = Shards(members, most)
    assert (shards.each, shards.slots, shards.count) == (each, slots, slots // each)
    filled = shards.filled(np.arange(members), 0)
    assert filled.tolist() == [*range(members), *[members - 1] * (slots - members)]
    assert shards.cut(shards.placed(np.arange(members), 0), 0).tolist() == list(range(members))


def test_more_shards_than_devices_of_a_running_jax_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"shards is 3, but JAX already runs in this process with 2 device\(s\); use a"
    ):
        Shards(3, 3)


def test_more_shards_than_cores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^shards is 64, but this process may use 2 core\(s\); use 2 or less\.$"):
        qdojo.train("CartPole-v1", seeds=64, shards=64, root=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("expected", "settings"),
    [
        (2, {"seeds": 2}),
        (1, {"seeds": 2, "loop": "host"}),
        (2, {"seeds": 2, "loop": "host", "hidden": (1024, 1024)}),
        (1, {"seeds": 2, "loop": "host", "hidden": (1024, 1024), "vectorization": "async"}),
        (2, {"seeds": 2, "dataset": "some", "capacity_steps": 10_000}),
        (1, {"seeds": 2, "dataset": "some", "capacity_steps": 100_000_000}),
        (1, {"seeds": 2, "shards": 1}),
    ],
)
def test_each_core_takes_a_share_where_that_pays(
    expected: int, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "cores", lambda: 2)
    config = make_config("CartPole-v1", **settings)
    assert processor.prepare(config, (4,), 2, convolutions=False, on_host=config.loop == "host") == expected


@pytest.mark.parametrize(
    ("quota", "expected"), [("150000 100000", [1]), ("50000 100000", [1]), ("300000 100000", [3]), ("max 100000", [])]
)
def test_a_container_limits_the_cores(
    quota: str, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(processor, "CONTROL_GROUPS", ((tmp_path, ("cpu.max",)),))
    assert processor._quotas() == expected


def test_the_memory_is_told_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 10**12)
    monkeypatch.setattr(memory, "free_on_device", lambda: 10**9)
    settings = SETTINGS | {"seeds": 4, "steps": 64, "capacity_steps": 16_000_000}
    with pytest.raises(UsageError, match=r"1\.0 GB free on each device may be used") as refused:
        build(make_config("CartPole-v1", "dqn", shards=2, **settings))
    # Rows of seven words, of two of the four members.
    assert "needs 0.9 GB" in str(refused.value)
