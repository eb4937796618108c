"""What a run really reads of its settings, against what they declare: traced while it is built, traced and trained.

A setting counts as read where its value is looked up and, where it is a number in the state of the agents, where what
is computed depends on that number.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters import partial_eval

from qdojo.build.training import Parts, build, refuse_unread
from qdojo.config import Config, make_config
from qdojo.config.compatibility import GoesWith, needs_of, unread
from qdojo.errors import UsageError
from qdojo.loops.offline import OfflineLoop
from qdojo.training.observers import Observers
from qdojo.training.trainer import start

CARTPOLE = "CartPole-v1"
KEY = jax.random.key(0)
NAMES = set(Config.model_fields)
LOOKED_UP: set[str] = set()

NUMBERS = {
    "learning_rate_start": "learning_rate",
    "decay_steps": "epsilon_decay_steps",
    "ladder": "epsilon_ladder",
    "lambda_": "trace_decay",
}
"""Numbers in the state of the agents, where they are called otherwise than the settings they come from."""


class Traced(Config):
    """A config that notes which of its settings are looked up."""

    def __getattribute__(self, name: str) -> Any:
        if name in NAMES:
            LOOKED_UP.add(name)
        return super().__getattribute__(name)


def traced(preset: str = "default", **fields: Any) -> Traced:
    config = make_config(CARTPOLE, preset, **fields)
    again = Traced.model_construct(**{name: config.__dict__[name] for name in NAMES})
    LOOKED_UP.clear()
    return again


class Programs(NamedTuple):
    """What is computed of one member: an update, and unless it learns from logged steps an action."""

    text: str
    numbers: set[str]
    """The settings that are numbers in its state."""
    used: set[str]
    """Those of them on which an action, or what is learned, depends."""


def programs(parts: Parts) -> Programs:
    inner = parts.loop.inner if isinstance(parts.loop, OfflineLoop) else parts.loop
    agent, template = parts.agent, inner.template()
    state, memory = jax.eval_shape(agent.init, jax.random.key(0)), jax.eval_shape(agent.memory)
    tape = template.tape._replace(member=jax.ShapeDtypeStruct((), jnp.int32))
    observation = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tape.like.observation)
    env = jax.ShapeDtypeStruct((), jnp.int32)
    calls = [(agent.update, (state, tape, words(agent.update_words), template.clock))]
    if inner is parts.loop:
        calls.append((agent.act, (state, observation, memory, words(agent.act_words), template.clock, env)))
    text, numbers, used = "", set(), set()
    for function, arguments in calls:
        jaxpr, out = jax.make_jaxpr(function, return_shape=True)(*arguments)
        # The numbers are handed on with the state: that alone is no use of them.
        wanted = ["hyper" not in jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(out)]
        _, is_used = partial_eval.dce_jaxpr(jaxpr.jaxpr, wanted)
        inputs = [path for path, _ in jax.tree_util.tree_leaves_with_path(arguments)]
        names = {
            at: NUMBERS.get(str(path[-1]).strip("."), str(path[-1]).strip("."))
            for at, path in enumerate(inputs)
            if "hyper" in jax.tree_util.keystr(path)
        }
        text += str(jaxpr)
        numbers |= set(names.values())
        used |= {name for at, name in names.items() if is_used[at]}
    return Programs(text, numbers, used)


def words(number: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((number,), jnp.uint32)


def another(name: str, value: Any) -> Any:
    """A valid value of a setting that is not this one."""
    others = {"error": ("mse", "huber"), "epsilon_schedule": ("linear", "exponential")}.get(name)
    if others is not None:
        return next(other for other in others if other != value)
    return not value if isinstance(value, bool) else value + 1


BY_THE_TRAINER = {
    *("env", "preset", "seeds", "steps", "episodes", "num_envs", "dataset", "warmup_steps", "until_solved"),
    "collect_steps",
    *("eval_every_steps", "eval_episodes", "final_eval_episodes", "eval_episode_steps", "checkpoint_every_seconds"),
}
"""What training does with the settings themselves. It looks up more, to warn of them and to describe what plays."""

TINY: dict[str, Any] = {
    "steps": 200,
    "hidden": [8],
    "capacity_steps": 300,
    "warmup_steps": 20,
    "eval_every_steps": 100,
    "eval_episodes": 1,
    "final_eval_episodes": 1,
}


def test_what_training_looks_up(tmp_path: Path) -> None:
    config = traced(**TINY)
    parts = build(config)
    LOOKED_UP.clear()
    start(config, parts, tmp_path, Observers([]))
    assert BY_THE_TRAINER <= LOOKED_UP


KINDS: dict[str, dict[str, Any]] = {
    "plain": {"eval_every_steps": None},
    "all of exploration": {"boltzmann": True, "epsilon_schedule": "exponential", "num_envs": 2, "epsilon_ladder": 7.0},
    "hard sync": {"preset": "dqn", "max_grad_norm": 1.0, "munchausen": True, "prioritized": True},
    "c51": {"preset": "c51"},
    "qrdqn": {"preset": "qrdqn"},
    "iqn": {"preset": "iqn", "cvar": 0.5},
    "fqf": {"preset": "fqf"},
    "recurrent": {"preset": "drqn"},
    "heads": {"preset": "bootdqn"},
    "pqn": {"preset": "pqn"},
    "tutorial": {"preset": "tutorial", "network": "mlp", "hidden": [8]},
    "weights": {"weights": "a.weights.h5"},
    "data set": {"dataset": "logged", "prioritized": True},
    "host": {"loop": "host", "num_envs": 2},
}

WITHOUT_CONSEQUENCE = {
    "weights": {"epsilon_start", "epsilon_decay_steps", "epsilon_schedule", "temperature_start"},
    "fqf": {"cvar"},
}
"""What is computed with and changes nothing: with weights the schedule begins where it ends, and fractions of
FQF are multiplied by 1."""


@pytest.mark.parametrize("kind", KINDS)
def test_what_nothing_reads_is_refused_and_the_rest_is_read(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qdojo.build.beginning.read_weights", lambda path, network: jax.jit(network.init)(KEY))
    config = traced(**KINDS[kind])
    parts = build(config)
    looked_up, found = set(LOOKED_UP), programs(parts)
    parts.loop.close()
    assert found.numbers <= NAMES
    read = (looked_up | BY_THE_TRAINER) - (found.numbers - found.used)
    declared = set(unread(config))
    lacking = {name: needs_of(config, name, GoesWith) for name in NAMES}
    refused = {
        name for name, needs in lacking.items() if any(not need.is_met(getattr(config, need.setting)) for need in needs)
    }
    silent = NAMES - read - declared - refused - {"render"}
    if "vectorization" in silent:
        with pytest.raises(UsageError, match="nothing reads it where CartPole-v1 is stepped on the device loop"):
            refuse_unread(config.model_copy(update={"vectorization": "async"}), parts)
        silent.remove("vectorization")
    if "eval_epsilon" in silent:
        with pytest.raises(UsageError, match="eval_epsilon is set, but nothing reads it where CartPole-v1 is stepped"):
            refuse_unread(config.model_copy(update={"eval_epsilon": 0.1}), parts)
        silent.remove("eval_epsilon")
    with pytest.raises(UsageError, match="atari_protocol is set, but CartPole-v1 is not an Atari game"):
        make_config(CARTPOLE, atari_protocol="dqn2015")
    silent.remove("atari_protocol")
    assert silent == set(), "these can be set, change nothing, and nobody says so"
    declared -= WITHOUT_CONSEQUENCE.get(kind, set())
    assert declared & found.used == set(), "what is computed depends on these, against their declaration"
    # Some are looked up and then not used: with other values the same is computed.
    idle = {name: another(name, getattr(config, name)) for name in (declared & looked_up) - found.numbers}
    if idle:
        changed = build(config.model_copy(update=idle))
        changed.loop.close()
        assert programs(changed).text == found.text


def test_a_window_is_read_where_it_is_asked_for() -> None:
    """It moves the run to the host loop, so that no run on the device ignores it."""
    assert make_config(CARTPOLE, render="human").loop == "host"
