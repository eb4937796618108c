"""Presets: each is valid wherever it has settings, what goes over what, and the way to a file and back."""

import tomllib
from typing import Any

import pytest

from qdojo.config import NO_SETTINGS, Config, make_config, preset_tables, presets, read_config
from qdojo.errors import UsageError

CARTPOLE = "CartPole-v1"


def test_a_preset_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"^There is no preset 'tutoral'; did you mean tutorial\?$"):
        make_config(CARTPOLE, "tutoral")
    with pytest.raises(UsageError, match=r"^There is no preset 'zzz'; the names are .*default, .*tutorial.*\.$"):
        make_config(CARTPOLE, "zzz")


EVERY_TABLE = [
    *((name, "Anything-v0") for name in preset_tables()),
    *((name, env) for name, table in preset_tables().items() for env in table.get("env", {})),
]


@pytest.mark.parametrize(("preset", "env"), EVERY_TABLE)
def test_every_preset_is_valid_for_its_environments(preset: str, env: str) -> None:
    assert isinstance(preset_tables()[preset]["about"], str)
    config = make_config(env, preset)
    for name, value in presets.preset_settings(preset, env).items():
        found = getattr(config, name)
        expected = None if value == "none" else value
        assert (list(found) if isinstance(found, tuple) else found) == expected, name


GAMES = ("ALE/Pong-v5", "ALE/Breakout-v5", "MinAtar/Breakout-v1", CARTPOLE)


@pytest.mark.parametrize("env", GAMES)
@pytest.mark.parametrize("preset", sorted(preset_tables().keys() - {"tutorial"}))  # CartPole's
def test_a_preset_goes_with_what_it_inherits_for_an_environment(preset: str, env: str) -> None:
    assert make_config(env, preset).preset == preset


@pytest.mark.parametrize("env", GAMES)
def test_a_network_of_ones_own_goes_with_the_default_preset(env: str) -> None:
    assert make_config(env, network="somewhere:build").network == "somewhere:build"


def test_what_is_tuned_for_the_built_in_network_goes_unless_it_is_what_was_asked_for() -> None:
    assert (make_config("ALE/Pong-v5").dueling, make_config("ALE/Pong-v5", network="a:b").dueling) == (True, False)
    for asked in ({"preset": "dueling"}, {"dueling": True}):
        with pytest.raises(UsageError, match="dueling=True does not go with network='a:b'"):
            make_config("ALE/Pong-v5", network="a:b", **asked)


@pytest.mark.parametrize("asked", [{"noisy": True}, {"frame_stack": 2}, {"network": "a:b"}, {"loss": "a:b"}])
def test_what_an_environments_table_adds_makes_way_for_what_the_user_asks_for(asked: dict[str, Any]) -> None:
    assert make_config("qdojo/DeepSea10-v0", "bootdqn").sparse_adam
    assert not make_config("qdojo/DeepSea10-v0", "bootdqn", **asked).sparse_adam
    with pytest.raises(UsageError, match="sparse_adam=True does not go with"):
        make_config("qdojo/DeepSea10-v0", "bootdqn", sparse_adam=True, **asked)


def test_a_flag_goes_over_the_environments_table_and_that_over_the_presets() -> None:
    tuned = preset_tables()["default"]["env"][CARTPOLE]
    assert make_config(CARTPOLE).learning_rate == tuned["learning_rate"]
    assert make_config("Other-v0").learning_rate == Config.model_fields["learning_rate"].default
    assert make_config(CARTPOLE, learning_rate=0.5).learning_rate == 0.5
    assert make_config(CARTPOLE, "dqn").preset == "dqn"


@pytest.mark.parametrize("preset", ["dqn", "double", "nstep"])
def test_the_plain_presets_have_their_papers_networks_for_games(preset: str) -> None:
    atari, minatar = make_config("ALE/Pong-v5", preset), make_config("MinAtar/Breakout-v1", preset)
    assert (atari.torso, atari.hidden, minatar.torso, minatar.hidden) == ("nature", (512,), "minatar", (128,))


