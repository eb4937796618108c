"""From a config to the parts of a run: which loop, how large a tape, which numbers; and what is refused before that."""

import re
from pathlib import Path
from typing import Any

import equinox as eqx
import gymnasium as gym
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qdojo
from qdojo.api import Policy
from qdojo.build import memory, stepping
from qdojo.build.opening import open_player
from qdojo.build.training import Parts, build
from qdojo.config import Config, make_config
from qdojo.envs.native.deep_sea import deep_sea
from qdojo.errors import UsageError
from qdojo.loops.device import DeviceLoop
from qdojo.loops.host import HostLoop
from qdojo.loops.state import fresh_tally

CARTPOLE = "CartPole-v1"


def parts_of(env: str = CARTPOLE, **fields: Any) -> Parts:
    return build(make_config(env, **fields))


def make_own() -> gym.Env[Any, Any]:
    return gym.make(CARTPOLE)


def test_the_device_loop_is_taken_where_there_is_a_jax_version() -> None:
    assert isinstance(parts_of().loop, DeviceLoop)
    assert isinstance(parts_of(loop="device").loop, DeviceLoop)
    assert isinstance(parts_of(loop="host").loop, HostLoop)
    assert isinstance(parts_of("FrozenLake-v1").loop, HostLoop)


def test_a_callable_stands_in_for_the_name_and_plays_on_the_host() -> None:
    parts = build(make_config("tests:make_own"), env=make_own)
    assert isinstance(parts.loop, HostLoop)
    assert parts.spec.native_id is None


@pytest.mark.parametrize(
    ("env", "fields", "looked_up"),
    [
        ("FrozenLake-v1", {}, [True, False]),
        ("qdojo/DeepSea5-v0", {}, [True, False]),
        (CARTPOLE, {}, [False, False]),
        ("FrozenLake-v1", {"frame_stack": 2}, [False, False]),
        ("FrozenLake-v1", {"normalize_observations": True}, [False, False]),
        ("FrozenLake-v1", {"embedding": 4}, [False, False]),
    ],
)
def test_the_first_layer_looks_up_its_weights_where_observations_are_one_hot(
    env: str, fields: dict[str, Any], looked_up: list[bool]
) -> None:
    parts = parts_of(env, hidden=[8, 8], **fields)
    params = jax.eval_shape(parts.network.init, jax.random.key(0))
    assert [layer.one_hot for layer in params.hidden] == looked_up


def test_sparse_adam_has_a_table_and_needs_one_hot_observations() -> None:
    params = jax.eval_shape(parts_of("FrozenLake-v1", hidden=[8, 8], sparse_adam=True).network.init, jax.random.key(0))
    assert [(type(layer.linear).__name__, layer.linear.weight.shape) for layer in params.hidden] == [
        ("Table", (16, 8)),
        ("Linear", (8, 8)),
    ]
    message = "sparse_adam is set, but the observations that reach the first hidden layer are not one-hot; leave "
    with pytest.raises(UsageError, match=f"^{message}"):
        parts_of(CARTPOLE, sparse_adam=True)


@pytest.mark.parametrize("own", [{"loss": lambda network, rule: None}, {"network": lambda spaces: None}], ids=[*"ln"])
def test_sparse_adam_is_refused_with_parts_of_ones_own(own: dict[str, Any], tmp_path: Path) -> None:
    (name,) = own
    with pytest.raises(UsageError, match=f"^sparse_adam(=True does not go with| is set, but the) {name}"):
        qdojo.train("FrozenLake-v1", sparse_adam=True, root=tmp_path, **own)
    assert list(tmp_path.iterdir()) == []


def test_what_convolutions_make_of_a_one_hot_picture_is_not_looked_up() -> None:
    sea = deep_sea(10)
    picture = sea._replace(
        name="Picture-v0",
        observation_dtype="uint8",
        reset=lambda noise: (sea.reset(noise)[0], sea.reset(noise)[1].astype("uint8")),
        step=lambda *at: (
            sea.step(*at)[0],
            sea.step(*at)[1]._replace(observation=sea.step(*at)[1].observation.astype("uint8")),
        ),
    )
    for torso, looked_up in (("minatar", False), ("dense", True)):
        parts = build(make_config(picture.name, torso=torso, hidden=[8]), picture)
        params = jax.eval_shape(parts.network.init, jax.random.key(0))
        assert [layer.one_hot for layer in params.hidden] == [looked_up]


