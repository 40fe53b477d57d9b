"""Forecasting end to end: statsmodels as the oracle on two classic series, the learner, the charts, the experiments."""

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects
from statsmodels.datasets import sunspots
from statsmodels.tsa.ar_model import AutoReg
from statsmodels.tsa.arima.model import ARIMA
from statsmodels.tsa.statespace.sarimax import SARIMAX

from genjax.cli import main
from genjax.data.series import periods_after
from genjax.errors import BadInput
from genjax.fields import load
from genjax.gradient import tracing
from genjax.learners import minimize
from genjax.likelihood.arima import Orders, differences, levels, white_noise
from genjax.likelihood.arma import Arma, constrained, log_likelihood
from genjax.likelihood.autoregression import conditional_least_squares
from genjax.likelihood.information import standard_errors
from genjax.likelihood.kalman import forecast
from genjax.quasi_newton import quasi_newton
from genjax.report.forecast import Seen, forecast_csv, forecast_svg
from genjax.types import Out

KEY, NONE = jax.random.key(0), np.zeros(0)
EXPERIMENTS = Path(__file__).parent.parent / "experiments"
SUNSPOTS = sunspots.load_pandas().data["SUNACTIVITY"].to_numpy()  # 1700-2008
# Box and Jenkins, series G: international airline passengers in thousands, January 1949 to December 1960
AIRLINE = np.array(
    """112 118 132 129 121 135 148 148 136 119 104 118 115 126 141 135 125 149 170 170 158 133 114 140
    145 150 178 163 172 178 199 199 184 162 146 166 171 180 193 181 183 218 230 242 209 191 172 194
    196 196 236 235 229 243 264 272 237 211 180 201 204 188 235 227 234 264 302 293 259 229 203 229
    242 233 267 269 270 315 364 347 312 274 237 278 284 277 317 313 318 374 413 405 355 306 271 306
    315 301 356 348 355 422 465 467 404 347 305 336 340 318 362 348 363 435 491 505 404 359 310 337
    360 342 406 396 420 472 548 559 463 407 362 405 417 391 419 461 472 535 622 606 508 461 390 432""".split(),
    np.float64,
)
AIRLINE_ORDERS = Orders(difference=1, ma=1, seasonal_difference=1, seasonal_ma=1, period=12, mean=False)


def airline(ma, seasonal_ma, variance):
    return Arma(NONE, NONE, np.array([ma]), NONE, np.array([seasonal_ma]), np.float64(variance))


# -- statsmodels -------------------------------------------------------------------------------------------------------


def check_against_statsmodels(likelihood):
    """The exact log-likelihood at given coefficients, of real and of random series: float64, relative 1e-9."""
    white = np.random.default_rng(0).normal(size=80)
    two = Arma(np.array([48.0]), np.array([1.3, -0.6]), NONE, NONE, NONE, np.float64(280.0))
    mixed = Arma(NONE, *(np.array(group) for group in ([0.4, 0.2], [-0.3], [0.5], [0.6])), np.float64(1.2))
    cases = [
        (two, SUNSPOTS, 0, ARIMA(SUNSPOTS, order=(2, 0, 0)), [48.0, 1.3, -0.6, 280.0]),
        (
            airline(-0.3, -0.6, 0.0014),
            differences(np.log(AIRLINE), AIRLINE_ORDERS),
            12,
            SARIMAX(np.log(AIRLINE), order=(0, 1, 1), seasonal_order=(0, 1, 1, 12), simple_differencing=True),
            [-0.3, -0.6, 0.0014],
        ),
        (
            mixed,
            white,
            4,
            SARIMAX(white, order=(2, 0, 1), seasonal_order=(1, 0, 1, 4)),
            [0.4, 0.2, -0.3, 0.5, 0.6, 1.2],
        ),
    ]
    for model, series, period, peer, values in cases:
        with jax.enable_x64(True):
            assert float(likelihood(model, series, period)) == pytest.approx(peer.loglike(values), rel=1e-9)


def test_likelihood_against_statsmodels():
    check_against_statsmodels(log_likelihood)


