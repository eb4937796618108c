"""Every setting of a run, checked before anything starts. Not for building: see `build/`. Imports no jax."""

import difflib
import math
import tomllib
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qdojo.errors import UsageError

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Config(BaseModel):
    """All settings of one run. Frozen; the resolved copy lies in the run directory as `config.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    env: str
    """A Gymnasium id, `module:Id`, or `package.module:factory`."""
    observe: tuple[str, ...] | None = None
    """Keys of a Dict observation to use; None: all."""
    preset: str = "default"
    """The table of settings that this run began with."""
    agent: Literal["dqn", "pqn", "tutorial"] = "dqn"
    """Which agent file learns."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the first member; member k has seed + k."""
    seeds: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Members of the population, trained side by side in one program."""
    loop: Literal["auto", "device", "host"] = "auto"
    """`device`: all in one compiled program (JAX environments). `host`: Gymnasium steps in Python."""
    num_envs: Positive = 1
    """Copies of the environment that feed each member."""
    vectorization: Literal["sync", "async"] = "sync"
    """Host loop: copies in this process, or a process each."""
    render: Literal["none", "human"] = "none"
    """`human`: a window shows the one environment of a run with one member and num_envs=1, on the host loop."""

    steps: Positive = 100_000
    """Budget in env steps, each member."""
    episodes: Positive | None = None
    """Budget in episodes, each member; the run ends when either budget is spent."""
    until_solved: bool = False
    """Stop as soon as every member's greedy evaluation reaches `solved_at`."""
    solved_at: float | None = None
    """Mean return that counts as solved; by default what Gymnasium says of the environment."""

    network: str = "mlp"
    """`mlp`, or `module:build` for a function that returns a `keras.Model`."""
    hidden: tuple[Positive, ...] = (128, 128)
    """Units of each hidden layer of the mlp."""
    layer_norm: bool = True
    """LayerNorm before each relu of the mlp."""
    dueling: bool = False
    """A stream for the value and one for the advantages (Wang et al., 2016); the last of `hidden` is in each."""
    noisy: bool = False
    """Learned noise in all weights, which explores where epsilon does not (Fortunato et al., 2018)."""
    recurrent: Literal["gru", "lstm"] | None = None
    """A memory in place of the last of `hidden`, learned from sequences (Kapturowski et al., 2019)."""
    heads: Positive = 1
    """Networks that learn side by side; one of them acts through an episode (Osband et al., 2016)."""
    prior_scale: Annotated[float, Field(ge=0.0)] = 0.0
    """What counts a fixed random network that is added to each learned one (Osband et al., 2018)."""
    embedding: Positive | None = None
    """Learned numbers for each category of Discrete and MultiDiscrete observations; None: one-hot vectors."""
    torso: Literal["auto", "dense", "nature", "impala"] = "auto"
    """Convolutions before `hidden` (Mnih et al., 2015; Espeholt et al., 2018). `auto`: for a picture, a uint8 Box of
    two or three axes, `nature` from sides of 36 on and `impala` from 8; `dense`, without convolutions, for all else."""
    torso_width: Positive = 1
    """impala: how many times as many channels as in the paper."""
    spectral_norm: bool = False
    """impala: spectral normalisation in the residual blocks (Miyato et al., 2018; Clark et al., 2024)."""
    normalize_observations: bool = False
    """Bring observations to mean 0 and deviation 1, by statistics that are learned in training and then kept."""
    weights: str | None = None
    """Keras weights (`.weights.h5`, `.h5`) to start from; exploration is then at its minimum."""

    capacity_steps: Positive = 50_000
    """Env steps that the replay memory holds, each member."""
    batch_size: Positive = 64
    """Examples of one update."""
    warmup_steps: Annotated[int, Field(ge=0)] = 1_000
    """Env steps before the first update."""
    collect_steps: Positive = 2
    """Env steps between one learning phase and the next, over all copies of a member; where not given, as many as the
    preset has, or the next multiple of `num_envs`."""
    updates_per_step: Annotated[float, Field(gt=0.0)] = 0.5
    """Updates for each env step: the replay ratio."""
    n_step: Annotated[int, Field(ge=1, le=100)] = 5
    """Steps of the return before it bootstraps."""
    sequence_steps: Positive = 20
    """recurrent: successive steps that one example learns from."""
    burn_in_steps: Annotated[int, Field(ge=0)] = 0
    """recurrent: steps before them that only fill the memory."""
    stored_state: bool = True
    """recurrent: an example begins with what the agent remembered there; false: with nothing."""
    discount: Fraction = 0.99
    """What a reward is worth one step later."""
    double: bool = True
    """The online network chooses the target's action (van Hasselt et al., 2016)."""
    error: Literal["mse", "huber"] = "huber"
    """Loss of the error between value and target."""
    value_rescaling: bool = False
    """Learn values whose size grows as the root of the return's (Pohlen et al., 2018)."""
    conservative: Annotated[float, Field(ge=0.0)] = 0.0
    """What it counts that no action is worth more than those in the data: CQL's alpha (Kumar et al., 2020)."""
    dataset: str | None = None
    """Learn from the steps that a run's memory holds (its directory or name), or from `minari:ID`, and play none."""
    munchausen: bool = False
    """A bonus for what the policy itself would choose, and a soft maximum (Vieillard et al., 2020)."""
    munchausen_alpha: Fraction = 0.9
    """What the bonus counts."""
    munchausen_temperature: Annotated[float, Field(gt=0.0)] = 0.03
    """Temperature of the soft policy, in units of reward."""
    munchausen_floor: Annotated[float, Field(le=0.0)] = -1.0
    """Least bonus, before `munchausen_alpha`."""
    distribution: Literal["c51", "qrdqn", "iqn", "fqf"] | None = None
    """How the return's distribution is learned; None: only its mean."""
    atoms: Annotated[int, Field(ge=2)] = 51
    """c51: values that a return may have."""
    vmin: float = 0.0
    """c51: the least of them."""
    vmax: float = 100.0
    """c51: the greatest of them."""
    quantiles: Positive = 32
    """qrdqn, fqf: quantiles of the distribution; iqn: those that acting takes the mean of."""
    cvar: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """iqn: act by the mean of the worst returns, this share of them; 1 takes all."""
    prioritized: bool = False
    """Learn more often from what was most wrong (Schaul et al., 2016)."""
    priority_alpha: Fraction = 0.6
    """How much the priority counts; 0 samples uniformly."""
    priority_beta: Fraction = 0.4
    """How much of the bias of such samples is weighed away at the start; it rises to 1."""
    priority_beta_steps: Positive | None = None
    """Env steps over which it rises; by default the budget at the start of the run."""
    epochs: Positive = 4
    """pqn: how often one learning phase goes through the rows that were just collected."""
    minibatches: Positive = 16
    """pqn: gradient steps of each such pass."""
    trace_decay: Fraction = 0.65
    """pqn: lambda of the returns."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    """Step size of Adam at the start."""
    learning_rate_end: Annotated[float, Field(ge=0.0)] | None = None
    """Step size at `learning_rate_decay_steps` and after; by default the same as at the start."""
    learning_rate_decay_steps: Positive | None = None
    """Env steps over which the step size falls; by default the budget at the start of the run."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] | None = None
    """Gradients with a greater global norm are scaled down to it."""
    target_tau: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    """How far the target network moves to the online one at each sync; 1 copies it."""
    target_sync_updates: Positive = 1
    """Updates between two syncs."""

    epsilon_start: Fraction = 1.0
    """Probability of a random action at the start."""
    epsilon_end: Fraction = 0.05
    """Probability of a random action at the end."""
    epsilon_decay_steps: Positive = 10_000
    """Env steps from one to the other."""
    epsilon_schedule: Literal["linear", "exponential"] = "linear"
    """From one to the other by equal differences, or by equal factors."""
    epsilon_ladder: Annotated[float, Field(ge=0.0)] = 0.0
    """Copy i of N has epsilon**(1 + epsilon_ladder * i / (N - 1)); Ape-X has 7 (Horgan et al., 2018)."""
    boltzmann: bool = False
    """Draw actions in proportion to exp(Q / temperature), where the best would be taken."""
    temperature_start: Annotated[float, Field(gt=0.0)] = 1.0
    """boltzmann: temperature at the start, in units of Q-values."""
    temperature_end: Annotated[float, Field(gt=0.0)] = 0.1
    """boltzmann: temperature after `epsilon_decay_steps`."""
    epsilon_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.995
    """Tutorial agent: what epsilon is multiplied by after each replay."""

    eval_every_steps: Positive | None = 5_000
    """Env steps between greedy evaluations, one more at the end; the run delivers the best. None: it delivers the last
    agent."""
    eval_episodes: Positive = 10
    """Episodes of each such evaluation."""
    final_eval_episodes: Positive = 100
    """Episodes of the evaluation of what the run delivers, on starts used for nothing else."""
    eval_episode_steps: Positive | None = None
    """Steps at which an evaluation episode is cut; by default ten times the longest episode of training, at least
    10,000, and never below the environment's own time limit."""
    report_every_steps: Positive | None = None
    """Env steps between reports; by default short enough to watch."""
    checkpoint_every_seconds: Annotated[float, Field(ge=0.0)] = 30.0
    """Least time between checkpoints; one is always saved at the end and on Ctrl-C."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        if self.collect_steps % self.num_envs:
            raise ValueError(
                f"collect_steps is {self.collect_steps}, which is no multiple of num_envs={self.num_envs}; "
                f"use {math.ceil(self.collect_steps / self.num_envs) * self.num_envs}"
            )
        updates = self.collect_steps * self.updates_per_step
        # A fraction such as 1/3 is written with a few digits, and 49 * (1/49) is not 1.
        if round(updates) < 1 or abs(updates - round(updates)) > 1e-5:
            raise ValueError(
                f"collect_steps * updates_per_step is {updates:g}, but it must be a whole number of updates; "
                f"use updates_per_step={max(1, round(updates)) / self.collect_steps:.12g}"
            )
        if self.batch_size > self.capacity_steps:
            raise ValueError(
                f"batch_size is {self.batch_size}, more than capacity_steps={self.capacity_steps} can hold"
            )
        if self.render == "human":
            self._check_window()
        if self.agent == "tutorial" and (self.num_envs, self.collect_steps, self.updates_per_step) != (1, 1, 1.0):
            raise ValueError(
                f"agent='tutorial' needs num_envs=1, collect_steps=1 and updates_per_step=1, not {self.num_envs}, "
                f"{self.collect_steps} and {self.updates_per_step:g}; use preset='tutorial'"
            )
        self._check_variants()
        if self.agent == "pqn":
            self._check_phases()
        if self.dataset is not None:
            self._check_dataset()
        if self.until_solved and self.eval_every_steps is None:
            raise ValueError("until_solved is set, but without evaluations nothing tells; set eval_every_steps")
        self._check_exploration()
        return self

    def _check_phases(self) -> None:
        """Whether pqn's learning phases are whole: one after each collection, in equal minibatches."""
        if self.updates_per_cycle != 1:
            raise ValueError(
                f"agent='pqn' learns once after each collection; use updates_per_step={1 / self.collect_steps:.12g}"
            )
        if self.collect_steps % self.minibatches:
            raise ValueError(
                f"minibatches is {self.minibatches}, which does not divide collect_steps={self.collect_steps}"
            )

    def _check_variants(self) -> None:
        """Whether the parts of the family that were chosen go together."""
        chosen = self.parts_of_the_mlp
        others = [*chosen, *self.parts_of_replay]
        possible = {"dqn": others, "pqn": ["dueling", "noisy", "embedding", "normalize_observations"], "tutorial": []}
        impossible = [name for name in others if name not in possible[self.agent]]
        if impossible:
            raise ValueError(f"{impossible[0]} is set, but agent={self.agent!r} has no such part; leave it out")
        self._check_memory_and_heads()
        if chosen and self.network != "mlp":
            raise ValueError(f"{chosen[0]} is set, but network is {self.network!r}; use 'mlp', or leave it out")
        not_plain = [*chosen, *self.beyond_keras]
        if not_plain and self.weights is not None:
            raise ValueError(f"{not_plain[0]} is set, but weights are read into a plain network only; leave one out")
        if self.dueling and not self.hidden:
            raise ValueError("dueling needs a hidden layer for each stream; set hidden")
        if self.distribution in ("iqn", "fqf") and self.recurrent is None and len(self.hidden) < 2:
            raise ValueError(
                f"distribution={self.distribution!r} needs two hidden layers or more, not hidden={list(self.hidden)}"
            )
        if self.embedding is not None and self.normalize_observations:
            raise ValueError("normalize_observations is set, but embedding takes categories; leave one out")
        if self.vmin >= self.vmax:
            raise ValueError(f"vmin is {self.vmin:g}, but it must be below vmax={self.vmax:g}")

    def _check_memory_and_heads(self) -> None:
        """Whether a network with a memory, and several of them, go with the rest."""
        several = {"heads": self.heads > 1, "prior_scale": self.prior_scale > 0.0}
        for name, is_set in several.items():
            if self.recurrent is not None and is_set:
                raise ValueError(f"{name} is set, but each network would need a memory of its own; leave recurrent out")
        if self.recurrent is not None and not self.hidden:
            raise ValueError("recurrent needs a hidden layer, the last of which is the memory; set hidden")
        if self.value_rescaling and self.distribution is not None:
            raise ValueError(
                f"value_rescaling is set, but distribution={self.distribution!r} acts by the mean of returns, which is "
                "not that of rescaled ones; leave one out"
            )

    def _check_exploration(self) -> None:
        """Whether the ways to explore are whole."""
        if self.epsilon_end > self.epsilon_start:
            raise ValueError(f"epsilon_end is {self.epsilon_end}, above epsilon_start={self.epsilon_start}")
        if self.epsilon_schedule == "exponential" and self.epsilon_end == 0.0 and self.epsilon_start > 0.0:
            raise ValueError("epsilon_end is 0, which equal factors never reach; use 0.001, or a linear schedule")
        if self.epsilon_ladder > 0.0 and self.num_envs == 1:
            raise ValueError("epsilon_ladder is set, but num_envs=1 has no second rung; set num_envs")
        if self.agent == "tutorial" and (self.boltzmann or self.epsilon_schedule != "linear"):
            name = "boltzmann" if self.boltzmann else "epsilon_schedule"
            raise ValueError(f"{name} is set, but agent='tutorial' has no such part; leave it out")

    def _check_dataset(self) -> None:
        """Whether learning from logged steps asks for nothing that needs new ones."""
        if self.agent != "dqn":
            raise ValueError(f"dataset is set, but agent={self.agent!r} learns from its own steps; leave one out")
        unfit = {
            "num_envs": self.num_envs != 1,
            "episodes": self.episodes is not None,
            "render": self.render != "none",
        }
        for name, is_set in unfit.items():
            if is_set:
                raise ValueError(f"dataset is set, so no environment is played in training; leave {name} out")

    def _check_window(self) -> None:
        """Whether one window can show all that is trained."""
        fix = "or leave render='human' out"
        if self.loop == "device":
            raise ValueError(f"loop is 'device', but render='human' needs the host loop; use loop='host', {fix}")
        if self.vectorization == "async":
            raise ValueError(f"vectorization is 'async', but render='human' needs 'sync'; use that, {fix}")
        if self.num_envs * self.seeds > 1:
            raise ValueError(
                f"render='human' shows one environment, but seeds={self.seeds} and num_envs={self.num_envs} "
                f"make {self.seeds * self.num_envs}; use one of each, {fix}"
            )

    @property
    def parts_of_the_mlp(self) -> list[str]:
        """What was chosen that only the mlp has."""
        parts = {
            "dueling": self.dueling,
            "noisy": self.noisy,
            "recurrent": self.recurrent is not None,
            "embedding": self.embedding is not None,
            "normalize_observations": self.normalize_observations,
            f"distribution={self.distribution!r}": self.distribution is not None,
        }
        return [name for name, is_chosen in parts.items() if is_chosen]

    @property
    def beyond_keras(self) -> list[str]:
        """What was chosen that makes of the network more than layers that give Q-values."""
        parts = {
            f"distribution={self.distribution!r}": self.distribution is not None,
            "recurrent": self.recurrent is not None,
            "heads": self.heads > 1,
            "prior_scale": self.prior_scale > 0.0,
            "embedding": self.embedding is not None,
            "normalize_observations": self.normalize_observations,
        }
        return [name for name, is_chosen in parts.items() if is_chosen]

    @property
    def parts_of_replay(self) -> list[str]:
        """What was chosen that only an agent with replay has."""
        parts = {
            "munchausen": self.munchausen,
            "prioritized": self.prioritized,
            "heads": self.heads > 1,
            "prior_scale": self.prior_scale > 0.0,
            "value_rescaling": self.value_rescaling,
            "conservative": self.conservative > 0.0,
        }
        return [name for name, is_chosen in parts.items() if is_chosen]

    @property
    def rows_per_cycle(self) -> int:
        """Rows that are collected between two learning phases."""
        return self.collect_steps // self.num_envs

    @property
    def updates_per_cycle(self) -> int:
        """Updates of one learning phase."""
        return round(self.collect_steps * self.updates_per_step)

    def to_toml(self) -> str:
        """The settings as TOML. It has no null: "none" stands for it."""
        fields = self.model_dump(mode="json")
        return tomli_w.dumps({name: "none" if value is None else value for name, value in fields.items()})


