"""Conservative Q-learning: a loss and what keeps the values of actions low that the data do not have. Not for reading
data that others collected."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qdojo.agents.explore import Scalar
from qdojo.agents.learner import Loss
from qdojo.bellman.targets import chosen
from qdojo.networks.network import Network
from qdojo.types import Batch, Metrics, Params, Words


def conservative(loss: Loss, network: Network, alpha: Scalar) -> Loss:
    """`loss` + `alpha` * (log sum_a exp Q(s, a) - Q(s, a_data)): CQL(H). Kumar et al. (2020), equation 4.

    `network` gives the Q-values of the parameters that `loss` learns: of a distribution, its means. The metric
    `conservative` is the gap, in units of these Q-values; at least 0.
    """

    def penalised(
        params: Params, target_params: Params, batch: Batch, noise: Words
    ) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
        error, priority, metrics = loss.of(params, target_params, batch, noise)
        gap = optimism(network.apply(params, batch.obs_tm1), batch.action_tm1)
        return error + alpha * gap, priority, metrics | {"conservative": gap}

    return Loss(penalised, loss.words)


def optimism(q: Float[Array, "*branches actions"], action: Int[Array, "*branches"]) -> Float[Array, ""]:
    """log sum_a' exp Q(s, a') - Q(s, a), the mean over branches. Illegal actions lie so low that they have no share."""
    q = q.reshape(-1, q.shape[-1])
    return jnp.mean(jax.nn.logsumexp(q, axis=-1) - jax.vmap(chosen)(q, action.reshape(-1)))
