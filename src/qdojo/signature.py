"""The declaration of `qdojo.train` with each setting as a keyword, for editors, type checkers and `help`.

Generated from `api.py` and `config/fields.py` by `python tests/test_signature.py`. `api.py` has the implementation.
"""
# ruff: noqa: E501

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
from gymnasium.vector import VectorEnv

from qdojo.config import Config
from qdojo.delivered import Run
from qdojo.envs.contract import NativeEnvironment


def train(
    env: str | gym.Env[Any, Any] | VectorEnv[Any, Any, Any] | Callable[..., Any] | NativeEnvironment | None = None,
    *,
    preset: str = "default",
    config: Config | None = None,
    network: Any = None,
    loss: Any = None,
    root: Path | str = "runs",
    observers: Sequence[Any] = (),
    progress: bool = True,
    observe: Sequence[str] | None = None,
    agent: Literal["dqn", "pqn", "tutorial"] = "dqn",
    seed: int = 0,
    seeds: int = 1,
    vary: Mapping[str, Sequence[float]] = {},
    shards: int | None = None,
    steps: int = 100000,
    episodes: int | None = None,
    until_solved: bool = False,
    solved_at: float | None = None,
    loop: Literal["auto", "device", "host"] = "auto",
    num_envs: int = 1,
    vectorization: Literal["sync", "async"] = "sync",
    frame_stack: int = 1,
    render: Literal["none", "human"] = "none",
    atari_protocol: Literal["machado2018", "dqn2015"] = "machado2018",
    frame_skip: int | None = None,
    max_pooling: bool | None = None,
    grayscale: bool | None = None,
    resize: int | None = None,
    from_pixels: bool = False,
    clip_rewards: bool | None = None,
    sticky_actions: float | None = None,
    noop_max: int | None = None,
    terminal_on_life_loss: bool | None = None,
    full_action_space: bool | None = None,
    max_frames: int | None = None,
    hidden: Sequence[int] = (128, 128),
    layer_norm: bool = True,
    dueling: bool = False,
    noisy: bool = False,
    recurrent: Literal["gru", "lstm"] | None = None,
    heads: int = 1,
    prior_scale: float = 0.0,
    embedding: int | None = None,
    torso: Literal["auto", "dense", "nature", "der", "compact", "minatar", "impala"] = "auto",
    torso_width: float = 1.0,
    spectral_norm: bool = False,
    normalize_observations: bool = False,
    weights: str | None = None,
    dataset: str | None = None,
    capacity_steps: int = 50000,
    batch_size: int = 64,
    warmup_steps: int = 1000,
    collect_steps: int = 2,
    updates_per_step: float = 0.5,
    prioritized: bool = False,
    priority_alpha: float | Sequence[float] = 0.6,
    priority_beta: float | Sequence[float] = 0.4,
    priority_beta_steps: int | Sequence[int] | None = None,
    sequence_steps: int = 20,
    burn_in_steps: int = 0,
    stored_state: bool = True,
    discount: float | Sequence[float] = 0.99,
    n_step: int = 5,
    double: bool = True,
    error: Literal["mse", "huber"] = "huber",
    target_tau: float | Sequence[float] = 0.01,
    target_sync_updates: int = 1,
    trace_decay: float | Sequence[float] = 0.65,
    value_rescaling: bool = False,
    conservative: float | Sequence[float] = 0.0,
    munchausen: bool = False,
    munchausen_alpha: float | Sequence[float] = 0.9,
    munchausen_temperature: float | Sequence[float] = 0.03,
    munchausen_floor: float | Sequence[float] = -1.0,
    distribution: Literal["c51", "qrdqn", "iqn", "fqf"] | None = None,
    atoms: int = 51,
    vmin: float = 0.0,
    vmax: float = 100.0,
    quantiles: int = 32,
    iqn_fractions: int = 4,
    iqn_target_fractions: int = 8,
    iqn_acting_fractions: int = 32,
    cvar: float = 1.0,
    learning_rate: float | Sequence[float] = 0.001,
    learning_rate_end: float | Sequence[float] | None = None,
    learning_rate_decay_steps: int | Sequence[int] | None = None,
    max_grad_norm: float | Sequence[float] | None = None,
    adam_beta1: float | Sequence[float] = 0.9,
    adam_beta2: float | Sequence[float] = 0.999,
    adam_epsilon: float | Sequence[float] = 1e-08,
    average_tau: float = 0.0,
    sparse_adam: bool = False,
    epochs: int = 4,
    minibatches: int = 16,
    epsilon_start: float | Sequence[float] = 1.0,
    epsilon_end: float | Sequence[float] = 0.05,
    epsilon_decay_steps: int | Sequence[int] = 10000,
    epsilon_schedule: Literal["linear", "exponential"] = "linear",
    epsilon_ladder: float | Sequence[float] = 0.0,
    epsilon_decay_factor: float | Sequence[float] = 0.995,
    boltzmann: bool = False,
    temperature_start: float | Sequence[float] = 1.0,
    temperature_end: float | Sequence[float] = 0.1,
    eval_every_steps: int | None = 5000,
    eval_episodes: int = 10,
    final_eval_episodes: int = 100,
    eval_epsilon: float = 0.0,
    eval_episode_steps: int | None = None,
    report_every_steps: int | None = None,
    checkpoint_every_seconds: float = 30.0,
) -> Run:
    """Train one agent, or `seeds` agents in parallel, and return the finished run.

    An omitted setting has the value of the preset, or else its default.

    Args:
        env: A Gymnasium id, `module:Id`, `module:function`, a function that returns an environment, a JAX environment, or a Gymnasium environment object. From an object, fresh copies are made by its `spec`; a vector environment also sets `num_envs`. Default: None.
        preset: Named collection of settings to start from; `qdojo presets` lists them. Default: "default".
        config: All settings in one `Config`, instead of `env`, `preset` and single settings. Default: None.
        network: A `keras.Model`, a function that builds one, or a function of (spaces, key) that returns an Equinox module. By default, dense layers or convolutions, depending on the observations. Default: None.
        loss: A function of (network, rule) that returns a `qdojo.agents.learner.Loss`. Default: None.
        root: Folder in which the run directory is created. Default: "runs".
        observers: Objects that receive reports and evaluations, and may stop the run: `qdojo.training.observers`. Default: ().
        progress: Show progress: a bar on a terminal, a line in a notebook, else an occasional line on stderr. Default: True.
        observe: Keys of a Dict observation to use; by default all. Default: None.
        agent: Learning algorithm: replay (`dqn`), no replay (`pqn`), or the CartPole tutorial's; choose it with a preset. Default: "dqn".
        seed: Random seed of the first member; member k uses seed + k. Default: 0.
        seeds: Number of agents (members) trained in parallel, each with its own seed. Default: 1.
        vary: Settings in which members differ, with their values; `seeds` members are trained for each combination. Default: {}.
        shards: Number of CPU cores (or GPUs) that share the members; 1: a single one. none: chosen by the size of the run. Default: None.
        steps: Training budget in environment steps per member. Default: 100000.
        episodes: Training budget in episodes per member; training ends when either budget is used up. Default: None.
        until_solved: Stop when greedy evaluations of every member reach `solved_at`, a second one by a standard error more. Default: False.
        solved_at: Mean return that counts as solved; none: the reward threshold that the environment declares. Default: None.
        loop: Where environments run: compiled with the agent (`device`, JAX environments only) or in Python (`host`). Default: "auto".
        num_envs: Number of copies of the environment that each member plays at the same time. Default: 1.
        vectorization: Step the copies one after the other in this process (`sync`) or each in its own process (`async`). Default: "sync".
        frame_stack: Number of latest observations stacked as the network's input, so that it can see motion. Default: 1.
        render: `human`: show training in a window; one member and one copy only. Default: "none".
        atari_protocol: Atari: rules with sticky actions (Machado et al., 2018), or no-op starts and life loss (Mnih et al., 2015). Default: "machado2018".
        frame_skip: Frames for which each action is repeated. Atari: 4. Default: None.
        max_pooling: Atari: observe the pixel-wise maximum of the last two frames, because sprites flicker; both protocols do. Default: None.
        grayscale: Convert images to greyscale. Atari: yes. Default: None.
        resize: Resize images to squares with sides of this many pixels. Atari: 84. Default: None.
        from_pixels: Learn from rendered images (`rgb_array`) instead of the environment's observations. Default: False.
        clip_rewards: Clip the rewards that the agent learns from to [-1, 1]; scores are never clipped. Atari: yes. Default: None.
        sticky_actions: Atari: probability, per frame, of repeating the previous action; 0.25 in `machado2018`, 0 in `dqn2015`. Default: None.
        noop_max: Atari: largest number of no-op frames at the start of an episode; 0 in `machado2018`, 30 in `dqn2015`. Default: None.
        terminal_on_life_loss: Atari: treat a lost life as the end of the episode for learning, as in `dqn2015`; the game continues. Default: None.
        full_action_space: Atari: use all 18 actions instead of the game's minimal action set. Default: None.
        max_frames: Atari: frames after which an episode is truncated; 108,000 (30 minutes) in both protocols. Default: None.
        hidden: Units of each hidden layer. Default: (128, 128).
        layer_norm: Normalise each hidden layer (LayerNorm) before its ReLU. Default: True.
        dueling: Estimate state value and advantages separately, each after its own last hidden layer (Wang et al., 2016). Default: False.
        noisy: Explore with learned noise on the weights (NoisyNet, Fortunato et al., 2018). Default: False.
        recurrent: `gru` or `lstm`: make the last layer of `hidden` recurrent and train on sequences (Kapturowski et al., 2019). Default: None.
        heads: Number of Q-networks in an ensemble; one of them acts for a whole episode (Osband et al., 2016). Default: 1.
        prior_scale: Weight of the fixed random prior network added to each learned network (Osband et al., 2018). Default: 0.0.
        embedding: Size of a learned embedding of each category in discrete observations; none: one-hot vectors. Default: None.
        torso: Layers before `hidden`: convolutions of DQN (`nature`), Data-Efficient Rainbow (`der`), a variant of it for half the side (`compact`), MinAtar or IMPALA for images, or none (`dense`). `auto`: none unless observations are uint8 images; then `nature` if both sides have at least 36 pixels, else `impala`. Default: "auto".
        torso_width: Multiplier of the number of channels in the convolutions of the torso. Default: 1.0.
        spectral_norm: Apply spectral normalisation in the IMPALA torso's residual blocks (Clark et al., 2024). Default: False.
        normalize_observations: Normalise each number of the observations, in images each pixel, to mean 0 and standard deviation 1, with running statistics. Default: False.
        weights: Load initial weights from a run's best agent or a Keras file (`.h5`); exploration starts at its final value. Default: None.
        dataset: Learn from the logged steps of a run (path or name) or of `minari:ID` instead of playing. Default: None.
        capacity_steps: Size of each member's replay buffer in environment steps. Default: 50000.
        batch_size: Number of examples in each gradient step. Default: 64.
        warmup_steps: Environment steps to collect before the first update. Default: 1000.
        collect_steps: Environment steps between two learning phases, summed over copies; a multiple of `num_envs`. Default: 2.
        updates_per_step: Updates per environment step (replay ratio). Default: 0.5.
        prioritized: Sample transitions with large errors more often (prioritised replay, Schaul et al., 2016). Default: False.
        priority_alpha: Exponent of the priorities; 0 samples uniformly. A list trains `seeds` members with each of its values. Default: 0.6.
        priority_beta: Initial exponent of the importance weights; it rises to 1. A list trains `seeds` members with each of its values. Default: 0.4.
        priority_beta_steps: Environment steps over which `priority_beta` rises to 1; none: the training budget. A list trains `seeds` members with each of its values. Default: None.
        sequence_steps: Length in steps of the sequences that a recurrent network learns from. Default: 20.
        burn_in_steps: Steps before each sequence that only warm up the recurrent state (burn-in). Default: 0.
        stored_state: Start each sequence from the recurrent state stored when it was played; otherwise from zeros. Default: True.
        discount: Discount factor of future rewards (gamma). A list trains `seeds` members with each of its values. Default: 0.99.
        n_step: Number of rewards summed before the target bootstraps from the target network. Default: 5.
        double: Choose the target's action with the online network (Double DQN, van Hasselt et al., 2016). Default: True.
        error: Loss of the temporal-difference error: squared (`mse`) or Huber (`huber`). Default: "huber".
        target_tau: Fraction of the online network mixed into the target network at each sync; 1 copies it. A list trains `seeds` members with each of its values. Default: 0.01.
        target_sync_updates: Updates between two syncs of the target network. Default: 1.
        trace_decay: Lambda of the lambda-returns: a larger value gives more weight to longer returns; 0 uses one-step returns. A list trains `seeds` members with each of its values. Default: 0.65.
        value_rescaling: Learn values on a square-root scale, for returns of very different magnitudes (Pohlen et al., 2018). Default: False.
        conservative: Weight of the conservative penalty on actions absent from the data (alpha in CQL, Kumar et al., 2020). A list trains `seeds` members with each of its values. Default: 0.0.
        munchausen: Add the scaled log-policy to the reward and use a soft maximum (Munchausen DQN, Vieillard et al., 2020). Default: False.
        munchausen_alpha: Scale of the Munchausen bonus. A list trains `seeds` members with each of its values. Default: 0.9.
        munchausen_temperature: Softmax temperature of the Munchausen policy, in units of Q-values. A list trains `seeds` members with each of its values. Default: 0.03.
        munchausen_floor: Lower limit of the Munchausen bonus, before it is scaled. A list trains `seeds` members with each of its values. Default: -1.0.
        distribution: Learn the distribution of returns with `c51`, `qrdqn`, `iqn` or `fqf`; none: only its mean. Default: None.
        atoms: Number of fixed return values (atoms) of the distribution. Default: 51.
        vmin: Smallest return that the atoms cover. Default: 0.0.
        vmax: Largest return that the atoms cover. Default: 100.0.
        quantiles: Number of quantiles that the network predicts. Default: 32.
        iqn_fractions: Number of random fractions at which an update evaluates the online network (N in the IQN paper). Default: 4.
        iqn_target_fractions: Number of random fractions at which an update evaluates the target network (N' in the IQN paper). Default: 8.
        iqn_acting_fractions: Number of evenly spaced fractions averaged into Q-values for acting (K in the IQN paper). Default: 32.
        cvar: Act on the mean of this worst fraction of returns (conditional value at risk); 1 averages all. Default: 1.0.
        learning_rate: Initial learning rate of Adam. A list trains `seeds` members with each of its values. Default: 0.001.
        learning_rate_end: Final learning rate, approached linearly, or the initial one if that is smaller; none: the initial one. A list trains `seeds` members with each of its values. Default: None.
        learning_rate_decay_steps: Environment steps until the final learning rate is reached; none: the training budget. A list trains `seeds` members with each of its values. Default: None.
        max_grad_norm: Maximum global norm of the gradient; larger gradients are scaled down to it. A list trains `seeds` members with each of its values. Default: None.
        adam_beta1: Decay rate of Adam's mean gradient. A list trains `seeds` members with each of its values. Default: 0.9.
        adam_beta2: Decay rate of Adam's mean squared gradient. A list trains `seeds` members with each of its values. Default: 0.999.
        adam_epsilon: Constant in the denominator of Adam's step. A list trains `seeds` members with each of its values. Default: 1e-08.
        average_tau: Fraction of the network mixed into the average of its weights, which plays in evaluations; 0 averages nothing. Default: 0.0.
        sparse_adam: Update only the first-layer weights that the batch looks up (lazy Adam); for one-hot observations only. Default: False.
        epochs: Passes over the collected steps in each learning phase. Default: 4.
        minibatches: Gradient steps per pass. Default: 16.
        epsilon_start: Initial probability of a random action. A list trains `seeds` members with each of its values. Default: 1.0.
        epsilon_end: Final probability of a random action. A list trains `seeds` members with each of its values. Default: 0.05.
        epsilon_decay_steps: Environment steps over which epsilon decays from its initial to its final value. A list trains `seeds` members with each of its values. Default: 10000.
        epsilon_schedule: How epsilon and the Boltzmann temperature decay: by equal steps (`linear`) or factors (`exponential`). Default: "linear".
        epsilon_ladder: Raise epsilon to the power 1 + ladder * i / (N - 1) in copy i of N; Ape-X uses 7 (Horgan et al., 2018). A list trains `seeds` members with each of its values. Default: 0.0.
        epsilon_decay_factor: Factor by which epsilon is multiplied after each replay of the tutorial's agent. A list trains `seeds` members with each of its values. Default: 0.995.
        boltzmann: Sample actions from the softmax of the Q-values instead of taking the best one. Default: False.
        temperature_start: Initial softmax temperature, in units of Q-values. A list trains `seeds` members with each of its values. Default: 1.0.
        temperature_end: Softmax temperature after `epsilon_decay_steps`. A list trains `seeds` members with each of its values. Default: 0.1.
        eval_every_steps: Environment steps between greedy evaluations; the run delivers the best agent. none: the last agent. Default: 5000.
        eval_episodes: Number of episodes per evaluation during training. Default: 10.
        final_eval_episodes: Number of episodes of the final evaluation, whose score is reported. Default: 100.
        eval_epsilon: Probability of a random action in evaluations; Atari: 0.001 in `machado2018`, 0.05 in `dqn2015`. Default: 0.0.
        eval_episode_steps: Steps after which an evaluation episode is cut. none: ten times the longest training episode, at least 10,000, and never below the environment's own time limit. Default: None.
        report_every_steps: Environment steps between progress reports; none: chosen automatically, often enough to follow progress. Default: None.
        checkpoint_every_seconds: Minimum time between checkpoints in seconds; one is always saved at the end and on Ctrl-C. Default: 30.0.

    Raises:
        UsageError: An argument is wrong. The message is one sentence with the fix; nothing has started yet.
        EnvironmentFailure: The environment failed during training.
        Interrupted: Ctrl-C, after a checkpoint was saved (`qdojo.training.stopping`).
    """
    raise NotImplementedError