@pytest.mark.parametrize("preset", [name for name in preset_tables() if name != "tutorial"])
def test_atoms_lie_on_both_sides_of_0_where_rewards_are_clipped(preset: str) -> None:
    config = make_config("ALE/Pong-v5", preset)
    assert config.clip_rewards
    assert config.distribution != "c51" or (config.vmin, config.vmax) == (-10.0, 10.0)


def test_pqn_has_its_authors_settings_for_games() -> None:
    config = make_config("ALE/Breakout-v5", "pqn")
    assert (config.num_envs, config.collect_steps // config.num_envs, config.epochs, config.minibatches) == (
        128,
        32,
        2,
        32,
    )
    assert (config.torso, config.hidden, config.learning_rate_end, config.epsilon_end) == (
        "nature",
        (512,),
        2.5e-4,
        1e-3,
    )


TABLES = {
    "base": {
        "about": "The first.",
        "evidence": "It was seen once.",
        "steps": 10,
        "n_step": 2,
        "batch_size": 7,
        "env": {"A": {"steps": 20, "n_step": 3, "evidence": {"iqm": 1.0}}},
    },
    "middle": {
        "about": "The second.",
        "extends": "base",
        "n_step": 4,
        "env": {"A": {"discount": 0.5}, "B": {"steps": 40}},
    },
    "top": {"about": "The third.", "extends": "middle", "batch_size": 9, "env": {"A": {"n_step": 6}}},
}


@pytest.mark.parametrize(
    ("preset", "env", "expected"),
    [
        ("base", "other", (10, 2, 7, 0.99)),
        ("base", "A", (20, 3, 7, 0.99)),
        # The tuned table of the base is inherited, and an own setting goes over it.
        ("middle", "A", (20, 4, 7, 0.5)),
        ("middle", "B", (40, 4, 7, 0.99)),
        ("middle", "other", (10, 4, 7, 0.99)),
        ("top", "A", (20, 6, 9, 0.5)),
        ("top", "B", (40, 4, 9, 0.99)),
    ],
)
def test_a_preset_begins_with_what_it_extends(
    preset: str, env: str, expected: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "preset_tables", lambda: TABLES)
    config = make_config(env, preset)
    assert (config.steps, config.n_step, config.batch_size, config.discount) == expected
    assert config.preset == preset
    assert make_config(env, preset, n_step=9).n_step == 9


@pytest.mark.parametrize("where", ["own", "tuned", "inherited"])
def test_a_preset_with_a_setting_that_is_not_there_is_refused(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"learning_rat": 0.1}
    table = {"about": "", "env": {"A": wrong}} if where == "tuned" else {"about": ""} | wrong
    tables = {"wrong": table, "heir": {"about": "", "extends": "wrong"}}
    monkeypatch.setattr(presets, "preset_tables", lambda: tables)
    with pytest.raises(UsageError, match=r"^There is no setting 'learning_rat'; did you mean learning_rate"):
        make_config("A", "heir" if where == "inherited" else "wrong")


@pytest.mark.parametrize("name", sorted(NO_SETTINGS - {"env"}))
def test_what_a_preset_says_of_itself_is_no_setting(name: str) -> None:
    assert name not in Config.model_fields
    with pytest.raises(UsageError, match=f"^There is no setting '{name}'"):
        make_config(CARTPOLE, **{name: "x"})


@pytest.mark.parametrize("preset", preset_tables())
def test_the_written_settings_of_a_run_are_accepted_again(preset: str) -> None:
    """They name every field, those that nothing reads among them, and those that followed from another budget."""
    config = make_config(CARTPOLE, preset, steps=7_000)
    assert make_config(**tomllib.loads(config.to_toml())) == config


def test_noisy_presets_end_without_epsilon_where_the_default_is_tuned_to_keep_it() -> None:
    assert make_config(CARTPOLE).epsilon_end > 0.0
    for preset in ("noisy", "rainbow", "btr"):
        config = make_config(CARTPOLE, preset)
        assert (config.noisy, config.epsilon_start, config.epsilon_end) == (True, 1.0, 0.0)


@pytest.mark.parametrize(("preset", "env"), EVERY_TABLE)
def test_a_config_comes_back_from_its_file(preset: str, env: str) -> None:
    config = make_config(env, preset)
    assert read_config(config.to_toml(), "config.toml") == config
