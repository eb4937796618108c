"""The files of `docs/adding.md`, as a reader would write them down and train with them."""

import importlib
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from probes.killed import Copies

import qdojo
from qdojo.cli import run as command
from qdojo.errors import UsageError
from qdojo.runs import checkpoint, metrics
from qdojo.runs.directory import list_runs

PAGE = Path(__file__).parent.parent / "docs" / "adding.md"
FILES = {
    re.findall(r'^"""(\w+)\.py"""', code)[0]: code
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
}
MOST_LINES = 25
TINY: dict[str, Any] = {
    "steps": 400,
    "warmup_steps": 50,
    "eval_every_steps": 100,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
}
FLAGS = [token for name, value in TINY.items() for token in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A reader's folder with all files of the page; gives their modules by name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, code in FILES.items():
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    return importlib.import_module


def test_each_is_shown_in_few_lines() -> None:
    assert set(FILES) == {"clipped", "waves", "corridor", "patience"}
    for name, code in FILES.items():
        assert len(code.splitlines()) <= MOST_LINES, name


SAVED: dict[str, Any] = {"report_every_steps": 100, "checkpoint_every_seconds": 0.0}


def assert_same(whole: qdojo.Run, resumed: qdojo.Run) -> None:
    """To the last bit of the state."""
    ours, theirs = (checkpoint.load_latest(run.directory.checkpoints_path).arrays for run in (whole, resumed))
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_a_loss(own: Any, tmp_path: Path) -> None:
    """As an object and by name; it learns by its own formula; and the run resumes by its name, to the same bits."""
    wide = {"hidden": (16,), "prioritized": True, "dueling": True, "noisy": True, "heads": 2}
    killed = Copies(tmp_path / "killed", after_reports=3)
    given = qdojo.train("CartPole-v1", loss=own("clipped").clipped, observers=[killed], **wide, **TINY, **SAVED)
    assert given.config.loss == "clipped:clipped"
    by_name = qdojo.resume(killed.path)
    assert_same(given, by_name)
    assert command(["train", "CartPole-v1", "--loss", "clipped:clipped", "--recurrent", "gru", *FLAGS]) == 0


def test_the_numbers_of_a_loss_are_those_that_are_learned_from_and_recorded(own: Any) -> None:
    """One that is the value itself drives all values down without end."""
    from qdojo.agents.learner import Loss

    def sinking(network: Any, rule: Any) -> Loss:
        def of(params: Any, target_params: Any, batch: Any, noise: Any) -> Any:
            q = network.apply(params, batch.obs_tm1)[batch.action_tm1]
            return q, 1.0 + 0.0 * q, {"sinking": q}

        return Loss(of)

    run = qdojo.train("CartPole-v1", loss=sinking, **TINY)
    values = metrics.metric(run.directory.metrics_path, "sinking")[0].values
    assert values[-1] < values[0] - 1.0


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        ("clipped", "name a function that returns a Loss as `module:name`"),
        ("clipped:cliped", "clipped has no function 'cliped' that returns a Loss"),
        (lambda network, rule: None, "returned a NoneType; return a qdojo.agents.learner.Loss"),
        (lambda network: None, "raised TypeError"),
    ],
    ids=["no colon", "no function", "no loss", "other arguments"],
)
def test_a_loss_that_is_none_is_refused(loss: Any, told: str, own: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        qdojo.train("CartPole-v1", loss=loss, **TINY)
    assert not list_runs(tmp_path / "runs")


def test_a_loss_that_gives_no_numbers_is_refused_before_anything_is_compiled(own: Any, tmp_path: Path) -> None:
    from qdojo.agents.learner import Loss

    def vector(network: Any, rule: Any) -> Loss:
        return Loss(lambda params, target, batch, noise: (network.apply(params, batch.obs_tm1), 0.0, {}))

    with pytest.raises(UsageError, match=r"return \(loss, priority, metrics\)"):
        qdojo.train("CartPole-v1", loss=vector, **TINY)
    assert not list_runs(tmp_path / "runs")


def test_a_network(own: Any, tmp_path: Path) -> None:
    """As an object and by name, with an ensemble, reopened and resumed without being given again."""
    killed = Copies(tmp_path / "killed", after_reports=3)
    given = qdojo.train("CartPole-v1", network=own("waves").build, seeds=2, observers=[killed], **TINY, **SAVED)
    assert given.config.network == "waves:build"
    by_name = qdojo.resume(killed.path)
    assert_same(given, by_name)
    weights = jax.tree.leaves(given.delivered.params)
    assert not np.array_equal(weights[0][0], weights[0][1]), "each member draws weights of its own"
    assert qdojo.load(given.path).q_values(np.ones(4, np.float32)).shape == (2,)
    with pytest.raises(UsageError, match="hidden is set"):
        qdojo.train("CartPole-v1", network="waves:build", hidden=(8,), **TINY)
    assert command(["train", "CartPole-v1", "--network", "waves:build", "--heads", "2", *FLAGS]) == 0


def test_a_network_of_another_shape_is_refused(own: Any, tmp_path: Path) -> None:
    waves = own("waves")

    def other(spaces: Any, key: Any) -> Any:
        return waves.eqx.nn.Linear(4, 3, key=key)

    with pytest.raises(UsageError, match=r"returns shape \[3\] for one observation .*Q-values of shape \[2\]"):
        qdojo.train("CartPole-v1", network=other, **TINY)
    with pytest.raises(UsageError, match="returned a int; return an Equinox module"):
        qdojo.train("CartPole-v1", network=lambda spaces, key: 3, **TINY)
    assert not list_runs(tmp_path / "runs")


def test_an_environment(own: Any) -> None:
    """Given as an object: on the device loop it learns to walk to the end. By name: `test_adding_an_environment`."""
    fields = TINY | {"steps": 3_000, "eval_every_steps": 1_000, "final_eval_episodes": 20}
    run = qdojo.train(own("corridor").corridor, **fields)
    assert run.result["loop"] == "device"
    # From 0 to 4 it takes 9 to 5 steps of -0.1.
    assert -0.9 <= run.result["eval"]["mean"][0] <= -0.5
    assert qdojo.evaluate(run.path, 5, env=own("corridor").corridor).returns.shape == (1, 5)


def test_an_observer(own: Any, capsys: pytest.CaptureFixture[str]) -> None:
    settings = TINY | {"warmup_steps": 1_000, "steps": 2_000}
    run = qdojo.train("CartPole-v1", observers=[own("patience").Patience(2)], **settings)
    assert run.result["steps"] < 2_000
    assert run.result["stopped_by"].startswith("Patience: no better than")
    assert f"{run.path} from step 0" in capsys.readouterr().out
