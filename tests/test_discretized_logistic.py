"""The discretised logistic: normalised at every scale, accurate in the tails; each check must reject planted bugs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from planted import check_frequencies, rejects

from genjax import distributions as d


def grid(levels):
    return jnp.arange(levels, dtype=jnp.float32) / (levels - 1)


def check_discretized_logistic_is_normalised(log_prob):
    """The sum over all levels is 1 within 1e-5, from scales of one billionth of a level to a billion images."""
    log_scale = jnp.array([-100.0, -30.0, -20.0, -12.0, -7.0, -4.0, -2.0, 0.0, 3.0, 9.0, 20.0, 30.0, 100.0])
    for levels in (2, 3, 17, 256):
        for mean in (-2.0, 0.0, 0.5 / (levels - 1), 0.3, 0.5, 1.0, 1.7):
            shape = (levels, log_scale.size)
            x = jnp.broadcast_to(grid(levels)[:, None], shape)
            log_p = log_prob(x, jnp.full(shape, mean), jnp.broadcast_to(log_scale, shape), levels)
            assert np.all(np.asarray(log_p) <= 0.0)
            np.testing.assert_allclose(np.exp(np.float64(log_p)).sum(0), 1.0, atol=1e-5)


def test_discretized_logistic_sums_to_one_at_every_scale():
    check_discretized_logistic_is_normalised(d.discretized_logistic_log_prob)


def masses(upper, lower):
    """A planted bug's shape: log(s(upper) - s(lower)) from its two edges, given as functions."""

    def log_prob(x, mean, log_scale, levels):
        scale = jnp.exp(jnp.clip(log_scale, -30.0, 30.0))
        return jnp.log(jax.nn.sigmoid(upper(x, mean, scale, levels)) - jax.nn.sigmoid(lower(x, mean, scale, levels)))

    return log_prob


def no_edges(x, mean, log_scale, levels):
    """The inner formula everywhere: the mass outside of [0, 1] is lost."""
    inside = jnp.clip(x, 1.0 / (levels - 1), 1.0 - 1.0 / (levels - 1))
    return d.discretized_logistic_log_prob(inside, mean + inside - x, log_scale, levels)


def one_edge(x, mean, log_scale, levels):
    """White keeps its inner mass only."""
    right = d.discretized_logistic_log_prob(x, mean, log_scale, levels)
    return jnp.where(x == 1.0, no_edges(x, mean, log_scale, levels), right)


LOGISTIC_MUTANTS = {
    "no edges": no_edges,
    "one edge": one_edge,
    "difference of sigmoids": masses(
        lambda x, m, s, n: jnp.where(x == 1.0, jnp.inf, (x + 0.5 / (n - 1) - m) / s),
        lambda x, m, s, n: jnp.where(x == 0.0, -jnp.inf, (x - 0.5 / (n - 1) - m) / s),
    ),
    "bins of 1 / L": masses(
        lambda x, m, s, n: jnp.where(x == 1.0, jnp.inf, (x + 0.5 / n - m) / s),
        lambda x, m, s, n: jnp.where(x == 0.0, -jnp.inf, (x - 0.5 / n - m) / s),
    ),
    "a density": lambda x, m, v, n: scipy.stats.logistic.logpdf(x, m, np.exp(np.float64(v))) - math.log(n),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("mutant", LOGISTIC_MUTANTS.values(), ids=LOGISTIC_MUTANTS)
def test_discretized_logistic_rejects(mutant):
    rejects(check_discretized_logistic_is_normalised, mutant)


def test_discretized_logistic_is_accurate_in_the_tails():
    """Relative 1e-4 of the logarithm against float64, down to masses of exp(-400)."""
    levels, mean = 256, 0.25
    for log_scale in (-6.0, -4.0, -1.0, 2.0):
        edges = (np.arange(1, levels) - 0.5) / (levels - 1)
        t = (edges - np.float64(np.float32(mean))) / math.exp(log_scale)
        below, above = scipy.special.log_expit(t), scipy.special.log_expit(-t)
        inner = below[1:] + above[:-1] + np.log(-np.expm1(t[:-1] - t[1:]))
        exact = np.concatenate([below[:1], inner, above[-1:]])
        ours = d.discretized_logistic_log_prob(grid(levels), mean, log_scale, levels)
        np.testing.assert_allclose(ours, exact, rtol=1e-4)


def test_discretized_logistic_gradients_are_finite_everywhere():
    scales, means = np.meshgrid([-100.0, -30.0, -7.0, 0.0, 30.0, 100.0], [-5.0, 0.0, 0.5, 1.0, 5.0])
    for x in (0.0, 0.5, 1.0):
        log_prob = lambda m, s, x=x: d.discretized_logistic_log_prob(jnp.full(m.shape, x), m, s, 3).sum()
        for slope in jax.grad(log_prob, (0, 1))(jnp.float32(means), jnp.float32(scales)):
            assert np.all(np.isfinite(slope))


def test_a_byte_survives_bfloat16():
    """Mixed precision casts the batch: each of the 256 grey levels must still be its own."""
    exact = d.discretized_logistic_log_prob(grid(256), 0.4, -5.0, 256)
    rounded = d.discretized_logistic_log_prob(grid(256).astype(jnp.bfloat16), 0.4, -5.0, 256)
    np.testing.assert_array_equal(exact, rounded)


def test_discretized_logistic_mean_and_samples():
    mean, log_scale = jnp.array([-0.2, 0.33, 0.5, 0.9]), jnp.array([-1.0, -3.0, -6.0, -2.0])
    for levels in (2, 17):
        log_prob = lambda x, levels=levels: d.discretized_logistic_log_prob(jnp.full(4, x), mean, log_scale, levels)
        sample = lambda n, key, levels=levels, shift=0.0: d.sample_discretized_logistic(
            jnp.broadcast_to(mean + shift, (n, 4)), jnp.broadcast_to(log_scale, (n, 4)), levels, key
        )
        values = [float(v) for v in grid(levels)]
        exact = sum(v * np.exp(np.float64(log_prob(v))) for v in values)
        np.testing.assert_allclose(d.discretized_logistic_mean(mean, log_scale, levels), exact, atol=1e-5)
        check_frequencies(sample, log_prob, values)
        half_a_level = 0.5 / (levels - 1)  # rounding down instead of to the nearest level
        rejects(check_frequencies, lambda n, key, s=sample, h=half_a_level: s(n, key, shift=-h), log_prob, values)
