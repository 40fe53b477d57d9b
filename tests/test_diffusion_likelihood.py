"""Bounds and densities of diffusion models against Gaussian closed forms and quadrature of a small chain; mutants."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from planted import rejects

from genjax.corruption import schedules
from genjax.corruption.gaussian import between, log_snr, point
from genjax.errors import BadInput
from genjax.likelihood import diffusion, probability_flow
from genjax.samplers.grids import karras, uniform, uniform_log_snr

KEY = jax.random.key(0)
MEAN, DEVIATION = 0.3, 0.6
PROCESSES = {
    "linear": schedules.linear(first=0.02),
    "cosine": schedules.cosine(0.02, 0.98),
    "edm": schedules.edm(0.05, 20.0),
    "flow": schedules.rectified_flow(0.05, 0.98),
}


def best(process, mean=MEAN, deviation=DEVIATION):
    def denoise(z, t):
        at = point(process, t, z)
        gain = at.alpha * deviation**2 / (at.alpha**2 * deviation**2 + at.sigma**2)
        return mean + gain * (z - at.alpha * mean)

    return denoise


def stepwise(process, denoise, reconstruction, steps, x, key):
    """The bound of steps that are even in t."""
    return diffusion.stepwise_bound(process, denoise, reconstruction, uniform(process, steps + 1), x, key)


# -- bounds of Gaussian data -------------------------------------------------------------------------------------------


def terms_by_hand(process, steps=None, grid=uniform):
    """Expected terms a dimension with the best denoiser, whose squared error is d^2 / (1 + d^2 SNR)."""
    t = np.array([process.first, process.last]) if steps is None else grid(process, steps + 1)[::-1]
    snr, d2 = np.exp(log_snr(process, t)), DEVIATION**2
    if steps is None:
        falling = 0.5 * np.log((1 + d2 * snr[0]) / (1 + d2 * snr[-1]))
    else:
        falling = 0.5 * np.sum((snr[:-1] - snr[1:]) * d2 / (1 + d2 * snr[1:]))
    return 0.5 * snr[-1] * (MEAN**2 + d2), falling, 0.5 * math.log(2 * math.pi * math.e / snr[0])


def check_terms(bound, process, steps):
    n, dims = 100_000, 2
    x = MEAN + DEVIATION * jax.random.normal(jax.random.key(1), (n, dims))
    found = bound(process, best(process), diffusion.of_reals(process), steps or 4, x, KEY)
    for name, term, exact in zip(found._fields, found, terms_by_hand(process, steps), strict=True):
        error = 4 * float(term.std()) / n**0.5 + 1e-6
        assert abs(float(term.mean()) - dims * exact) < error, (name, float(term.mean()), dims * exact)


@pytest.mark.parametrize("process", PROCESSES)
def test_terms_of_gaussian_data(process):
    """By every schedule: without steps the form of the schedule changes nothing but the ends."""
    process = PROCESSES[process]
    check_terms(diffusion.continuous_bound, process, None)
    check_terms(stepwise, process, 7)


def test_planted_terms_are_caught():
    process, step = PROCESSES["cosine"], stepwise
    check = lambda change: rejects(check_terms, lambda *args: change(step(*args)), process, 7)
    check(lambda found: found._replace(prior=2 * found.prior))
    check(lambda found: found._replace(diffusion=2 * found.diffusion))
    check(lambda found: found._replace(diffusion=1.03 * found.diffusion))
    check(lambda found: found._replace(reconstruction=found.reconstruction - 0.1))
    rejects(check_terms, lambda p, d, r, k, x, key: step(p, d, r, k + 1, x, key), process, 7)
    rejects(check_terms, lambda p, d, r, k, x, key: step(p, lambda z, t: d(z, t - 0.1), r, k, x, key), process, 7)
    rejects(check_terms, diffusion.continuous_bound, process, 7)  # without steps it is lower
    rejects(check_terms, step, process, None)


def test_more_steps_are_a_better_bound():
    """The expected bound falls towards that without steps, which stays above the entropy of the data."""
    process, entropy = PROCESSES["cosine"], 0.5 * math.log(2 * math.pi * math.e * DEVIATION**2)
    totals = [sum(terms_by_hand(process, steps)) for steps in (2, 8, 32, 128, 512)] + [sum(terms_by_hand(process))]
    assert (np.diff(totals) < 0).all() and totals[-1] > entropy
    fine = schedules.cosine(1e-4, 1 - 1e-4)
    assert sum(terms_by_hand(fine)) == pytest.approx(entropy, abs=1e-4)


def test_a_bound_of_edm_needs_a_grid_of_its_own():
    """What steps cost falls as 1 / T; on a grid that is even in t it is more than a thousand times as much."""
    process = schedules.edm()
    cost = lambda steps, grid: sum(terms_by_hand(process, steps, grid)) - sum(terms_by_hand(process))
    assert cost(500, karras) / cost(1_000, karras) == pytest.approx(2, rel=0.02)
    assert cost(1_000, uniform) > 1_000 * cost(1_000, karras) > 0
    along = lambda p, d, r, k, x, key: diffusion.stepwise_bound(p, d, r, karras(p, k + 1), x, key)
    x = MEAN + DEVIATION * jax.random.normal(jax.random.key(1), (20_000, 1))
    found = along(process, best(process), diffusion.of_reals(process), 40, x, KEY)
    exact = terms_by_hand(process, 40, karras)[1]
    assert abs(float(found.diffusion.mean()) - exact) < 4 * float(found.diffusion.std()) / 20_000**0.5


# -- a chain of one pixel with four levels, integrated on a grid -------------------------------------------------------

LEVELS = np.array([-1.0, -0.3, 0.4, 1.0])
STEPS = 3
ODD = schedules.cosine(0.15, 0.75)


def GUESS(z, t):
    at = point(ODD, t, z)
    levels = jnp.float32(LEVELS)[None, :]
    share = jax.nn.softmax(-0.5 * ((z - at.alpha * levels) / at.sigma) ** 2, axis=1)
    return 0.9 * jnp.sum(share * levels, axis=1, keepdims=True)  # not quite the best


GRID = np.linspace(-8, 8, 2001)
WEIGHT, TIMES = GRID[1] - GRID[0], np.linspace(ODD.first, ODD.last, STEPS + 1)


def normal(z, mean, variance):
    return np.exp(-0.5 * (z - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)


def log_odds(t):
    """log p(level | z_t) under equal odds, on the grid: [2001, 4]."""
    logits = -0.5 * ((GRID[:, None] - ODD.alpha(t) * LEVELS[None, :]) / ODD.sigma(t)) ** 2
    return logits - scipy.special.logsumexp(logits, axis=1, keepdims=True)


def exact_probabilities():
    """p(x) of the model of STEPS steps: transitions as matrices on a fine grid of z."""
    law = normal(GRID, 0.0, ODD.sigma(TIMES[-1]) ** 2)
    for s, t in zip(TIMES[:-1][::-1], TIMES[1:][::-1], strict=True):
        at = between(ODD, s, t)
        mean = at.keep * GRID + at.pull * 0.9 * np.exp(log_odds(t)) @ LEVELS
        law = normal(GRID[:, None], mean[None, :], at.variance) @ law * WEIGHT
    return np.exp(log_odds(TIMES[0])).T @ law * WEIGHT


def exact_bound(level):
    """The bound by its definition: divergences of the normals q(z_s | z_t, x) and p(z_s | z_t), over q(z_t | x)."""
    x, given = LEVELS[level], lambda t: normal(GRID, ODD.alpha(t) * LEVELS[level], ODD.sigma(t) ** 2) * WEIGHT
    total = given(TIMES[-1]) @ (np.log(given(TIMES[-1])) - np.log(normal(GRID, 0, ODD.sigma(TIMES[-1]) ** 2) * WEIGHT))
    total -= given(TIMES[0]) @ log_odds(TIMES[0])[:, level]
    for s, t in itertools.pairwise(TIMES):
        at = between(ODD, s, t)
        apart = at.pull * (x - 0.9 * np.exp(log_odds(t)) @ LEVELS)
        total += given(t) @ (apart**2 / (2 * at.variance))
    return total


def check_chain(bound):
    exact, n = exact_probabilities(), 40_000
    assert exact.sum() == pytest.approx(1, abs=1e-6)
    bounds = np.array([exact_bound(level) for level in range(4)])
    assert (bounds > -np.log(exact)).all() and np.exp(-bounds).sum() < 1
    for level in range(4):
        x = jnp.full((n, 1), LEVELS[level], jnp.float32)
        total = bound(ODD, GUESS, diffusion.of_levels(ODD, jnp.float32(LEVELS)), STEPS, x, KEY).total()
        assert abs(float(total.mean()) - bounds[level]) < 4 * float(total.std()) / n**0.5


def test_the_bound_of_a_chain_that_is_integrated():
    step = stepwise
    check_chain(step)
    change = lambda edit: rejects(check_chain, lambda *args: edit(step(*args)))
    change(lambda found: found._replace(diffusion=0.95 * found.diffusion))
    change(lambda found: found._replace(prior=0 * found.prior))
    change(lambda found: found._replace(reconstruction=1.1 * found.reconstruction))


def test_levels_are_a_law():
    of = diffusion.of_levels(ODD, jnp.float32(LEVELS))
    z = jnp.linspace(-2, 2, 9)[:, None]
    total = sum(jnp.exp(-of(jnp.full((9, 1), level, jnp.float32), z)) for level in LEVELS)
    np.testing.assert_allclose(total, 1, rtol=1e-5)


def check_between(of):
    """What is between two levels has no probability, nor has what is beyond them; rounding is forgiven."""
    values, z = jnp.linspace(-1.0, 1.0, 256), jnp.zeros((4, 3))
    level = jnp.asarray([[0.0], [77.0], [128.0], [255.0]]) / 255.0
    grey = jnp.broadcast_to(2.0 * level - 1.0, (4, 3))
    assert bool(jnp.isfinite(of(ODD, values)(grey, z)).all())
    for off in (grey + 0.5 / 255, grey.at[:, 1].add(-1.0 / 255), 2.0 * grey + 5.0, jnp.full((4, 3), jnp.nan)):
        assert bool((of(ODD, values)(off, z) == jnp.inf).all())


def test_what_is_no_level_has_no_probability():
    check_between(diffusion.of_levels)
    near = lambda values, x: values[jnp.argmin(jnp.abs(x[..., None] - values.reshape(1, 1, -1)), axis=-1)]
    rejects(
        check_between, lambda process, values: lambda x, z: diffusion.of_levels(process, values)(near(values, x), z)
    )
    rejects(check_between, lambda process, values: diffusion.of_levels(process, values[1:]))


# -- densities ---------------------------------------------------------------------------------------------------------


def exact_density(process, x):
    """The flow of Gaussian data is affine: y_last = m + (y - m) sqrt((d^2 + s_last^2) / (d^2 + s_first^2))."""
    s = np.exp(-0.5 * log_snr(process, np.array([process.first, process.last])))
    stretch = np.sqrt((DEVIATION**2 + s[1] ** 2) / (DEVIATION**2 + s[0] ** 2))
    y = MEAN + (x - MEAN) * stretch
    return np.sum(-0.5 * (y / s[1]) ** 2 - np.log(s[1]) - 0.5 * np.log(2 * np.pi) + np.log(stretch), axis=1)


def check_density(density, process, steps=(20, 40, 80)):
    """Within 2e-3 nats, and by an error of order 2."""
    x = np.random.default_rng(0).normal(size=(6, 3))
    with jax.enable_x64(True):
        run = lambda n: density(
            process, best(process), uniform_log_snr(process, n + 1), probability_flow.exact_divergence, jnp.asarray(x)
        )
        far = [np.abs(np.asarray(run(n)) - exact_density(process, x)).max() for n in steps]
    assert far[-1] < 2e-3 * 3
    assert np.log2(far[-2] / far[-1]) == pytest.approx(2, abs=0.2), far


@pytest.mark.parametrize("process", PROCESSES)
def test_the_density_of_gaussian_data(process):
    check_density(probability_flow.log_density, PROCESSES[process])


def test_planted_densities_are_caught():
    process, density = PROCESSES["cosine"], probability_flow.log_density
    none = lambda f, y: (f(y), jnp.zeros(len(y), y.dtype))
    rejects(check_density, lambda p, d, g, div, x: density(p, d, g, none, x), process)
    half = lambda f, y: (lambda value, spread: (value, 0.99 * spread))(*probability_flow.exact_divergence(f, y))
    rejects(check_density, lambda p, d, g, div, x: density(p, d, g, half, x), process)
    rejects(check_density, lambda p, d, g, div, x: density(p, d, g, div, 1.01 * x), process)
    rejects(check_density, lambda *args: density(*args) + 0.01, process)


def check_hutchinson(estimate):
    """A mean over keys of the exact trace of a full matrix, and a spread as known for signs."""
    matrix = jax.random.normal(KEY, (4, 4))
    f = lambda y: jnp.tanh(y) @ matrix
    y = jnp.linspace(-1, 1, 4)[None]
    exact = float(probability_flow.exact_divergence(f, y)[1][0])
    assert exact == pytest.approx(float(jnp.trace(jax.jacfwd(lambda y: f(y[None])[0])(y[0]))), rel=1e-5)
    found = np.asarray(jax.vmap(lambda key: estimate(key)(f, y)[1][0])(jax.random.split(KEY, 4000)))
    assert abs(found.mean() - exact) < 4 * found.std() / 4000**0.5
    jacobian = np.asarray(jax.jacfwd(lambda y: f(y[None])[0])(y[0]))
    mixed = jacobian + jacobian.T - 2 * np.diag(np.diag(jacobian))
    assert found.std() == pytest.approx(np.sqrt((mixed**2).sum() / 2), rel=0.1)


def test_hutchinson_is_unbiased():
    check_hutchinson(probability_flow.hutchinson)
    rejects(check_hutchinson, lambda key: probability_flow.exact_divergence)

    def crossed(key):
        def estimate(f, y):
            one, other = (jax.random.rademacher(k, y.shape, y.dtype) for k in jax.random.split(key))
            return f(y), jnp.sum(one * jax.jvp(f, (y,), (other,))[1], axis=1)

        return estimate

    rejects(check_hutchinson, crossed)
    few = np.asarray(
        jax.vmap(lambda key: probability_flow.hutchinson(key, 16)(lambda y: y[:, ::-1] * 2, jnp.ones((1, 2)))[1][0])(
            jax.random.split(KEY, 2000)
        )
    )
    assert few.std() == pytest.approx(4 / 16**0.5, rel=0.1)


def check_dequantized(make):
    """A density that is uniform over the bins is worth log L a pixel, whatever the scale."""
    levels = 4
    x = jnp.asarray(np.random.default_rng(0).integers(0, levels, (2000, 5)) / (levels - 1), jnp.float32)
    v, added = make(x, levels, KEY)
    low, high = -1 - 1 / (levels - 1), 1 + 1 / (levels - 1)
    assert float(v.min()) >= low - 1e-6 and float(v.max()) <= high + 1e-6
    assert (jnp.round((v + 1) / 2 * (levels - 1) - 1e-6) == jnp.round(x * (levels - 1))).mean() > 0.999
    assert 5 * math.log(high - low) + added == pytest.approx(5 * math.log(levels), rel=1e-6)
    offset = np.asarray((v + 1) / 2 * (levels - 1) - x * (levels - 1)).ravel()
    assert abs(offset.mean()) < 0.02 and offset.std() == pytest.approx(12**-0.5, rel=0.03)


def test_grey_levels_as_real_numbers():
    check_dequantized(probability_flow.dequantized)
    rejects(check_dequantized, lambda x, levels, key: (2 * x - 1, probability_flow.dequantized(x, levels, key)[1]))
    wrong = lambda x, levels, key: (probability_flow.dequantized(x, levels, key)[0], 5 * math.log(levels / 2))
    rejects(check_dequantized, wrong)


FULL = schedules.rectified_flow()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: stepwise(ODD, GUESS, None, 0, jnp.ones((1, 1)), KEY), "along 1 times"),
        (lambda: stepwise(FULL, GUESS, None, 5, jnp.ones((1, 1)), KEY), "along 6 times from 1.0 to 0.1"),
        (lambda: diffusion.continuous_bound(ODD, GUESS, None, 0, jnp.ones((1, 1)), KEY), "k = 0"),
        (lambda: diffusion.continuous_bound(ODD, GUESS, None, 1.5, jnp.ones((1, 1)), KEY), "k = 1.5"),
        (
            lambda: diffusion.continuous_bound(schedules.rectified_flow(0.1), GUESS, None, 1, jnp.ones((1, 1)), KEY),
            "zero signal",
        ),
        (lambda: diffusion.of_levels(ODD, jnp.ones(1)), "at least two"),
        (lambda: diffusion.of_levels(ODD, jnp.array([0.0, 1.0, 0.0])), "two grey levels of one value"),
        (lambda: probability_flow.hutchinson(KEY, 0), "probes = 0"),
        (lambda: probability_flow.dequantized(jnp.ones((1, 1)), 1, KEY), "levels = 1"),
        (
            lambda: probability_flow.log_density(
                FULL, GUESS, np.array([1.0, 0.5]), probability_flow.exact_divergence, jnp.ones((1, 1))
            ),
            "zero signal",
        ),
    ],
)
def test_refusals(make, said):
    with pytest.raises(BadInput) as refusal:
        make()
    assert said in str(refusal.value) and len(str(refusal.value).splitlines()) <= 3
