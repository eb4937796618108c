"""`qdojo.train` with a config: which settings the run gets, and what is refused. Nothing is trained here."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import qdojo
from qdojo import api
from qdojo.config import Config, make_config
from qdojo.errors import UsageError
from qdojo.runs.directory import RunDirectory

CARTPOLE = "CartPole-v1"


def make_own(render_mode: str | None = None) -> gym.Env[Any, Any]:
    return gym.make(CARTPOLE, render_mode=render_mode)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Config]:
    """The configs of the runs that were started."""
    seen: list[Config] = []

    def start(config: Config, parts: Any, root: Path, observer: Any) -> RunDirectory:
        parts.loop.close()
        seen.append(config)
        return RunDirectory(tmp_path)

    monkeypatch.setattr(api, "start", start)
    return seen


def test_a_config_is_what_is_trained(started: list[Config]) -> None:
    config = Config(env=CARTPOLE, preset="dqn", n_step=2, hidden=[8])
    qdojo.train(config=config)
    qdojo.train(CARTPOLE, config=config)
    qdojo.train(CARTPOLE, preset="dqn", n_step=2, hidden=[8])
    assert started == [config] * 3


def test_an_environment_of_its_own_is_trained_by_a_config(started: list[Config]) -> None:
    run = qdojo.train(make_own, config=Config(env=CARTPOLE, seeds=2))
    assert (started[0].env.rpartition(":")[2], started[0].seeds) == ("make_own", 2)
    assert run.env is make_own


def test_a_copy_of_a_config_is_checked(started: list[Config]) -> None:
    config = make_config(CARTPOLE)
    qdojo.train(config=config.model_copy(update={"steps": 300}))
    assert started[0].steps == 300
    with pytest.raises(UsageError, match=r"^steps is -1: input should be greater than or equal to 1\.$"):
        qdojo.train(config=config.model_copy(update={"steps": -1}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "env is missing; name an environment, or pass a config."),
        (
            {"config": make_config(CARTPOLE), "steps": 3},
            "steps is given together with config; set it in the Config instead.",
        ),
        ({"config": make_config(CARTPOLE), "preset": "dqn"}, "preset is given together with config; set it in the"),
        ({"config": make_config(CARTPOLE), "env": "Acrobot-v1"}, "env is 'Acrobot-v1', but config has env='CartPole-"),
        (
            {"env": CARTPOLE, "vectorization": "async"},
            "vectorization is set, but nothing reads it where CartPole-v1 is stepped on the device loop; "
            "use loop='host', or leave vectorization out.",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: dict[str, Any], message: str, started: list[Config]) -> None:
    with pytest.raises(UsageError) as refused:
        qdojo.train(**arguments)
    assert str(refused.value).startswith(message)
    assert started == []


def test_processes_are_taken_where_something_reads_them(started: list[Config]) -> None:
    qdojo.train(CARTPOLE, vectorization="async", loop="host")
    assert started[0].vectorization == "async"
