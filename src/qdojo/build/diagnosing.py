"""Adds to an agent the diagnostics that make sense for its settings. `agents/diagnosis.py` computes them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from qdojo.agents.diagnosis import RECENT_ROWS, UNKNOWN_SHARE, Looks, both, value_diagnosis
from qdojo.agents.learner import Loss, Own
from qdojo.build.memory import capacity_rows
from qdojo.build.player import Player
from qdojo.config import Config
from qdojo.envs.spaces import Spaces
from qdojo.types import Agent, Batch, Metrics, Params, Words

MOST_ACTIONS = 64
"""Number of actions, over all branches, up to which the share of each is recorded."""
TD_ERROR = "td_error"
STATES, STATES_OF_IMAGES = 256, 64
"""States per diagnosis at which Q-values are computed; fewer if an observation has more than `LARGE` numbers."""
LARGE = 1_000


def diagnosed(config: Config, spaces: Spaces, player: Player, agent: Agent) -> Agent:
    """The agent with diagnostics of its Q-values in addition to those of its updates."""
    offline = config.dataset is not None
    size = math.prod(spaces.observation_shape) * config.frame_stack
    legal = np.atleast_2d(np.asarray(spaces.legal, bool))

    def discount_of(state: Any) -> Any:
        return state.own.get("discount", config.discount) if config.agent == "tutorial" else state.hyper.discount

    looks = Looks(
        network=player.network,
        worth=player.actor.worth,
        discount_of=discount_of,
        frames=config.frame_stack,
        horizon=horizon(config),
        actions=None if offline or int(legal.sum()) > MOST_ACTIONS else legal,
        states=STATES if size <= LARGE else STATES_OF_IMAGES,
        whole=offline,
    )
    assert agent.diagnosis is not None
    absent = frozenset({"replay_age"} if offline else ())
    return agent._replace(diagnosis=both(agent.diagnosis, value_diagnosis(looks), absent))


def horizon(config: Config) -> int:
    """Env steps after which a reward has at most the discount `UNKNOWN_SHARE`, but at most `RECENT_ROWS`.

    0 if Q-values are not to be compared with returns: because they are no expected returns (`munchausen`, `cvar`), the
    tape is too short, or the memory of a recurrent agent is not in the data.
    """
    no_returns = config.munchausen or config.cvar < 1.0
    if no_returns or (config.dataset is not None and config.recurrent is not None):
        return 0
    discount = max(config.discount, *config.vary.get("discount", ()), 1e-3)
    steps = RECENT_ROWS if discount >= 1.0 else math.ceil(math.log(UNKNOWN_SHARE) / math.log(discount))
    steps = min(steps, RECENT_ROWS)
    return steps if steps + config.frame_stack < capacity_rows(config) else 0


def examined(loss: Callable[..., Loss]) -> Callable[[Own], Loss]:
    """A loss whose priority is the absolute TD error: of a sequence or an ensemble the mean over its parts.

    `loss` takes the settings in which a member differs, and a function that is applied to the formula in it.
    """

    def of_member(own: Own) -> Loss:
        whole = loss(own, with_td_error)

        def of(
            params: Params, target_params: Params, example: Any, noise: Words
        ) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
            error, _, metrics = whole.of(params, target_params, example, noise)
            return error, metrics[TD_ERROR], metrics

        return whole._replace(of=of)

    return of_member


def with_td_error(loss: Loss) -> Loss:
    """The loss with its absolute TD error as a metric, which sequences and ensembles average."""

    def of(
        params: Params, target_params: Params, batch: Batch, noise: Words
    ) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
        error, priority, metrics = loss.of(params, target_params, batch, noise)
        td_error = priority if loss.td_error is None else loss.td_error(params, target_params, batch, noise)
        return error, priority, metrics | {TD_ERROR: td_error}

    return loss._replace(of=of)