NO_SETTINGS = {"about", "extends", "env", "evidence"}
"""What a preset's tables say of it, beside settings: `evidence` is what an environment's figures were."""


READ_ONLY_WITH: tuple[tuple[str, tuple[Any, ...], tuple[str, ...]], ...] = (
    ("agent", ("dqn",), ("n_step", "double", "error", "target_tau", "target_sync_updates")),
    ("agent", ("dqn", "tutorial"), ("batch_size", "capacity_steps")),
    ("agent", ("dqn", "pqn"), ("epsilon_decay_steps", "epsilon_ladder", "max_grad_norm")),
    ("agent", ("dqn", "pqn"), ("learning_rate_end", "learning_rate_decay_steps")),
    ("agent", ("pqn",), ("epochs", "minibatches", "trace_decay")),
    ("agent", ("tutorial",), ("epsilon_decay",)),
    ("network", ("mlp",), ("hidden", "layer_norm", "torso", "torso_width", "spectral_norm")),
    ("torso", ("auto", "impala"), ("torso_width", "spectral_norm")),
    ("recurrent", ("gru", "lstm"), ("sequence_steps", "burn_in_steps", "stored_state")),
    ("munchausen", (True,), ("munchausen_alpha", "munchausen_temperature", "munchausen_floor")),
    ("distribution", (None,), ("error",)),
    ("distribution", ("c51",), ("atoms", "vmin", "vmax")),
    ("distribution", ("qrdqn", "iqn", "fqf"), ("quantiles",)),
    ("distribution", ("iqn",), ("cvar",)),
    ("prioritized", (True,), ("priority_alpha", "priority_beta", "priority_beta_steps")),
    ("boltzmann", (True,), ("temperature_start", "temperature_end")),
    ("loop", ("auto", "host"), ("vectorization",)),
)
"""A field, some of its values, and the fields that nothing reads under others."""


