"""Averaged weights: the averages by hand, and runs that learn the same and deliver them."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes.killed import Copies
from probes.training import ZERO, small_agent

import qdojo
from qdojo.agents.averaging import LEAST_RATE, averaged
from qdojo.runs import checkpoint
from qdojo.tape import ring
from qdojo.types import Agent, Clock

pytestmark = pytest.mark.usefixtures("shared_programs")


TAPE, NOISE = ring.empty(4, 1, 1, jax.ShapeDtypeStruct((), jnp.float32)), jnp.zeros(0, jnp.uint32)
"""Which nothing here reads."""


class State(NamedTuple):
    params: dict[str, Any]


def counting() -> Agent:
    """Its weight rises by 1 in each update, and so does its count."""

    def update(state: State, tape: Any, noise: Any, clock: Clock) -> tuple[State, dict[str, Any]]:
        return State(jax.tree.map(lambda leaf: leaf + 1, state.params)), {"weight": state.params["weight"][0]}

    return small_agent(ZERO)._replace(
        init=lambda key, numbers=None: State({"weight": jnp.zeros(2), "count": jnp.int32(0)}), update=update
    )


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.5, [1.0, 5 / 3, 7 / 3]),  # 1; 1 + 1 / 1.5; 5/3 + (3 - 5/3) / 2
        (1.0, [1.0, 1.5, 2.0]),  # the means of 1; 1 and 2; 1, 2 and 3
    ],
)
def test_the_first_averages_by_hand(share: float, expected: list[float]) -> None:
    agent = averaged(counting(), share)
    state, update = agent.init(jax.random.key(0)), jax.jit(agent.update)
    for t, average in enumerate(expected):
        state, metrics = update(state, TAPE, NOISE, Clock(jnp.int32(0), jnp.int32(t)))
        np.testing.assert_allclose(state.params["weight"], [average, average], rtol=1e-6)
        assert (int(state.params["count"]), int(state.learner.params["count"])) == (t + 1, t + 1), "an integer"
        assert metrics["weight"] == t, "it learns on from its own weights"


def test_the_window_grows_to_the_share_and_no_further_than_float32_can_add() -> None:
    """A jump of the weights to 1 after 1,000 updates is taken in by 1 - e^-1 about 100 updates later."""
    still = counting()._replace(update=lambda state, *at: (state, {}))
    agent = averaged(still, 0.1)
    state = agent.init(jax.random.key(0))
    state = state._replace(learner=State(state.learner.params | {"weight": jnp.ones(2)}))
    update = jax.jit(agent.update)
    moved = update(state, TAPE, NOISE, Clock(jnp.int32(0), jnp.int32(10**9)))[0]
    np.testing.assert_allclose(moved.params["weight"], LEAST_RATE)
    for t in range(1_000, 1_105):
        state, _ = update(state, TAPE, NOISE, Clock(jnp.int32(0), jnp.int32(t)))
    np.testing.assert_allclose(state.params["weight"], 1 - np.exp(-1), atol=0.02)


SETTINGS: dict[str, Any] = {
    "env": "CartPole-v1",
    "seeds": 2,
    "hidden": (8,),
    "num_envs": 2,
    "steps": 240,
    "report_every_steps": 40,
    "eval_every_steps": None,
    "final_eval_episodes": 1,
    "checkpoint_every_seconds": 0.0,
    "progress": False,
}
REPLAY = {"warmup_steps": 40, "batch_size": 8, "capacity_steps": 200, "collect_steps": 4, "updates_per_step": 0.5}
PQN = {"preset": "pqn", "collect_steps": 40, "updates_per_step": 0.025, "minibatches": 4}


@pytest.mark.parametrize(
    "fields",
    [REPLAY | {"loop": "device"}, REPLAY | {"loop": "host", "noisy": True}, PQN],
    ids=["device", "host, noisy", "pqn"],
)
def test_a_run_learns_the_same_and_delivers_the_averages(fields: dict[str, Any], tmp_path: Path) -> None:
    plain = qdojo.train(**SETTINGS, **fields, root=tmp_path / "plain")
    killed = Copies(tmp_path / "killed", after_reports=4)
    run = qdojo.train(**SETTINGS, **fields, average_share=0.2, root=tmp_path / "averaged", observers=[killed])
    learned, found = (checkpoint.load_latest(each.directory.checkpoints_path).arrays for each in (plain, run))
    weights = [name.removeprefix("state/agents/") for name in learned if name.startswith("state/agents/params/")]
    for name in weights:
        np.testing.assert_allclose(
            found[f"state/agents/learner/{name}"], learned[f"state/agents/{name}"], rtol=1e-4, atol=1e-5
        )
    best, _ = checkpoint.load(run.directory.best_path)
    averages = {name: found[f"state/agents/{name}"] for name in weights}
    for name, array in averages.items():
        np.testing.assert_array_equal(best[name], array)
    assert any(not np.allclose(array, learned[f"state/agents/{name}"]) for name, array in averages.items())
    # Killed and resumed, it comes to the same bits.
    resumed = qdojo.resume(killed.path, progress=False)
    again = checkpoint.load_latest(resumed.directory.checkpoints_path).arrays
    for name, array in found.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)


def test_a_fork_has_its_own_numbers(tmp_path: Path) -> None:
    run = qdojo.train(**SETTINGS, **REPLAY, average_share=0.2, root=tmp_path)
    text = run.directory.config_path.read_text(encoding="utf-8")
    assert "discount = 0.99" in text
    text = text.replace("discount = 0.99", "discount = 0.5").replace("steps = 240", "steps = 280")
    run.directory.config_path.write_text(text, encoding="utf-8")
    fork = qdojo.resume(run.path, root=tmp_path / "forks", fork=True, progress=False)
    arrays = checkpoint.load_latest(fork.directory.checkpoints_path).arrays
    np.testing.assert_array_equal(arrays["state/agents/learner/hyper/discount"], np.float32([0.5, 0.5]))
