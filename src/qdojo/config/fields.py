"""Every setting of a run, by group: its range, its meaning and its needs. `resolve.py` determines the values. Imports
no jax."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from qdojo.config.compatibility import OFF, ON, goes_with, read_with, where

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
AboveZero = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]
DecayRate = Annotated[float, Field(ge=0.0, lt=1.0)]


def is_keras_file(weights: str) -> bool:
    """Whether the setting `weights` names a Keras file rather than a run."""
    return weights.endswith((".h5", ".hdf5", ".keras"))


class Group(BaseModel):
    """A group of settings: one table of `config.toml` and one panel of the help."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    table: ClassVar[str] = ""
    """Name of the table in a file; empty for the first group, whose settings precede all tables."""
    title: ClassVar[str]


class RunSettings(Group):
    """What is trained, and for how long."""

    title = "Run"

    env: str
    """A Gymnasium id, `module:Id`, or `package.module:factory`."""
    observe: tuple[str, ...] | None = None
    """Keys of a Dict observation to use; by default all."""
    preset: str = "default"
    """Named collection of settings to start from; `qdojo presets` lists them."""
    agent: Literal["dqn", "pqn", "tutorial"] = "dqn"
    """Learning algorithm: replay (`dqn`), no replay (`pqn`), or the CartPole tutorial's; choose it with a preset."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Random seed of the first member; member k uses seed + k."""
    seeds: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Number of agents (members) trained in parallel, each with its own seed."""
    vary: dict[str, tuple[float, ...]] = {}
    """Settings in which members differ, with their values; `seeds` members are trained for each combination."""
    shards: Positive | None = None
    """Number of CPU cores (or GPUs) that share the members; 1: a single one. none: chosen by the size of the run."""
    steps: Positive = 100_000
    """Training budget in environment steps per member."""
    episodes: Annotated[Positive | None, goes_with(dataset=OFF)] = None
    """Training budget in episodes per member; training ends when either budget is used up."""
    until_solved: Annotated[bool, goes_with(eval_every_steps=ON)] = False
    """Stop when greedy evaluations of every member reach `solved_at`, a second one by a standard error more."""
    solved_at: float | None = None
    """Mean return that counts as solved; none: the reward threshold that the environment declares."""


class EnvironmentSettings(Group):
    """How environments are stepped."""

    table, title = "environment", "Environment"

    loop: Literal["auto", "device", "host"] = "auto"
    """Where environments run: compiled with the agent (`device`, JAX environments only) or in Python (`host`)."""
    num_envs: Annotated[Positive, goes_with(dataset=OFF)] = 1
    """Number of copies of the environment that each member plays at the same time."""
    vectorization: Annotated[
        Literal["sync", "async"], read_with(loop=("auto", "host")), goes_with(render=("none",))
    ] = "sync"
    """Step the copies one after the other in this process (`sync`) or each in its own process (`async`)."""
    frame_stack: Annotated[int, Field(ge=1, le=32), goes_with(agent=("dqn", "pqn"))] = 1
    """Number of latest observations stacked as the network's input, so that it can see motion."""
    render: Annotated[Literal["none", "human"], goes_with(loop=("auto", "host"), dataset=OFF)] = "none"
    """`human`: show training in a window; one member and one copy only."""


