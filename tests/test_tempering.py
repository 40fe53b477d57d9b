"""Parallel tempering: the joint law of all replicas is invariant, and each swap keeps detailed balance."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from planted import rejects
from small_machines import KEY, D, V, lively, machine

from genjax.errors import BadInput
from genjax.models.rbm import gibbs_step
from genjax.samplers.tempering import swapped, tempered

BASE, BETAS = jnp.array([0.3, -0.5, 0.1, 0.8]), np.array([0.0, 0.4, 1.0])


def path():
    """Free energy and transition between the base and a machine of strong weights."""
    of = machine(*lively(seed=3, scale=2.0))
    between = lambda beta: of.annealed(beta, BASE)
    return (
        lambda v, beta: between(beta).free_energy(v),
        lambda v, beta, key: gibbs_step(between(beta))(v, key),
    )


def laws():
    """p_beta(v) of all 16 states for each beta, [3, 16]."""
    log_p = np.float64([-path()[0](jnp.float32(V), beta) for beta in BETAS])
    return np.exp(log_p - scipy.special.logsumexp(log_p, axis=1, keepdims=True))


def exact_replicas(count):
    draw = np.random.default_rng(0)
    return jnp.float32(np.stack([V[draw.choice(16, size=count, p=p)] for p in laws()]))


def numbered(v):
    return np.asarray(v, int) @ [8, 4, 2, 1]


def check_swaps(swapped):
    """From every pair of states of two replicas, 4,000 tries: P(swap) is min(1, ratio) within 5 standard errors."""
    free_energy, _ = path()
    pairs = np.array([*itertools.product(range(16), repeat=2)])
    v = jnp.float32(V[np.repeat(pairs, 4_000, axis=0).T])  # [2, 256 * 4000, 4]
    after = numbered(jax.jit(lambda v: swapped(free_energy, v, BETAS[1:], KEY))(v)).reshape(2, 256, 4_000)
    happened = (after == pairs[:, ::-1].T[..., None]).all(axis=0).mean(axis=1)
    p = np.log(laws()[1:])
    ratio = p[0, pairs[:, 1]] + p[1, pairs[:, 0]] - p[0, pairs[:, 0]] - p[1, pairs[:, 1]]
    wanted = np.exp(np.minimum(0.0, ratio))
    different = pairs[:, 0] != pairs[:, 1]
    bound = 5 * np.sqrt(wanted * (1 - wanted) / 4_000) + 1e-3
    assert np.all(np.abs(happened - wanted)[different] < bound[different])
    assert np.any((wanted > 0.1) & (wanted < 0.9))


def test_swaps_happen_as_often_as_detailed_balance_asks():
    check_swaps(swapped)
    other_way = lambda f, v, betas, key: swapped(lambda v, beta: -f(v, beta), v, betas, key)
    rejects(check_swaps, other_way)
    rejects(check_swaps, lambda f, v, betas, key: v[::-1])
    rejects(check_swaps, lambda f, v, betas, key: swapped(lambda v, beta: f(v, 0.9 * beta), v, betas, key))


def check_invariance(step_of):
    """40,000 columns of 3 exact replicas stay exact in 4 steps: each law, and each pair of laws, p > 1e-4."""
    start = exact_replicas(40_000)
    end = jax.jit(lambda v: jax.lax.fori_loop(0, 4, lambda i, v: step_of(v, jax.random.fold_in(KEY, i)), v))(start)
    numbers, p = numbered(end), laws()
    for r in range(3):
        seen = np.bincount(numbers[r], minlength=16)
        assert scipy.stats.chisquare(seen, p[r] * 40_000).pvalue > 1e-4
    for a, b in ((0, 1), (1, 2), (0, 2)):
        seen = np.bincount(16 * numbers[a] + numbers[b], minlength=256)
        wanted = np.outer(p[a], p[b]).ravel() * 40_000
        likely = wanted > 5
        if not likely.all():
            seen, wanted = (np.append(x[likely], x[~likely].sum()) for x in (seen, wanted))
        assert scipy.stats.chisquare(seen, wanted).pvalue > 1e-4
    assert np.mean(numbers[2] == numbered(start)[0]) > 0.06  # more than chance would let it come from below


def test_the_law_of_all_replicas_is_invariant():
    free_energy, transition = path()
    check_invariance(tempered(free_energy, transition, BETAS))
    always = lambda v, key: jnp.where(jax.random.bernoulli(key), v[::-1], v)
    rejects(check_invariance, lambda v, key: always(tempered(free_energy, transition, BETAS)(v, key), key))
    one_law = lambda v, beta, key: transition(v, jnp.ones_like(beta), key)
    rejects(check_invariance, tempered(free_energy, one_law, BETAS))


def test_tempered_chains_cross_where_gibbs_does_not():
    """Two modes far apart, chains that all start in one: after 200 steps both hold what they should (p > 1e-4)."""
    w = jnp.full((4, 1), 12.0)
    free_energy = lambda v, beta: -jax.nn.softplus(beta * ((v @ w)[:, 0] - 24.0)) + beta * 12.0 * (v @ w)[:, 0] / 24.0

    def gibbs(v, beta, key):
        a, b = jax.random.split(key)
        h = jax.random.bernoulli(a, jax.nn.sigmoid(beta * ((v @ w) - 24.0))).astype(jnp.float32)
        logits = beta * (h @ w.T - 6.0)
        return jax.random.bernoulli(b, jax.nn.sigmoid(logits)).astype(jnp.float32)

    betas = np.linspace(0.0, 1.0, 9)
    log_p = np.float64(-free_energy(jnp.float32(V), 1.0))
    p = np.exp(log_p - scipy.special.logsumexp(log_p))
    step = tempered(free_energy, gibbs, betas)
    steps = lambda step, v: jax.lax.fori_loop(0, 200, lambda i, v: step(v, jax.random.fold_in(KEY, i)), v)
    tempered_end = jax.jit(lambda v: steps(step, v))(jnp.zeros((9, 2_000, D)))[-1]
    plain_end = jax.jit(lambda v: steps(lambda v, key: gibbs(v, 1.0, key), v))(jnp.zeros((2_000, D)))
    full = lambda v: float(jnp.mean(v.sum(axis=1) > 2))
    wanted = p[V.sum(axis=1) > 2].sum()
    assert abs(full(tempered_end) - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / 2_000) and 0.3 < wanted < 0.7
    assert full(plain_end) < wanted - 0.2


@pytest.mark.parametrize("betas", [[1.0], [0.5, 0.5, 1.0], [0.2, 0.9], [-0.1, 1.0]])
def test_betas_that_do_not_rise_to_one(betas):
    with pytest.raises(BadInput, match="betas"):
        tempered(*path(), np.array(betas))


def test_another_number_of_replicas():
    with pytest.raises(BadInput, match="one a temperature"):
        tempered(*path(), BETAS)(jnp.zeros((2, 5, D)), KEY)
