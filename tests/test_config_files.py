"""Where settings come from beside flags: files of this version and earlier ones, arrays of NumPy, and Config itself."""

import json
import tomllib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from qdojo.config import GROUPS, Config, make_config, preset_tables, read_config, stored_config
from qdojo.errors import UsageError

CARTPOLE = "CartPole-v1"

OLD = """\
env = "CartPole-v1"
preset = "iqn"
agent = "dqn"
seed = 3
seeds = 2
loop = "auto"
num_envs = 1
vectorization = "sync"
render = "none"
steps = 7000
episodes = "none"
until_solved = false
solved_at = "none"
network = "mlp"
hidden = [
    64,
    32,
]
layer_norm = true
dueling = false
noisy = false
recurrent = "none"
heads = 1
prior_scale = 0.0
embedding = "none"
torso = "auto"
torso_width = 1
spectral_norm = false
normalize_observations = false
weights = "none"
capacity_steps = 50000
batch_size = 64
warmup_steps = 1000
collect_steps = 2
updates_per_step = 0.5
n_step = 5
sequence_steps = 20
burn_in_steps = 0
stored_state = true
discount = 0.99
double = false
error = "huber"
value_rescaling = false
conservative = 0.0
dataset = "none"
munchausen = false
munchausen_alpha = 0.9
munchausen_temperature = 0.03
munchausen_floor = -1.0
distribution = "iqn"
atoms = 51
vmin = 0.0
vmax = 100.0
quantiles = 16
cvar = 1.0
prioritized = false
priority_alpha = 0.6
priority_beta = 0.4
priority_beta_steps = 7000
epochs = 4
minibatches = 16
trace_decay = 0.65
learning_rate = 0.002
learning_rate_end = 0.0001
learning_rate_decay_steps = 7000
max_grad_norm = "none"
target_tau = 0.005
target_sync_updates = 1
epsilon_start = 1.0
epsilon_end = 0.1
epsilon_decay_steps = 5000
epsilon_schedule = "linear"
epsilon_ladder = 0.0
boltzmann = false
temperature_start = 1.0
temperature_end = 0.1
epsilon_decay = 0.75
eval_every_steps = 1000
eval_episodes = 100
final_eval_episodes = 100
eval_episode_steps = "none"
report_every_steps = 1000
checkpoint_every_seconds = 30.0
"""
"""A `config.toml` as it was before settings stood in tables, all of them in it."""

NEW_SINCE = {"adam_beta1", "adam_beta2", "adam_epsilon", "iqn_fractions", "iqn_target_fractions"}


def test_a_flat_file_of_an_earlier_version_loads_and_means_what_it_meant() -> None:
    config = read_config(OLD, "config.toml")
    assert config.epsilon_decay_factor == 0.75
    assert config.iqn_acting_fractions == 16, "of IQN, quantiles were what acting takes the mean of"
    assert (config.seeds, config.hidden, config.recurrent, config.learning_rate_end) == (2, (64, 32), None, 1e-4)
    old = tomllib.loads(OLD)
    for name, value in old.items():
        if name not in ("epsilon_decay", "quantiles"):
            expected = (
                None if value == "none" and name != "render" else tuple(value) if isinstance(value, list) else value
            )
            assert getattr(config, name) == expected, name
    for name in NEW_SINCE:
        assert getattr(config, name) == Config.model_fields[name].default
    assert read_config(config.to_toml(), "config.toml") == config


def test_a_setting_that_an_earlier_version_did_not_have_is_its_default_whatever_the_preset_says_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from qdojo.config import presets

    tables = {"iqn": {"about": "", "adam_epsilon": 0.5, "n_step": 9}}
    monkeypatch.setattr(presets, "preset_tables", lambda: tables)
    assert make_config(CARTPOLE, "iqn").adam_epsilon == 0.5
    stored = read_config(OLD, "config.toml")
    assert (stored.adam_epsilon, stored.n_step) == (1e-8, 5)


def test_quantiles_of_iqn_are_refused_where_a_file_is_of_this_version() -> None:
    with pytest.raises(UsageError, match=r"^quantiles is set, but nothing reads it with distribution='iqn'; use "):
        make_config(CARTPOLE, **tomllib.loads("[distributional]\ndistribution = 'iqn'\nquantiles = 8"))