class ScreenSettings(Group):
    """Image preprocessing and Atari rules. For Atari games, `atari_protocol` gives the values of unset settings."""

    table, title = "screen", "Screen and Atari"

    atari_protocol: Literal["machado2018", "dqn2015"] = "machado2018"
    """Atari: rules with sticky actions (Machado et al., 2018), or no-op starts and life loss (Mnih et al., 2015)."""
    frame_skip: Positive | None = None
    """Frames for which each action is repeated. Atari: 4."""
    max_pooling: bool | None = None
    """Atari: observe the pixel-wise maximum of the last two frames, because sprites flicker; both protocols do."""
    grayscale: bool | None = None
    """Convert images to greyscale. Atari: yes."""
    resize: Annotated[int, Field(ge=8, le=1024)] | None = None
    """Resize images to squares with sides of this many pixels. Atari: 84."""
    from_pixels: bool = False
    """Learn from rendered images (`rgb_array`) instead of the environment's observations."""
    clip_rewards: bool | None = None
    """Clip the rewards that the agent learns from to [-1, 1]; scores are never clipped. Atari: yes."""
    sticky_actions: Fraction | None = None
    """Atari: probability, per frame, of repeating the previous action; 0.25 in `machado2018`, 0 in `dqn2015`."""
    noop_max: NotNegative | None = None
    """Atari: largest number of no-op frames at the start of an episode; 0 in `machado2018`, 30 in `dqn2015`."""
    terminal_on_life_loss: bool | None = None
    """Atari: treat a lost life as the end of the episode for learning, as in `dqn2015`; the game continues."""
    full_action_space: bool | None = None
    """Atari: use all 18 actions instead of the game's minimal action set."""
    max_frames: Positive | None = None
    """Atari: frames after which an episode is truncated; 108,000 (30 minutes) in both protocols."""


class NetworkSettings(Group):
    """The network that computes Q-values."""

    table, title = "networks", "Network"

    network: str = "mlp"
    """`mlp` for dense layers, or `module:build` for a function that returns a Keras model or an Equinox module."""
    hidden: Annotated[tuple[Positive, ...], read_with(network="mlp")] = (128, 128)
    """Units of each hidden layer."""
    layer_norm: Annotated[bool, read_with(network="mlp")] = True
    """Normalise each hidden layer (LayerNorm) before its ReLU."""
    dueling: Annotated[bool, goes_with(agent=("dqn", "pqn"), network="mlp")] = False
    """Estimate state value and advantages separately, each after its own last hidden layer (Wang et al., 2016)."""
    noisy: Annotated[bool, goes_with(agent=("dqn", "pqn"), network="mlp")] = False
    """Explore with learned noise on the weights (NoisyNet, Fortunato et al., 2018)."""
    recurrent: Annotated[Literal["gru", "lstm"] | None, goes_with(agent="dqn", network="mlp")] = None
    """`gru` or `lstm`: make the last layer of `hidden` recurrent and train on sequences (Kapturowski et al., 2019)."""
    heads: Annotated[Positive, goes_with(agent="dqn", recurrent=OFF)] = 1
    """Number of Q-networks in an ensemble; one of them acts for a whole episode (Osband et al., 2016)."""
    prior_scale: Annotated[Weight, goes_with(agent="dqn", recurrent=OFF)] = 0.0
    """Weight of the fixed random prior network added to each learned network (Osband et al., 2018)."""
    embedding: Annotated[
        Positive | None, goes_with(agent=("dqn", "pqn"), network="mlp", normalize_observations=OFF)
    ] = None
    """Size of a learned embedding of each category in discrete observations; none: one-hot vectors."""
    torso: Annotated[
        Literal["auto", "dense", "nature", "der", "compact", "minatar", "impala"], read_with(network="mlp")
    ] = "auto"
    """Layers before `hidden`: convolutions of DQN (`nature`), Data-Efficient Rainbow (`der`), a variant of it for half
    the side (`compact`), MinAtar or IMPALA for images, or none (`dense`). `auto`: none unless observations are uint8
    images; then `nature` if both sides have at least 36 pixels, else `impala`."""
    torso_width: Annotated[
        AboveZero, read_with(network="mlp", torso=("auto", "nature", "der", "compact", "minatar", "impala"))
    ] = 1.0
    """Multiplier of the number of channels in the convolutions of the torso."""
    spectral_norm: Annotated[bool, read_with(network="mlp", torso=("auto", "impala"))] = False
    """Apply spectral normalisation in the IMPALA torso's residual blocks (Clark et al., 2024)."""
    normalize_observations: Annotated[bool, goes_with(agent=("dqn", "pqn")), read_with(network="mlp")] = False
    """Normalise each number of the observations, in images each pixel, to mean 0 and standard deviation 1, with running
    statistics."""
    weights: Annotated[
        str | None,
        where(
            is_keras_file,
            goes_with(
                **{"dueling": OFF, "noisy": OFF, "recurrent": OFF, "heads": 1, "prior_scale": OFF, "embedding": OFF},
                **{"normalize_observations": OFF, "distribution": OFF, "sparse_adam": OFF},
            ),
        ),
    ] = None
    """Load initial weights from a run's best agent or a Keras file (`.h5`); exploration starts at its final value."""


