"""Visible units that are real, one of K, or of several kinds: by quadrature and by enumeration in float64."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from planted import rejects
from small_machines import KEY

from genjax.errors import BadInput
from genjax.likelihood.ais import enumerated_log_partition, temperatures
from genjax.losses.energy import phase_difference
from genjax.models.centering import followed, recentred, uncentred
from genjax.models.partition import annealed_back, annealed_there
from genjax.models.rbm import RBM, Weights, gibbs_step, machine
from genjax.models.visible import (
    bernoulli_units,
    categorical_units,
    gaussian_units,
    joined_units,
    one_hot,
)
from genjax.samplers.gibbs import clamped, run_chain
from genjax.types import State

HIDDEN = np.array([*itertools.product((0.0, 1.0), repeat=2)])
JOINED = joined_units(bernoulli_units(2), categorical_units(1, 3))
WIDTHS = {"categorical": (categorical_units(2, 3), 6), "joined": (JOINED, 5)}
STATES = {
    "categorical": np.array([np.r_[a, b] for a in np.eye(3) for b in np.eye(3)]),
    "joined": np.array([np.r_[a, b] for a in itertools.product((0.0, 1.0), repeat=2) for b in np.eye(3)]),
}


def lively(width, seed=0, deviation=None):
    draw = np.random.default_rng(seed)
    real = lambda *shape: draw.normal(size=shape).astype(np.float32)
    even = lambda count: draw.uniform(0.2, 0.8, count).astype(np.float32)
    return Weights(real(width, 2), real(width), real(2), even(width), even(2), deviation)


def energies(weights, v, own):
    """E(v, h) of every v [n, D] with every h [4], by the definition; `own` is e(v) [n]."""
    w, b, c, mu, mean_h = (np.float64(x) for x in weights[:5])
    x, y = (v / (1.0 if weights.deviation is None else np.float64(weights.deviation))) - mu, HIDDEN - mean_h
    return own[:, None] - (x @ b)[:, None] - (y @ c)[None] - x @ w @ y.T


# -- units of finitely many states -------------------------------------------------------------------------------------


def check_finite(machine, kind):
    """Energy, free energies, conditionals and log Z of every state; 40,000 chains stay at p(v), chi-square."""
    (units, width), v = WIDTHS[kind], STATES[kind]
    weights = lively(width)
    of, exact = machine(weights, units), energies(weights, v, np.zeros(len(v)))
    pairs = np.repeat(v, 4, axis=0), np.tile(HIDDEN, (len(v), 1))
    np.testing.assert_allclose(of.energy(*map(jnp.float32, pairs)), exact.ravel(), atol=1e-5)
    np.testing.assert_allclose(of.free_energy(jnp.float32(v)), -scipy.special.logsumexp(-exact, axis=1), atol=1e-5)
    by_h = -scipy.special.logsumexp(-exact, axis=0)
    np.testing.assert_allclose(of.hidden_free_energy(jnp.float32(HIDDEN)), by_h, atol=1e-5)
    log_z = scipy.special.logsumexp(-exact)
    np.testing.assert_allclose(enumerated_log_partition(of.hidden_free_energy, 2), log_z, rtol=1e-5)
    given_h = np.exp(-exact - scipy.special.logsumexp(-exact, axis=0))
    np.testing.assert_allclose(of.visible_mean(jnp.float32(HIDDEN)), given_h.T @ v, atol=1e-5)
    base = jnp.linspace(-1.0, 1.0, width)
    flat = -scipy.special.logsumexp([np.float64(base) @ (x - np.float64(weights.mu)) for x in v]) - 2 * np.log(2)
    np.testing.assert_allclose(of.base_log_partition(base), -flat, rtol=1e-5)
    p = np.exp(scipy.special.logsumexp(-exact, axis=1) - log_z)
    start = jnp.float32(v[np.random.default_rng(1).choice(len(v), size=40_000, p=p)])
    end = np.asarray(jax.jit(lambda v: run_chain(gibbs_step(of), v, KEY, 2))(start))
    counts = (end[:, None] == v[None]).all(axis=2).sum(axis=0)
    assert counts.sum() == 40_000 and scipy.stats.chisquare(counts, p * 40_000).pvalue > 1e-4


@pytest.mark.parametrize("kind", WIDTHS)
def test_finite_units(kind):
    check_finite(machine, kind)
    altered = lambda **change: lambda weights, units: machine(weights, units._replace(**change))
    independent = lambda g, key: jax.random.bernoulli(key, jax.nn.sigmoid(g)).astype(g.dtype)
    mean = lambda g: jax.nn.sigmoid(g)
    for mutant in (
        altered(log_partition=lambda g: jax.nn.softplus(g).sum(-1)),
        altered(sample=independent),
        altered(mean=mean),
        lambda weights, units: machine(weights._replace(mu=jnp.zeros_like(weights.mu)), units),
    ):
        rejects(check_finite, mutant, kind)


def test_clamped_pixels_give_the_law_of_the_label():
    """p(label | both pixels on): 40,000 chains of a machine of pixels and a label, by enumeration."""
    weights, v = lively(5), STATES["joined"]
    of, exact = machine(weights, JOINED), -energies(lively(5), STATES["joined"], np.zeros(12))
    known, mask = jnp.array([[1.0, 1.0, 1.0, 0.0, 0.0]]), jnp.array([True, True, False, False, False])
    step = clamped(gibbs_step(of), known, mask[None])
    end = np.asarray(jax.jit(lambda v: run_chain(step, v, KEY, 30))(jnp.tile(known, (40_000, 1))))
    both = (v[:, :2] == 1).all(axis=1)
    wanted = np.exp(scipy.special.logsumexp(exact[both], axis=1))
    assert scipy.stats.chisquare(end[:, 2:].sum(axis=0), wanted / wanted.sum() * 40_000).pvalue > 1e-4


# -- real units --------------------------------------------------------------------------------------------------------

DEVIATION = np.float32([0.5, 1.7])


def check_gaussian(machine, deviation=DEVIATION):
    """exp(-F) integrates to Z on a grid of two units; E, F(h), means and variances agree; chains stay (KS)."""
    weights = lively(2, seed=3, deviation=deviation)
    of, sigma = machine(weights, gaussian_units(2)), np.ones(2) if deviation is None else np.float64(deviation)
    axis = np.linspace(-14.0, 14.0, 561)
    grid = np.stack(np.meshgrid(axis * sigma[0], axis * sigma[1], indexing="ij"), axis=-1).reshape(-1, 2)
    cell = (axis[1] - axis[0]) ** 2 * sigma.prod()
    exact = energies(weights, grid, 0.5 * ((grid / sigma) ** 2).sum(axis=1))
    z_h = np.exp(-exact).sum(axis=0) * cell  # exp(-F(h))
    np.testing.assert_allclose(of.hidden_free_energy(jnp.float32(HIDDEN)), -np.log(z_h), atol=1e-4)
    np.testing.assert_allclose(enumerated_log_partition(of.hidden_free_energy, 2), np.log(z_h.sum()), atol=1e-4)
    some = np.random.default_rng(0).choice(len(grid), 50)
    wanted = -scipy.special.logsumexp(-exact[some], axis=1)
    np.testing.assert_allclose(of.free_energy(jnp.float32(grid[some])), wanted, rtol=1e-4, atol=1e-3)
    one = np.tile(HIDDEN[2], (50, 1))
    np.testing.assert_allclose(
        of.energy(jnp.float32(grid[some]), jnp.float32(one)), exact[some, 2], rtol=1e-4, atol=1e-3
    )
    given_h = np.exp(-exact) / np.exp(-exact).sum(axis=0)
    means = given_h.T @ grid
    np.testing.assert_allclose(of.visible_mean(jnp.float32(HIDDEN)), means, atol=1e-4)
    spread = np.sqrt(given_h[:, 0] @ (grid - means[0]) ** 2)
    np.testing.assert_allclose(spread, sigma, rtol=1e-3)
    # v ~ p: a mixture over h of normal variables
    draw, p_h = np.random.default_rng(2), z_h / z_h.sum()
    chosen = draw.choice(4, size=40_000, p=p_h)
    start = jnp.float32(means[chosen] + sigma * draw.normal(size=(40_000, 2)))
    end = np.asarray(jax.jit(lambda v: run_chain(gibbs_step(of), v, KEY, 2))(start))
    for unit in range(2):
        cdf = lambda x, unit=unit: (p_h * scipy.stats.norm.cdf(x[:, None], means[:, unit], sigma[unit])).sum(axis=1)
        assert scipy.stats.kstest(end[:, unit], cdf).pvalue > 1e-4
    assert np.abs(end - np.asarray(start)).mean() > 0.1


def test_gaussian_units_by_quadrature():
    check_gaussian(machine)
    check_gaussian(machine, None)
    altered = lambda **change: lambda weights, units: machine(weights, units._replace(**change))
    for mutant in (
        altered(energy=lambda v: 0.0 * v[:, 0]),
        altered(sample=lambda g, key: g),
        altered(sample=lambda g, key: g + 1.2 * jax.random.normal(key, g.shape)),
        altered(log_partition=lambda g: 0.5 * (g * g).sum(-1)),
        lambda weights, units: machine(weights._replace(deviation=None), units),
    ):
        rejects(check_gaussian, mutant)


def test_the_gradient_of_deviations_is_the_difference_of_phases():
    """With 200,000 exact samples, against the gradient of the exact -log p: within 5 standard errors."""
    model = RBM(gaussian_units(2), 2, scaled=True)
    base = lively(2, seed=3, deviation=DEVIATION)
    params = {
        **{"weight": base.w, "visible": base.b, "hidden": base.c},
        "log_variance": np.float32(2 * np.log(DEVIATION)),
    }
    of = lambda params: machine(model.apply({"params": params}, method="weights"), model.units)
    data = jnp.float32([[0.3, -1.0], [1.0, 2.0], [-0.5, 0.1]])
    exact = lambda p: jnp.mean(of(p).free_energy(data)) + enumerated_log_partition(of(p).hidden_free_energy, 2)
    p_h = np.float64(jax.nn.softmax(-of(params).hidden_free_energy(jnp.float32(HIDDEN))))
    draw = np.random.default_rng(0)
    means = np.asarray(of(params).visible_mean(jnp.float32(HIDDEN)))
    samples = means[draw.choice(4, size=200_000, p=p_h / p_h.sum())] + DEVIATION * draw.normal(size=(200_000, 2))
    phases = lambda p: jnp.mean(phase_difference(of(p).free_energy, data, jnp.float32(samples)))
    wanted, found = jax.grad(exact)(params), jax.grad(phases)(params)
    assert float(jnp.abs(wanted["log_variance"]).max()) > 0.1
    size = lambda name: 5 * (6.0 if name == "log_variance" else 4.0) / np.sqrt(200_000)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], atol=size(name))


def test_offsets_of_a_gaussian_machine():
    """They move, the law stays; `uncentred` and `followed` too."""
    weights = lively(2, seed=3, deviation=DEVIATION)
    params = {"weight": weights.w, "visible": weights.b, "hidden": weights.c, "log_variance": 2 * np.log(DEVIATION)}
    variables = {"params": params, "offsets": {"visible": weights.mu, "hidden": weights.mean_h}}
    model, v = (
        RBM(gaussian_units(2), 2, centred=True, scaled=True),
        jnp.float32(np.random.default_rng(0).normal(size=(9, 2))),
    )
    law = lambda of: of.free_energy(v) + enumerated_log_partition(of.hidden_free_energy, 2)
    at = lambda variables: machine(model.apply(variables, method="weights"), model.units)
    expected = law(at(variables))
    np.testing.assert_allclose(law(at(recentred(variables, jnp.ones(2), jnp.zeros(2)))), expected, rtol=1e-4)
    np.testing.assert_allclose(law(machine(uncentred(weights), model.units)), expected, rtol=1e-4)
    state = State(jnp.zeros((), jnp.int32), {"params": params}, (), {"offsets": variables["offsets"], "chains": v})
    moved = followed(model, state, v, 0.5)
    new = {**moved.params, "offsets": moved.carry["offsets"]}
    np.testing.assert_allclose(law(at(new)), expected, rtol=1e-4)
    wanted = 0.5 * weights.mu + 0.5 * np.asarray(v).mean(axis=0) / DEVIATION
    np.testing.assert_allclose(new["offsets"]["visible"], wanted, rtol=1e-5)


def test_annealing_a_gaussian_machine():
    """There and back, 2,000 walks: within 5 standard errors of the exact log Z."""
    weights = lively(2, seed=3, deviation=DEVIATION)
    of, betas = machine(weights, gaussian_units(2)), temperatures((30, 1.0))
    log_z = float(enumerated_log_partition(of.hidden_free_energy, 2))
    start = of.draw_base(jnp.zeros(2), 2_000, KEY)
    mixed = jax.jit(lambda v: run_chain(gibbs_step(of), v, KEY, 300))(start)
    for found in (
        annealed_there(of, jnp.zeros(2), 2_000, betas, KEY),
        annealed_back(of, jnp.zeros(2), mixed, betas, KEY),
    ):
        assert abs(float(found.value) - log_z) < 5 * float(found.standard_error) < 0.5


# -- bad input ---------------------------------------------------------------------------------------------------------

BAD = {
    "row 1, number 0 of the data is 1.5": lambda: bernoulli_units(2).check(np.array([[0.0, 1.0], [1.5, 0.0]])),
    "row 0, number 1 of the data is nan": lambda: gaussian_units(2).check(np.array([[0.0, np.nan]])),
    "row 0, number 0 of the data is 1": lambda: categorical_units(1, 2).check(np.array([[1.0, 1.0]])),
    "row 0, number 0 of the data is 2": lambda: JOINED.check(np.array([[0.0, 1.0, 2.0, 0.0, 0.0]])),
    "row 0, number 1 of the data is nan ": lambda: bernoulli_units(2).check(np.array([[0.0, np.nan]])),
    r"data of shape [1, 3]": lambda: bernoulli_units(2).check(np.zeros((1, 3))),
    "labels from 0 to 3": lambda: one_hot(np.array([[0], [3]]), 3),
    "units of width 3": lambda: machine(lively(2), bernoulli_units(3)),
    "visible = 0": lambda: gaussian_units(0),
    "levels = 1": lambda: categorical_units(3, 1),
    "joined_units": lambda: joined_units(),
}


@pytest.mark.parametrize(("message", "call"), BAD.items(), ids=BAD)
def test_bad_input(message, call):
    with pytest.raises(BadInput, match=re.escape(message.strip())) as error:
        call()
    assert 2 <= len(error.value.lines) <= 3


def test_good_data_pass():
    bernoulli_units(2).check(np.array([[0.0, 0.3]]))
    gaussian_units(1).check(np.array([[-7.0]]))
    JOINED.check(np.concatenate([np.zeros((3, 2)), np.asarray(one_hot(np.arange(3)[:, None], 3))], axis=1))
