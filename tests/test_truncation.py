"""Truncation against the laws that it is defined by: scipy's truncated normal, and a line to the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from planted import rejects

from genjax.errors import BadInput
from genjax.samplers.truncation import towards_mean, truncated_normal

Z = jax.random.normal(jax.random.key(0), (20_000,))


def check_truncated_normal(of):
    """For bounds narrow to wide: the law by Kolmogorov-Smirnov, p > 1e-3, its variance, the bound, the order."""
    for bound in (0.05, 0.5, 1.0, 2.0, 8.0):
        law, found = scipy.stats.truncnorm(-bound, bound), np.float64(of(Z, bound))
        assert scipy.stats.kstest(found, law.cdf).pvalue > 1e-3
        np.testing.assert_allclose(found.var(), law.var(), rtol=0.03)
        assert np.abs(found).max() <= bound
        assert np.all(np.diff(found[np.argsort(np.asarray(Z))]) >= 0)
        exact = law.ppf(scipy.stats.norm.cdf(np.float64(Z[:200])))
        np.testing.assert_allclose(found[:200], exact, atol=2e-5 * bound)


def anew(z, bound):
    """The right law of other latents: the ladder would show another image at every step."""
    return jax.random.truncated_normal(jax.random.key(1), -bound, bound, z.shape)


TRUNCATED_MUTANTS = {
    "cut off at the bound": lambda z, t: jnp.clip(z, -t, t),
    "scaled": lambda z, t: towards_mean(z, min(t, 1.0)),
    "folded": lambda z, t: jnp.arcsin(jnp.sin(z * jnp.pi / (2 * t))) * 2 * t / jnp.pi,
    "squashed": lambda z, t: t * jnp.tanh(z / t),
    "drawn anew": anew,
    "reversed": lambda z, t: -truncated_normal(z, t),
    "another bound": lambda z, t: truncated_normal(z, 1.1 * t),
}


def test_truncated_normal():
    check_truncated_normal(truncated_normal)


@pytest.mark.parametrize("mutant", TRUNCATED_MUTANTS.values(), ids=TRUNCATED_MUTANTS)
def test_truncated_normal_rejects(mutant):
    rejects(check_truncated_normal, mutant)


def check_towards_mean(of):
    """psi = 1 changes nothing, psi = 0 is the mean; between, distances to the mean shrink to psi of what they were."""
    z, mean = np.array([[4.0, -2.0], [1.0, 7.0]], np.float32), np.array([[3.0, 1.0]], np.float32)
    np.testing.assert_allclose(of(z, 1.0, mean), z, atol=1e-6)
    np.testing.assert_allclose(of(z, 0.0, mean), np.broadcast_to(mean, z.shape), atol=1e-6)
    np.testing.assert_allclose(of(z, 0.25, mean), [[3.25, 0.25], [2.5, 2.5]], atol=1e-6)
    np.testing.assert_allclose(jnp.std(of(Z, 0.3)), 0.3 * jnp.std(Z), rtol=1e-5)


def test_towards_mean():
    check_towards_mean(towards_mean)
    for mutant in (
        lambda z, psi, mean=0.0: towards_mean(z, 1.0 - psi, mean),
        lambda z, psi, mean=0.0: towards_mean(z, psi),
        lambda z, psi, mean=0.0: towards_mean(z, psi**2, mean),
        lambda z, psi, mean=0.0: towards_mean(z, psi, psi * jnp.asarray(mean)),
    ):
        rejects(check_towards_mean, mutant)


@pytest.mark.parametrize(
    ("told", "call"),
    [
        ("psi = 1.5", lambda: towards_mean(Z, 1.5)),
        ("psi = nan", lambda: towards_mean(Z, float("nan"))),
        ("bound = 0", lambda: truncated_normal(Z, 0.0)),
    ],
)
def test_bad_input(told, call):
    with pytest.raises(BadInput, match=told):
        call()
