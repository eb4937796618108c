"""Return distributions for one example: on fixed atoms, or as quantiles. `targets.py` handles scalar values."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def chosen(values: Float[Array, "actions n"], action: Int[Array, ""]) -> Float[Array, "n"]:
    """The row of one action, as a masked sum: the gradient of a gather is a scatter, which is slow on a CPU."""
    return jnp.sum(jnp.where((jnp.arange(values.shape[0]) == action)[:, None], values, 0.0), axis=0)


def by_branch(values: Float[Array, "*branches actions n"]) -> Float[Array, "branches actions n"]:
    """`values` with a branch axis; a Discrete action has a single branch."""
    return values.reshape(-1, *values.shape[-2:])


def chosen_by_branch(
    values: Float[Array, "*branches actions n"], action: Int[Array, "*branches"]
) -> Float[Array, "branches n"]:
    """The row of the chosen action in each branch."""
    return jax.vmap(chosen)(by_branch(values), action.reshape(-1))


def categorical_projection(
    atoms_t: Float[Array, "atoms"], probabilities_t: Float[Array, "atoms"], support: Float[Array, "atoms"]
) -> Float[Array, "atoms"]:
    """Projects the distribution with `probabilities_t` at `atoms_t` onto the evenly spaced, increasing `support`.

    The mass of each atom is split between its two neighbours in the support, in linear proportion; mass outside the
    support moves to the nearest end. The total mass is preserved, and so is the mean inside the support. `support`
    needs at least two atoms. Bellemare et al. (2017), algorithm 1 and equation 7, as a dense product, not a scatter.
    """
    last = support.shape[0] - 1
    spacing = (support[-1] - support[0]) / last
    # Clip positions, which count atoms, rather than values, so that the ends are exact.
    position = jnp.clip((atoms_t - support[0]) / spacing, 0.0, last)
    distance = jnp.abs(position[:, None] - jnp.arange(last + 1, dtype=position.dtype)[None, :])
    return jnp.dot(probabilities_t, jnp.maximum(1.0 - distance, 0.0))


def cross_entropy(logits: Float[Array, "atoms"], probabilities: Float[Array, "atoms"]) -> Float[Array, ""]:
    """-sum_i p_i log softmax(logits)_i. Bellemare et al. (2017), algorithm 1, last line."""
    return -jnp.sum(probabilities * jax.nn.log_softmax(logits))


def quantile_huber(
    quantiles: Float[Array, "n"], fractions: Float[Array, "n"], targets: Float[Array, "m"], kappa: float = 1.0
) -> Float[Array, ""]:
    """sum_i mean_j |tau_i - 1{u_ij < 0}| L_kappa(u_ij) / kappa, where u_ij = targets_j - quantiles_i; `kappa` above 0.

    At its minimum, each quantile is near the tau_i-quantile of the targets. Dabney et al. (2018a), equations 9 and 10.
    """
    return _quantile_huber(quantiles, fractions, jax.lax.stop_gradient(targets), kappa)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _quantile_huber(
    quantiles: Float[Array, "n"], fractions: Float[Array, "n"], targets: Float[Array, "m"], kappa: float
) -> Float[Array, ""]:
    """`quantile_huber` with a hand-written gradient for the quantiles only, and sums as dot products. JAX's derived
    gradient and plain sums would take five times as long on XLA's CPU backend."""
    return _quantile_huber_forward(quantiles, fractions, targets, kappa)[0]


def _quantile_huber_forward(
    quantiles: Float[Array, "n"], fractions: Float[Array, "n"], targets: Float[Array, "m"], kappa: float
) -> tuple[Float[Array, ""], Float[Array, "n"]]:
    error = targets[None, :] - quantiles[:, None]
    asymmetry = jnp.abs(fractions[:, None] - (error < 0.0).astype(error.dtype))
    clipped = jnp.clip(error, -kappa, kappa)
    over_targets = jnp.full(targets.shape, 1.0 / (targets.shape[0] * kappa))
    # With the clipped error c, the Huber loss is c (u - c / 2) and its slope is c.
    loss = jnp.dot(asymmetry * clipped * (error - 0.5 * clipped), over_targets)
    slope = -jnp.dot(asymmetry * clipped, over_targets)
    return jnp.dot(loss, jnp.ones_like(loss)), slope


def _quantile_huber_backward(
    kappa: float, slope: Float[Array, "n"], pull: Float[Array, ""]
) -> tuple[Array, None, None]:
    return pull * slope, None, None


_quantile_huber.defvjp(_quantile_huber_forward, _quantile_huber_backward)


def midpoints(count: int) -> Float[Array, "count"]:
    """(2i + 1) / (2 count): the midpoints of `count` equal parts of [0, 1]. Dabney et al. (2018a), lemma 2."""
    return (jnp.arange(count, dtype=jnp.float32) + 0.5) / count


def fraction_loss(
    fractions: Float[Array, "inner"],
    at_fractions: Float[Array, "inner"],
    below: Float[Array, "inner"],
    above: Float[Array, "inner"],
) -> Float[Array, ""]:
    """A loss whose gradient with respect to fraction i is 2 F^-1(tau_i) - F^-1(tauhat_i) - F^-1(tauhat_{i-1}).

    This is the derivative of the Wasserstein distance between the quantile function and its step approximation with
    respect to the inner fractions tau_1 .. tau_{n-1}. `at_fractions` are the quantiles at these fractions; `below` and
    `above` are the quantiles at the midpoints of the two adjacent intervals. The value itself is always 0 and has no
    meaning. Yang et al. (2019), proposition 1.
    """
    slope = jax.lax.stop_gradient(2.0 * at_fractions - above - below)
    return jnp.sum(slope * (fractions - jax.lax.stop_gradient(fractions)))
