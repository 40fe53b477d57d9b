"""What holds of bounds and densities whatever the denoiser: invariances, integrals that are 1, mixtures; mutants."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

from genjax.corruption import schedules
from genjax.corruption.gaussian import log_snr, point, times_of
from genjax.errors import BadInput
from genjax.likelihood import diffusion
from genjax.likelihood.probability_flow import dequantized, exact_divergence, hutchinson, log_density
from genjax.losses.denoising import likelihood_weight
from genjax.samplers.grids import uniform, uniform_log_snr

KEY = jax.random.key(0)
HIGH, LOW = 5.0, -4.0  # the log-SNRs at both ends of every process here


def stepwise(process, denoise, reconstruction, steps, x, key):
    """The bound of steps that are even in t."""
    return diffusion.stepwise_bound(process, denoise, reconstruction, uniform(process, steps + 1), x, key)


def cut(process):
    first, last = times_of(process, np.array([HIGH, LOW]))
    return process._replace(first=float(first), last=float(last))


PROCESSES = {
    "linear": cut(schedules.linear()),
    "cosine": cut(schedules.cosine()),
    "bent": schedules.by_log_snr(lambda t: HIGH + (LOW - HIGH) * (0.2 * t + 0.8 * t**3)),
    "exploding": cut(schedules.variance_exploding()),
    "edm": cut(schedules.edm()),
    "flow": cut(schedules.rectified_flow()),
}


def in_y(process, guess):
    """The same guess g(y, s), y = z / alpha, s = sigma / alpha, as a denoiser of any process."""

    def denoise(z, t):
        at = point(process, t, z)
        return guess(z / at.alpha, at.sigma / at.alpha)

    return denoise


def odd(y, s):
    """The best of no data."""
    return 0.7 * jnp.tanh(2 * y / jnp.sqrt(1 + s**2) + 0.3) + 0.1 * jnp.cos(s)


# -- the bound without steps knows the ends of a schedule alone --------------------------------------------------------

X = 0.4
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(120)
PLACES, LENGTHS = np.polynomial.legendre.leggauss(200)


def squared_error(s):
    """E (x - g(x + s eps, s))^2 over the noise, float64: s [N] -> [N]."""
    y = X + s[:, None] * NODES[None]
    return ((X - np.asarray(odd(y, s[:, None]))) ** 2) @ WEIGHTS / math.sqrt(2 * math.pi)


def by_log_ratio():
    """1/2 times the integral of SNR E err over lambda: no process is in it."""
    log_ratio = 0.5 * (HIGH + LOW) + 0.5 * (HIGH - LOW) * PLACES
    with jax.enable_x64(True):
        return 0.25 * (HIGH - LOW) * LENGTHS @ (np.exp(log_ratio) * squared_error(np.exp(-0.5 * log_ratio)))


def check_quadrature(weight, process):
    """w of the library times the error, integrated over t, to 1e-4."""
    half = 0.5 * (process.last - process.first)
    with jax.enable_x64(True):
        edges = np.linspace(process.first, process.last, 33)  # in pieces: SNR(t) of some is very steep
        half = 0.5 * np.diff(edges)[:, None]
        t = (0.5 * (edges[1:] + edges[:-1])[:, None] + half * PLACES[None]).ravel()
        s = np.exp(-0.5 * log_snr(process, t))
        integrand = np.asarray(weight(point(process, jnp.asarray(t)))) * squared_error(s)
        found = (half * LENGTHS[None]).ravel() @ integrand
    assert found == pytest.approx(by_log_ratio(), rel=1e-4)


def check_estimate(bound, process):
    """The library's estimate by 8 times an example, within 4 standard errors that are less than 1 %."""
    n, k = 40_000, 8
    x = jnp.full((n, 1), X)
    found = bound(process, in_y(process, odd), diffusion.of_reals(process), k, x, KEY).diffusion
    error = float(found.std()) / n**0.5
    assert error < 0.01 * by_log_ratio()
    assert abs(float(found.mean()) - by_log_ratio()) < 4 * error


@pytest.mark.parametrize("process", PROCESSES)
def test_the_form_of_a_schedule_changes_nothing(process):
    check_quadrature(likelihood_weight, PROCESSES[process])
    check_estimate(diffusion.continuous_bound, PROCESSES[process])


