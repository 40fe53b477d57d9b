"""ARIMA models against closed forms, dense covariances, psi weights, and the law of their intervals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import scipy.stats
from jax.flatten_util import ravel_pytree
from planted import rejects

from genjax.errors import BadInput
from genjax.likelihood import arma
from genjax.likelihood.arima import Orders, check_orders, check_series, differences, levels, quantiles, white_noise
from genjax.likelihood.arma import (
    Arma,
    constrained,
    from_partial,
    log_likelihood,
    state_space,
)
from genjax.likelihood.autoregression import conditional_least_squares, conditional_log_likelihood
from genjax.likelihood.kalman import Forecast, forecast, simulate


def model_of(mean=(), ar=(), ma=(), seasonal_ar=(), seasonal_ma=(), variance=1.0):
    groups = (np.array(group, float) for group in (mean, ar, ma, seasonal_ar, seasonal_ma))
    return Arma(*groups, np.array(variance))


def polynomials(model, period):
    """phi(B) Phi(B^s) and theta(B) Theta(B^s) by NumPy, constant first."""
    spread = lambda group, sign: np.concatenate([[1.0], np.kron(sign * group, np.eye(max(period, 1))[-1])])
    ar = np.convolve(np.concatenate([[1.0], -model.ar]), spread(model.seasonal_ar, -1.0))
    return ar, np.convolve(np.concatenate([[1.0], model.ma]), spread(model.seasonal_ma, 1.0))


def psi(model, period, count, extra=(1.0,)):
    """The weights of w_t = mu + sum_k psi_k e_{t-k}: impulse response of theta / (phi extra)."""
    ar, ma = polynomials(model, period)
    return scipy.signal.lfilter(ma, np.convolve(ar, extra), np.eye(1, count)[0])


def dense_log_likelihood(model, series, period):
    """log N(series; mu, Toeplitz of the autocovariances that the psi weights give): n^3, nothing recursive."""
    weights = psi(model, period, 4000)
    n = len(series)
    covariance = [model.variance * weights[: len(weights) - k] @ weights[k:] for k in range(n)]
    return scipy.stats.multivariate_normal.logpdf(
        series, np.full(n, model.mean.sum()), scipy.linalg.toeplitz(covariance)
    )


SERIES = np.random.default_rng(5).normal(size=40) + 1.0
CASES = {
    "AR(2)": (model_of([0.7], ar=[1.2, -0.5], variance=2.0), 0),
    "MA(2)": (model_of([0.7], ma=[0.6, -0.3], variance=0.5), 0),
    "ARMA(1, 1)": (model_of(ar=[0.8], ma=[0.4]), 0),
    "seasonal": (model_of([0.2], [0.5, 0.2], [-0.4], [0.6], [-0.5], 1.7), 4),
    "airline": (model_of(ma=[-0.4], seasonal_ma=[-0.55], variance=1.3), 12),
}


def check_likelihood(likelihood):
    """Exact on every model: float64, within 1e-8."""
    for model, period in CASES.values():
        with jax.enable_x64(True):
            found = float(likelihood(model, SERIES, period))
        assert found == pytest.approx(dense_log_likelihood(model, SERIES, period), rel=1e-8)


def test_likelihood_of_the_dense_covariance():
    check_likelihood(log_likelihood)


def from_its_noise(model, series, period):
    """Started from one shock in place of the stationary law."""
    space = state_space(model, period)
    return arma.kalman_filter(space._replace(covariance=space.noise), arma.centred(model, series)).log_density.sum()


def summed(model, series, period):
    """1 - sum phi B^i - sum Phi B^(s j): the parts added, without their product."""
    long = lambda group, seasonal: np.pad(group, (0, period * len(seasonal))) if len(seasonal) else group

    def both(group, seasonal):
        whole = np.array(long(group, seasonal))
        whole[[period * (j + 1) - 1 for j in range(len(seasonal))]] += seasonal
        return whole

    none = np.zeros(0)
    parts = both(model.ar, model.seasonal_ar), both(model.ma, model.seasonal_ma)
    return log_likelihood(Arma(model.mean, *parts, none, none, model.variance), series)


LIKELIHOOD_MUTANTS = {
    "sign of the moving average": lambda m, y, s: log_likelihood(m._replace(ma=-m.ma), y, s),
    "sign of the seasonal moving average": lambda m, y, s: log_likelihood(m._replace(seasonal_ma=-m.seasonal_ma), y, s),
    "sign of the autoregression": lambda m, y, s: log_likelihood(m._replace(ar=-m.ar), y, s),
    "seasonal polynomial not multiplied": summed,
    "unconditioned start": from_its_noise,
    "no mean": lambda m, y, s: log_likelihood(m._replace(mean=0 * m.mean), y, s),
    "period off by one": lambda m, y, s: log_likelihood(m, y, s + 1),
    "standard deviation for variance": lambda m, y, s: log_likelihood(m._replace(variance=m.variance**0.5), y, s),
}


@pytest.mark.parametrize("mutant", LIKELIHOOD_MUTANTS.values(), ids=LIKELIHOOD_MUTANTS)
def test_likelihood_rejects(mutant):
    rejects(check_likelihood, mutant)


def test_closed_forms():
    """AR(1): log N(w_1; mu, sigma^2 / (1 - phi^2)) and n - 1 regressions.  MA(1): tridiagonal covariance.  1e-10."""
    phi, theta, variance = 0.9, -0.7, 3.0
    first = scipy.stats.norm.logpdf(SERIES[0], 0.5, (variance / (1 - phi**2)) ** 0.5)
    rest = scipy.stats.norm.logpdf(SERIES[1:], 0.5 + phi * (SERIES[:-1] - 0.5), variance**0.5).sum()
    tridiagonal = [variance * (1 + theta**2), variance * theta, *[0.0] * (len(SERIES) - 2)]
    moving = scipy.stats.multivariate_normal.logpdf(SERIES, np.zeros(len(SERIES)), scipy.linalg.toeplitz(tridiagonal))
    with jax.enable_x64(True):
        auto = model_of([0.5], ar=[phi], variance=variance)
        assert float(log_likelihood(auto, SERIES)) == pytest.approx(first + rest, rel=1e-10)
        assert float(conditional_log_likelihood(auto, SERIES)) == pytest.approx(rest, rel=1e-10)
        assert float(log_likelihood(model_of(ma=[theta], variance=variance), SERIES)) == pytest.approx(
            moving, rel=1e-10
        )


# -- the parametrisation ----------------------------------------------------------------------------------------------


def check_partial(recursion):
    """The partial autocorrelations of the AR(p) that it returns are the given ones: from the autocovariances by
    solving the Yule-Walker equations of each order, float64, within 1e-8; and its roots lie outside the unit circle."""
    for p in (1, 2, 5):
        partial = np.random.default_rng(p).uniform(-0.9, 0.9, p)
        with jax.enable_x64(True):
            coefficients = np.asarray(recursion(jnp.asarray(partial)))
        assert coefficients.shape == (p,)
        roots = np.roots(np.concatenate([[1.0], -coefficients]))
        assert np.all(np.abs(roots) < 1)
        weights = psi(model_of(ar=coefficients), 0, 5000)
        covariance = np.array([weights[: 5000 - k] @ weights[k:] for k in range(p + 1)])
        last = [scipy.linalg.solve_toeplitz(covariance[:k], covariance[1 : k + 1])[-1] for k in range(1, p + 1)]
        np.testing.assert_allclose(last, partial, atol=1e-8)


def test_partial_autocorrelations():
    check_partial(from_partial)


PARTIAL_MUTANTS = {
    "sign": lambda r: -from_partial(r),
    "order reversed": lambda r: from_partial(r)[::-1],
    "no recursion": lambda r: r,
    "recursion with the wrong sign": lambda r: functools.reduce(
        lambda c, x: jnp.concatenate([c + x * c[::-1], x[None]]), list(r), r[:0]
    ),
    "not reversed": lambda r: functools.reduce(lambda c, x: jnp.concatenate([c - x * c, x[None]]), list(r), r[:0]),
}


@pytest.mark.parametrize("mutant", PARTIAL_MUTANTS.values(), ids=PARTIAL_MUTANTS)
def test_partial_autocorrelations_reject(mutant):
    rejects(check_partial, mutant)


def test_every_free_point_is_stationary_and_invertible():
    """100 random points, spread over more than the whole real line that matters, in float32: |roots| <= 1 + 1e-4."""
    draw = np.random.default_rng(0)
    sizes = white_noise(Orders(3, 0, 3, 2, 0, 2, period=4))
    of = jax.jit(lambda free: constrained(free, 5.0, 2.0))
    for _ in range(100):
        free = jax.tree.map(lambda part: jnp.float32(3 * draw.standard_cauchy(part.shape)).clip(-20, 20), sizes)
        model = of(free)
        for group in (model.ar, -model.ma, model.seasonal_ar, -model.seasonal_ma):
            roots = np.roots(np.concatenate([[1.0], -np.float64(group)]))
            assert np.all(np.abs(roots) <= 1 + 1e-4)
        assert float(model.variance) > 0


def test_gradient_is_the_slope():
    """Of the exact log-likelihood in the free parameters: central differences in float64, within 1e-5."""
    orders = Orders(2, 0, 1, 1, 0, 1, period=4)
    with jax.enable_x64(True):
        free = jax.tree.map(lambda part: 0.3 * jnp.ones(part.shape), white_noise(orders))
        flat, back = ravel_pytree(free)
        value = jax.jit(lambda x: log_likelihood(constrained(back(x), 1.0, 1.0), SERIES, 4))
        slope = jax.jit(jax.grad(value))(flat)
        for i in range(len(flat)):
            ahead, behind = (value(flat.at[i].add(sign * 1e-5)) for sign in (1, -1))
            assert abs((ahead - behind) / 2e-5 - slope[i]) < 1e-5 * max(1.0, abs(float(slope[i]))), i


def check_least_squares(solve):
    """NumPy's regression with an intercept, its mean c / (1 - sum phi) and its mean squared residual: float32, 1e-3.

    It is where the conditional log-likelihood is largest: its gradient in float64 is zero within 1e-6.
    """
    y = 50 + 10 * scipy.signal.lfilter([1.0], [1.0, -1.2, 0.5], np.random.default_rng(1).normal(size=200))
    design = np.stack([np.ones(197), y[2:-1], y[1:-2], y[:-3]], axis=1)
    solution, residual, *_ = np.linalg.lstsq(design, y[3:], rcond=None)
    found = solve(np.float32(y), 3)
    np.testing.assert_allclose(found.ar, solution[1:], atol=1e-3)
    np.testing.assert_allclose(found.mean, solution[:1] / (1 - solution[1:].sum()), rtol=1e-3)
    np.testing.assert_allclose(found.variance, residual[0] / 197, rtol=1e-3)
    with jax.enable_x64(True):
        slope = jax.grad(conditional_log_likelihood)(solve(y, 3), y)
    assert all(np.all(np.abs(part) < 1e-6) for part in slope)


def test_conditional_least_squares():
    check_least_squares(conditional_least_squares)


def changed(**how):
    """The solution with parts replaced by functions of it."""

    def solve(y, order):
        found = conditional_least_squares(y, order)
        return found._replace(**{name: change(found, y) for name, change in how.items()})

    return solve


LEAST_SQUARES_MUTANTS = {
    "intercept for mean": changed(mean=lambda found, y: found.mean * (1 - found.ar.sum())),
    "mean of the series": changed(mean=lambda found, y: y.mean(keepdims=True)),
    "divided by n": changed(variance=lambda found, y: found.variance * 197 / 200),
    "lags reversed": changed(ar=lambda found, y: found.ar[::-1]),
    "time reversed": lambda y, order: conditional_least_squares(y[::-1], order),
}


@pytest.mark.parametrize("mutant", LEAST_SQUARES_MUTANTS.values(), ids=LEAST_SQUARES_MUTANTS)
def test_conditional_least_squares_rejects(mutant):
    rejects(check_least_squares, mutant)


# -- forecasts ---------------------------------------------------------------------------------------------------------

FORECASTS = {
    "AR(2)": (model_of([0.7], ar=[1.2, -0.5], variance=2.0), Orders(2)),
    "random walk with drift": (model_of([0.3], variance=2.0), Orders(difference=1)),
    "two differences": (model_of([0.01], ma=[-0.5], variance=0.4), Orders(difference=2, ma=1)),
    "seasonal": (model_of([], [0.5], [0.3], [], [-0.5], 1.7), Orders(1, 1, 1, 0, 1, 1, 4, mean=False)),
}


def check_forecast(foresee):
    """After 400 values the law of the next 10 is Box and Jenkins': variance sigma^2 sum psi_k^2, with the psi weights
    of the model in levels; mean by running the difference equation with the coming shocks zero.  float64, 1e-6.
    """
    for model, orders in FORECASTS.values():
        draw = np.random.default_rng(7)
        ar, ma = polynomials(model, orders.period)
        unit = np.concatenate([[1.0], -np.asarray(arima_lags(orders))])
        shocks = np.concatenate([draw.normal(size=400) * model.variance**0.5, np.zeros(10)])
        w = scipy.signal.lfilter(ma, ar, shocks) + model.mean.sum()
        y = scipy.signal.lfilter([1.0], unit, w)
        with jax.enable_x64(True):
            mean, variance = foresee(model, y[:400], orders)
        np.testing.assert_allclose(mean, y[400:], rtol=1e-6, atol=1e-6)
        weights = psi(model, orders.period, 10, unit)
        np.testing.assert_allclose(variance, model.variance * np.cumsum(weights**2), rtol=1e-6)


def arima_lags(orders):
    """(1 - B)^d (1 - B^s)^D by its roots, so that it is not the library's own product."""
    season = np.exp(2j * np.pi * np.arange(max(orders.period, 1)) / max(orders.period, 1))
    roots = [*[1.0] * orders.difference, *[*season] * orders.seasonal_difference]
    return -np.real(np.poly(roots))[1:] if roots else []