class ReplaySettings(Group):
    """How experience is collected, stored and sampled."""

    table, title = "replay", "Replay buffer and updates"

    dataset: Annotated[str | None, goes_with(agent="dqn")] = None
    """Learn from the logged steps of a run (path or name) or of `minari:ID` instead of playing."""
    capacity_steps: Annotated[Positive, read_with(agent=("dqn", "tutorial"))] = 50_000
    """Size of each member's replay buffer in environment steps."""
    batch_size: Annotated[Positive, read_with(agent=("dqn", "tutorial"))] = 64
    """Number of examples in each gradient step."""
    warmup_steps: Annotated[NotNegative, read_with(dataset=OFF)] = 1_000
    """Environment steps to collect before the first update."""
    collect_steps: Positive = 2
    """Environment steps between two learning phases, summed over copies; a multiple of `num_envs`."""
    updates_per_step: AboveZero = 0.5
    """Updates per environment step (replay ratio)."""
    prioritized: Annotated[bool, goes_with(agent="dqn")] = False
    """Sample transitions with large errors more often (prioritised replay, Schaul et al., 2016)."""
    priority_alpha: Annotated[Fraction, read_with(prioritized=True)] = 0.6
    """Exponent of the priorities; 0 samples uniformly."""
    priority_beta: Annotated[Fraction, read_with(prioritized=True)] = 0.4
    """Initial exponent of the importance weights; it rises to 1."""
    priority_beta_steps: Annotated[Positive | None, read_with(prioritized=True)] = None
    """Environment steps over which `priority_beta` rises to 1; none: the training budget."""
    sequence_steps: Annotated[Positive, read_with(recurrent=ON)] = 20
    """Length in steps of the sequences that a recurrent network learns from."""
    burn_in_steps: Annotated[NotNegative, read_with(recurrent=ON)] = 0
    """Steps before each sequence that only warm up the recurrent state (burn-in)."""
    stored_state: Annotated[bool, read_with(recurrent=ON)] = True
    """Start each sequence from the recurrent state stored when it was played; otherwise from zeros."""


class TargetSettings(Group):
    """What the network learns to predict."""

    table, title = "targets", "Targets and loss"

    discount: Fraction = 0.99
    """Discount factor of future rewards (gamma)."""
    n_step: Annotated[int, Field(ge=1, le=100), read_with(agent="dqn")] = 5
    """Number of rewards summed before the target bootstraps from the target network."""
    double: Annotated[bool, read_with(agent="dqn")] = True
    """Choose the target's action with the online network (Double DQN, van Hasselt et al., 2016)."""
    loss: Annotated[str | None, goes_with(agent="dqn", distribution=OFF)] = None
    """Custom loss: `module:name` of a function that returns it; none: the loss that the other settings define."""
    error: Annotated[Literal["mse", "huber"], read_with(agent="dqn", distribution=OFF)] = "huber"
    """Loss of the temporal-difference error: squared (`mse`) or Huber (`huber`)."""
    target_tau: Annotated[float, Field(gt=0.0, le=1.0), read_with(agent="dqn")] = 0.01
    """Fraction of the online network mixed into the target network at each sync; 1 copies it."""
    target_sync_updates: Annotated[Positive, read_with(agent="dqn")] = 1
    """Updates between two syncs of the target network."""
    trace_decay: Annotated[Fraction, read_with(agent="pqn")] = 0.65
    """Lambda of the lambda-returns: a larger value gives more weight to longer returns; 0 uses one-step returns."""
    value_rescaling: Annotated[bool, goes_with(agent="dqn", distribution=OFF)] = False
    """Learn values on a square-root scale, for returns of very different magnitudes (Pohlen et al., 2018)."""
    conservative: Annotated[Weight, goes_with(agent="dqn")] = 0.0
    """Weight of the conservative penalty on actions absent from the data (alpha in CQL, Kumar et al., 2020)."""
    munchausen: Annotated[bool, goes_with(agent="dqn")] = False
    """Add the scaled log-policy to the reward and use a soft maximum (Munchausen DQN, Vieillard et al., 2020)."""
    munchausen_alpha: Annotated[Fraction, read_with(munchausen=True)] = 0.9
    """Scale of the Munchausen bonus."""
    munchausen_temperature: Annotated[AboveZero, read_with(munchausen=True)] = 0.03
    """Softmax temperature of the Munchausen policy, in units of Q-values."""
    munchausen_floor: Annotated[float, Field(le=0.0), read_with(munchausen=True)] = -1.0
    """Lower limit of the Munchausen bonus, before it is scaled."""