def test_what_depends_on_the_schedule_is_caught():
    process, bound = PROCESSES["cosine"], diffusion.continuous_bound
    rejects(check_quadrature, lambda at: 1.001 * likelihood_weight(at), process)
    rejects(check_quadrature, lambda at: (at.alpha / at.sigma) ** 2, process)
    rejects(check_quadrature, lambda at: -likelihood_weight(at), process)
    rejects(check_estimate, lambda *args: bound(process._replace(first=1.2 * process.first), *args[1:]), process)
    rejects(check_estimate, lambda p, d, *args: bound(p, lambda z, t: d(0.9 * z, t), *args), process)

    def forgets_the_length(p, d, *args):  # dt of the places of lambda taken as dt of an even grid
        found = bound(p, d, *args)
        return found._replace(diffusion=found.diffusion * (p.last - p.first))

    rejects(check_estimate, forgets_the_length, process)


@pytest.mark.parametrize(("process", "steps"), [("linear", 400), ("cosine", 1), ("edm", 7), ("flow", 400)])
def test_steps_fall_by_what_the_ends_are_apart(process, steps):
    """A denoiser that says 0: the sum over steps telescopes to (SNR_first - SNR_last) ||x||^2 / 2, without chance."""
    process, x = PROCESSES[process], jnp.array([[0.5, -1.0], [2.0, 0.0]])

    def check(bound):
        found = bound(process, lambda z, t: 0 * z, diffusion.of_reals(process), steps, x, KEY).diffusion
        exact = 0.5 * (math.exp(HIGH) - math.exp(LOW)) * np.array([1.25, 4.0])
        np.testing.assert_allclose(found, exact, rtol=1e-5)

    check(stepwise)
    late = lambda p, *args: stepwise(p._replace(first=p.first + 0.01 * (p.last - p.first)), *args)
    rejects(check, late)
    rejects(check, diffusion.continuous_bound)


# -- the scale of the data ---------------------------------------------------------------------------------------------

GREYS = np.array([-1.0, -1 / 3, 1 / 3, 1.0])


def check_scale(bound, of_levels=diffusion.of_levels, of_reals=diffusion.of_reals):
    """x in half its size under twice its alpha is the same z: equal terms, but for D log 2 of a density's unit."""
    with jax.enable_x64(True):
        process = PROCESSES["cosine"]
        double = process._replace(alpha=lambda t: 2 * process.alpha(t))
        denoise = in_y(process, odd)
        x = jnp.asarray(np.random.default_rng(0).choice(GREYS, (50, 3)))
        run = lambda p, d, last, x: bound(p, d, last, 5, x, KEY)
        whole = run(process, denoise, of_levels(process, jnp.asarray(GREYS)), x)
        halves = run(double, lambda z, t: denoise(z, t) / 2, of_levels(double, jnp.asarray(GREYS / 2)), x / 2)
        for one, other in zip(whole, halves, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9)
        z = jax.random.normal(KEY, x.shape, x.dtype)
        np.testing.assert_allclose(of_reals(process)(x, z) - of_reals(double)(x / 2, z), 3 * math.log(2), rtol=1e-9)


def test_the_scale_of_the_data():
    for bound in (stepwise, diffusion.continuous_bound):
        check_scale(bound)
    step = stepwise
    rejects(check_scale, lambda p, d, r, k, x, key: step(p, d, r, k, 2 * x, key)._replace(prior=jnp.sum(x**2, 1)))
    rejects(check_scale, step, lambda p, values: diffusion.of_levels(PROCESSES["cosine"], values))
    rejects(check_scale, step, diffusion.of_levels, lambda p: diffusion.of_reals(PROCESSES["cosine"]))


# -- densities ---------------------------------------------------------------------------------------------------------

MIX = jnp.array([[0.2, 1.1], [-0.9, 0.4]])
COVARIANCE = np.array([[0.8, 0.5, -0.2], [0.5, 0.6, 0.1], [-0.2, 0.1, 0.3]])
MEAN = np.array([0.4, -0.2, 0.1])
CENTRES, SPREAD, ODDS = np.array([[1.0, 0.5], [-0.6, -0.8], [0.2, 1.2]]), 0.3, np.array([0.5, 0.3, 0.2])
WIDE = schedules.edm(0.05, 1e6)  # so that what is left of the data at the end is below every tolerance


def turning(y, s):
    """Of no data: its derivative is a full matrix without symmetry."""
    bent = jnp.tanh(y @ MIX / jnp.sqrt(1 + s**2) + 0.3) @ MIX.T[::-1]
    return y / (1 + 1.5 * s**2) + 0.3 * s**2 / (1 + s**2) * bent


def run(density, process, guess, steps, divergence, x):
    with jax.enable_x64(True):
        grid = uniform_log_snr(process, steps + 1)
        return np.asarray(jax.jit(lambda x: density(process, in_y(process, guess), grid, divergence, x))(x))