PEER_MUTANTS = {
    "sign of the moving average": lambda m, y, s: log_likelihood(m._replace(ma=-m.ma), y, s),
    "one observation less": lambda m, y, s: log_likelihood(m, y[1:], s),
    "half of log 2 pi": lambda m, y, s: log_likelihood(m, y, s) + 0.25 * len(y) * np.log(2 * np.pi),
    "mean divided by 1 - sum phi": lambda m, y, s: log_likelihood(m._replace(mean=m.mean / (1 - m.ar.sum())), y, s),
}


@pytest.mark.parametrize("mutant", PEER_MUTANTS.values(), ids=PEER_MUTANTS)
def test_likelihood_against_statsmodels_rejects(mutant):
    rejects(check_against_statsmodels, mutant)


def test_forecasts_against_statsmodels():
    """Means and standard errors of 30 months of the airline model in levels: float64, relative 1e-6.

    The peer starts the levels from a diffuse law, the library takes the first 13 as given: the same forecast.
    """
    y = np.log(AIRLINE)
    peer = SARIMAX(y, order=(0, 1, 1), seasonal_order=(0, 1, 1, 12), use_exact_diffuse=True)
    expected = peer.filter([-0.4, -0.55, 0.00135]).get_forecast(30)
    with jax.enable_x64(True):
        coming = forecast(levels(airline(-0.4, -0.55, 0.00135), y, AIRLINE_ORDERS), 30)
    np.testing.assert_allclose(coming.mean, expected.predicted_mean, rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(coming.variance), expected.se_mean, rtol=1e-6)


def fitted(series, orders, updates=25):
    """What the experiments do, in float32: the model, its log-likelihood, its standard errors."""
    changes = differences(series, orders)
    location, scale = float(changes.mean()) * orders.mean, float(changes.std())
    of = lambda free: constrained(free, location, scale)

    def loss(params, state, batch, key):
        return Out(-jax.vmap(lambda w: log_likelihood(of(params), w, orders.period))(batch["x"]))

    learner, batch = quasi_newton(loss, lambda key, batch: white_noise(orders)), {"x": np.float32(changes)[None]}
    update = jax.jit(lambda state: learner.update(state, batch, KEY))
    state = learner.init(KEY, batch)
    for _ in range(updates):
        before, (state, metrics) = state.params, update(state)
    for old, new in zip(before, state.params, strict=True):
        np.testing.assert_array_equal(old, new)  # it rests
    errors = jax.jit(lambda m: standard_errors(lambda one: log_likelihood(one, batch["x"][0], orders.period), m))
    return of(state.params), -float(metrics["loss"]), errors(of(state.params))


def test_sunspots():
    """AR(2), exact: the log-likelihood and the coefficients of statsmodels, relative 1e-3.

    Its optimizer with the settings of its documentation stops 0.03 standard errors before the maximum: at a mean of
    49.746 and a variance of 274.727, with the log-likelihood -1307.3185.  With a finer tolerance it finds 49.6594.
    """
    model, value, errors = fitted(SUNSPOTS, Orders(ar=2))
    found = np.float64([*model.mean, *model.ar, model.variance])
    fine = {"pgtol": 1e-10, "factr": 10.0}
    peer = ARIMA(SUNSPOTS, order=(2, 0, 0)).fit(start_params=found, method_kwargs=fine, cov_type="approx")
    assert value == pytest.approx(-1307.3185, rel=1e-6) and value == pytest.approx(peer.llf, rel=1e-6)
    np.testing.assert_allclose(found, peer.params, rtol=1e-4)  # nor does it find a better place from there
    np.testing.assert_allclose(found, [49.65939, 1.390656, -0.688569, 274.7602], rtol=1e-4)
    np.testing.assert_allclose([*errors.mean, *errors.ar, errors.variance], peer.bse, rtol=2e-2)  # theirs: differences
    np.testing.assert_allclose(found[1:], [1.39063, -0.68857, 274.727], rtol=1e-3)
    assert abs(found[0] - 49.746) < 0.05 * errors.mean[0]


def test_airline():
    """(0, 1, 1)(0, 1, 1)12 of the logarithms: -0.40192, -0.55710, log-likelihood 244.6965; relative 1e-3."""
    model, value, errors = fitted(np.log(AIRLINE), AIRLINE_ORDERS)
    assert value == pytest.approx(244.6965, rel=1e-6)
    np.testing.assert_allclose([model.ma[0], model.seasonal_ma[0]], [-0.40192, -0.55710], rtol=1e-3)
    np.testing.assert_allclose(model.variance, 0.0013481, rtol=1e-3)  # of the maximum in float64, by Newton's method
    np.testing.assert_allclose([errors.ma[0], errors.seasonal_ma[0]], [0.0896447, 0.0731051], rtol=1e-3)