class DistributionSettings(Group):
    """How the distribution of returns is learned."""

    table, title = "distributional", "Distribution of returns"

    distribution: Annotated[Literal["c51", "qrdqn", "iqn", "fqf"] | None, goes_with(agent="dqn", network="mlp")] = None
    """Learn the distribution of returns with `c51`, `qrdqn`, `iqn` or `fqf`; none: only its mean."""
    atoms: Annotated[int, Field(ge=2), read_with(distribution="c51")] = 51
    """Number of fixed return values (atoms) of the distribution."""
    vmin: Annotated[float, read_with(distribution="c51")] = 0.0
    """Smallest return that the atoms cover."""
    vmax: Annotated[float, read_with(distribution="c51")] = 100.0
    """Largest return that the atoms cover."""
    quantiles: Annotated[Positive, read_with(distribution=("qrdqn", "fqf"))] = 32
    """Number of quantiles that the network predicts."""
    iqn_fractions: Annotated[Positive, read_with(distribution="iqn")] = 4
    """Number of random fractions at which an update evaluates the online network (N in the IQN paper)."""
    iqn_target_fractions: Annotated[Positive, read_with(distribution="iqn")] = 8
    """Number of random fractions at which an update evaluates the target network (N' in the IQN paper)."""
    iqn_acting_fractions: Annotated[Positive, read_with(distribution="iqn")] = 32
    """Number of evenly spaced fractions averaged into Q-values for acting (K in the IQN paper)."""
    cvar: Annotated[float, Field(gt=0.0, le=1.0), read_with(distribution="iqn")] = 1.0
    """Act on the mean of this worst fraction of returns (conditional value at risk); 1 averages all."""


class OptimizerSettings(Group):
    """How gradients are applied."""

    table, title = "optimizer", "Optimizer"

    learning_rate: AboveZero = 1e-3
    """Initial learning rate of Adam."""
    learning_rate_end: Annotated[Weight | None, read_with(agent=("dqn", "pqn"))] = None
    """Final learning rate, approached linearly, or the initial one if that is smaller; none: the initial one."""
    learning_rate_decay_steps: Annotated[Positive | None, read_with(agent=("dqn", "pqn"))] = None
    """Environment steps until the final learning rate is reached; none: the training budget."""
    max_grad_norm: Annotated[AboveZero | None, read_with(agent=("dqn", "pqn"))] = None
    """Maximum global norm of the gradient; larger gradients are scaled down to it."""
    adam_beta1: Annotated[DecayRate, read_with(agent="dqn")] = 0.9
    """Decay rate of Adam's mean gradient."""
    adam_beta2: Annotated[DecayRate, read_with(agent="dqn")] = 0.999
    """Decay rate of Adam's mean squared gradient."""
    adam_epsilon: Annotated[AboveZero, read_with(agent="dqn")] = 1e-8
    """Constant in the denominator of Adam's step."""
    average_tau: Annotated[Fraction, goes_with(agent="dqn")] = 0.0
    """Fraction of the network mixed into the average of its weights, which plays in evaluations; 0 averages nothing."""
    sparse_adam: Annotated[
        bool,
        goes_with(agent="dqn", network="mlp", recurrent=OFF, noisy=OFF, loss=OFF, embedding=OFF, frame_stack=(1,)),
        goes_with(normalize_observations=OFF),
    ] = False
    """Update only the first-layer weights that the batch looks up (lazy Adam); for one-hot observations only."""
    epochs: Annotated[Positive, read_with(agent="pqn")] = 4
    """Passes over the collected steps in each learning phase."""
    minibatches: Annotated[Positive, read_with(agent="pqn")] = 16
    """Gradient steps per pass."""