def check_integral(density):
    """exp(log p) of any denoiser is a density: over the plane it is 1."""
    edge = np.linspace(-7, 7, 101)
    points = np.stack(np.meshgrid(edge, edge), axis=-1).reshape(-1, 2)
    total = np.exp(run(density, PROCESSES["flow"], turning, 100, exact_divergence, points)).sum()
    assert total * (edge[1] - edge[0]) ** 2 == pytest.approx(1, abs=1e-3)


def test_any_density_integrates_to_one():
    check_integral(log_density)
    none = lambda f, y: (f(y), jnp.zeros(len(y), y.dtype))
    rejects(check_integral, lambda p, d, g, div, x: log_density(p, d, g, none, x))
    first = lambda f, y: (f(y), jax.jvp(f, (y,), (jnp.zeros_like(y).at[:, 0].set(1.0),))[1][:, 0])
    rejects(check_integral, lambda p, d, g, div, x: log_density(p, d, g, first, x))
    rejects(check_integral, lambda p, d, g, div, x: log_density(p, d, g, div, x) + 0.01)
    rejects(check_integral, lambda p, d, g, div, x: log_density(p, d, g, div, 1.01 * x))


def test_the_density_is_the_same_by_every_process():
    """With one guess and one grid of log-SNRs, to rounding; not so if the denoiser sees z as if it were y."""
    x = np.random.default_rng(0).normal(size=(5, 2))
    found = [
        run(log_density, p, turning, 20, exact_divergence, x) for p in map(PROCESSES.get, ("flow", "cosine", "edm"))
    ]
    np.testing.assert_allclose(found, np.broadcast_to(found[0], (len(found), 5)), atol=1e-7)
    forgets = lambda p, d, g, div, x: log_density(p, lambda z, t: d(z * 1.001, t), g, div, x)
    assert np.abs(run(forgets, PROCESSES["flow"], turning, 20, exact_divergence, x) - found[0]).max() > 1e-5


def gaussian(y, s):
    gain = COVARIANCE @ jnp.linalg.inv(COVARIANCE + s.reshape(-1)[0] ** 2 * jnp.eye(3))  # rows share one time
    return MEAN[None] + (y - MEAN[None]) @ gain.T


def mixture(y, s):
    variance = SPREAD**2 + s**2
    logits = jnp.log(ODDS)[None] - 0.5 * jnp.sum((y[:, None] - CENTRES[None]) ** 2, axis=2) / variance
    centre = jax.nn.softmax(logits, axis=1) @ CENTRES
    return centre + SPREAD**2 / variance * (y - centre)


def known_log_density(name, x):
    """log of the data's law with the noise that is left at the first time."""
    if name == "gaussian":
        noisy = COVARIANCE + WIDE.first**2 * np.eye(3)
        return -0.5 * np.einsum("bi,ij,bj->b", x - MEAN, np.linalg.inv(noisy), x - MEAN) - 0.5 * np.log(
            np.linalg.det(2 * np.pi * noisy)
        )
    variance = SPREAD**2 + WIDE.first**2
    near = np.exp(-0.5 * ((x[:, None] - CENTRES[None]) ** 2).sum(2) / variance) / (2 * np.pi * variance)
    return np.log(near @ ODDS)


def check_known(density, name):
    """Full covariance, and three clusters, whose flow is not affine: within 1e-3 nats, errors of order 2."""
    guess, dims, steps = {"gaussian": (gaussian, 3, 800), "mixture": (mixture, 2, 400)}[name]
    x = np.random.default_rng(1).normal(size=(8, dims))
    far = [
        np.abs(run(density, WIDE, guess, n, exact_divergence, x) - known_log_density(name, x)).max()
        for n in (steps, 2 * steps)
    ]
    assert far[-1] < 1e-3, far
    assert math.log2(far[0] / far[1]) == pytest.approx(2, abs=0.2), far


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_known_densities(name):
    check_known(log_density, name)
    check = lambda planted: rejects(check_known, planted, name)
    check(lambda *args: log_density(*args) + 2e-3)
    check(lambda p, d, g, div, x: log_density(p, lambda z, t: 0.999 * d(z, t), g, div, x))
    diagonal = lambda f, y: (f(y), jnp.sum(jax.jvp(f, (y,), (jnp.ones_like(y),))[1], axis=1))  # the whole sum
    check(lambda p, d, g, div, x: log_density(p, d, g, diagonal, x))


