"""The average of the weights: by numbers worked out by hand, and in training, where it changes nothing else."""

import signal
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qdojo
from qdojo import snapshot
from qdojo.agents.averaging import averaging
from qdojo.agents.dqn import Rule, dqn_loss
from qdojo.agents.explore import Choosing, Exploration
from qdojo.agents.learner import Hyper, Structure, replay_agent
from qdojo.networks.network import Network
from qdojo.runs import checkpoint
from qdojo.tape.windows import transitions
from qdojo.training.stopping import Interrupted
from qdojo.types import Agent, Clock

SETTINGS: dict[str, Any] = {
    "hidden": (8,),
    "steps": 400,
    "capacity_steps": 200,
    "batch_size": 8,
    "warmup_steps": 20,
    "report_every_steps": 20,
    "eval_every_steps": 100,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
    "normalize_observations": True,
}
NETWORK = Network(
    init=lambda key: {"weight": jnp.float32(8.0), "statistic": jnp.float32(100.0)},
    apply=lambda params, observation: params["weight"] * observation,
    partition=lambda params: (params | {"statistic": None}, params | {"weight": None}),
)


class Stepping(NamedTuple):
    params: Any


def stepping() -> Agent:
    """Each update adds 10 to the weight and to the statistic."""
    numbers = Hyper(0.1, 0.1, 1.0, 0.9, Exploration(1.0, 0.1, 100.0), 1.0)
    structure = Structure(Choosing(2), 8, transitions(1), target_sync_updates=1, max_grad_norm=None)
    agent = replay_agent(NETWORK, lambda own: dqn_loss(NETWORK, Rule(False, "mse")), numbers, structure)
    return agent._replace(
        init=lambda key, numbers=None: Stepping(NETWORK.init(key)),
        update=lambda state, *_: (Stepping(jax.tree.map(lambda x: x + 10.0, state.params)), {}),
    )


def test_the_average_follows_the_weights_and_takes_the_statistics_as_they_are() -> None:
    """With tau = 0.5: 8 + 0.9 (18 - 8) = 17, 17 + 9/11 (28 - 17) = 26, and then by halves: 26 + 0.5 (38 - 26) = 32."""
    agent = averaging(stepping(), NETWORK.partition, 0.5)
    state = agent.init(jax.random.key(0))
    assert state.params == state.learner.params == NETWORK.init(jax.random.key(0))
    for updates, average in ((0, 17.0), (1, 26.0), (90, 32.0)):
        state, _ = agent.update(state, None, jnp.zeros(1, jnp.uint32), Clock(jnp.int32(0), jnp.int32(updates)))
        np.testing.assert_allclose(state.params["weight"], average, rtol=1e-6)
        assert state.params["statistic"] == state.learner.params["statistic"]
    assert state.learner.params["weight"] == 38.0


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> qdojo.Run:
    return qdojo.train("CartPole-v1", root=tmp_path_factory.mktemp("averaged"), average_tau=0.01, **SETTINGS)


def arrays_of(run: qdojo.Run) -> checkpoint.Arrays:
    return checkpoint.load_latest(run.directory.checkpoints_path).arrays


def test_the_agent_learns_and_explores_as_without_it(averaged: qdojo.Run, tmp_path: Path) -> None:
    plain = arrays_of(qdojo.train("CartPole-v1", root=tmp_path, **SETTINGS))
    with_average = arrays_of(averaged)
    learner = {name for name in plain if name.startswith(("state/agents/", "state/tape/"))}
    assert any(name.startswith("state/agents/params/") for name in learner)
    for name in learner:
        its = name.replace("state/agents/", "state/agents/learner/")
        np.testing.assert_array_equal(plain[name], with_average[its], err_msg=name)


def test_the_average_plays_and_is_delivered(averaged: qdojo.Run) -> None:
    """Its last snapshot is the average at the end, which is not what was learned last."""
    arrays = arrays_of(averaged)
    prefix, learned = "state/agents/params/", "state/agents/learner/params/"
    average = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    _, last = averaged.snapshots()[-1]
    assert {name: array[0].tobytes() for name, array in average.items()} == {
        name: array.tobytes() for name, array in snapshot.to_arrays(last.params).items()
    }
    differing = {name for name in average if (average[name] != arrays[learned + name]).any()}
    assert differing
    assert not [name for name in differing if "statistics" in name]
    assert [name for name in average if "statistics" in name]


class StopsAt180:
    """Ctrl-C between two evaluations."""

    def reported(self, report: Any) -> None:
        if report.steps == 180:
            signal.raise_signal(signal.SIGINT)


def test_it_resumes_exactly_and_a_fork_takes_its_own_settings(averaged: qdojo.Run, tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as stopped:
        qdojo.train("CartPole-v1", root=tmp_path, observers=[StopsAt180()], average_tau=0.01, **SETTINGS)
    run = stopped.value.run
    config = run.config_path.read_text(encoding="utf-8")
    run.config_path.write_text(config.replace("discount = 0.99", "discount = 0.5"), encoding="utf-8")
    fork = qdojo.resume(run.path, root=tmp_path / "forks", fork=True)
    np.testing.assert_array_equal(arrays_of(fork)["state/agents/learner/hyper/discount"], np.float32([0.5]))
    run.config_path.write_text(config, encoding="utf-8")
    resumed = arrays_of(qdojo.resume(run.path))
    for name, array in arrays_of(averaged).items():
        np.testing.assert_array_equal(array, resumed[name], err_msg=name)