@pytest.mark.parametrize("fields", [{"dueling": True}, {"distribution": "iqn"}, {"noisy": True}])
def test_a_keras_object_with_a_part_of_the_mlp_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"is set, but the network is a Keras model; leave one of them out\.$"):
        build(make_config(CARTPOLE, **fields), network=lambda: None)


def test_the_device_loop_is_refused_where_there_is_no_jax_version() -> None:
    with pytest.raises(
        UsageError, match=r"^loop is 'device', but FrozenLake-v1 has no JAX version; use loop='host'\.$"
    ):
        parts_of("FrozenLake-v1", loop="device")


def test_nothing_is_compiled_yet() -> None:
    assert parts_of().loop.programs.compile_seconds == 0.0


def test_solved_is_what_the_config_says_or_else_gymnasium() -> None:
    assert parts_of().solved_at == 475.0
    assert parts_of(solved_at=100.0).solved_at == 100.0
    assert build(make_config("x:y"), env=gym.envs.classic_control.CartPoleEnv).solved_at is None


def test_the_rhythm_is_in_rows() -> None:
    """12 steps of 4 envs are 3 rows; 0.5 updates a step are 6; a warm-up of 10 steps needs 3 rows."""
    rhythm = parts_of(num_envs=4, collect_steps=12, updates_per_step=0.5, warmup_steps=10).loop.rhythm
    assert rhythm == (3, 6, 3)
    assert parts_of(warmup_steps=0).loop.rhythm.warmup_rows == 2, "two rows make the first transition"


def test_a_chunk_is_as_many_cycles_as_a_report_is_long() -> None:
    assert parts_of(collect_steps=2, updates_per_step=0.5, report_every_steps=1000).loop.cycles == 500
    assert parts_of(collect_steps=8, updates_per_step=0.5, report_every_steps=20).loop.cycles == 2
    assert parts_of(collect_steps=8, updates_per_step=0.5, report_every_steps=3).loop.cycles == 1


@settings(max_examples=50)
@given(
    capacity=st.integers(64, 3000),
    rows=st.integers(1, 40),
    envs=st.integers(1, 8),
    n_step=st.integers(1, 100),
)
def test_the_tape_holds_what_was_asked_in_whole_blocks(capacity: int, rows: int, envs: int, n_step: int) -> None:
    config = make_config(
        CARTPOLE, capacity_steps=capacity, num_envs=envs, collect_steps=rows * envs, updates_per_step=1.0, n_step=n_step
    )
    held = memory.capacity_rows(config)
    assert held % rows == 0, "a block would not fit at the end of the ring"
    assert held * envs >= capacity
    assert held >= n_step + 2, "no whole window would fit"
    assert (held - rows) * envs < max(capacity, (n_step + 2) * envs), "a block too many"


def test_a_tape_that_does_not_fit_is_refused_with_the_estimate_and_a_size_that_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row of CartPole is 4 floats, an action, a reward and a word of flags: 28 bytes a step and member."""
    monkeypatch.setattr(memory, "free_bytes", lambda: 10**9)
    with pytest.raises(UsageError) as refused:
        parts_of(capacity_steps=10**9, seeds=2)
    message = str(refused.value)
    assert message == (
        "capacity_steps=1,000,000,000 for 2 member(s) needs 56.0 GB, but only 0.8 of the 1.0 GB free may be used; "
        "use capacity_steps=14,280,075 or less."
    )
    fits = int(re.findall(r"use capacity_steps=([\d,]+)", message)[0].replace(",", ""))
    assert parts_of(capacity_steps=fits, seeds=2).loop.capacity_rows == pytest.approx(fits, abs=2)


def test_weights_that_do_not_fit_are_refused_with_the_estimate_and_what_to_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 1,000,000,000 bytes: weights, target, two moments of Adam and four copies are 8 times 4 bytes a weight."""
    monkeypatch.setattr(memory, "free_bytes", lambda: 10**9)
    with pytest.raises(UsageError) as refused:
        parts_of(hidden=(5_000, 5_000))
    message = str(refused.value)
    assert "The 25,0" in message
    assert "weights of the network need 0.8 GB for 1 member(s)" in message
    assert "use fewer seeds, a smaller hidden or batch_size, or smaller observations" in message