def check_probes(estimate):
    """The mean over keys of a density by signs is that by the exact trace: the path is the same, signs enter once."""
    x = np.array([[0.3, -0.5], [1.0, 0.2]])
    exact = run(log_density, PROCESSES["edm"], turning, 30, exact_divergence, x)
    each = jax.vmap(lambda key: log_density(*flow, estimate(key), jnp.asarray(x, jnp.float32)))
    flow = PROCESSES["edm"], in_y(PROCESSES["edm"], turning), uniform_log_snr(PROCESSES["edm"], 31)
    found = np.asarray(jax.jit(each)(jax.random.split(KEY, 4000)))
    error = found.std(0) / len(found) ** 0.5
    assert (error > 1e-3).all()  # it is an estimate
    assert (np.abs(found.mean(0) - exact) < 4 * error).all(), (found.mean(0), exact, error)


def test_the_density_by_signs_is_unbiased():
    check_probes(hutchinson)
    rejects(check_probes, lambda key: exact_divergence)

    def shrunk(key):
        return lambda f, y: (lambda value, spread: (value, 0.9 * spread))(*hutchinson(key)(f, y))

    rejects(check_probes, shrunk)

    def positive(key):  # numbers in [0, 1) in the place of signs
        def estimate(f, y):
            p = jax.random.uniform(key, y.shape)
            return f(y), jnp.sum(p * jax.jvp(f, (y,), (p,))[1], axis=1)

        return estimate

    rejects(check_probes, positive)


# -- grey levels by a density ------------------------------------------------------------------------------------------


def check_levels(make):
    """Four levels of one pixel: the mean over u is an upper bound of -log of the bin's mass; their exp sum to <= 1."""
    levels, guess = 4, lambda y, s: 0.1 + 0.6 / (0.6 + s**2) * (y - 0.1)
    density = lambda v: run(log_density, WIDE, guess, 100, exact_divergence, np.asarray(v, np.float64))
    bounds, masses = [], []
    for level in range(levels):
        v, added = make(jnp.full((2000, 1), level / (levels - 1), jnp.float32), levels, KEY)
        bounds.append(added - density(v).mean())
        middles = (2 * level - levels + (np.arange(400) + 0.5) / 200) / (levels - 1)  # of 400 parts of the bin
        masses.append(np.exp(density(middles[:, None])).mean() * 2 / (levels - 1))
    slack = np.array(bounds) + np.log(masses)
    assert (slack > 0).all() and (slack < 0.1).all(), slack
    assert 0.8 < np.exp(-np.array(bounds)).sum() < 1


def test_the_bound_of_grey_levels_by_a_density():
    check_levels(dequantized)
    rejects(check_levels, lambda *args: (dequantized(*args)[0], 0.0))
    rejects(check_levels, lambda *args: (dequantized(*args)[0], math.log(4 / 2)))
    rejects(check_levels, lambda x, levels, key: (2 * x - 1, dequantized(x, levels, key)[1]))
    rejects(check_levels, lambda x, levels, key: dequantized(x + 1 / 6, levels, key))


# -- what is given -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.uint8])
def test_half_precision_and_whole_numbers_are_computed_in_float32(dtype):
    process = PROCESSES["cosine"]
    x, last, grid = jnp.array([[0.0, 1.0], [1.0, 1.0]]), diffusion.of_reals(process), uniform_log_snr(process, 9)
    for bound in (stepwise, diffusion.continuous_bound):
        run = jax.jit(lambda x, bound=bound: bound(process, in_y(process, odd), last, 4, x, KEY).total())
        assert run(x.astype(dtype)).dtype == jnp.float32
        np.testing.assert_array_equal(run(x.astype(dtype)), run(x))
    dense = jax.jit(lambda x: log_density(process, in_y(process, odd), grid, hutchinson(KEY), x))
    np.testing.assert_array_equal(dense(x.astype(dtype)), dense(x))
    np.testing.assert_array_equal(dequantized(x.astype(dtype), 2, KEY)[0], dequantized(x, 2, KEY)[0])


def test_a_denoiser_of_another_shape_is_refused():
    process, one = PROCESSES["cosine"], lambda z, t: z[:, :1]
    grid, last = uniform_log_snr(process, 9), diffusion.of_reals(process)
    for make in (
        lambda: stepwise(process, one, last, 3, jnp.ones((2, 3)), KEY),
        lambda: diffusion.continuous_bound(process, one, last, 3, jnp.ones((2, 3)), KEY),
        lambda: log_density(process, one, grid, exact_divergence, jnp.ones((2, 3))),
        lambda: log_density(process, one, grid, hutchinson(KEY), jnp.ones((2, 3))),
    ):
        with pytest.raises(BadInput, match=r"output is \[2, 1\], the data \[2, 3\]"):
            make()
