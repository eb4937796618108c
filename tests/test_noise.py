"""Numbers made of random words: by hand at the ends of the range, and by their distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qdojo.noise import bernoulli, gumbel, integer, normal, uniform

pytestmark = pytest.mark.usefixtures("strict_promotion")

WORDS = jax.random.bits(jax.random.key(0), (50_000,), jnp.uint32)
ENDS = jnp.array([0, 2**31, 2**32 - 1], jnp.uint32)


def test_uniform_floats_are_in_the_half_open_interval() -> None:
    """The largest is (2^24 - 1) / 2^24."""
    np.testing.assert_array_equal(uniform(ENDS), np.array([0.0, 0.5, 1.0 - 2.0**-24], np.float32))
    assert stats.kstest(np.asarray(uniform(WORDS)), "uniform").pvalue > 0.01


def test_integers_by_hand() -> None:
    """2^31 = 3 * 715827882 + 2, and 2^32 - 1 is a multiple of 3."""
    np.testing.assert_array_equal(integer(ENDS, 3), [0, 2, 0])
    np.testing.assert_array_equal(integer(ENDS, jnp.int32(1)), [0, 0, 0])


def test_a_probability_is_how_often() -> None:
    np.testing.assert_array_equal(bernoulli(ENDS, 0.5), [True, False, False])
    assert not bernoulli(WORDS, 0.0).any()
    assert bernoulli(WORDS, 1.0).all()


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap], ids=["plain", "jit", "vmap"])
def test_normal_draws_are_the_quantiles_of_the_middles(transform: object) -> None:
    """Of words 0, 2^31, 2^32 - 1 the 23 high bits are 0, 2^22, 2^23 - 1; 0.84134 is the probability below 1."""
    words = jnp.append(ENDS, jnp.uint32(int(0.8413447461 * 2**32)))
    middles = [2.0**-24, 0.5 + 2.0**-24, 1.0 - 2.0**-24]
    np.testing.assert_allclose(transform(normal)(words), [*stats.norm.ppf(middles), 1.0], rtol=1e-5)


def test_normal_draws_have_the_normal_distribution() -> None:
    draws = np.asarray(normal(WORDS))
    assert draws.dtype == np.float32
    assert stats.kstest(draws, "norm").pvalue > 0.01


def test_normal_draws_are_finite_and_symmetric() -> None:
    """The complement of a word is its mirror image."""
    np.testing.assert_array_equal(normal(~WORDS), -normal(WORDS))
    assert np.isfinite(normal(ENDS)).all()
    assert float(normal(ENDS[2])) == pytest.approx(5.295, abs=0.01)


def test_gumbel_draws_have_the_gumbel_distribution_and_are_finite() -> None:
    assert stats.kstest(np.asarray(gumbel(WORDS)), "gumbel_r").pvalue > 0.01
    found = np.asarray(gumbel(ENDS))
    middles = np.array([2.0**-24, 0.5 + 2.0**-24, 1.0 - 2.0**-24])
    np.testing.assert_allclose(found, -np.log(-np.log(middles)), rtol=1e-5)
