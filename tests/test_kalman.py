"""The Kalman filter against the joint normal law that a state space implies, written out as one dense covariance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from jax.flatten_util import ravel_pytree
from planted import rejects

from genjax.errors import BadInput
from genjax.likelihood.information import standard_errors
from genjax.likelihood.kalman import Forecast, StateSpace, forecast, kalman_filter, simulate, stationary_covariance

N, AHEAD = 12, 5  # observations, and those after them


def example(error=0.3):
    """Three dimensions, correlated noise, an unstable direction, a start that is no stationary law; float64."""
    draw = np.random.default_rng(3)
    transition = draw.normal(size=(3, 3))
    transition *= 1.02 / np.abs(np.linalg.eigvals(transition)).max()
    factor, start = draw.normal(size=(2, 3, 3))
    parts = draw.normal(size=3), transition, factor @ factor.T, error, draw.normal(size=3), start @ start.T
    return StateSpace(*(np.asarray(part) for part in parts))


def dense(model, n):
    """Mean [n] and covariance [n, n] of y_1 .. y_n, from the laws of the states: no filter, no recursion of gains."""
    means, variances = [model.mean], [model.covariance]
    for _ in range(n - 1):
        means.append(model.transition @ means[-1])
        variances.append(model.transition @ variances[-1] @ model.transition.T + model.noise)
    covariance = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):  # Cov(alpha_i, alpha_j) = T^(i - j) Var(alpha_j)
            between = np.linalg.matrix_power(model.transition, i - j) @ variances[j]
            covariance[i, j] = covariance[j, i] = model.observation @ between @ model.observation
    return np.stack(means) @ model.observation, covariance + model.error * np.eye(n)


def observed(model, n=N, seed=0):
    mean, covariance = dense(model, n)
    return mean + np.linalg.cholesky(covariance) @ np.random.default_rng(seed).normal(size=n)


MODEL = example()
Y = observed(MODEL)


def check_likelihood(filtering):
    """log p(y_1 .. y_n) is that of the dense law, and each term that of a conditional: float64, within 1e-9."""
    with jax.enable_x64(True):
        terms = np.asarray(filtering(MODEL, Y).log_density)
    mean, covariance = dense(MODEL, N)
    whole = [scipy.stats.multivariate_normal.logpdf(Y[:k], mean[:k], covariance[:k, :k]) for k in range(1, N + 1)]
    np.testing.assert_allclose(terms, np.diff([0.0, *whole]), rtol=1e-9, atol=1e-9)


def test_likelihood_of_the_dense_law():
    check_likelihood(kalman_filter)


def rescored(density):
    """The filter with another density of y given its mean and variance."""

    def filtering(model, y):
        seen = kalman_filter(model, y)
        return seen._replace(log_density=density(y, seen.mean, seen.variance))

    return filtering


LIKELIHOOD_MUTANTS = {
    "log det forgotten": rescored(lambda y, m, f: -0.5 * (np.log(2 * np.pi) + (y - m) ** 2 / f)),
    "log det of the standard deviation": rescored(
        lambda y, m, f: -0.5 * (np.log(2 * np.pi * f) / 2 + (y - m) ** 2 / f)
    ),
    "no 2 pi": rescored(lambda y, m, f: -0.5 * (jnp.log(f) + (y - m) ** 2 / f)),
    "mean of the next observation": rescored(
        lambda y, m, f: -0.5 * (jnp.log(2 * np.pi * f) + (y - jnp.roll(m, -1)) ** 2 / f)
    ),
    "unconditioned start": lambda model, y: kalman_filter(model._replace(covariance=model.noise), y),
    "known start": lambda model, y: kalman_filter(model._replace(covariance=0 * model.covariance), y),
    "start at zero": lambda model, y: kalman_filter(model._replace(mean=0 * model.mean), y),
    "transition transposed": lambda model, y: kalman_filter(model._replace(transition=model.transition.T), y),
    "no error of observation": lambda model, y: kalman_filter(model._replace(error=0.0), y),
    "start moved before the first observation": lambda model, y: kalman_filter(moved(model), y),
}


def moved(model):
    covariance = model.transition @ model.covariance @ model.transition.T + model.noise
    return model._replace(mean=model.transition @ model.mean, covariance=covariance)


@pytest.mark.parametrize("mutant", LIKELIHOOD_MUTANTS.values(), ids=LIKELIHOOD_MUTANTS)
def test_likelihood_rejects(mutant):
    rejects(check_likelihood, mutant)


def check_forecast(foresee):
    """Mean and variance of y_{n+1} .. y_{n+5} given y_1 .. y_n, by conditioning the dense law: within 1e-9."""
    with jax.enable_x64(True):
        coming = foresee(MODEL, Y)
    mean, covariance = dense(MODEL, N + AHEAD)
    gain = np.linalg.solve(covariance[:N, :N], covariance[:N, N:]).T
    np.testing.assert_allclose(coming.mean, mean[N:] + gain @ (Y - mean[:N]), rtol=1e-9)
    rest = covariance[N:, N:] - gain @ covariance[:N, N:]
    np.testing.assert_allclose(coming.variance, np.diagonal(rest), rtol=1e-9)


def foreseen(change=lambda after: after, steps=AHEAD, cut=slice(None)):
    def foresee(model, y):
        coming = forecast(change(kalman_filter(model, y).after), steps)
        return Forecast(coming.mean[cut], coming.variance[cut])

    return foresee


def test_forecast_of_the_dense_law():
    check_forecast(foreseen())


FORECAST_MUTANTS = {
    "off by one, late": foreseen(steps=AHEAD + 1, cut=slice(1, None)),
    "off by one, early": lambda model, y: foreseen()(model, y[:-1]),
    "no error of observation": foreseen(lambda after: after._replace(error=0 * after.error)),
    "a state that is known": foreseen(lambda after: after._replace(covariance=0 * after.covariance)),
    "no noise of the state": foreseen(lambda after: after._replace(noise=0 * after.noise)),
    "nothing was seen": lambda model, y: forecast(model, AHEAD),
}


@pytest.mark.parametrize("mutant", FORECAST_MUTANTS.values(), ids=FORECAST_MUTANTS)
def test_forecast_rejects(mutant):
    rejects(check_forecast, mutant)


def check_simulation(draw):
    """20,000 paths of a float32 model, whitened by the dense law, are independent standard normal numbers.

    Each of 8 coordinates by Kolmogorov and Smirnov, and the sum of squares of all as a chi-square: p > 1e-5.
    """
    model = example()
    mean, covariance = dense(model, 8)
    paths = np.asarray(draw(jax.tree.map(jnp.float32, model)), np.float64)
    white = scipy.linalg.solve_triangular(np.linalg.cholesky(covariance), (paths - mean).T, lower=True)
    assert min(scipy.stats.kstest(row, "norm").pvalue for row in white) > 1e-5
    assert scipy.stats.kstest((white**2).sum(0), scipy.stats.chi2(8).cdf).pvalue > 1e-5


def paths(model, change=lambda model: model, keys=20_000):
    return jax.jit(jax.vmap(lambda key: simulate(change(model), key, 8)))(jax.random.split(jax.random.key(0), keys))


def test_simulated_paths():
    check_simulation(paths)


SIMULATION_MUTANTS = {
    "a known start": lambda model: paths(model, lambda one: one._replace(covariance=0 * one.covariance)),
    "variance for standard deviation": lambda model: paths(model, lambda one: one._replace(error=one.error**2)),
    "one path many times": lambda model: jnp.broadcast_to(paths(model, keys=2)[:1], (20_000, 8)),
    "independent values": lambda model: jax.random.permutation(jax.random.key(1), paths(model), 0, independent=True),
}


@pytest.mark.parametrize("mutant", SIMULATION_MUTANTS.values(), ids=SIMULATION_MUTANTS)
def test_simulation_rejects(mutant):
    rejects(check_simulation, mutant)


def check_lyapunov(solve):
    """P = T P T' + Q for spectral radii from 0 (a nilpotent T) to 0.999, against SciPy: relative 1e-8."""
    with jax.enable_x64(True):
        for radius in (0.0, 0.5, 0.99, 0.999):
            transition = MODEL.transition * radius / 1.02 if radius else np.eye(3, k=1)
            exact = scipy.linalg.solve_discrete_lyapunov(transition, MODEL.noise)
            np.testing.assert_allclose(solve(transition, MODEL.noise), exact, rtol=1e-8)


