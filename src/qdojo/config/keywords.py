"""The settings as keywords of `qdojo.train`, for editors and type checkers.

Written from `fields.py` by `python tests/test_keywords.py`.
"""

from collections.abc import Sequence
from typing import Literal, TypedDict


class Settings(TypedDict, total=False):
    """All settings except those that may be objects. An omitted setting has the preset's value, or else its default."""

    observe: Sequence[str] | None
    """Keys of a Dict observation to use; by default all. Default: None."""
    agent: Literal["dqn", "pqn", "tutorial"]
    """Learning algorithm: replay (`dqn`), no replay (`pqn`), or the CartPole tutorial's; choose it with a preset.
    Default: "dqn"."""
    seed: int
    """Random seed of the first member; member k uses seed + k. Default: 0."""
    seeds: int
    """Number of agents (members) trained in parallel, each with its own seed. Default: 1."""
    vary: dict[str, Sequence[float]]
    """Settings in which members differ, with their values; `seeds` members are trained for each combination.
    Default: {}."""
    steps: int
    """Training budget in environment steps per member. Default: 100000."""
    episodes: int | None
    """Training budget in episodes per member; training ends when either budget is used up. Default: None."""
    until_solved: bool
    """Stop as soon as the greedy evaluation of every member reaches `solved_at`. Default: False."""
    solved_at: float | None
    """Mean return that counts as solved; none: the reward threshold that the environment declares. Default:
    None."""
    loop: Literal["auto", "device", "host"]
    """Where environments run: compiled with the agent (`device`, JAX environments only) or in Python (`host`).
    Default: "auto"."""
    num_envs: int
    """Number of copies of the environment that each member plays at the same time. Default: 1."""
    vectorization: Literal["sync", "async"]
    """Step the copies one after the other in this process (`sync`) or each in its own process (`async`). Default:
    "sync"."""
    frame_stack: int
    """Number of latest observations that the network sees side by side, as images of games need to show motion.
    Default: 1."""
    render: Literal["none", "human"]
    """`human`: show training in a window; one member and one copy only. Default: "none"."""
    atari_protocol: Literal["machado2018", "dqn2015"]
    """Rules of an Atari game: sticky actions (Machado et al., 2018), or no-ops and lives (Mnih et al., 2015).
    Default: "machado2018"."""
    frame_skip: int | None
    """Frames for which each action is held. Atari: 4. Default: None."""
    grayscale: bool | None
    """Show pictures in shades of grey. Atari: yes. Default: None."""
    resize: int | None
    """Side of the square pictures that an agent sees, in pixels. Atari: 84. Default: None."""
    from_pixels: bool
    """Learn from what the environment draws (`rgb_array`) instead of its observations. Default: False."""
    clip_rewards: bool | None
    """Learn from rewards clipped to -1 and 1; scores are never clipped. Atari: yes. Default: None."""
    sticky_actions: float | None
    """Atari: probability that a frame repeats the previous action; 0.25 in `machado2018`, 0 in `dqn2015`. Default:
    None."""
    noop_max: int | None
    """Atari: largest number of no-op frames at the start of an episode; 0 in `machado2018`, 30 in `dqn2015`.
    Default: None."""
    terminal_on_life_loss: bool | None
    """Atari: learn as if a lost life ended the episode, as in `dqn2015`; the game and its score go on. Default:
    None."""
    full_action_space: bool | None
    """Atari: offer all 18 actions instead of only those that the game uses. Default: None."""
    max_frames: int | None
    """Atari: frames after which an episode is truncated; 108,000 (30 minutes) in both protocols. Default: None."""
    hidden: Sequence[int]
    """Units of each hidden layer. Default: (128, 128)."""
    layer_norm: bool
    """Normalise each hidden layer (LayerNorm) before its ReLU. Default: True."""
    dueling: bool
    """Estimate state value and advantages separately, each after its own last hidden layer (Wang et al., 2016).
    Default: False."""
    noisy: bool
    """Explore with learned noise on the weights (NoisyNet, Fortunato et al., 2018). Default: False."""
    recurrent: Literal["gru", "lstm"] | None
    """`gru` or `lstm`: make the last layer of `hidden` recurrent and train on sequences (Kapturowski et al., 2019).
    Default: None."""
    heads: int
    """Number of Q-networks in an ensemble; one of them acts for a whole episode (Osband et al., 2016). Default:
    1."""
    prior_scale: float
    """Weight of the fixed random prior network added to each learned network (Osband et al., 2018). Default:
    0.0."""
    embedding: int | None
    """Size of a learned embedding of each category in discrete observations; none: one-hot vectors. Default:
    None."""
    torso: Literal["auto", "dense", "nature", "der", "impala"]
    """Layers before `hidden`: convolutions of DQN (`nature`), Data-Efficient Rainbow (`der`) or IMPALA for images,
    or none (`dense`). `auto`: none unless observations are uint8 images; then `nature` if both sides have at least
    36 pixels, else `impala`. Default: "auto"."""
    torso_width: float
    """Multiplier of the number of channels in the convolutions of the torso. Default: 1.0."""
    spectral_norm: bool
    """Apply spectral normalisation in the IMPALA torso's residual blocks (Clark et al., 2024). Default: False."""
    normalize_observations: bool
    """Normalise observations to mean 0 and standard deviation 1, with running statistics. Default: False."""
    weights: str | None
    """Load initial weights from a run's best agent or a Keras file (`.h5`); exploration starts at its final value.
    Default: None."""
    dataset: str | None
    """Learn from the logged steps of a run (path or name) or of `minari:ID` instead of playing. Default: None."""
    capacity_steps: int
    """Size of each member's replay buffer in environment steps. Default: 50000."""
    batch_size: int
    """Number of examples in each gradient step. Default: 64."""
    warmup_steps: int
    """Environment steps to collect before the first update. Default: 1000."""
    collect_steps: int
    """Environment steps between two learning phases, summed over copies; a multiple of `num_envs`. Default: 2."""
    updates_per_step: float
    """Updates per environment step (replay ratio). Default: 0.5."""
    prioritized: bool
    """Sample transitions with large errors more often (prioritised replay, Schaul et al., 2016). Default: False."""
    priority_alpha: float | Sequence[float]
    """Exponent of the priorities; 0 samples uniformly. A list trains `seeds` members with each of its values.
    Default: 0.6."""
    priority_beta: float | Sequence[float]
    """Initial exponent of the importance weights; it rises to 1. A list trains `seeds` members with each of its
    values. Default: 0.4."""
    priority_beta_steps: int | Sequence[int] | None
    """Environment steps over which `priority_beta` rises to 1; none: the training budget. A list trains `seeds`
    members with each of its values. Default: None."""
    sequence_steps: int
    """Length in steps of the sequences that a recurrent network learns from. Default: 20."""
    burn_in_steps: int
    """Steps before each sequence that only warm up the recurrent state (burn-in). Default: 0."""
    stored_state: bool
    """Start each sequence from the recurrent state stored when it was played; otherwise from zeros. Default:
    True."""
    discount: float | Sequence[float]
    """Discount factor of future rewards (gamma). A list trains `seeds` members with each of its values. Default:
    0.99."""
    n_step: int
    """Number of rewards summed before the target bootstraps from the target network. Default: 5."""
    double: bool
    """Choose the target's action with the online network (Double DQN, van Hasselt et al., 2016). Default: True."""
    error: Literal["mse", "huber"]
    """Loss of the temporal-difference error: squared (`mse`) or Huber (`huber`). Default: "huber"."""
    target_tau: float | Sequence[float]
    """Fraction of the online network mixed into the target network at each sync; 1 copies it. A list trains `seeds`
    members with each of its values. Default: 0.01."""
    target_sync_updates: int
    """Updates between two syncs of the target network. Default: 1."""
    trace_decay: float | Sequence[float]
    """Lambda of the lambda-returns: a larger value gives more weight to longer returns; 0 uses one-step returns. A
    list trains `seeds` members with each of its values. Default: 0.65."""
    value_rescaling: bool
    """Learn values on a square-root scale, for returns of very different magnitudes (Pohlen et al., 2018). Default:
    False."""
    conservative: float | Sequence[float]
    """Weight of the conservative penalty on actions absent from the data (alpha in CQL, Kumar et al., 2020). A list
    trains `seeds` members with each of its values. Default: 0.0."""
    munchausen: bool
    """Add the scaled log-policy to the reward and use a soft maximum (Munchausen DQN, Vieillard et al., 2020).
    Default: False."""
    munchausen_alpha: float | Sequence[float]
    """Scale of the Munchausen bonus. A list trains `seeds` members with each of its values. Default: 0.9."""
    munchausen_temperature: float | Sequence[float]
    """Softmax temperature of the Munchausen policy, in units of Q-values. A list trains `seeds` members with each
    of its values. Default: 0.03."""
    munchausen_floor: float | Sequence[float]
    """Lower limit of the Munchausen bonus, before it is scaled. A list trains `seeds` members with each of its
    values. Default: -1.0."""
    distribution: Literal["c51", "qrdqn", "iqn", "fqf"] | None
    """Learn the distribution of returns with `c51`, `qrdqn`, `iqn` or `fqf`; none: only its mean. Default: None."""
    atoms: int
    """Number of fixed return values (atoms) of the distribution. Default: 51."""
    vmin: float
    """Smallest return that the atoms cover. Default: 0.0."""
    vmax: float
    """Largest return that the atoms cover. Default: 100.0."""
    quantiles: int
    """Number of quantiles that the network predicts. Default: 32."""
    iqn_fractions: int
    """Number of random fractions at which an update evaluates the online network (N in the IQN paper). Default:
    4."""
    iqn_target_fractions: int
    """Number of random fractions at which an update evaluates the target network (N' in the IQN paper). Default:
    8."""
    iqn_acting_fractions: int
    """Number of evenly spaced fractions averaged into Q-values for acting (K in the IQN paper). Default: 32."""
    cvar: float
    """Act on the mean of this worst fraction of returns (conditional value at risk); 1 averages all. Default:
    1.0."""
    learning_rate: float | Sequence[float]
    """Initial learning rate of Adam. A list trains `seeds` members with each of its values. Default: 0.001."""
    learning_rate_end: float | Sequence[float] | None
    """Final learning rate, approached linearly; none: the initial one. A list trains `seeds` members with each of
    its values. Default: None."""
    learning_rate_decay_steps: int | Sequence[int] | None
    """Environment steps until the final learning rate is reached; none: the training budget. A list trains `seeds`
    members with each of its values. Default: None."""
    max_grad_norm: float | Sequence[float] | None
    """Maximum global norm of the gradient; larger gradients are scaled down to it. A list trains `seeds` members
    with each of its values. Default: None."""
    adam_beta1: float | Sequence[float]
    """Decay rate of Adam's mean gradient. A list trains `seeds` members with each of its values. Default: 0.9."""
    adam_beta2: float | Sequence[float]
    """Decay rate of Adam's mean squared gradient. A list trains `seeds` members with each of its values. Default:
    0.999."""
    adam_epsilon: float | Sequence[float]
    """Constant in the denominator of Adam's step. A list trains `seeds` members with each of its values. Default:
    1e-08."""
    epochs: int
    """Passes over the collected steps in each learning phase. Default: 4."""
    minibatches: int
    """Gradient steps per pass. Default: 16."""
    epsilon_start: float | Sequence[float]
    """Initial probability of a random action. A list trains `seeds` members with each of its values. Default:
    1.0."""
    epsilon_end: float | Sequence[float]
    """Final probability of a random action. A list trains `seeds` members with each of its values. Default:
    0.05."""
    epsilon_decay_steps: int | Sequence[int]
    """Environment steps over which epsilon decays from its initial to its final value. A list trains `seeds`
    members with each of its values. Default: 10000."""
    epsilon_schedule: Literal["linear", "exponential"]
    """How epsilon and the Boltzmann temperature decay: by equal steps (`linear`) or factors (`exponential`).
    Default: "linear"."""
    epsilon_ladder: float | Sequence[float]
    """Raise epsilon to the power 1 + ladder * i / (N - 1) in copy i of N; Ape-X uses 7 (Horgan et al., 2018). A
    list trains `seeds` members with each of its values. Default: 0.0."""
    epsilon_decay_factor: float | Sequence[float]
    """Factor by which epsilon is multiplied after each replay of the tutorial's agent. A list trains `seeds`
    members with each of its values. Default: 0.995."""
    boltzmann: bool
    """Sample actions from the softmax of the Q-values instead of taking the best one. Default: False."""
    temperature_start: float | Sequence[float]
    """Initial softmax temperature, in units of Q-values. A list trains `seeds` members with each of its values.
    Default: 1.0."""
    temperature_end: float | Sequence[float]
    """Softmax temperature after `epsilon_decay_steps`. A list trains `seeds` members with each of its values.
    Default: 0.1."""
    eval_every_steps: int | None
    """Environment steps between greedy evaluations; the run delivers the best agent. none: the last agent. Default:
    5000."""
    eval_episodes: int
    """Number of episodes per evaluation during training. Default: 10."""
    final_eval_episodes: int
    """Number of episodes of the final evaluation, whose score is reported. Default: 100."""
    eval_epsilon: float
    """Probability of a random action in evaluations; Atari: 0.001 in `machado2018`, 0.05 in `dqn2015`. Default:
    0.0."""
    eval_episode_steps: int | None
    """Steps after which an evaluation episode is cut. none: ten times the longest training episode, at least
    10,000, and never below the environment's own time limit. Default: None."""
    report_every_steps: int | None
    """Environment steps between progress reports; none: chosen automatically, often enough to follow progress.
    Default: None."""
    checkpoint_every_seconds: float
    """Minimum time between checkpoints in seconds; one is always saved at the end and on Ctrl-C. Default: 30.0."""