def test_the_stacks_of_a_whole_rollout_count_as_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """PQN makes them all at once: of 33 rows of 100,000 envs, 16 bytes a frame of CartPole."""
    monkeypatch.setattr(memory, "free_bytes", lambda: 10**9)
    rollout = {"preset": "pqn", "num_envs": 100_000, "collect_steps": 3_200_000, "updates_per_step": 1 / 3_200_000}
    assert parts_of(frame_stack=8, **rollout).loop.name == "device"
    with pytest.raises(UsageError) as refused:
        parts_of(frame_stack=16, **rollout)
    message = str(refused.value)
    assert re.match(
        r"A rollout of 3,200,000 steps and the network need 1\.\d GB for 1 member\(s\), but only 0\.8", message
    )
    assert "use fewer seeds, a smaller num_envs, collect_steps, frame_stack or hidden" in message


def test_the_memory_is_that_of_the_device_and_the_host_takes_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 10**12)
    monkeypatch.setattr(memory, "free_on_device", lambda: 10**9)
    with pytest.raises(UsageError, match="GB free on the device may be used; use capacity_steps"):
        parts_of(capacity_steps=10**8)
    monkeypatch.setattr(memory, "free_bytes", lambda: 10**9)
    monkeypatch.setattr(memory, "free_on_device", lambda: 10**12)
    with pytest.raises(UsageError, match="GB free on the host may be used; use capacity_steps"):
        parts_of(capacity_steps=10**8)


def test_a_device_with_a_memory_of_its_own_says_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        def memory_stats(self) -> dict[str, int]:
            return {"bytes_limit": 100, "bytes_in_use": 30}

    monkeypatch.setattr(memory.jax, "local_devices", lambda: [Device()])
    assert memory.free_on_device() == 70