def test_stationary_covariance():
    check_lyapunov(stationary_covariance)


LYAPUNOV_MUTANTS = {
    "too few terms": lambda transition, noise: stationary_covariance(transition, noise, doublings=9),
    "transition transposed": lambda transition, noise: stationary_covariance(transition.T, noise),
    "noise alone": lambda transition, noise: noise,
    "one term missing": lambda transition, noise: stationary_covariance(transition, noise) - noise,
}


@pytest.mark.parametrize("mutant", LYAPUNOV_MUTANTS.values(), ids=LYAPUNOV_MUTANTS)
def test_stationary_covariance_rejects(mutant):
    rejects(check_lyapunov, mutant)


def test_on_the_unit_circle_all_stays_finite():
    """A random walk has no stationary law; an optimizer that comes near must see numbers, not NaN."""
    value, slope = jax.value_and_grad(lambda a: stationary_covariance(a[None, None], jnp.ones((1, 1)))[0, 0])(1.0)
    assert np.isfinite(value) and value > 1e6 and np.isfinite(slope)


def test_gradient_is_the_slope():
    """Automatic differentiation of the log-likelihood in every part of the model: central differences, within 1e-6."""
    with jax.enable_x64(True):
        start = MODEL._replace(covariance=stationary_covariance(0.9 * MODEL.transition, MODEL.noise))
        flat, back = ravel_pytree(jax.tree.map(jnp.asarray, start))
        value = jax.jit(lambda x: kalman_filter(back(x), Y).log_density.sum())
        slope = jax.jit(jax.grad(value))(flat)
        for i in range(len(flat)):
            ahead, behind = (value(flat.at[i].add(sign * 1e-6)) for sign in (1, -1))
            assert abs((ahead - behind) / 2e-6 - slope[i]) < 1e-6 * max(1.0, abs(float(slope[i]))), i


