"""Suggestions for unknown settings: a similar name, or the setting that has this name in another library.

The names are those of Stable-Baselines3, CleanRL, Keras-RL, Tianshou, Dopamine, RLlib and DQN Zoo.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any

OURS: dict[str, str] = {
    "gamma discount_factor discount_rate": "discount",
    "lr alpha_lr step_size": "learning_rate",
    "buffer_size replay_size memory_size memory_capacity replay_capacity replay_buffer_size max_replay_size limit "
    "memory_limit replay_memory_size buffer_capacity": "capacity_steps",
    "learning_starts nb_steps_warmup min_replay_history num_steps_sampled_before_learning_starts min_replay_size "
    "warmup warm_up_steps start_steps start_timesteps min_replay_capacity": "warmup_steps",
    "total_timesteps nb_steps max_timesteps timesteps total_steps num_steps n_steps_total max_steps training_steps "
    "max_env_steps num_frames num_timesteps": "steps",
    "n_episodes num_episodes max_episodes nb_episodes": "episodes",
    "minibatch_size train_batch_size sample_size batchsize": "batch_size",
    "tau polyak soft_update_tau": "target_tau",
    "ema ema_decay weight_averaging": "average_tau",
    "n_step_return n_steps nstep estimation_step update_horizon multi_step n_step_size": "n_step",
    "net_arch hidden_sizes hidden_units hidden_size hidden_dim hidden_dims fc_layers fcnet_hiddens layers units "
    "hidden_layers": "hidden",
    "policy model q_network qnetwork policy_network": "network",
    "n_envs training_num num_env num_train_envs num_env_runners num_workers n_workers num_envs_per_env_runner "
    "train_num": "num_envs",
    "env_id env_name game environment environment_name gym_id task": "env",
    "random_seed": "seed",
    "n_seeds num_seeds n_members num_runs": "seeds",
    "exploration_initial_eps start_e eps_train epsilon_initial initial_epsilon eps_start epsilon_max "
    "exploration_initial epsilon": "epsilon_start",
    "exploration_final_eps end_e eps_train_final epsilon_train epsilon_min final_epsilon eps_end epsilon_final eps_min "
    "exploration_epsilon_end_value": "epsilon_end",
    "epsilon_decay_period epsilon_timesteps eps_decay_steps epsilon_anneal_steps exploration_steps": (
        "epsilon_decay_steps"
    ),
    "double_q double_dqn enable_double_dqn is_double use_double ddqn double_q_learning": "double",
    "enable_dueling_network dueling_dqn duel use_dueling dueling_network": "dueling",
    "prioritized_replay per use_per prioritized_replay_buffer use_prioritized_replay": "prioritized",
    "prioritized_replay_alpha per_alpha prioritized_alpha priority_exponent": "priority_alpha",
    "prioritized_replay_beta0 prioritized_replay_beta per_beta beta0 beta_start importance_sampling_exponent "
    "beta_init": "priority_beta",
    "prioritized_replay_beta_iters per_beta_steps beta_frames": "priority_beta_steps",
    "stack_size window_length num_stack stack_num n_stack": "frame_stack",
    "n_atoms num_atoms": "atoms",
    "v_min": "vmin",
    "v_max": "vmax",
    "n_quantiles num_quantiles num_fractions": "quantiles",
    "num_tau_samples online_sample_size": "iqn_fractions",
    "num_tau_prime_samples target_sample_size": "iqn_target_fractions",
    "num_quantile_samples": "iqn_acting_fractions",
    "max_gradient_norm grad_clip gradient_clip clip_grad_norm clipnorm gradient_clipping": "max_grad_norm",
    "adam_eps eps optimizer_epsilon": "adam_epsilon",
    "beta1 beta_1 adam_b1": "adam_beta1",
    "beta2 beta_2 adam_b2": "adam_beta2",
    "loss_fn loss_type loss_function": "error",
    "update_epochs num_epochs n_epochs": "epochs",
    "num_minibatches n_minibatches": "minibatches",
    "q_lambda lambda gae_lambda lam": "trace_decay",
    "noisy_net noisy_nets use_noisy noisy_dqn noisy_network": "noisy",
    "cql_alpha min_q_weight": "conservative",
    "normalize_obs norm_obs observation_normalization": "normalize_observations",
    "use_lstm lstm use_rnn rnn": "recurrent",
    "sequence_length seq_len unroll_length trace_length": "sequence_steps",
    "burn_in": "burn_in_steps",
    "n_heads num_heads num_ensemble ensemble_size": "heads",
    "eval_freq eval_interval evaluation_interval eval_frequency evaluation_frequency": "eval_every_steps",
    "n_eval_episodes episode_per_test num_eval_episodes evaluation_episodes test_num": "eval_episodes",
    "log_interval log_freq log_frequency log_every": "report_every_steps",
    "save_freq checkpoint_freq checkpoint_frequency save_interval": "checkpoint_every_seconds",
    "render_mode visualize": "render",
    "boltzmann_policy softmax_exploration": "boltzmann",
    "munchausen_tau m_tau entropy_tau": "munchausen_temperature",
    "munchausen_clip m_l0 clip_value_min": "munchausen_floor",
    "layernorm use_layer_norm": "layer_norm",
    "distributional dist_type": "distribution",
    "pretrained load_weights checkpoint": "weights",
    "reward_threshold stop_reward": "solved_at",
    "frameskip action_repetition action_repeat": "frame_skip",
    "maxpool max_pool frame_maxpool": "max_pooling",
    "reward_clip reward_clipping clip_reward": "clip_rewards",
    "repeat_action_probability sticky_action": "sticky_actions",
    "max_noops noops": "noop_max",
    "episodic_life episode_life": "terminal_on_life_loss",
    "max_num_frames_per_episode max_episode_frames": "max_frames",
    "greyscale gray_scale grayscale_obs": "grayscale",
    "screen_size img_size": "resize",
    "eps_test epsilon_eval evaluation_epsilon": "eval_epsilon",
    "vec_env_cls vectorization_mode async_envs": "vectorization",
}
"""Names, several per key, that mean one setting of qdojo in the same or nearly the same unit."""

TOLD: dict[str, str] = {
    "exploration_fraction": "set {epsilon_decay_steps}: that fraction of {steps}",
    "epsilon_decay eps_decay": "set {epsilon_decay_steps}; {epsilon_decay_factor} is for the tutorial's agent",
    "target_update_interval target_network_frequency target_update_freq target_network_update_freq "
    "target_update_period target_model_update target_network_update_period target_update_frequency": (
        "set {target_sync_updates}, counted in updates rather than steps, with {target_tau} of 1 for full copies"
    ),
    "train_freq train_frequency update_period train_interval learn_period learn_frequency update_frequency "
    "step_per_collect update_every update_freq replay_period": (
        "set {collect_steps}, the steps between two learning phases, and {updates_per_step}, the updates per step"
    ),
    "gradient_steps update_per_step num_updates training_intensity utd_ratio replay_ratio num_gradient_steps": (
        "set {updates_per_step}, the updates per step; a learning phase has {collect_steps} times as many"
    ),
    "max_epoch epoch step_per_epoch num_iterations epoch_num_steps": "set {steps}, the total budget",
    "alpha": "set {learning_rate}, or {priority_alpha}, {munchausen_alpha} or {conservative}",
    "beta": "set {priority_beta}",
    "temperature": "set {boltzmann} with {temperature_start} and {temperature_end}",
    "anneal_lr lr_schedule learning_rate_schedule lr_decay": "set {learning_rate_end} and {learning_rate_decay_steps}",
    "deterministic": "evaluations are greedy, but for {eval_epsilon}",
    "verbose progress_bar silent": (
        "progress goes to stderr, and `--json` prints only the result; in Python, pass `observers=`"
    ),
    "device cuda gpu use_gpu use_cuda": "JAX uses an accelerator if it finds one; JAX_PLATFORMS=cpu selects the CPU",
    "tensorboard_log tb_log_name track wandb_project_name wandb_entity logdir log_dir exp_name save_path save_model "
    "wandb_project capture_video": (
        "every run is saved under `--runs`; `qdojo show` and `qdojo watch` display it, `qdojo export` exports its agent"
    ),
    "torch_deterministic": "a run with the same {seed} gives the same bits on the same machine",
    "max_steps_per_episode max_episode_steps nb_max_episode_steps": (
        "wrap the environment in gymnasium.wrappers.TimeLimit; {eval_episode_steps} limits evaluation episodes only"
    ),
    "reward_normalization reward_scale reward_scaling": (
        "wrap the environment in gymnasium's TransformReward; scores are then sums of the transformed rewards"
    ),
    "delta_clip kappa huber_delta": "{error} of 'huber' always uses a delta of 1",
    "optimizer optimizer_class": "the optimizer is Adam; {learning_rate} and {adam_epsilon} are its settings",
    "activation activation_fn": "layers use ReLU; `network='module:build'` takes a Keras model with any activation",
    "policy_kwargs": "set {hidden}, {layer_norm}, {dueling}, or {network} for your own Keras model",
    "memory replay_buffer_class replay_buffer_kwargs replay_buffer replay_buffer_config replay_scheme": (
        "set {capacity_steps} and, for prioritised replay, {prioritized}"
    ),
    "num_cosines": "IQN uses 64 cosines, as in its paper",
    "nb_actions num_actions action_space action_size n_actions observation_space state_size obs_shape": (
        "actions and observations are read from the environment"
    ),
    "callback callbacks": "pass `observers=[...]` to qdojo.train",
    "algo algorithm algo_name": "choose a preset; `qdojo presets` lists them",
    "load resume": "`qdojo resume RUN` continues a run",
    "optimize_memory_usage": "each observation is always stored only once",
}
"""Names, several per key, that need more explanation than one setting's name; settings of qdojo are in braces."""