def test_conditional_least_squares():
    """AR(9) of the sunspots: sigma^2 221.226; intercept and coefficients of statsmodels, relative 1e-3, in float32."""
    peer, found = AutoReg(SUNSPOTS, 9).fit(), conditional_least_squares(np.float32(SUNSPOTS), 9)
    assert float(found.variance) == pytest.approx(221.226, rel=1e-4)
    np.testing.assert_allclose(found.ar, peer.params[1:], rtol=1e-3, atol=1e-5)
    assert float(found.mean[0] * (1 - found.ar.sum())) == pytest.approx(peer.params[0], rel=1e-3)


def check_explosive(forecast):
    """An AR(2) fitted by least squares that grows without bound: the peer's forecast, float64, relative 1e-6."""
    rng, y = np.random.default_rng(0), [1.0, 1.1]
    for _ in range(60):
        y.append(1.05 * y[-1] + 0.02 * y[-2] + 0.1 * rng.normal())
    peer = AutoReg(y, 2).fit()
    with jax.enable_x64(True):
        model = conditional_least_squares(np.array(y), 2)
        assert float(model.ar.sum()) > 1.01
        coming = forecast(levels(model, np.array(y), Orders(ar=2)), 12)
    expected = peer.get_prediction(len(y), len(y) + 11)
    np.testing.assert_allclose(coming.mean, expected.predicted_mean, rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(coming.variance), expected.se_mean, rtol=1e-3)


def test_a_model_that_explodes_is_forecast_as_it_stands():
    check_explosive(forecast)
    halved = lambda start, count: forecast(start._replace(mean=start.mean / 2), count)
    rejects(check_explosive, halved)


# -- the learner -------------------------------------------------------------------------------------------------------

CURVES = np.float32([1.0, 30.0, 1000.0])


def check_quasi_newton(learner_of):
    """A quadratic whose curvatures are 1 : 1000, as many pairs as parameters: at its minimum after 12 updates, no loss
    on the way is above the one before it, and then nothing moves."""
    centre = jnp.array([1.0, -2.0, 3.0])
    loss = lambda params, state, batch, key: Out(jnp.sum(CURVES * (params - centre) ** 2) + 5.0)
    learner, batch = learner_of(loss), {"x": jnp.zeros(1)}
    update, state, losses = jax.jit(learner.update), learner.init(KEY, batch), []
    for _ in range(12):
        state, metrics = update(state, batch, KEY)
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(state.params, centre, atol=1e-4)
    assert np.all(np.diff(losses) <= 1e-6)
    rested, _ = update(state, batch, KEY)
    assert np.array_equal(rested.params, state.params) and int(rested.step) == 13


def test_quasi_newton():
    check_quasi_newton(lambda loss: quasi_newton(loss, lambda key, batch: jnp.zeros(3)))


def flipped(loss):
    """A learner that climbs."""
    upside_down = lambda *args: Out(-loss(*args).loss)
    return quasi_newton(upside_down, lambda key, batch: jnp.zeros(3))


def gradient_descent(loss):
    import optax

    return minimize(loss, optax.sgd(0.9 / 1000), lambda key, batch: jnp.zeros(3))


LEARNER_MUTANTS = {
    "uphill": flipped,
    "steepest descent": gradient_descent,
    "rests too early": lambda loss: quasi_newton(loss, lambda key, batch: jnp.zeros(3), tolerance=10.0),
}


@pytest.mark.parametrize("mutant", LEARNER_MUTANTS.values(), ids=LEARNER_MUTANTS)
def test_quasi_newton_rejects(mutant):
    rejects(check_quasi_newton, mutant)


def test_quasi_newton_refuses():
    loss = lambda params, state, batch, key: Out(jnp.sum(params**2))
    learner = quasi_newton(loss, lambda key, batch: jnp.ones(2))
    state = learner.init(KEY, {"x": jnp.zeros(1)})
    with pytest.raises(BadInput, match="pmap"), tracing(axis="data"):
        learner.update(state, {"x": jnp.zeros(1)}, KEY)
    with pytest.raises(BadInput, match="memory = 0"):
        quasi_newton(loss, lambda key, batch: jnp.ones(2), memory=0)
    with pytest.raises(BadInput, match="tolerance = nan"):
        quasi_newton(loss, lambda key, batch: jnp.ones(2), tolerance=float("nan"))