@cache
def preset_tables() -> dict[str, Any]:
    """The presets as data: settings by preset name, and under `env` those tuned for one environment. With `extends` a
    preset begins with all settings of another."""
    return tomllib.loads(resources.files("qdojo").joinpath("presets.toml").read_text(encoding="utf-8"))


def make_config(env: str, preset: str = "default", **fields: Any) -> Config:
    """Settings of `preset` for `env`, with `fields` on top. Raises UsageError, one sentence, for what is wrong."""
    tables = preset_tables()
    if preset not in tables:
        raise UsageError(f"There is no preset {preset!r}; {_near(preset, list(tables))}")
    for name in fields:
        if name not in Config.model_fields:
            raise UsageError(f"There is no field {name!r}; {_near(name, list(Config.model_fields))}")
    begun = {"env": env, "preset": preset} | _settings(tables, preset, env)
    begun |= _collecting(begun, fields)
    config = _resolved(_checked(begun | fields))
    idle = {name: decisive for name, decisive in _idle(config).items() if name in fields}
    if idle:
        without = _resolved(_checked(begun | {name: value for name, value in fields.items() if name not in idle}))
        for name, decisive in idle.items():
            # A config file names every field, so that what changes nothing is no mistake.
            if getattr(config, name) != getattr(without, name):
                # Another agent needs more than its name: a preset has all of it.
                fix = "use a preset with that" if decisive.startswith("agent=") else "set that too"
                raise UsageError(f"{name} is set, but only {decisive} reads it; {fix}, or leave {name} out.")
    return config