def foresee(model, y, orders, shift=0):
    coming = forecast(levels(model, y, orders), 10 + shift)
    return coming.mean[shift:], coming.variance[shift:]


def test_forecast_by_psi_weights():
    check_forecast(foresee)


FORECAST_MUTANTS = {
    "off by one, late": lambda model, y, orders: foresee(model, y, orders, shift=1),
    "off by one, early": lambda model, y, orders: foresee(model, y[:-1], orders),
    "variance of the differences": lambda model, y, orders: (
        foresee(model, y, orders)[0],
        forecast(state_space(model, orders.period), 10).variance,
    ),
    "no drift": lambda model, y, orders: foresee(model._replace(mean=0 * model.mean), y, orders),
    "sign of the moving average": lambda model, y, orders: foresee(model._replace(ma=-model.ma), y, orders),
    "variances not summed": lambda model, y, orders: (
        foresee(model, y, orders)[0],
        np.diff(foresee(model, y, orders)[1], prepend=0.0),
    ),
}


@pytest.mark.parametrize("mutant", FORECAST_MUTANTS.values(), ids=FORECAST_MUTANTS)
def test_forecast_rejects(mutant):
    rejects(check_forecast, mutant)


def test_differences_sum_up_again():
    """The differences of a series are its filter by the polynomial; NumPy's own differences, exactly."""
    y = np.random.default_rng(0).normal(size=30).cumsum()
    np.testing.assert_allclose(differences(y, Orders(difference=2)), np.diff(y, n=2), atol=1e-12)
    seasonal = differences(y, Orders(difference=1, seasonal_difference=1, period=4))
    np.testing.assert_allclose(seasonal, np.diff(y[4:] - y[:-4]), atol=1e-12)
    np.testing.assert_allclose(differences(y, Orders(ar=2)), y)


