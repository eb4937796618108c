"""Settings: every message of a bad one, what follows from what, and the way to a file and back. Presets are in
`test_presets.py`."""

import re
import tomllib
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from qdojo.config import Config, make_config, preset_tables, read_config
from qdojo.errors import UsageError

CARTPOLE = "CartPole-v1"

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "too small": ({"steps": 0}, "steps is 0: input should be greater than or equal to 1."),
    "negative": ({"seed": -1}, "seed is -1: input should be greater than or equal to 0."),
    "beyond 32 bits": ({"seed": 2**31}, "seed is 2147483648: input should be less than 2147483648."),
    "too large": ({"discount": 1.5}, "discount is 1.5: input should be less than or equal to 1."),
    "too many members": ({"seeds": 100_001}, "seeds is 100001: input should be less than or equal to 100000."),
    "too long a window": ({"n_step": 101}, "n_step is 101: input should be less than or equal to 100."),
    "not positive": ({"learning_rate": 0.0}, "learning_rate is 0.0: input should be greater than 0."),
    "no target": ({"target_tau": 0.0}, "target_tau is 0.0: input should be greater than 0."),
    "not finite": ({"learning_rate": float("inf")}, "learning_rate is inf: input should be a finite number."),
    "not whole": (
        {"batch_size": 1.5},
        "batch_size is 1.5: input should be a valid integer, got a number with a fractional part.",
    ),
    "not a number": (
        {"discount": "high"},
        "discount is 'high': input should be a valid number, unable to parse string as a number.",
    ),
    "no such choice": ({"error": "hubr"}, "error is 'hubr': input should be 'mse' or 'huber'."),
    "no such loop": ({"loop": "gpu"}, "loop is 'gpu': input should be 'auto', 'device' or 'host'."),
    "inside a list": ({"hidden": [64, 0]}, "hidden.1 is 0: input should be greater than or equal to 1."),
    "not a list": ({"hidden": 64}, "hidden is 64: input should be a valid tuple."),
    "a field's near name": (
        {"learning_rat": 0.1},
        "There is no setting 'learning_rat'; did you mean learning_rate or learning_rate_end or "
        "learning_rate_decay_steps?",
    ),
    "a field's far name": (
        {"zzzzzz": 1},
        "There is no setting 'zzzzzz'; see `qdojo train --help` for all of them.",
    ),
    "no multiple": (
        {"num_envs": 3, "collect_steps": 4},
        "collect_steps is 4, which is not a multiple of num_envs=3; use 6.",
    ),
    "no number of copies": ({"num_envs": 0}, "num_envs is 0: input should be greater than or equal to 1."),
    "no number at all": (
        {"num_envs": "many"},
        "num_envs is 'many': input should be a valid integer, unable to parse string as an integer.",
    ),
    "no whole updates": (
        {"collect_steps": 4, "updates_per_step": 0.3},
        "collect_steps * updates_per_step is 1.2, but it must be a whole number of updates; use updates_per_step=0.25.",
    ),
    "no update at all": (
        {"collect_steps": 4, "updates_per_step": 0.01},
        "collect_steps * updates_per_step is 0.04, but it must be a whole number of updates; "
        "use updates_per_step=0.25.",
    ),
    "a batch that does not fit": (
        {"batch_size": 64, "capacity_steps": 32},
        "batch_size is 64, more than capacity_steps=32 holds.",
    ),
    "a schedule that rises": (
        {"epsilon_start": 0.1, "epsilon_end": 0.5},
        "epsilon_end is 0.5, above epsilon_start=0.1.",
    ),
    "the tutorial with envs": (
        {"preset": "tutorial", "num_envs": 2},
        "agent='tutorial' needs num_envs=1, collect_steps=1 and updates_per_step=1, not 2, 2 and 1; "
        "use preset='tutorial'.",
    ),
    "a window on the device": (
        {"render": "human", "loop": "device"},
        "render='human' does not go with loop='device'; use loop='auto' or loop='host', or leave render out.",
    ),
    "a window of many": (
        {"render": "human", "seeds": 3},
        "render='human' shows one environment, but seeds=3 and num_envs=1 make 3; use one of each, or "
        "leave render out.",
    ),
    "too much of a distribution": ({"atoms": 1}, "atoms is 1: input should be greater than or equal to 2."),
    "no such distribution": (
        {"distribution": "c52"},
        "distribution is 'c52': input should be 'c51', 'qrdqn', 'iqn' or 'fqf'.",
    ),
    "a support without a width": (
        {"distribution": "c51", "vmin": 5.0, "vmax": 5.0},
        "vmin is 5, but it must be below vmax=5.",
    ),
    "a support upside down": (
        {"distribution": "c51", "vmin": 100.0, "vmax": -1.5},
        "vmin is 100, but it must be below vmax=-1.5.",
    ),
    "dueling in the tutorial": (
        {"preset": "tutorial", "dueling": True},
        "dueling=True does not go with agent='tutorial'; use a preset with agent='dqn' or agent='pqn', "
        "or leave dueling out.",
    ),
    "priorities in the tutorial": (
        {"preset": "tutorial", "prioritized": True},
        "prioritized=True does not go with agent='tutorial'; use a preset with agent='dqn', or leave prioritized out.",
    ),
    "munchausen in the tutorial": (
        {"preset": "tutorial", "munchausen": True},
        "munchausen=True does not go with agent='tutorial'; use a preset with agent='dqn', or leave munchausen out.",
    ),
    "a distribution in the tutorial": (
        {"preset": "tutorial", "distribution": "c51"},
        "distribution='c51' does not go with agent='tutorial'; use a preset with agent='dqn', or leave "
        "distribution out.",
    ),
    "dueling in a Keras model": (
        {"network": "mine:build", "dueling": True},
        "dueling=True does not go with network='mine:build'; use network='mlp', or leave dueling out.",
    ),
    "noise in a Keras model": (
        {"network": "mine:build", "noisy": True},
        "noisy=True does not go with network='mine:build'; use network='mlp', or leave noisy out.",
    ),
    "a distribution in a Keras model": (
        {"network": "mine:build", "distribution": "iqn"},
        "distribution='iqn' does not go with network='mine:build'; use network='mlp', or leave distribution out.",
    ),
    "weights of another network": (
        {"noisy": True, "weights": "a.weights.h5"},
        "weights='a.weights.h5' does not go with noisy=True; leave one of them out.",
    ),
    "streams without a layer": (
        {"dueling": True, "hidden": []},
        "dueling needs a hidden layer for each stream; set hidden.",
    ),
    "nothing to join a fraction with": (
        {"distribution": "iqn", "hidden": [64]},
        "distribution='iqn' needs at least two hidden layers, not hidden=[64].",
    ),
    "nothing to propose a fraction from": (
        {"distribution": "fqf", "hidden": []},
        "distribution='fqf' needs at least two hidden layers, not hidden=[].",
    ),
    "averse to risk without a distribution": (
        {"distribution": "qrdqn", "cvar": 0.5},
        "cvar is set, but nothing reads it with distribution='qrdqn'; use distribution='iqn', or leave cvar out.",
    ),
    "steps of a return in pqn": (
        {"preset": "pqn", "n_step": 3},
        "n_step is set, but nothing reads it with agent='pqn'; use a preset with agent='dqn', or leave n_step out.",
    ),
    "a batch in pqn": (
        {"preset": "pqn", "batch_size": 32},
        "batch_size is set, but nothing reads it with agent='pqn'; use a preset with agent='dqn' or "
        "agent='tutorial', or leave batch_size out.",
    ),
    "double in the tutorial": (
        {"preset": "tutorial", "double": True},
        "double is set, but nothing reads it with agent='tutorial'; use a preset with agent='dqn', or "
        "leave double out.",
    ),
    "priorities without their replay": (
        {"priority_alpha": 0.5},
        "priority_alpha is set, but nothing reads it with prioritized=False; set prioritized, or "
        "leave priority_alpha out.",
    ),
    "atoms of quantiles": (
        {"preset": "qrdqn", "vmax": 10.0},
        "vmax is set, but nothing reads it with distribution='qrdqn'; use distribution='c51', or leave vmax out.",
    ),
    "quantiles of atoms": (
        {"preset": "c51", "quantiles": 8},
        "quantiles is set, but nothing reads it with distribution='c51'; use distribution='qrdqn' or "
        "distribution='fqf', or leave quantiles out.",
    ),
    "processes on the device": (
        {"loop": "device", "vectorization": "async"},
        "vectorization is set, but nothing reads it with loop='device'; use loop='auto' or loop='host', "
        "or leave vectorization out.",
    ),
    "episodes of no evaluation": (
        {"eval_every_steps": None, "eval_episodes": 7},
        "eval_episodes is set, but nothing reads it with eval_every_steps=None; set eval_every_steps, or"
        " leave eval_episodes out.",
    ),
    "layers of a network that has its own": (
        {"network": "mine:build", "hidden": [8]},
        "hidden is set, but nothing reads it with network='mine:build'; use network='mlp', or leave hidden out.",
    ),
    "a memory in pqn": (
        {"preset": "pqn", "recurrent": "gru"},
        "recurrent='gru' does not go with agent='pqn'; use a preset with agent='dqn', or leave recurrent out.",
    ),
    "heads in pqn": (
        {"preset": "pqn", "heads": 2},
        "heads=2 does not go with agent='pqn'; use a preset with agent='dqn', or leave heads out.",
    ),
    "a memory in an ensemble": (
        {"recurrent": "lstm", "heads": 3},
        "heads=3 does not go with recurrent='lstm'; leave one of them out.",
    ),
    "a memory without a layer": (
        {"recurrent": "lstm", "hidden": []},
        "recurrent needs a hidden layer, because the last one is the memory; set hidden.",
    ),
    "a kind of memory": (
        {"recurrent": "rnn"},
        "recurrent is 'rnn': input should be 'gru' or 'lstm'.",
    ),
    "fractions that join nothing learned": (
        {"preset": "iqn", "hidden": [64]},
        "distribution='iqn' needs at least two hidden layers, not hidden=[64].",
    ),
    "weights of an ensemble": (
        {"heads": 3, "weights": "a.weights.h5"},
        "weights='a.weights.h5' does not go with heads=3; use heads=1, or leave weights out.",
    ),
    "a rescaled distribution": (
        {"preset": "qrdqn", "value_rescaling": True},
        "value_rescaling=True does not go with distribution='qrdqn'; leave one of them out.",
    ),
    "statistics of categories": (
        {"embedding": 4, "normalize_observations": True},
        "embedding=4 does not go with normalize_observations=True; leave one of them out.",
    ),
    "embedding in a Keras model": (
        {"network": "mine:build", "embedding": 4},
        "embedding=4 does not go with network='mine:build'; use network='mlp', or leave embedding out.",
    ),
    "equal factors down to 0": (
        {"epsilon_schedule": "exponential", "epsilon_end": 0.0},
        "epsilon_end is 0, which exponential decay never reaches; use 0.001, or a linear schedule.",
    ),
    "a ladder of one rung": (
        {"epsilon_ladder": 7.0},
        "epsilon_ladder is set, but it needs more than num_envs=1 copy; set num_envs.",
    ),
    "boltzmann in the tutorial": (
        {"preset": "tutorial", "boltzmann": True},
        "boltzmann=True does not go with agent='tutorial'; use a preset with agent='dqn' or agent='pqn',"
        " or leave boltzmann out.",
    ),
    "logged steps in pqn": (
        {"preset": "pqn", "dataset": "last"},
        "dataset='last' does not go with agent='pqn'; use a preset with agent='dqn', or leave dataset out.",
    ),
    "several streams of logged steps": (
        {"dataset": "last", "num_envs": 2},
        "num_envs=2 does not go with dataset='last'; leave one of them out.",
    ),
    "a warm-up where nothing is collected": (
        {"dataset": "last", "warmup_steps": 7},
        "warmup_steps is set, but nothing reads it with dataset='last'; leave one of them out.",
    ),
    "exploration where nothing is played": (
        {"dataset": "last", "epsilon_end": 0.5},
        "epsilon_end is set, but nothing reads it with dataset='last'; leave one of them out.",
    ),
    "softmax where nothing is played": (
        {"dataset": "last", "boltzmann": True},
        "boltzmann is set, but nothing reads it with dataset='last'; leave one of them out.",
    ),
    "a schedule that begins at its end": (
        {"weights": "a.weights.h5", "epsilon_decay_steps": 7},
        "epsilon_decay_steps is set, but nothing reads it with weights='a.weights.h5'; leave one of them out.",
    ),
    "a loss by the word of other libraries": (
        {"loss": "mse"},
        "loss is 'mse', but it names a user's own function; use error='mse'.",
    ),
    "constants of Adam in pqn": (
        {"preset": "pqn", "adam_epsilon": 0.5},
        "adam_epsilon is set, but nothing reads it with agent='pqn'; use a preset with agent='dqn', or leave "
        "adam_epsilon out.",
    ),
    "sparse Adam under noise": (
        {"noisy": True, "sparse_adam": True},
        "sparse_adam=True does not go with noisy=True; leave one of them out.",
    ),
    "sparse Adam without a layer": (
        {"hidden": [], "sparse_adam": True},
        "sparse_adam needs a hidden layer, not hidden=[]; leave it out, or set hidden.",
    ),
    "sparse Adam of streams alone": (
        {"dueling": True, "hidden": [64], "sparse_adam": True},
        "sparse_adam needs two hidden layers, not hidden=[64]; leave it out, or set hidden.",
    ),
    "a window in workers": (
        {"render": "human", "vectorization": "async"},
        "vectorization='async' does not go with render='human'; use render='none', or leave vectorization out.",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_is_one_sentence_that_names_it(name: str) -> None:
    fields, message = BAD[name]
    exact = message if ".*" in message else re.escape(message)
    with pytest.raises(UsageError, match=f"^{exact}$"):
        make_config(CARTPOLE, **fields)


@given(collect=st.integers(1, 500), updates=st.integers(1, 500))
def test_any_whole_number_of_updates_is_accepted_as_a_fraction_too(collect: int, updates: int) -> None:
    """Of 49 steps, 1/49 each: floating point makes 0.9999999999999999 of it."""
    config = make_config(CARTPOLE, collect_steps=collect, updates_per_step=updates / collect)
    assert config.updates_per_cycle == updates


@given(collect=st.integers(1, 500), ratio=st.floats(1e-4, 3.0))
def test_the_fix_that_a_message_names_is_one(collect: int, ratio: float) -> None:
    try:
        make_config(CARTPOLE, collect_steps=collect, updates_per_step=ratio)
    except UsageError as error:
        suggested = float(str(error).removesuffix(".").rpartition("=")[2])
        make_config(CARTPOLE, collect_steps=collect, updates_per_step=suggested)


@given(collect=st.integers(1, 50), envs=st.integers(1, 50))
def test_the_multiple_that_a_message_names_is_one(collect: int, envs: int) -> None:
    fields = {"num_envs": envs, "updates_per_step": 1.0}
    try:
        config = make_config(CARTPOLE, collect_steps=collect, **fields)
    except UsageError as error:
        config = make_config(CARTPOLE, collect_steps=int(str(error).removesuffix(".").rpartition(" ")[2]), **fields)
    assert config.rows_per_cycle * envs == config.collect_steps


@pytest.mark.parametrize(
    ("fields", "collect_steps", "updates_per_step"),
    [
        ({"num_envs": 8, "epsilon_ladder": 7.0}, 8, 0.5),
        ({"num_envs": 3}, 3, 2 / 3),
        ({"num_envs": 2}, 2, 0.5),
        ({"num_envs": 3, "updates_per_step": 1.0}, 3, 1.0),
        ({"num_envs": 3, "preset": "drqn"}, 9, 1 / 9),
        ({"num_envs": 16, "preset": "r2d2"}, 16, 0.125),
        ({"num_envs": 64, "preset": "pqn"}, 256, 1 / 256),
        ({"num_envs": 3, "preset": "pqn"}, 264, 1 / 264),
        ({"num_envs": 25, "preset": "pqn"}, 400, 1 / 400),
        ({"num_envs": 5, "preset": "pqn", "minibatches": 2}, 260, 1 / 260),
    ],
    ids=str,
)
def test_copies_are_collected_from_in_whole_rows(
    fields: dict[str, Any], collect_steps: int, updates_per_step: float
) -> None:
    config = make_config(CARTPOLE, **fields)
    assert (config.collect_steps, config.updates_per_step) == (collect_steps, updates_per_step)
    assert make_config(**tomllib.loads(config.to_toml())) == config


@given(envs=st.integers(1, 300), preset=st.sampled_from([name for name in preset_tables() if name != "tutorial"]))
def test_any_number_of_copies_is_accepted_with_nearly_the_replay_ratio_of_the_preset(envs: int, preset: str) -> None:
    config, usual = make_config(CARTPOLE, preset, num_envs=envs), make_config(CARTPOLE, preset)
    assert config.collect_steps >= usual.collect_steps
    # Half an update is what the nearest whole number may miss, and there is at least one.
    missed = abs(config.updates_per_cycle - config.collect_steps * usual.updates_per_step)
    assert missed <= 0.5 + 1e-9 or config.updates_per_cycle == 1


@pytest.mark.parametrize("rate", [1e-5, [1e-6, 1e-5]])
def test_a_config_with_a_rate_below_the_presets_final_one_can_be_used_again(rate: Any) -> None:
    config = make_config(CARTPOLE, learning_rate=rate)
    assert config.learning_rate_end == 1e-5
    assert make_config(**config.model_dump()) == config


def test_a_final_learning_rate_above_the_initial_one_is_refused() -> None:
    assert make_config(CARTPOLE, learning_rate=0.1, learning_rate_end=0.1).learning_rate_end == 0.1
    assert make_config(CARTPOLE, learning_rate=[0.01, 1.0], learning_rate_end=0.1).learning_rate_end == 0.1
    with pytest.raises(UsageError, match=r"learning_rate_end is 0.1, but the learning rate falls, from 0.01;"):
        make_config(CARTPOLE, learning_rate=0.01, learning_rate_end=0.1)
    with pytest.raises(UsageError, match=r"learning_rate_end is 0.1, but the learning rate falls, from 0.01;"):
        make_config(CARTPOLE, learning_rate=0.01, learning_rate_end=[0.001, 0.1])


@pytest.mark.parametrize(
    "fields",
    [
        {"network": "mine:build", "munchausen": True, "prioritized": True},
        {"weights": "a.weights.h5", "munchausen": True, "prioritized": True},
        {"dueling": True, "hidden": [8]},
        {"distribution": "iqn", "cvar": 0.5, "noisy": True, "dueling": True, "prioritized": True, "munchausen": True},
        {"distribution": "c51", "vmin": -500.0, "vmax": 0.0},
        {"distribution": "qrdqn", "hidden": []},
    ],
)
def test_parts_that_go_together_are_taken(fields: dict[str, Any]) -> None:
    config = make_config(CARTPOLE, **fields)
    assert all(getattr(config, name) == (tuple(v) if name == "hidden" else v) for name, v in fields.items())


def test_what_follows_from_other_settings_is_written_out() -> None:
    config = make_config("Other-v0", steps=20_000)
    assert config.learning_rate_decay_steps == 20_000
    assert config.report_every_steps is not None
    kept = make_config("Other-v0", learning_rate_end=0.0, learning_rate_decay_steps=5, report_every_steps=70)
    assert (kept.learning_rate_end, kept.learning_rate_decay_steps, kept.report_every_steps) == (0.0, 5, 70)


@pytest.mark.parametrize(
    ("fields", "report"),
    [
        ({"report_every_steps": 20_000, "eval_every_steps": 1_000, "collect_steps": 10}, 1_000),
        ({"report_every_steps": 20_000, "eval_every_steps": 1_000, "collect_steps": 30, "updates_per_step": 0.1}, 990),
        ({"report_every_steps": 20_000, "eval_every_steps": 10, "collect_steps": 30, "updates_per_step": 0.1}, 30),
        ({"report_every_steps": 20_000, "eval_every_steps": None}, 20_000),
        ({"report_every_steps": 700, "eval_every_steps": 1_000}, 700),
    ],
    ids=str,
)
def test_reports_come_as_often_as_evaluations(fields: dict[str, Any], report: int) -> None:
    """A chunk ends with a report, and only between chunks is anything judged."""
    assert make_config("CartPole-v1", **fields).report_every_steps == report


@given(
    steps=st.integers(1, 200_000),
    rows=st.integers(1, 64),
    envs=st.integers(1, 16),
    every=st.none() | st.integers(1, 50_000),
)
def test_reports_come_every_thousand_steps_or_twenty_cycles_and_end_close_to_the_budget(
    steps: int, rows: int, envs: int, every: int | None
) -> None:
    collect = rows * envs
    config = make_config(
        "Other-v0", steps=steps, num_envs=envs, collect_steps=collect, updates_per_step=1.0, eval_every_steps=every
    )
    report = config.report_every_steps
    assert report % collect == 0
    assert report < min(every or steps, max(1_000, 20 * collect)) + collect
    chunks = -(-steps // report)
    # The last chunk goes past the budget by less than a cycle for each chunk.
    assert chunks * report - steps < collect * (chunks + 1)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make_config(CARTPOLE).seed = 3


OPTIONAL = [name for name, field in Config.model_fields.items() if type(None) in get_args(field.annotation)]


def test_every_field_says_what_it_is() -> None:
    assert all(field.description for field in Config.model_fields.values())
    assert "eval_every_steps" in OPTIONAL


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_setting_that_is_none_stays_none(name: str) -> None:
    config = make_config(CARTPOLE).model_copy(update={name: None})
    assert getattr(read_config(config.to_toml(), "config.toml"), name) is None


def test_the_file_is_plain_toml_in_any_language() -> None:
    config = make_config("내환경:Cart-v0", hidden=(3, 5), until_solved=True, solved_at=-110.5)
    table = tomllib.loads(config.to_toml())
    assert table["env"] == "내환경:Cart-v0"
    assert table["networks"]["hidden"] == [3, 5]
    assert (table["until_solved"], table["solved_at"]) == (True, -110.5)
    assert read_config(config.to_toml(), "config.toml") == config


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("env = ", "Invalid value"),
        ("env = 'x'\nsteps = -1", "steps is -1: input should be greater than or equal to 1."),
        ("env = 'x'\nlearnign_rate = 1", "There is no setting 'learnign_rate'; did you mean learning_rate"),
        ("seed = 1", "env is missing."),
        ("env = 'x'\nhidden = {a = 1}", "hidden is {'a': 1}: input should be a valid tuple."),
        ("env = 'x'\nseed = 'none'", "seed is 'none': input should be a valid integer"),
        ("!!python/object:os.system {}", "Invalid"),
    ],
)
def test_a_file_that_is_wrong_is_named(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"^run/config.toml is not a valid config: .*{re.escape(why)}"):
        read_config(text, "run/config.toml")


def test_until_solved_needs_evaluations() -> None:
    with pytest.raises(UsageError, match="set eval_every_steps"):
        make_config("CartPole-v1", until_solved=True, eval_every_steps=None)