class ExplorationSettings(Group):
    """How actions are chosen in training."""

    table, title = "exploration", "Exploration"

    epsilon_start: Annotated[Fraction, read_with(dataset=OFF, weights=OFF)] = 1.0
    """Initial probability of a random action."""
    epsilon_end: Annotated[Fraction, read_with(dataset=OFF)] = 0.05
    """Final probability of a random action."""
    epsilon_decay_steps: Annotated[Positive, read_with(agent=("dqn", "pqn"), dataset=OFF, weights=OFF)] = 10_000
    """Environment steps over which epsilon decays from its initial to its final value."""
    epsilon_schedule: Annotated[
        Literal["linear", "exponential"],
        read_with(dataset=OFF, weights=OFF),
        goes_with(agent=("dqn", "pqn")),
    ] = "linear"
    """How epsilon and the Boltzmann temperature decay: by equal steps (`linear`) or factors (`exponential`)."""
    epsilon_ladder: Annotated[Weight, read_with(agent=("dqn", "pqn"), dataset=OFF)] = 0.0
    """Raise epsilon to the power 1 + ladder * i / (N - 1) in copy i of N; Ape-X uses 7 (Horgan et al., 2018)."""
    epsilon_decay_factor: Annotated[
        float, Field(gt=0.0, le=1.0), read_with(agent="tutorial", dataset=OFF, weights=OFF)
    ] = 0.995
    """Factor by which epsilon is multiplied after each replay of the tutorial's agent."""
    boltzmann: Annotated[bool, read_with(dataset=OFF), goes_with(agent=("dqn", "pqn"))] = False
    """Sample actions from the softmax of the Q-values instead of taking the best one."""
    temperature_start: Annotated[AboveZero, read_with(boltzmann=True, dataset=OFF, weights=OFF)] = 1.0
    """Initial softmax temperature, in units of Q-values."""
    temperature_end: Annotated[AboveZero, read_with(boltzmann=True, dataset=OFF)] = 0.1
    """Softmax temperature after `epsilon_decay_steps`."""


class EvaluationSettings(Group):
    """How agents are evaluated during and after training."""

    table, title = "evaluation", "Evaluation"

    eval_every_steps: Positive | None = 5_000
    """Environment steps between greedy evaluations; the run delivers the best agent. none: the last agent."""
    eval_episodes: Annotated[Positive, read_with(eval_every_steps=ON)] = 10
    """Number of episodes per evaluation during training."""
    final_eval_episodes: Positive = 100
    """Number of episodes of the final evaluation, whose score is reported."""
    eval_epsilon: Annotated[Fraction, goes_with(loop=("auto", "host"))] = 0.0
    """Probability of a random action in evaluations; Atari: 0.001 in `machado2018`, 0.05 in `dqn2015`."""
    eval_episode_steps: Positive | None = None
    """Steps after which an evaluation episode is cut. none: ten times the longest training episode, at least 10,000,
    and never below the environment's own time limit."""


class OutputSettings(Group):
    """What a run writes, and when."""

    table, title = "output", "Reports and checkpoints"

    report_every_steps: Positive | None = None
    """Environment steps between progress reports; none: chosen automatically, often enough to follow progress."""
    checkpoint_every_seconds: Weight = 30.0
    """Minimum time between checkpoints in seconds; one is always saved at the end and on Ctrl-C."""


GROUPS: tuple[type[Group], ...] = (
    RunSettings,
    EnvironmentSettings,
    ScreenSettings,
    NetworkSettings,
    ReplaySettings,
    TargetSettings,
    DistributionSettings,
    OptimizerSettings,
    ExplorationSettings,
    EvaluationSettings,
    OutputSettings,
)
FIRST = (
    *("steps", "seeds", "seed", "hidden", "learning_rate", "batch_size", "capacity_steps", "discount", "n_step"),
    *("num_envs", "epsilon_end", "epsilon_decay_steps", "eval_every_steps", "until_solved"),
)
"""The most important settings, which the help lists first."""