COVERED, BEGUN, SEEN, AHEAD = 4_000, 20, 60, 6


@functools.cache
def drawn():
    """4,000 independent series in float32: the values after the 60th, their laws given 60 values and given 59."""
    model, orders = jax.tree.map(jnp.float32, FORECASTS["seasonal"][0]), FORECASTS["seasonal"][1]
    start = jnp.zeros(BEGUN)  # levels to begin from; what follows is the model's own

    def one(key):
        path = jnp.concatenate([start, simulate(levels(model, start, orders), key, SEEN - BEGUN + AHEAD)])
        laws = [forecast(levels(model, path[:n], orders), AHEAD) for n in (SEEN, SEEN - 1)]
        return path[SEEN:], path[SEEN - 1], *laws

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), COVERED)))


def check_coverage(bounds):
    """The true value 1 and 6 steps later lies inside of the 50 % and of the 95 % interval as often as a binomial law
    says: p > 1e-4 each."""
    later, *known = drawn()
    low, lower, upper, high = np.asarray(bounds(*known)).reshape(4, COVERED, AHEAD)
    for left, right, level in ((lower, upper, 0.5), (low, high, 0.95)):
        for step in (0, AHEAD - 1):
            hits = int(np.sum((later > left) & (later < right), axis=0)[step])
            assert scipy.stats.binomtest(hits, COVERED, level).pvalue > 1e-4, (level, step, hits)