@pytest.mark.parametrize(("limit", "expected"), [("1000", [450]), ("max", [])])
def test_a_container_s_limit_counts(
    limit: str, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 1,000 bytes 600 are used, 50 of them for files that nobody reads."""
    contents = {"memory.max": limit, "memory.current": "600", "memory.stat": "anon 500\ninactive_file 50\n"}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(memory, "CONTROL_GROUPS", ((tmp_path, "memory.max", "memory.current"),))
    assert memory._free_of_container() == expected
    assert not expected or memory.free_bytes() == 450


def test_a_network_of_absurd_size_is_told_before_it_is_compiled() -> None:
    parts = parts_of()
    assert memory.told_of_size(parts.agent, (4,)) is None
    large = parts_of(hidden=(5_000, 5_000))
    told = memory.told_of_size(large.agent, (4,))
    assert told is not None
    assert f"{memory.weights(large.agent):,} weights" in told
    assert "ResizeObservation, GrayscaleObservation" in told


def test_the_free_memory_of_this_machine_is_believable() -> None:
    assert 10**7 < memory.free_bytes() < 10**14


def test_the_free_memory_is_estimated_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(memory.Path, "read_text", fail)
    assert 10**7 < memory.free_bytes() < 10**14


def test_the_numbers_of_the_config_are_those_of_the_agents_state() -> None:
    parts = parts_of(
        learning_rate=0.25,
        learning_rate_end=0.125,
        learning_rate_decay_steps=77,
        discount=0.5,
        epsilon_start=0.75,
        epsilon_end=0.0625,
        epsilon_decay_steps=33,
        num_envs=2,
        epsilon_ladder=3.0,
        temperature_start=2.0,
        temperature_end=0.5,
        target_tau=0.5,
        prioritized=True,
        priority_alpha=0.375,
        priority_beta=0.875,
        boltzmann=True,
        steps=1_000,
    )
    state = jax.jit(parts.agent.init)(jax.random.key(0))
    exploration = [0.75, 0.0625, 33.0, 3.0, 2.0, 0.5]
    expected = [0.25, 0.125, 77.0, 0.5, *exploration, 0.5, 0.375, 0.875, 1_000.0]
    assert [float(number) for number in jax.tree.leaves(state.hyper)] == expected
    assert [layer.linear.weight.shape for layer in state.params.hidden] == [(64, 4), (64, 64)]
    assert all(layer.norm is not None for layer in state.params.hidden)
    assert state.params.head.weight.shape == (2, 64)


def test_a_plain_agent_has_no_priorities_and_draws_a_word_an_example() -> None:
    agent = parts_of(batch_size=64).agent
    assert jax.eval_shape(agent.init, jax.random.key(0)).priorities == ()
    assert agent.update_words == 64


def test_the_fractions_of_iqn_are_those_of_the_settings() -> None:
    fields = {"distribution": "iqn", "double": False, "batch_size": 8, "iqn_fractions": 3, "iqn_target_fractions": 5}
    one, many = (parts_of(**fields, iqn_acting_fractions=number) for number in (1, 32))
    assert one.agent.update_words == 8 * (1 + 3 + 5)
    params, observation = jax.jit(one.network.init)(jax.random.key(0)), np.ones(4, np.float32)
    q_one, q_many = (jax.jit(parts.network.apply)(params, observation) for parts in (one, many))
    assert not np.array_equal(q_one, q_many)


def test_a_config_made_by_hand_builds_what_the_command_line_would() -> None:
    config = Config(env="Acrobot-v1", learning_rate=0.5, learning_rate_end=0.25, steps=123)
    assert config == make_config("Acrobot-v1", learning_rate=0.5, learning_rate_end=0.25, steps=123)
    state = jax.jit(build(config).agent.init)(jax.random.key(0))
    assert float(state.hyper.learning_rate_end) == 0.25
    assert float(state.hyper.learning_rate_decay_steps) == 123.0


def test_the_template_is_the_shape_of_the_first_state() -> None:
    for loop in ("device", "host"):
        parts = parts_of(seeds=3, num_envs=2, capacity_steps=100, loop=loop, batch_size=8)
        template, state = parts.loop.template(), parts.loop.init()
        parts.loop.close()
        assert isinstance(template.tally, type(fresh_tally(3, 2)))
        pairs = zip(jax.tree.leaves(template.agents), jax.tree.leaves(state.agents), strict=True)
        assert all((a.shape, a.dtype) == (b.shape, b.dtype) for a, b in pairs)
        assert state.tape.rows.observation.shape == (100 // 2, 3, 2, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"env": "CartPole-v7"}, "CartPole-v7 does not exist: the current version is CartPole-v1."),
        ({"env": "Pendulum-v1"}, "the action space is continuous"),
        ({"network": "mpl"}, "network is 'mpl'; use 'mlp', 'tutorial' or 'module:build'."),
        ({"network": "math:nothing"}, "network is 'math:nothing', but math has no function 'nothing'"),
        ({"network": "no_such_module_at_all:build"}, "no_such_module_at_all"),
        ({"weights": "/nowhere/a.weights.h5"}, "/nowhere/a.weights.h5"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields: dict[str, Any], message: str) -> None:
    settings_ = {"env": CARTPOLE} | fields
    with pytest.raises(UsageError, match=re.escape(message)):
        parts_of(**settings_)


def test_a_ready_made_vector_and_worker_processes_are_evaluated_with_the_copies_they_train_with() -> None:
    def vector() -> gym.vector.VectorEnv[Any, Any, Any]:
        return gym.make_vec(CARTPOLE, num_envs=3, vectorization_mode="sync")

    fields = {"num_envs": 3, "collect_steps": 3, "updates_per_step": 1.0}
    parts = build(make_config("x:vector", **fields), env=vector)
    scores = parts.loop.evaluate(stacked(parts), seed=0, episodes=2).returns
    assert scores.shape == (1, 2)
    assert parts_of(loop="host").loop.evaluator.envs == stepping.EVALUATION_ENVS
    assert parts_of(loop="host", vectorization="async", **fields).loop.evaluator.envs == 3


def stacked(parts: Parts) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[None], jax.jit(parts.agent.init)(jax.random.key(0)).params)


def test_priorities_are_of_the_whole_tape_and_the_rhythm_is_the_configs() -> None:
    """200 steps of 2 envs in blocks of 3 rows: 102 rows, so 204 leaves in 7 groups of 32, and those in 1."""
    fields = {"num_envs": 2, "collect_steps": 6, "updates_per_step": 0.5, "capacity_steps": 200, "batch_size": 8}
    parts = parts_of(prioritized=True, **fields)
    assert parts.loop.capacity_rows == 102
    tree = jax.jit(parts.agent.init)(jax.random.key(0)).priorities
    assert [level.shape for level in tree.levels] == [(7, 32), (1, 32)]
    assert float(tree.levels[1].sum()) == 204.0


def test_the_support_of_c51_is_the_configs() -> None:
    """Without weights all atoms are as likely, and the value of each action is the middle of the support."""
    parts = parts_of(distribution="c51", atoms=5, vmin=-30.0, vmax=-10.0, hidden=(4,))
    params = jax.eval_shape(parts.agent.init, jax.random.key(0)).params
    assert params.head.weight.shape == (2 * 5, 4)
    zero = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    apply, observation = jax.jit(parts.network.apply), np.zeros(4, np.float32)
    np.testing.assert_allclose(apply(zero, observation), [-20.0, -20.0], rtol=1e-6)
    sure = np.array([0, 0, 0, 0, 99, 0, 99, 0, 0, 0], np.float32)
    certain = eqx.tree_at(lambda p: p.head.bias, zero, sure)
    np.testing.assert_allclose(apply(certain, observation), [-10.0, -25.0], rtol=1e-6)


@pytest.mark.parametrize("preset", ["default", "r2d2"])
def test_a_policy_shows_returns_and_acts_by_what_was_learned(preset: str) -> None:
    """Biases alone: the Q-values are h(8) = 2.008 and h(15) = 3.015, or without value rescaling these themselves."""
    for rescaling, expected in ((True, [8.0, 15.0]), (False, [2.008, 3.015])):
        config = make_config(CARTPOLE, preset, value_rescaling=rescaling, hidden=(4, 4))
        opened = open_player(config, None)
        shapes = jax.eval_shape(opened.player.network.init, jax.random.key(0))
        params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        q = np.array([2.008, 3.015], np.float32)
        if preset == "default":
            params = eqx.tree_at(lambda p: p.head.bias, params, q)
        else:
            streams = (q.mean(keepdims=True), q)
            params = eqx.tree_at(lambda p: (p.head.head.value.bias, p.head.head.advantage.bias), params, streams)
        policy = Policy(config, opened, params, 0)
        np.testing.assert_allclose(policy.q_values(np.zeros(4, np.float32)), expected, rtol=1e-4)
        assert policy.act(np.zeros(4, np.float32)) == 1


TINY: dict[str, Any] = {
    "seeds": 2,
    "hidden": (4, 4),
    "capacity_steps": 128,
    "batch_size": 4,
    "warmup_steps": 16,
    "atoms": 5,
    "quantiles": 4,
    "report_every_steps": 64,
}
"""Not through `make_config`, which refuses those that a preset does not read."""


# All presets meet the device loop on the probe environments, where they have to learn what is known. What the host loop
# asks of an agent differs by its heads, its noise and its own update, not by its formula; and by its memory, for which
# see `test_resume.py`.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras
@pytest.mark.parametrize(("preset", "heads"), [("rainbow", 3), ("pqn", 1), ("tutorial", 1)])
def test_presets_of_each_kind_train_on_the_host_loop(preset: str, heads: int) -> None:
    parts = build(make_config(CARTPOLE, preset, loop="host").model_copy(update=TINY | {"heads": heads}))
    try:
        start = parts.loop.init()
        before = jax.tree.map(np.array, start.agents.params)
        state, report = next(parts.loop.run(start))
    finally:
        parts.loop.close()
    assert report.updates > 0
    assert {"loss", "epsilon"} <= report.metrics.keys()
    for name, values in report.metrics.items():
        assert values.shape == (2,), name
        assert np.isfinite(values).all(), name
    after = jax.tree.leaves(jax.tree.map(np.array, state.agents.params))
    assert all(np.isfinite(leaf).all() for leaf in after)
    for member in range(2):
        pairs = zip(after, jax.tree.leaves(before), strict=True)
        assert any(not np.array_equal(new[member], old[member]) for new, old in pairs)
    assert any(not np.array_equal(leaf[0], leaf[1]) for leaf in after), "both members learned the same"