def _collecting(begun: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """How much is collected and learned at a time by another `num_envs`, where `fields` do not give `collect_steps`.

    collect_steps is that of the preset, rounded up to a multiple of num_envs (and, of pqn, of its minibatches).
    updates_per_step is that of the preset if this makes a whole number of updates, else that of the nearest whole
    number, of two as near the greater, and at least 1 (of pqn, which learns once after each collection, 1).
    """
    chosen = {name: field.default for name, field in Config.model_fields.items()} | begun | fields
    envs, parts = chosen["num_envs"], chosen["minibatches"] if chosen["agent"] == "pqn" else 1
    if "num_envs" not in fields or "collect_steps" in fields:
        return {}
    if not all(isinstance(number, int) and number >= 1 for number in (envs, parts)):
        return {}  # the field's own check says what is wrong
    unit = math.lcm(envs, parts)
    collected = math.ceil(chosen["collect_steps"] / unit) * unit
    derived: dict[str, Any] = {"collect_steps": collected}
    if "updates_per_step" not in fields:
        updates = collected * chosen["updates_per_step"]
        whole = 1 if chosen["agent"] == "pqn" else max(1, math.floor(updates + 0.5))
        if abs(updates - whole) > 1e-5:
            derived["updates_per_step"] = whole / collected
    return derived


def _idle(config: Config) -> dict[str, str]:
    """The fields that nothing reads under the others, each with the setting that it needs. Presets may hold some."""
    idle = {
        name: " or ".join(f"{decisive}={value!r}" for value in values)
        for decisive, values, names in READ_ONLY_WITH
        if getattr(config, decisive) not in values
        for name in names
    }
    return idle | ({"eval_episodes": "eval_every_steps=N"} if config.eval_every_steps is None else {})


def beyond_preset(config: Config, names: tuple[str, ...]) -> list[str]:
    """Those of the fields that have another value than their own default and what the preset says."""
    preset = _settings(preset_tables(), config.preset, config.env) if config.preset in preset_tables() else {}
    usual = {name: (Config.model_fields[name].default, preset.get(name)) for name in names}
    return [name for name in names if getattr(config, name) not in usual[name]]


def _settings(tables: dict[str, Any], preset: str, env: str) -> dict[str, Any]:
    """What a preset says for an environment: what it extends, then its own, each time with the tuned ones last."""
    table = tables[preset]
    inherited = _settings(tables, table["extends"], env) if "extends" in table else {}
    settings = inherited | table | table.get("env", {}).get(env, {})
    return {name: value for name, value in settings.items() if name not in NO_SETTINGS}


def read_config(text: str, source: str) -> Config:
    """A config from the TOML of a run directory; `source` is the file's name, for the message."""
    try:
        return _checked(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, UsageError) as error:
        raise UsageError(f"{source} is not a valid config: {error}") from error


def _checked(fields: dict[str, Any]) -> Config:
    may_be_none = {name for name, field in Config.model_fields.items() if type(None) in get_args(field.annotation)}
    given: dict[str, Any] = {
        name: None if value == "none" and name in may_be_none else value for name, value in fields.items()
    }
    try:
        return Config(**given)
    except ValidationError as error:
        raise UsageError(_sentence(error)) from error


def _resolved(config: Config) -> Config:
    """Settings that follow from others, written out, so that a resume with another budget changes none of them."""
    changes: dict[str, Any] = {}
    if config.learning_rate_end is None:
        changes["learning_rate_end"] = config.learning_rate
    if config.priority_beta_steps is None:
        changes["priority_beta_steps"] = config.steps
    if config.learning_rate_decay_steps is None:
        changes["learning_rate_decay_steps"] = config.steps
    if config.render == "human":
        changes["loop"] = "host"
    if config.report_every_steps is None:
        # A window shows some 50 steps a second, and Ctrl-C is heard between reports. The first rows of a chunk are not
        # collected while something is learned, so it is long beside a learning phase.
        most = 50 if config.render == "human" else max(1_000, 20 * config.collect_steps)
        longest = min(config.eval_every_steps or config.steps, most)
        cycles = math.ceil(config.steps / config.collect_steps)
        chunks = math.ceil(config.steps / longest)
        changes["report_every_steps"] = math.ceil(cycles / chunks) * config.collect_steps
    return config.model_copy(update=changes)


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"the names are {', '.join(sorted(known))}."


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"There is no field {field!r}; {_near(field, list(Config.model_fields))}"
    if first["type"] == "missing":
        return f"{field} is missing."
    if not field:
        return f"{message}."
    return f"{field} is {first['input']!r}: {message[0].lower()}{message[1:]}."