# -- charts ------------------------------------------------------------------------------------------------------------

SEEN = Seen(
    AIRLINE[:60],
    periods_after(np.datetime64("1949-01"), 1, np.arange(60)),
    1,
    AIRLINE[60:64],
    "passengers < thousands",
)
QUANTILES = np.array([[0.8], [0.9], [1.0], [1.1], [1.2]]) * AIRLINE[60:72]


def points(path):
    return np.array([pair.split(",") for pair in path.strip("MZ").split("L")], float)


def check_chart(draw):
    """Read back through the labels of the axes, lines and areas are where their numbers say: within 1 of 300 pixels."""
    root = ElementTree.fromstring(draw(SEEN, QUANTILES))
    of = lambda tag: [one for one in root.iter() if one.tag.endswith("}" + tag)]
    words = [(float(t.get("x")), float(t.get("y")), t.text) for t in of("text")]
    scale = np.polyfit(*np.array([(y - 4, float(t)) for _, y, t in words if t.isdigit() and int(t) < 1900]).T, 1)
    years = np.polyfit(*np.array([(x, float(t)) for x, _, t in words if t.isdigit() and int(t) > 1900]).T, 1)
    value, when = (lambda y: np.polyval(scale, y)), (lambda x: np.polyval(years, x))
    near = abs(scale[0])  # the value of one pixel
    areas = [points(p.get("d")) for p in of("path") if p.get("fill-opacity")]
    lines = [points(p.get("d")) for p in of("path") if p.get("fill") == "none"]
    assert [len(one) for one in areas] == [26, 26]  # there and back, from the last value seen
    for area, low, high in zip(areas, (0, 1), (4, 3), strict=True):
        np.testing.assert_allclose(value(area[1:13, 1]), QUANTILES[high], atol=near)
        np.testing.assert_allclose(value(area[13:-1, 1][::-1]), QUANTILES[low], atol=near)
    history, median = lines
    np.testing.assert_allclose(value(history[:, 1]), AIRLINE[12:60], atol=near)  # four times the forecast
    np.testing.assert_allclose(value(median[:, 1]), [AIRLINE[59], *QUANTILES[2]], atol=near)
    np.testing.assert_allclose(when(history[:, 0]), 1950 + np.arange(48) / 12, atol=0.02)
    np.testing.assert_allclose(when(median[:, 0]), 1954 + np.arange(-1, 12) / 12, atol=0.02)
    dots = np.array([(c.get("cx"), c.get("cy")) for c in of("circle")], float)[1:]  # the first is in the key
    np.testing.assert_allclose(value(dots[:, 1]), AIRLINE[60:64], atol=near)
    np.testing.assert_allclose(when(dots[:, 0]), 1954 + np.arange(4) / 12, atol=0.02)
    assert {"seen", "held out", "median", "95 %", "50 %", SEEN.label} <= {t for *_, t in words}
    inside = np.concatenate([*areas, *lines, dots])
    assert inside.min() >= 0 and inside[:, 0].max() <= 640 and inside[:, 1].max() <= 300


def test_chart():
    check_chart(forecast_svg)


CHART_MUTANTS = {
    "a step late": lambda seen, q: forecast_svg(
        seen._replace(history=AIRLINE[:61], times=periods_after(seen.times[0], 1, np.arange(61))), q
    ),
    "held out a step late": lambda seen, q: forecast_svg(seen._replace(later=AIRLINE[61:65]), q),
    "intervals exchanged": lambda seen, q: forecast_svg(seen, q[[1, 0, 2, 4, 3]]),
    "median of the first step": lambda seen, q: forecast_svg(
        seen, np.concatenate([q[:2], 0 * q[2:3] + q[2, 0], q[3:]])
    ),
    "months taken for years": lambda seen, q: forecast_svg(seen._replace(times=1949 + np.arange(60)), q),
}


@pytest.mark.parametrize("mutant", CHART_MUTANTS.values(), ids=CHART_MUTANTS)
def test_chart_rejects(mutant):
    rejects(check_chart, mutant)


