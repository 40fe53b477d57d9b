"""Yearly sunspot numbers by autoregressions, and any other series by a seasonal ARIMA model.

Paper:    Yule, On a method of investigating periodicities in disturbed series, with special reference to Wolfer's
          sunspot numbers, 1927, https://doi.org/10.1098/rsta.1927.0007
Command:  genjax train experiments/forecast_sunspots.py --data sunspots.csv
          genjax train experiments/forecast_sunspots.py --data sunspots.csv --ar 9 --conditional
Cost:     5 to 16 s of one CPU core, most of it start and compilation; the 40 updates take 0.1 s
Measured: AR(2): log-likelihood -1307.3182 nats (exact, float32), mean 49.6594 ± 3.2, phi 1.39066 and -0.68857 ± 0.041,
          sigma^2 274.760; AR(9) by least squares: -1235.5591 given the first 9 values, sigma^2 221.226; 2026-11-24
          statsmodels 0.15 told -1307.3185, 49.746, 1.39063, -0.68857, 274.727 (not the maximum yet), and 221.226
          --held-out 22, years foreseen from 1986: one step ahead 4.47 ± 0.28 (AR(2)), 4.18 ± 0.17 (AR(9)) nats a year;
          distance from the median of the forecast 41.5 and 19.1; in its 95 % intervals 18 and 21 of 22

The file holds the years 1700 to 2008 and their numbers.  The likelihood is exact, from the stationary law of the first
years on; `--conditional` takes the first years as given, which is least squares.  What is held out is not fitted: the
forecast, made where the fit ends, is scored on it; its errors are correlated from one time to the next, so that the
standard errors of these scores are too small.  For a series of your own name the file, its column, and the orders.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from genjax import BadInput, Count, Evaluation, Experiment, File, Learner, Out, Quantity, Stage, State, Target
from genjax.data import Split, batches, series, unchanged
from genjax.fields import Limits
from genjax.likelihood.arima import Orders, check_orders, check_series, differences, levels, quantiles, white_noise
from genjax.likelihood.arma import (
    after,
    centred,
    constrained,
    log_likelihood,
    named,
)
from genjax.likelihood.autoregression import conditional_least_squares, conditional_log_likelihood
from genjax.likelihood.information import standard_errors
from genjax.likelihood.kalman import forecast, kalman_filter, simulate
from genjax.quasi_newton import quasi_newton
from genjax.report.forecast import PROBABILITIES, Seen, coefficients_txt, forecast_csv, forecast_svg, paths_csv

PROTOCOL = "yearly sunspots 1700 to 2008, AR(2) with a constant, exact likelihood"
TARGETS = (
    Target("27-ar2", -1307.3185, "nats", "fit/log_likelihood", "sunspots", "a", "statsmodels 0.15", PROTOCOL,
           tolerance=1e-3, relative=True),
    Target("27-ar2-mean", 49.746, "", "fit/mean", "sunspots", "a", "statsmodels 0.15", PROTOCOL, tolerance=1e-3,
           relative=True),
    Target("27-ar2-phi1", 1.39063, "", "fit/ar1", "sunspots", "a", "statsmodels 0.15", PROTOCOL, tolerance=1e-3,
           relative=True),
    Target("27-ar2-phi2", -0.68857, "", "fit/ar2", "sunspots", "a", "statsmodels 0.15", PROTOCOL, tolerance=1e-3,
           relative=True),
    Target("27-ar2-variance", 274.727, "", "fit/variance", "sunspots", "a", "statsmodels 0.15", PROTOCOL,
           tolerance=1e-3, relative=True),
    Target("27-ar9-variance", 221.226, "", "fit/variance", "sunspots", "a", "statsmodels 0.15",
           "yearly sunspots 1700 to 2008, AR(9), conditional least squares", options="--ar 9 --conditional",
           tolerance=1e-3, relative=True),
)  # fmt: skip


def experiment(
    data: str = "sunspots.csv",
    column: str = "",
    log: bool = False,
    ar: int = 2,
    difference: int = 0,
    ma: int = 0,
    seasonal_ar: int = 0,
    seasonal_difference: int = 0,
    seasonal_ma: int = 0,
    period: int = 0,
    mean: bool = True,
    conditional: bool = False,
    held_out: Annotated[int, Limits(0)] = 0,
    horizon: Count = 22,
    steps: int = 40,
) -> Experiment:
    """A seasonal ARIMA model fitted by maximum likelihood, and its forecast with intervals.

    Args:
      data: a CSV file: times and numbers, at equal steps.
      column: of the series in the file; not needed where there is one.
      log: model the logarithm; forecasts are on the scale of the series.
      ar: p, coefficients of earlier values.
      difference: d, times that neighbours are subtracted.
      ma: q, coefficients of earlier shocks.
      seasonal_ar: P, coefficients of values whole seasons earlier.
      seasonal_difference: D, times that the value a season earlier is subtracted.
      seasonal_ma: Q, coefficients of shocks whole seasons earlier.
      period: s, values in a season.
      mean: whether the differences have one: with d = 0 the level, with d = 1 a drift.
      conditional: given the first p values, by least squares; for models of earlier values alone.
      held_out: values at the end that are not fitted.
      horizon: values to foresee.
      steps: updates; the fit rests when it has converged, after a dozen or two.
    """
    table = series(data, column or None)
    values = check_series(table.values, log)
    orders = Orders(ar, difference, ma, seasonal_ar, seasonal_difference, seasonal_ma, period, mean)
    fitted = max(0, len(values) - held_out)
    check_orders(orders, fitted)
    if conditional and (ma or seasonal_ar or seasonal_ma or not mean):
        raise BadInput(
            f"--conditional with ma = {ma}, seasonal_ar = {seasonal_ar}, seasonal_ma = {seasonal_ma}, mean = {mean}",
            "allowed: models of earlier values and a mean",
            "leave --conditional out: the likelihood is then exact for every model",
        )
    changes = differences(values, orders)
    known = check_series(changes[: len(changes) - held_out], name="what is fitted")
    location, scale = float(known.mean()) * mean, float(known.std())
    original = jnp.exp if log else jnp.asarray  # from the scale of the model to that of the series

    def model(params):
        return params if conditional else constrained(params, location, scale)

    def likelihood(coefficients, w):
        return conditional_log_likelihood(coefficients, w) if conditional else log_likelihood(coefficients, w, period)

    def loss(params, state, batch, key):
        return Out(-jax.vmap(lambda w: likelihood(model(params), w))(batch["x"]))

    def fit(state, batch, key):
        coefficients = model(state.params)
        told = lambda w: {"log_likelihood": likelihood(coefficients, w), **named(coefficients)}
        return jax.vmap(told)(batch["x"])

    def coefficients(state, key):
        estimate = model(state.params)
        return {"estimate": estimate, "error": standard_errors(lambda c: likelihood(c, np.float32(known)), estimate)}

    def coming(state, count):
        return forecast(levels(model(state.params), values[:fitted], orders), count)

    def score(state, batch, key):
        y, at = batch["x"], batch["row"]
        coefficients = model(state.params)
        law = kalman_filter(after(coefficients, known, period), centred(coefficients, changes[len(known) :]))
        low, lower, median, upper, high = (q[at] for q in quantiles(coming(state, held_out), PROBABILITIES))
        inside = lambda left, right: jnp.float32((y > left) & (y < right))
        error = jnp.abs(original(y) - original(median))
        density = law.log_density[at]
        return {"nll": -density, "error": error, "inside_50": inside(lower, upper), "inside_95": inside(low, high)}

    def foreseen(state, key):
        return original(quantiles(coming(state, horizon), PROBABILITIES))

    def sample(state, key, n):
        start = levels(model(state.params), values[:fitted], orders)
        return original(jax.vmap(lambda key: simulate(start, key, horizon))(jax.random.split(key, n)))

    def least_squares(key, batch):
        return State(jnp.zeros((), jnp.int32), conditional_least_squares(batch["x"][0], ar))

    def rest(state, batch, key):  # the solution is there from the start
        return state._replace(step=state.step + 1), {"loss": jnp.mean(loss(state.params, state, batch, key).loss)}

    train = Split({"x": np.float32(known)[None]}, unchanged)
    learner = (
        Learner(least_squares, rest) if conditional else quasi_newton(loss, lambda key, batch: white_noise(orders))
    )
    given = len(values) - len(changes) + ar * conditional
    of_what = ", of the logarithms" if log else ""  # densities of another variable: no number to compare with others
    exact = Quantity((f"exact, given the first {given} values" if given else "exact") + of_what, "nats", "higher")
    estimates = {name: Quantity("maximum likelihood", "") for name in named(white_noise(orders))}
    evaluations = {"fit": Evaluation(fit, train, 1, {"log_likelihood": exact, **estimates}, final=True)}
    if held_out:
        rows = Split({"x": np.float32(values[fitted:]), "row": np.arange(held_out, dtype=np.int32)}, unchanged)
        scores = {
            "nll": Quantity("exact, one step ahead" + of_what),
            "error": Quantity("distance from the median", ""),
            "inside_50": Quantity("share in the 50 % interval", "", "higher"),
            "inside_95": Quantity("share in the 95 % interval", "", "higher"),
        }
        evaluations["held_out"] = Evaluation(score, rows, held_out, scores, final=True)
    seen = Seen(table.values[:fitted], table.times[:fitted], table.step, table.values[fitted:], table.column)
    return Experiment(
        stages=[Stage("fit", learner, batches(train, 1), 1 if conditional else steps)],
        evaluations=evaluations,
        sample=sample,
        shown=8,
        formats={".csv": paths_csv},
        files={
            "forecast.svg": File(foreseen, lambda drawn: forecast_svg(seen, drawn)),
            "coefficients.txt": File(
                coefficients, lambda drawn: coefficients_txt({name: named(part) for name, part in drawn.items()})
            ),
            "forecast.csv": File(foreseen, lambda drawn: forecast_csv(seen, drawn)),
        },
        data=table.name,
    )