def intervals(last, coming, before, change=lambda coming: coming):
    law = change(coming)
    flat = Forecast(*(jnp.broadcast_to(part, later.shape).ravel() for part, later in zip(law, coming, strict=True)))
    return quantiles(flat, (0.025, 0.25, 0.75, 0.975))


def test_intervals_cover():
    check_coverage(intervals)


COVERAGE_MUTANTS = {
    "variance for standard deviation": lambda *a: intervals(*a, lambda c: c._replace(variance=c.variance**2)),
    "a tenth too wide": lambda *a: intervals(*a, lambda c: c._replace(variance=1.21 * c.variance)),
    "intervals of one step at every step": lambda *a: intervals(*a, lambda c: c._replace(variance=c.variance[:, :1])),
    "given one value less": lambda last, coming, before: intervals(last, before, before),
    "the last value goes on": lambda last, *a: intervals(last, *a, lambda c: c._replace(mean=last[:, None])),
}


@pytest.mark.parametrize("mutant", COVERAGE_MUTANTS.values(), ids=COVERAGE_MUTANTS)
def test_intervals_reject(mutant):
    rejects(check_coverage, mutant)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: check_orders(Orders(ar=-1), 100), "ar = -1"),
        (lambda: check_orders(Orders(difference=True), 100), "difference = True"),
        (lambda: check_orders(Orders(seasonal_ar=1, period=1), 100), "period = 1"),
        (lambda: check_orders(Orders(seasonal_difference=1), 100), "period = 0"),
        (lambda: check_orders(Orders(ar=9), 12), "a series of 12 values"),
        (lambda: check_orders(Orders(0, 1, 1, 0, 1, 1, 12), 28), "a series of 28 values"),
        (lambda: check_series([1.0, 2.0, np.nan, 4.0]), "value 3 of 4 is nan"),
        (lambda: check_series([1.0, np.inf]), "value 2 of 2 is inf"),
        (lambda: check_series([1.0, 0.0], log=True), "the logarithm of value 2 of 2"),
        (lambda: check_series([2.0, 2.0]), "all 2 values"),
        (lambda: check_series([]), "has shape [0]"),
        (lambda: check_series([[1.0, 2.0]]), "has shape [1, 2]"),
        (lambda: conditional_least_squares(np.zeros(9), 4), "of order 4 on a series of 9"),
        (lambda: conditional_log_likelihood(model_of(ma=[0.5]), SERIES), "the part 'ma'"),
        (lambda: quantiles(forecast(state_space(model_of(ar=[0.5])), 2), (0.5, 1.0)), "probabilities = (0.5, 1.0)"),
    ],
)
def test_bad_input(call, told):
    with pytest.raises(BadInput) as refused:
        call()
    assert told in refused.value.lines[0] and 2 <= len(refused.value.lines) <= 3


def test_the_shortest_series_that_is_allowed():
    orders = Orders(0, 1, 1, 0, 1, 1, 12)
    check_orders(orders, 31)
    with pytest.raises(BadInput):
        check_orders(orders, 30)