def test_charts_of_what_is_odd():
    assert b"not finite" in forecast_svg(SEEN, QUANTILES * np.inf)
    single = Seen([3.0], np.array([7]), 1)
    assert b"median" in forecast_svg(single, np.full((5, 1), 3.0))  # no range at all
    assert forecast_csv(single, np.full((5, 2), 3.0)).decode().splitlines()[1:] == ["8,3,3,3,3,3", "9,3,3,3,3,3"]
    with pytest.raises(BadInput, match="a forecast of shape"):
        forecast_svg(SEEN, QUANTILES[:3])


# -- the experiments ---------------------------------------------------------------------------------------------------


def table(path, values, start="1949-01"):
    times = periods_after(np.datetime64(start), 1, np.arange(len(values)))
    path.write_text("month,value\n" + "".join(f"{t},{v}\n" for t, v in zip(times, values, strict=True)))
    return str(path)


def loaded(name):
    load(EXPERIMENTS / f"{name}.py")
    return sys.modules[f"experiment_{name}"].experiment


@pytest.mark.parametrize(
    ("values", "fields", "told"),
    [
        ([*AIRLINE[:50], ""], {}, "line 52, column value: empty"),
        (AIRLINE - 104, {"log": True}, "the logarithm of value 11 of 144, which is 0"),
        (AIRLINE[:9], {"ar": 9}, "a series of 9 values"),
        (AIRLINE, {"ar": -1}, "ar = -1"),
        (AIRLINE, {"seasonal_ar": 1, "period": 1}, "period = 1"),
        (AIRLINE, {"held_out": 200}, "a series of 0 values"),
        (AIRLINE, {"conditional": True, "ma": 1}, "--conditional with ma = 1"),
        (np.arange(40), {"difference": 1}, "all 39 values of what is fitted are 1"),
        (AIRLINE, {"column": "valu"}, "no column 'valu'"),
    ],
)
def test_bad_input(tmp_path, values, fields, told):
    with pytest.raises(BadInput) as refused:
        loaded("forecast_sunspots")(data=table(tmp_path / "series.csv", values), **fields)
    assert told in refused.value.lines[0] and 2 <= len(refused.value.lines) <= 3


@pytest.mark.slow
def test_a_run_of_the_airline_model(tmp_path):
    """From the command line: the numbers of the fit, the score of two held-out years, and the files of the forecast."""
    data, run = table(tmp_path / "airline.csv", AIRLINE), tmp_path / "run"
    arguments = ["--data", data, "--held-out", "24", "--steps", "20", "--workdir", str(run)]
    assert main(["train", str(EXPERIMENTS / "forecast_airline.py"), *arguments]) == 0
    results = {line["name"]: line["value"] for line in json.loads((run / "results.json").read_text())["results"]}
    peer = SARIMAX(np.log(AIRLINE[:-24]), order=(0, 1, 1), seasonal_order=(0, 1, 1, 12), simple_differencing=True)
    values = [results[f"fit/{name}"] for name in ("ma1", "seasonal_ma1", "variance")]
    assert results["fit/log_likelihood"] == pytest.approx(peer.loglike(values), rel=1e-5)
    assert results["fit/log_likelihood"] >= peer.fit(disp=False).llf - 1e-3
    whole = SARIMAX(np.log(AIRLINE), order=(0, 1, 1), seasonal_order=(0, 1, 1, 12), simple_differencing=True)
    assert -results["held_out/nll"] == pytest.approx(np.mean(whole.loglikeobs(values)[-24:]), rel=1e-3)
    rows = (run / "files" / "forecast-00-000000020.csv").read_text().splitlines()
    assert len(rows) == 37 and rows[1].startswith("1959-01,") and rows[-1].startswith("1961-12,")
    bounds = np.array([row.split(",")[1:] for row in rows[1:25]], float)
    inside = np.mean((bounds[:, 0] < AIRLINE[-24:]) & (AIRLINE[-24:] < bounds[:, 4]))
    assert results["held_out/inside_95"] == pytest.approx(inside)
    ElementTree.fromstring((run / "files" / "forecast-00-000000020.svg").read_bytes())
    assert "seasonal_ma1" in (run / "files" / "coefficients-00-000000020.txt").read_text()
