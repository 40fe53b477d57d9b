"""Densities and samples with adaptive steps, against exact ones and many fixed steps; planted bugs; refusals."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects
from test_diffusion_samplers import DEVIATION, MEAN, MODES, SHARES, WIDTH, best, exact_flow, mixture

from genjax.corruption import schedules
from genjax.errors import BadInput
from genjax.likelihood.adaptive import adaptive_log_density
from genjax.likelihood.probability_flow import exact_divergence, log_density
from genjax.samplers.adaptive import adaptive_sample, adaptive_sample_from
from genjax.samplers.grids import uniform_log_snr

PROCESSES = {
    "cosine": schedules.cosine(0.02, 0.9995),
    "edm": schedules.edm(0.05, 1_000.0),
}
X = jnp.linspace(-2.5, 3.5, 13)[:, None]


def left(process):
    """The noise at the first time, in y."""
    t = np.float64(process.first)
    return process.sigma(t) / process.alpha(t)


def normals(means, shares, deviation):
    away = (np.asarray(X, np.float64) - means) / deviation
    return np.log((shares * np.exp(-0.5 * away**2)).sum(1) / (deviation * np.sqrt(2 * np.pi)))


def check_mixture(density, process):
    """log p of three normals, of what noise is left widened; and that of 800 fixed steps."""
    exact = normals(MODES, SHARES, np.hypot(WIDTH, left(process)))
    found = density(process, mixture(process), exact_divergence, X)
    likely = exact > -12  # elsewhere float32 loses the shares of a softmax
    np.testing.assert_allclose(found[likely], exact[likely], atol=0.03)
    fixed = log_density(process, mixture(process), uniform_log_snr(process, 800), exact_divergence, X)
    np.testing.assert_allclose(found[likely], fixed[likely], atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSES)
def test_against_exact_densities(name):
    pytest.importorskip("diffrax")
    process = PROCESSES[name]
    check_mixture(adaptive_log_density, process)
    rejects(check_mixture, lambda p, f, d, x: adaptive_log_density(p, lambda z, t: f(z, 1.02 * t), d, x), process)
    half = lambda f, y: (exact_divergence(f, y)[0], 0.95 * exact_divergence(f, y)[1])
    rejects(check_mixture, lambda p, f, d, x: adaptive_log_density(p, f, half, x), process)


@pytest.mark.slow
def test_the_tolerance_is_that_of_the_result():
    """Normal data: all quantiles keep their place, and the model's density is known, its prior's error included."""
    pytest.importorskip("diffrax")
    process = schedules.edm(0.05, 20.0)
    grown = np.hypot(DEVIATION, 20.0) / np.hypot(DEVIATION, 0.05)
    ends = MEAN + (np.asarray(X, np.float64) - MEAN) * grown
    exact = -0.5 * (ends[:, 0] / 20.0) ** 2 - np.log(20.0 * np.sqrt(2 * np.pi)) + np.log(grown)

    def error(tolerance):
        return np.abs(adaptive_log_density(process, best(process), exact_divergence, X, tolerance) - exact).max()

    with jax.enable_x64(True):
        assert error(1e-7) < 1e-5 < 1e-3 < error(0.1)


def check_flow(draw, *names):
    """Normal data: where the flow leads is known, and the step to the data; the error is about the tolerance."""
    with jax.enable_x64(True):
        for process in (PROCESSES[name] for name in names):
            z = X * float(process.sigma(np.array(process.last)))
            first = exact_flow(process, np.asarray(z), process.last)
            exact = best(process)(jnp.asarray(first), jnp.full(len(X), process.first))
            error = lambda tolerance, p=process, z=z, e=exact: np.abs(draw(p, best(p), z, tolerance) - e).max()
            assert error(1e-7) < 1e-5 < error(0.1)


@pytest.mark.slow
def test_samples_are_where_the_flow_leads():
    pytest.importorskip("diffrax")
    check_flow(adaptive_sample_from, *PROCESSES)
    late = lambda p, f, z, tolerance: adaptive_sample_from(p, lambda z, t: f(z, 1.02 * t), z, tolerance)
    rejects(check_flow, late, "cosine")
    rejects(check_flow, lambda p, *rest: adaptive_sample_from(p._replace(first=0.1), *rest), "cosine")
    x = adaptive_sample(PROCESSES["cosine"], best(PROCESSES["cosine"]), jax.random.key(0), (20_000, 1))
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.02) and float(x.std()) == pytest.approx(DEVIATION, abs=0.01)


def test_an_output_of_another_shape_is_refused():
    pytest.importorskip("diffrax")
    with pytest.raises(BadInput, match=r"the denoiser's output is \[13, 1\], the data \[13, 2\]"):
        adaptive_sample_from(PROCESSES["edm"], lambda z, t: z[:, :1], jnp.tile(X, (1, 2)))
    with pytest.raises(BadInput, match=r"the denoiser's output is \[13, 1\], the data \[13, 2\]"):
        adaptive_log_density(PROCESSES["edm"], lambda z, t: z[:, :1], exact_divergence, jnp.tile(X, (1, 2)))


def test_refusals(monkeypatch):
    ask = lambda process, **more: adaptive_log_density(process, best(process), exact_divergence, X, **more)
    with pytest.raises(BadInput, match="zero signal or zero noise"):
        ask(schedules.rectified_flow())
    with pytest.raises(BadInput, match="tolerance = nan"):
        ask(PROCESSES["edm"], tolerance=float("nan"))
    with pytest.raises(BadInput, match="zero signal or zero noise"):
        adaptive_sample_from(schedules.rectified_flow(), best(schedules.rectified_flow()), X)
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(BadInput, match="pip install 'genjax-research\\[ode\\]'"):
        ask(PROCESSES["edm"])
