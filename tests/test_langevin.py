"""Langevin chains of a normal law, whose law after every step is known; where the chains of a buffer begin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from planted import rejects

from genjax.errors import BadInput
from genjax.samplers.gibbs import run_chain
from genjax.samplers.langevin import langevin, taken

CHAINS, V, KEY = 20_000, np.array([1.0, 0.5]), jax.random.key(0)
CASES = {  # step, noise, steps of the chain
    "temperature 1, one step": (0.6, None, 1),
    "temperature 1, at rest": (0.6, None, 60),
    "cold": (0.3, 0.1, 60),
}


def energy(x):
    return jnp.sum(x**2 / (2 * jnp.float32(V)[None]), axis=1)


def check_law(make):
    """Mean and variance of both dimensions by eq. 3, each with p > 1e-4 of 20,000 independent chains."""
    for s, sigma, k in CASES.values():
        drawn = np.asarray(run_chain(make(energy, s, sigma), jnp.full((CHAINS, 2), 1.5), KEY, k), np.float64)
        r, variance = 1 - s / V, 2 * s if sigma is None else sigma**2
        mean, rest = 1.5 * r**k, variance * (1 - r ** (2 * k)) / (1 - r**2)
        p_mean = 2 * scipy.stats.norm.sf(abs(drawn.mean(0) - mean) / np.sqrt(rest / CHAINS))
        tail = scipy.stats.chi2.cdf(CHAINS * np.mean((drawn - mean) ** 2, axis=0) / rest, CHAINS)
        assert min(*p_mean, *(2 * np.minimum(tail, 1 - tail))) > 1e-4
        apart = scipy.stats.kstest(((drawn - mean) / np.sqrt(rest)).ravel(), "norm").pvalue
        together = abs(np.corrcoef(drawn.T)[0, 1]) * np.sqrt(CHAINS)
        assert apart > 1e-4 and together < 4


def test_the_law_of_a_chain_in_a_normal_valley_is_the_known_one():
    check_law(langevin)


def test_at_temperature_1_the_variance_is_too_large_by_what_the_step_costs():
    """Of N(0, v) the chain's variance at rest is v / (1 - s / 2v): 10/7 for s = 0.6, v = 1, and not 1."""
    end = run_chain(langevin(energy, 0.6), jnp.zeros((CHAINS, 2)), KEY, 60)
    assert float(jnp.var(end[:, 0])) == pytest.approx(1 / 0.7, rel=0.05)  # five deviations of 20,000 chains' variance


LAW_MUTANTS = {
    "half the slope": lambda e, s, n: langevin(lambda x: 0.5 * e(x), s, n),
    "up the slope": lambda e, s, n: langevin(lambda x: -e(x), s / 4, n),
    "noise of variance s": lambda e, s, n: langevin(e, s, np.sqrt(s) if n is None else n),
    "noise of deviation 2 s": lambda e, s, n: langevin(e, s, 2 * s if n is None else n),
    "its variance for its deviation": lambda e, s, n: langevin(e, s, n and n**2),
    "the temperature is always 1": lambda e, s, n: langevin(e, s),
    "the mean energy": lambda e, s, n: langevin(lambda x: e(x) / len(x), s, n),
    "one noise for all rows": lambda e, s, n: lambda x, key: (
        langevin(e, s, 0.0)(x, key) + (n or np.sqrt(2 * s)) * jax.random.normal(key, (1, 2))
    ),
    "one noise for all steps": lambda e, s, n: lambda x, key: langevin(e, s, n)(x, KEY),
    "one noise for all dimensions": lambda e, s, n: lambda x, key: (
        langevin(e, s, 0.0)(x, key) + (n or np.sqrt(2 * s)) * jax.random.normal(key, (len(x), 1))
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutant", LAW_MUTANTS.values(), ids=LAW_MUTANTS)
def test_the_law_rejects(mutant):
    rejects(check_law, mutant)


@pytest.mark.parametrize(("step", "noise"), [(0.0, None), (-1.0, 0.1), (np.nan, 0.1), (1.0, -0.1), (np.inf, None)])
def test_steps_that_are_none(step, noise):
    with pytest.raises(BadInput, match="allowed: a step above 0"):
        langevin(energy, step, noise)


# -- the buffer --------------------------------------------------------------------------------------------------------

BUFFER, FRESH = jnp.arange(200.0).reshape(100, 2), -1.0 - jnp.arange(40.0).reshape(20, 2)


def check_taken(take):
    """400 rounds: no row twice, all rows as often, starts are the rows or fresh ones, a quarter of them fresh."""
    keys = jax.random.split(jax.random.key(1), 400)
    rows, starts = (np.asarray(a) for a in jax.vmap(lambda key: take(BUFFER, FRESH, 0.25, key))(keys))
    assert rows.shape == (400, 20) and starts.shape == (400, 20, 2)
    assert all(len(set(each)) == 20 for each in rows)
    assert scipy.stats.chisquare(np.bincount(rows.ravel(), minlength=100)).pvalue > 1e-4
    anew = starts[..., 0] < 0
    assert np.array_equal(starts, np.where(anew[..., None], np.asarray(FRESH)[None], np.asarray(BUFFER)[rows]))
    assert scipy.stats.binomtest(int(anew.sum()), anew.size, 0.25).pvalue > 1e-4
    assert anew.sum(axis=1).min() < anew.sum(axis=1).max() < 20  # chain by chain, not all at once


def drawn_twice(buffer, fresh, rate, key):
    rows = jax.random.randint(key, (len(fresh),), 0, len(buffer))
    return rows, jnp.where(jax.random.bernoulli(key, rate, (len(fresh), 1)), fresh, buffer[rows])


def all_at_once(buffer, fresh, rate, key):
    rows, _ = taken(buffer, fresh, 0.0, key)
    return rows, jnp.where(jax.random.bernoulli(key, rate), fresh, buffer[rows])


TAKEN_MUTANTS = {
    "a row twice": drawn_twice,
    "all begin anew at once": all_at_once,
    "the first rows": lambda b, f, r, key: (jnp.arange(len(f)), taken(b[: len(f)], f, r, key)[1]),
    "the rest begins anew": lambda b, f, r, key: taken(b, f, 1 - r, key),
    "none begins anew": lambda b, f, r, key: taken(b, f, 0.0, key),
    "other rows than it says": lambda b, f, r, key: (taken(b, f, r, key)[0][::-1], taken(b, f, r, key)[1]),
}


def test_where_the_chains_of_a_round_begin():
    check_taken(taken)


@pytest.mark.parametrize("mutant", TAKEN_MUTANTS.values(), ids=TAKEN_MUTANTS)
def test_the_round_rejects(mutant):
    rejects(check_taken, mutant)


@pytest.mark.parametrize(
    ("buffer", "fresh", "rate"),
    [((4, 2), (5, 2), 0.1), ((4, 2), (2, 3), 0.1), ((4,), (2,), 0.1), ((4, 2), (2, 2), 1.5)],
)
def test_buffers_that_do_not_fit(buffer, fresh, rate):
    with pytest.raises(BadInput, match=r"allowed: \[M, D\] and \[B, D\]"):
        taken(jnp.zeros(buffer), jnp.zeros(fresh), rate, KEY)
