"""Members in blocks: they learn what they would all at once, and no stretch copies the tape or the weights."""

import re
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes.training import HYPER, device_loop, small_agent, small_network

from qdojo.agents.dqn import Rule, dqn_loss
from qdojo.agents.explore import Choosing
from qdojo.agents.learner import Structure, replay_agent
from qdojo.build.training import build
from qdojo.config import make_config
from qdojo.envs.native.cartpole import CARTPOLE
from qdojo.loops.blocks import Blocks
from qdojo.loops.device import DeviceLoop
from qdojo.loops.learning import Rhythm
from qdojo.loops.sharding import Shards
from qdojo.loops.state import Programs
from qdojo.networks.prior import with_prior
from qdojo.tape.windows import transitions
from qdojo.types import Agent

MEMBERS, ENVS, CAPACITY = 6, 2, 40


def loop(at_once: int | None, agent: Agent | None = None, **settings: Any) -> Any:
    agent = agent or small_agent(small_network(4))
    defaults = {"capacity_rows": CAPACITY, "cycles": 10, "rhythm": Rhythm(rows=2, updates=2, warmup_rows=8)}
    return device_loop(CARTPOLE, agent, members=MEMBERS, envs=ENVS, at_once=at_once, **defaults | settings)


@pytest.mark.parametrize(("most", "size"), [(1, 1), (2, 2), (4, 3), (5, 3), (6, 6), (9, 6)])
def test_blocks_are_of_equal_size_and_at_most_as_large_as_asked(most: int, size: int) -> None:
    blocks = Blocks(Shards(MEMBERS), most, Programs())
    assert (blocks.size, blocks.count) == (size, MEMBERS // size)


def test_blocks_are_cut_along_each_axis_of_members_and_joined_to_the_same() -> None:
    blocks, axes = Blocks(Shards(MEMBERS), 2, Programs()), (None, 0, {"a": 1, "b": 0})
    whole = (jnp.int32(5), jnp.arange(MEMBERS), {"a": jnp.arange(2 * MEMBERS).reshape(2, -1), "b": jnp.ones(MEMBERS)})
    cut = blocks.cut("tree", whole, axes)
    assert [int(block[0]) for block in cut] == [5, 5, 5]
    np.testing.assert_array_equal([block[1] for block in cut], [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(cut[1][2]["a"], [[2, 3], [8, 9]])
    jax.tree.map(np.testing.assert_array_equal, blocks.joined("tree", cut, axes), whole)


@pytest.mark.parametrize("at_once", [1, 2])
def test_members_in_blocks_learn_what_they_would_all_at_once(at_once: int) -> None:
    """The ring is written twice over, and every member acts, learns and ends episodes."""
    ends = []
    for each in (None, at_once):
        playing = loop(each)
        run = playing.run(playing.init())
        episodes = [episode for _ in range(3) for episode in next(run)[1].episodes]
        state, report = next(run)
        ends.append((jax.tree.map(np.array, state), report.metrics, episodes))
    (whole, metrics, episodes), (split, in_blocks, counted) = ends
    assert counted == episodes
    assert {episode.member for episode in episodes} == set(range(MEMBERS))
    assert int(split.clock.updates) == int(whole.clock.updates) > 0
    assert int(split.tape.written) == 80 == 2 * CAPACITY
    np.testing.assert_array_equal(split.tape.words, whole.tape.words)
    np.testing.assert_array_equal(split.tape.member, whole.tape.member)
    for a, b in ((split.agents, whole.agents), (in_blocks, metrics)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


def test_no_block_copies_the_tape() -> None:
    playing = loop(2, capacity_rows=7918)
    next(playing.run(playing.init()))
    program = playing.programs.compiled("chunk", loop).as_text()
    made = re.findall(r"= (\w+\[7918,[\d,]*\])\S* ([\w-]+)\(", program)
    assert {operation for _, operation in made} >= {"parameter", "dynamic-update-slice"}
    harmless = {"parameter", "get-tuple-element", "bitcast", "fusion", "dynamic-update-slice", "call"}
    assert {operation for _, operation in made} <= harmless


@pytest.mark.parametrize("updates", [1, 3])
def test_a_stretch_copies_no_weights(updates: int) -> None:
    network = with_prior(small_network(4), 1.0)
    structure = Structure(
        Choosing(2, num_envs=ENVS), 8, transitions(1), target_sync_updates=updates, max_grad_norm=None
    )
    playing = loop(2, replay_agent(network, lambda own: dqn_loss(network, Rule(True, "mse")), HYPER, structure))
    next(playing.run(playing.init()))
    program = playing.programs.compiled("chunk", loop).as_text()
    made = Counter(re.findall(r"= f32\[2,8,4\]\S* ([\w-]+)\(", program))
    assert made["parameter"] > made["copy"] + made["dynamic-update-slice"] == 0
    assert f"[{MEMBERS},8,4]" not in program


def test_the_arrays_of_all_members_do_not_stay_beside_those_of_the_blocks() -> None:
    playing = loop(2)
    run = playing.run(begun := playing.init())
    first, _ = next(run)
    next(run)
    for state in (begun, first):
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.agents, state.environment)))


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"hidden": (24, 24), "batch_size": 32}, 32),
        ({"hidden": (120, 84), "batch_size": 128}, 4),
        ({"hidden": (512, 512), "batch_size": 128}, 1),
    ],
)
def test_a_run_chooses_blocks_by_the_bytes_of_an_update(settings: dict[str, Any], size: int) -> None:
    made = build(make_config("CartPole-v1", "dqn", loop="device", seeds=64, shards=1, capacity_steps=4_000, **settings))
    assert isinstance(made.loop, DeviceLoop)
    assert made.loop.blocks.size == size