def test_what_a_checkpoint_of_an_earlier_version_says_of_the_settings_is_the_same_as_its_file() -> None:
    table = {
        name: None if value == "none" and name != "render" else value for name, value in tomllib.loads(OLD).items()
    }
    assert stored_config(json.loads(json.dumps(table))) == read_config(OLD, "config.toml")


@pytest.mark.parametrize("preset", preset_tables())
def test_settings_stand_in_the_tables_of_their_groups(preset: str) -> None:
    config = make_config(CARTPOLE, preset)
    written = tomllib.loads(config.to_toml())
    for group in GROUPS:
        table = written[group.table] if group.table else written
        assert set(group.model_fields) - {"vary"} <= set(table), group.title
    assert make_config(**written) == config


def test_a_file_may_have_tables_or_none() -> None:
    grouped = {"replay": {"capacity_steps": 300, "batch_size": 8}, "networks": {"hidden": [8]}}
    flat = {"capacity_steps": 300, "batch_size": 8, "hidden": [8]}
    assert make_config(CARTPOLE, **grouped) == make_config(CARTPOLE, **flat)
    with pytest.raises(UsageError, match=r"^batch_size is given twice, in two tables; leave one out\.$"):
        make_config(CARTPOLE, **grouped, batch_size=9)
    with pytest.raises(UsageError, match=r"^There is no setting 'repaly'; did you mean "):
        make_config(CARTPOLE, repaly={"batch_size": 8})


NUMPY: dict[str, tuple[Any, Any]] = {
    "hidden": (np.array([32, 16]), (32, 16)),
    "steps": (np.int64(700), 700),
    "num_envs": (np.int32(3), 3),
    "minibatches": (np.uint8(4), 4),
    "learning_rate": (np.float32(0.5), 0.5),
    "discount": (np.array(0.75), 0.75),
    "double": (np.bool_(False), False),
    "error": (np.str_("mse"), "mse"),
    "batch_size": (jnp.int32(8), 8),
    "vmin": (jnp.array(-2.5), -2.5),
}


@pytest.mark.parametrize("name", NUMPY)
def test_numbers_and_arrays_of_numpy_and_jax_are_plain_ones(name: str) -> None:
    given, plain = NUMPY[name]
    more = {"vmin": {"distribution": "c51"}, "minibatches": {"preset": "pqn", "num_envs": np.int64(6)}}.get(name, {})
    config = make_config(CARTPOLE, **more, **{name: given})
    assert config == make_config(CARTPOLE, **more, **{name: plain})
    assert type(getattr(config, name)) is type(plain)
    assert read_config(config.to_toml(), "config.toml") == config


def test_a_list_of_numpys_numbers_is_one_too() -> None:
    assert make_config(CARTPOLE, hidden=list(np.array([4, 5]))).hidden == (4, 5)
    assert make_config(CARTPOLE, hidden=[jnp.int32(4)]).hidden == (4,)
    assert make_config(CARTPOLE, learning_rate=np.array([0.5])).learning_rate == 0.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"priority_alpha": 0.5}, "priority_alpha is set, but nothing reads it with prioritized=False"),
        ({"preset": "pqn", "n_step": 3}, "n_step is set, but nothing reads it with agent='pqn'"),
        ({"batch_size": 64, "capacity_steps": 9}, "batch_size is 64, more than capacity_steps=9 holds"),
        ({"steps": 0}, "steps is 0: input should be greater than or equal to 1"),
        ({"preset": "defualt"}, "There is no preset 'defualt'; did you mean default"),
        ({"num_env": 3}, "'num_env' is called num_envs here"),
        ({"preset": ["dqn"]}, "There is no preset"),
    ],
)
def test_a_config_made_by_hand_is_checked_as_on_the_command_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Config(env=CARTPOLE, **fields)


def test_a_config_made_by_hand_begins_with_its_preset() -> None:
    assert Config(env=CARTPOLE, preset="rainbow", n_step=4) == make_config(CARTPOLE, "rainbow", n_step=4)
    with pytest.raises(UsageError, match=r"^env is missing\.$"):
        Config(preset="dqn")


def test_a_value_where_a_table_belongs_is_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"^output is a table of settings, not a setting; "):
        make_config(CARTPOLE, output="here")
