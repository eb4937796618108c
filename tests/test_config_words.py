"""The words that other libraries have for our settings, from Python and on the command line."""

import re

import pytest

from qdojo.cli import run
from qdojo.config import Config, make_config
from qdojo.config.words import OURS, TOLD
from qdojo.errors import UsageError

EVERY_WORD = [word for words in (*OURS, *TOLD) for word in words.split()]

MEANT = {
    "gamma": "discount",
    "buffer_size": "capacity_steps",
    "learning_starts": "warmup_steps",
    "total_timesteps": "steps",
    "exploration_fraction": "epsilon_decay_steps",
    "target_update_interval": "target_sync_updates",
    "train_freq": "collect_steps",
    "gradient_steps": "updates_per_step",
    "net_arch": "hidden",
    "verbose": "observer",
    "start_e": "epsilon_start",
    "target_network_frequency": "target_sync_updates",
    "nb_steps_warmup": "warmup_steps",
    "target_model_update": "target_sync_updates",
    "estimation_step": "n_step",
    "eps_train_final": "epsilon_end",
    "update_horizon": "n_step",
    "min_replay_history": "warmup_steps",
    "epsilon_decay": "epsilon_decay_factor",
}


@pytest.mark.parametrize("word", MEANT)
def test_a_word_of_a_peer_is_answered_with_ours(word: str) -> None:
    with pytest.raises(UsageError) as refused:
        make_config("CartPole-v1", **{word: 1})
    message = str(refused.value)
    assert f"'{word}'" in message
    assert MEANT[word] in message
    assert len(message) < 200
    assert message.endswith(".")


def test_every_word_is_anothers_and_every_setting_named_is_ours() -> None:
    assert len(EVERY_WORD) == len(set(EVERY_WORD))
    assert not set(EVERY_WORD) & set(Config.model_fields)
    named = {*OURS.values(), *(name for told in TOLD.values() for name in re.findall(r"{(\w+)}", told))}
    assert named <= set(Config.model_fields)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--gamma", "--gamma is called --discount here."),
        ("--buffer-size", "--buffer-size is called --capacity-steps here."),
        ("--buffer_size", "--buffer_size is called --capacity-steps here."),
        ("--exploration-fraction=0.1", "set --epsilon-decay-steps: that fraction of --steps."),
        ("--verbose", "There is no setting --verbose; progress goes to stderr"),
        ("--no-double-q", "--no-double-q is called --no-double here."),
    ],
)
def test_a_flag_of_a_peer_is_answered_with_ours(flag: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "CartPole-v1", flag, "1"]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_a_flag_of_nobody_is_still_refused_and_a_near_one_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "CartPole-v1", "--learning-rat", "1"]) == 2
    assert "Did you mean --learning-rate?" in capsys.readouterr().err
    assert run(["train", "CartPole-v1", "--zzzzz", "1"]) == 2
    assert "--zzzzz" in capsys.readouterr().err
    assert run(["eval", "last", "--gamma", "1"]) == 2, "eval has no settings"
    assert "discount" not in capsys.readouterr().err