def test_float32_is_close():
    """What users run: 150 observations of a stationary model in float32 within a relative 1e-5 of float64."""
    model = MODEL._replace(transition=0.9 / 1.02 * MODEL.transition)
    model = model._replace(covariance=scipy.linalg.solve_discrete_lyapunov(model.transition, model.noise))
    y = observed(model, 150)
    single = float(kalman_filter(jax.tree.map(jnp.float32, model), jnp.float32(y)).log_density.sum())
    assert single == pytest.approx(scipy.stats.multivariate_normal.logpdf(y, *dense(model, 150)), rel=1e-5)


def test_standard_errors():
    """n normal numbers: 1 / sqrt(n / sigma^2) and sigma^2 sqrt(2 / n), in units 1e4 apart; float32 within 1e-4."""
    y = jnp.float32(np.random.default_rng(0).normal(size=200))
    scale = 1e-4

    def log_likelihood(params):
        variance = params["variance"]
        return -0.5 * jnp.sum(jnp.log(variance) + (y * scale - params["mean"]) ** 2 / variance)

    best = {"mean": jnp.mean(y) * scale, "variance": jnp.var(y) * scale**2}
    errors = standard_errors(log_likelihood, best)
    assert float(errors["mean"]) == pytest.approx(float(jnp.std(y)) * scale / 200**0.5, rel=1e-4)
    assert float(errors["variance"]) == pytest.approx(float(best["variance"]) * 0.1, rel=1e-4)


@pytest.mark.parametrize("curve", [lambda x: jnp.sum(x**2), lambda x: -((x[0] - x[1]) ** 2)], ids=["minimum", "ridge"])
def test_no_standard_error_without_a_maximum(curve):
    errors = standard_errors(lambda x: curve(x) + 0 * jnp.sum(x), jnp.ones(2))
    assert np.all(np.asarray(errors) == np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: kalman_filter(MODEL, Y[None]), "series has shape"),
        (lambda: kalman_filter(MODEL, Y[:0]), "series has shape"),
        (lambda: kalman_filter(MODEL._replace(transition=np.eye(2)), Y), "transition has shape [2, 2]"),
        (lambda: kalman_filter(MODEL._replace(observation=np.ones(())), Y), "observation has shape []"),
        (lambda: forecast(MODEL, 0), "steps = 0"),
        (lambda: simulate(MODEL, jax.random.key(0), True), "steps = True"),
    ],
)
def test_bad_input(call, told):
    with pytest.raises(BadInput) as refused:
        call()
    assert told in refused.value.lines[0] and 2 <= len(refused.value.lines) <= 3