_NAMES = {word: ours for words, ours in OURS.items() for word in words.split()}
_TOLD = {word: told for words, told in TOLD.items() for word in words.split()}


def meant_by(said: str, word: str, spelled: Callable[[str], str] = str) -> str | None:
    """One sentence that explains another library's `word`, or None for an unknown word. The sentence quotes the word as
    `said`, and `spelled` formats the names of settings in it."""
    plain = word.lower().replace("-", "_")
    if plain in _NAMES:
        return f"{said} is called {spelled(_NAMES[plain])} here."
    if plain in _TOLD:
        return f"There is no setting {said}; {_OURS_IN_BRACES.sub(lambda found: spelled(found[1]), _TOLD[plain])}."
    return None


_OURS_IN_BRACES = re.compile("{(.*?)}")


def no_such_setting(name: str, known: Iterable[str]) -> str:
    """A message that there is no setting of this name, with a suggestion."""
    return meant_by(repr(name), name) or (
        f"There is no setting {name!r}; {_near(name, known) or 'see `qdojo train --help` for all of them.'}"
    )


def no_such_preset(name: Any, known: Iterable[str]) -> str:
    """A message that there is no preset of this name, with a suggestion or the list of presets."""
    known = list(known)
    names = ", ".join(sorted(known))
    return f"There is no preset {name!r}; {_near(str(name), known) or f'the names are {names}.'}"


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else ""
