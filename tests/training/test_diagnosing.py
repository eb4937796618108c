"""Diagnostics in a run: they change no bit, a resume repeats them, and the page of metrics explains each of them."""

import functools
import re
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qdojo
from qdojo.build.diagnosing import horizon
from qdojo.build.training import build
from qdojo.config import make_config
from qdojo.runs import checkpoint
from qdojo.runs.metrics import History
from qdojo.tape.ring import READERS
from qdojo.training import diagnosing
from qdojo.training.stopping import Interrupted

PAGE = Path(__file__).parent.parent.parent / "docs" / "metrics.md"
SETTINGS: dict[str, Any] = {
    "hidden": (8,),
    "seeds": 2,
    "steps": 600,
    "capacity_steps": 400,
    "batch_size": 8,
    "warmup_steps": 20,
    "discount": 0.9,
    "report_every_steps": 20,
    "eval_every_steps": 300,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
    "progress": False,
}
GRADIENT = {"gradient_norm", "td_error_p10", "td_error_median", "td_error_p90"}
STATES = {"action_gap", "dead_units", "action_share_0", "action_share_1"}
ALL = GRADIENT | STATES | {"replay_age", "q_bias"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, qdojo.Run]:
    """The same run without diagnostics, with some, and with some and stopped in between."""
    root = tmp_path_factory.mktemp("runs")
    train = functools.partial(qdojo.train, "CartPole-v1", **SETTINGS)

    class Stops:
        def reported(self, report: Any) -> None:
            if report.steps == 400:
                signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        without = train(root=root / "without")
        patch.setattr(diagnosing, "EVERY_UPDATES", 25)
        whole = train(root=root / "with")
        with pytest.raises(Interrupted) as stopped:
            train(root=root / "stopped", observers=[Stops()])
        resumed = qdojo.resume(stopped.value.run.path, progress=False)
    return {"without": without, "with": whole, "resumed": resumed}


def columns(run: qdojo.Run, but: frozenset[str] = frozenset({"steps_per_second"})) -> set[tuple[Any, ...]]:
    return {row for row in zip(*(column.tolist() for column in run.history), strict=True) if row[2] not in but}


def names(history: History) -> set[str]:
    return set(history.metric.tolist())


def test_they_change_no_bit(runs: dict[str, qdojo.Run]) -> None:
    ours, others = (
        checkpoint.load_latest(runs[name].directory.checkpoints_path).arrays for name in ("with", "without")
    )
    assert ours.keys() == others.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)
    assert names(runs["with"].history) - names(runs["without"].history) == ALL
    assert columns(runs["with"], frozenset({"steps_per_second", *ALL})) == columns(runs["without"])


def test_they_come_at_some_reports_once_there_was_learning(runs: dict[str, qdojo.Run]) -> None:
    """A report has ten updates, so every third one is diagnosed; the first of them is at 60 steps."""
    history = runs["with"].history
    for name in GRADIENT | STATES | {"replay_age"}:
        assert np.unique(history.of(name).step).tolist() == list(range(60, 601, 60)), name
    assert set(history.of("q_bias").step.tolist()) <= set(range(60, 601, 60))
    shares = history.of("action_share_0", member=1).value + history.of("action_share_1", member=1).value
    np.testing.assert_allclose(shares, 1.0)
    # Uniform over the rows on the tape, of which there are 60, and at last 400.
    ages = history.of("replay_age", member=0).value
    assert 10 < ages[0] < 50
    assert 100 < ages[-3:].mean() < 300


def test_a_resumed_run_records_the_same(runs: dict[str, qdojo.Run]) -> None:
    assert columns(runs["resumed"]) == columns(runs["with"])


def recorded(**settings: Any) -> tuple[set[str], set[str]]:
    """Names of the metrics of updates and of the diagnostics that such an agent has, without training it."""
    config = make_config("CartPole-v1", **settings)
    parts = build(config)
    agent, loop = parts.agent, parts.loop
    state = loop.template()
    assert agent.diagnosis is not None

    def words(count: int) -> Any:
        return jax.ShapeDtypeStruct((1, count), jnp.uint32)

    every = functools.partial(jax.vmap, in_axes=(0, READERS, 0, None))
    shown = state.agents, state.tape
    updated = jax.eval_shape(every(agent.update), *shown, words(agent.update_words), state.clock)[1]
    found = jax.eval_shape(every(agent.diagnosis.examine), *shown, words(agent.diagnosis.words), state.clock)
    ones = {name: np.ones(like.shape[1:], like.dtype) for name, like in found.items()}
    return set(updated), set(agent.diagnosis.told(ones | {"last": np.zeros(256, bool)}))


SMALL: dict[str, Any] = {"hidden": (8, 8), "batch_size": 4}
KINDS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "c51": (SMALL | {"preset": "c51"}, ALL),
    "averse": (SMALL | {"preset": "iqn", "cvar": 0.5}, ALL - {"q_bias"}),
    "drqn": (SMALL | {"preset": "drqn", "hidden": (8,)}, ALL - {"dead_units"}),
    "bootdqn": (SMALL | {"preset": "bootdqn", "heads": 2, "frame_stack": 2}, ALL),
    "pqn": ({"preset": "pqn"}, GRADIENT | STATES),
    "tutorial": ({"preset": "tutorial"}, GRADIENT | STATES - {"dead_units"} | {"q_bias"}),
    "cql": (SMALL | {"preset": "cql", "dataset": "a_run"}, GRADIENT | {"action_gap", "dead_units", "q_bias"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_makes_no_sense_is_not_recorded_and_the_page_explains_the_rest(kind: str) -> None:
    settings, expected = KINDS[kind]
    updated, found = recorded(**settings)
    assert found == expected
    explained = set(
        re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", PAGE.read_text("utf-8"), re.MULTILINE)))
    )
    assert updated | found <= explained


def test_returns_are_compared_where_the_tape_and_the_values_allow_it() -> None:
    """0.99**299 is just below 0.05, as is 0.9**29."""

    def of(**settings: Any) -> int:
        return horizon(make_config("CartPole-v1", **settings))

    assert of(discount=0.99) == 299
    assert of(discount=0.9) == 29
    assert of(discount=0.0) == 1
    assert of(discount=1.0) == of(discount=0.9999) == 1_024
    assert of(vary={"discount": [0.9, 0.99]}, discount=0.9) == 299
    assert of(discount=0.99, capacity_steps=300) == of(preset="munchausen") == of(preset="pqn") == 0
    assert of(discount=0.9, capacity_steps=300) == 29


def test_the_page_explains_all_that_a_run_records(runs: dict[str, qdojo.Run]) -> None:
    explained = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", PAGE.read_text("utf-8"), re.MULTILINE)))
    assert names(runs["with"].history) <= set(explained)
