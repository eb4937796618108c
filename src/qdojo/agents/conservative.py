"""Conservative Q-learning: adds a penalty to a loss that keeps the values of actions outside the data low. `dataset.py`
reads such data."""

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

    `network` returns Q-values for the parameters that `loss` trains; for a return distribution they are its means. The
    metric `conservative` is the bracketed gap, at least 0, in units of these Q-values.
    """

    def penalised(
        params: Params, target_params: Params, batch: Batch, noise: Words
    ) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
        error, priority, metrics = loss.of(params, target_params, batch, noise)
        gap = optimism(network.apply(params, batch.obs_tm1), batch.action_tm1)
        return error + alpha * gap, priority, metrics | {"conservative": gap}

    return loss._replace(of=penalised)


def optimism(q: Float[Array, "*branches actions"], action: Int[Array, "*branches"]) -> Float[Array, ""]:
    """log sum_a' exp Q(s, a') - Q(s, a), averaged over branches. Illegal actions have too low Q-values to count."""
    q = q.reshape(-1, q.shape[-1])
    return jnp.mean(jax.nn.logsumexp(q, axis=-1) - jax.vmap(chosen)(q, action.reshape(-1)))
