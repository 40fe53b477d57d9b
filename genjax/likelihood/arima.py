r"""Seasonal ARIMA models: orders, differences, and forecasts on the scale of the series itself.

y_t is ARIMA(p, d, q)(P, D, Q)_s if its differences are an ARMA model (arma.py):

    w_t = (1 - B)^d (1 - B^s)^D y_t = y_t - sum_k delta_k y_{t-k},          k = 1 .. K = d + s D

Likelihood.  The first K values have no differences, so they are taken as given: log p(y_{K+1} .. y_n | y_1 .. y_K) is
the exact log-likelihood of w, because the map from y to w has determinant 1.  It is the number that a diffuse start of
the levels gives too, since a diffuse prior is worn out by just those K values (programs that count them as well, with
the density 1 / sqrt(2 pi) each, tell K / 2 log 2 pi nats less).

Forecasts.  After the n-th value the state of the ARMA model has a normal law, and the last K levels are known exactly.
The state (alpha_t, 1, y_{t-1}, .., y_{t-K}) moves by

    y_t = Z . alpha_t + mu + sum_k delta_k y_{t-k},

so one forecast of one state space gives mean and variance of every coming level, and what the differences sum up to is
in them.

Source: Box, Jenkins and Reinsel, Time Series Analysis, 3rd edition, 1994, chapters 4, 5 and 9; Harvey, 1989, sections
3.3 and 3.5 (https://doi.org/10.1017/CBO9781107049994).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.errors import BadInput
from genjax.likelihood.arma import Arma, after
from genjax.likelihood.kalman import Forecast, StateSpace
from genjax.types import Array


class Orders(NamedTuple):
    """What a model is made of; counts of coefficients, and times of differencing."""

    ar: int = 0  # p
    difference: int = 0  # d
    ma: int = 0  # q
    seasonal_ar: int = 0  # P
    seasonal_difference: int = 0  # D
    seasonal_ma: int = 0  # Q
    period: int = 0  # s: observations in a season
    mean: bool = True  # of the differences: for d + D = 1 a drift


def check_orders(orders: Orders, length: int) -> None:
    """Refuse orders that are none, or that a series is too short for.

    Args:
      orders: of the model.
      length: n, observations of the series.

    Returns:
      Nothing.

    Raises:
      BadInput: a negative order; a seasonal order with a period below 2; fewer differences than coefficients and lags
        need.

    Source: Box, Jenkins and Reinsel, 1994, section 9.1.

    >>> check_orders(Orders(seasonal_ma=1), 144)
    Traceback (most recent call last):
    genjax.errors.BadInput: period = 0 with a seasonal part
    allowed: the number of observations in a season, a whole number from 2
    for example 12 for months, 4 for quarters
    """
    counts = {name: value for name, value in orders._asdict().items() if name not in ("period", "mean")}
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise BadInput(f"{name} = {value!r}", "allowed: orders of a model, whole numbers from 0")
    if any(value for name, value in counts.items() if name.startswith("seasonal")) and orders.period < 2:
        raise BadInput(
            f"period = {orders.period} with a seasonal part",
            "allowed: the number of observations in a season, a whole number from 2",
            "for example 12 for months, 4 for quarters",
        )
    season = orders.period
    lags = max(orders.ar + season * orders.seasonal_ar, orders.ma + season * orders.seasonal_ma)
    coefficients = orders.ar + orders.ma + orders.seasonal_ar + orders.seasonal_ma + orders.mean + 1
    needed = orders.difference + season * orders.seasonal_difference + lags + coefficients + 1
    if length < needed:
        raise BadInput(
            f"a series of {length} values for a model of {coefficients} coefficients that looks {lags} values back",
            f"allowed: at least {needed} values, differences included",
            "give a longer series, or smaller orders",
        )


def check_series(series: Sequence[float] | np.ndarray, log: bool = False, name: str = "the series") -> np.ndarray:
    """The series in float64, without gaps.

    Args:
      series: [n] numbers.
      log: take the natural logarithm.
      name: what messages call it: "the differences", for example.

    Returns:
      [n] float64.

    Raises:
      BadInput: not [n]; a value that is not finite; with `log` one that is not positive; all values equal.

    Source: Box, Jenkins and Reinsel, 1994, section 9.1.

    >>> check_series([1.0, float("nan"), 3.0])
    Traceback (most recent call last):
    genjax.errors.BadInput: the series has a gap: value 2 of 3 is nan
    allowed: finite numbers, one for every time
    fill the gap, or give the part before or after it
    """
    values = np.asarray(series, np.float64)
    if values.ndim != 1 or not len(values):
        raise BadInput(f"{name} has shape {list(values.shape)}", "allowed: [n], at least one number")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise BadInput(
            f"{name} has a gap: value {bad[0] + 1} of {len(values)} is {values[bad[0]]}",
            "allowed: finite numbers, one for every time",
            "fill the gap, or give the part before or after it",
        )
    low = np.flatnonzero((values <= 0) & log)
    if len(low):
        raise BadInput(
            f"the logarithm of value {low[0] + 1} of {len(values)}, which is {values[low[0]]:g}",
            "allowed: positive numbers",
            "model the series itself, or add a constant to it",
        )
    if np.all(values == values[0]):
        raise BadInput(f"all {len(values)} values of {name} are {values[0]:g}", "allowed: a series that varies")
    return np.log(values) if log else values


def difference_lags(orders: Orders) -> np.ndarray:
    """delta: (1 - B)^d (1 - B^s)^D = 1 - sum_k delta_k B^k.

    Args:
      orders: d, D and s of it.

    Returns:
      [K] float64, K = d + s D; delta_1 first.

    Source: Box, Jenkins and Reinsel, 1994, section 9.1.

    >>> difference_lags(Orders(difference=1, seasonal_difference=1, period=3)).tolist()
    [1.0, 0.0, 1.0, -1.0]
    """
    season = np.zeros(max(orders.period, 1) + 1)
    season[[0, -1]] = 1.0, -1.0
    whole = np.ones(1)
    for factor in [np.array([1.0, -1.0])] * orders.difference + [season] * orders.seasonal_difference:
        whole = np.convolve(whole, factor)
    return 0.0 - whole[1:]  # no negative zeros


def differences(series: Array, orders: Orders) -> np.ndarray:
    """w_t = (1 - B)^d (1 - B^s)^D y_t, in float64: neighbours are close, and their difference is small.

    Args:
      series: [n] y.
      orders: d, D and s of it.

    Returns:
      [n - K] float64.

    Source: Box, Jenkins and Reinsel, 1994, section 9.1.

    >>> differences(np.array([1.0, 4.0, 9.0, 16.0]), Orders(difference=2)).tolist()
    [2.0, 2.0]
    """
    series, lags = np.asarray(series, np.float64), difference_lags(orders)
    return np.convolve(series, np.concatenate([[1.0], -lags]), mode="valid")


def white_noise(orders: Orders) -> Arma:
    """Free parameters (`arma.constrained`) at zero: where an optimizer starts.

    Args:
      orders: of the model.

    Returns:
      Arma of float32 zeros.

    Source: Jones, 1980, https://doi.org/10.1080/00401706.1980.10486171.

    >>> [part.shape for part in white_noise(Orders(ar=2, seasonal_ma=1, period=12))]
    [(1,), (2,), (0,), (0,), (1,), ()]
    """
    return Arma(
        mean=jnp.zeros(int(orders.mean)),
        ar=jnp.zeros(orders.ar),
        ma=jnp.zeros(orders.ma),
        seasonal_ar=jnp.zeros(orders.seasonal_ar),
        seasonal_ma=jnp.zeros(orders.seasonal_ma),
        variance=jnp.zeros(()),
    )


def levels(model: Arma, series: Array, orders: Orders) -> StateSpace:
    """The state space of y_{n+1}, y_{n+2}, ..., given y_1 .. y_n: for `kalman.forecast` and `kalman.simulate`.

    Args:
      model: of the differences.
      series: [n] y, n > K.
      orders: of the model.

    Returns:
      A StateSpace of the state (alpha, 1, last K levels).

    Raises:
      BadInput: a series that is not [n].

    Source: Harvey, 1989, section 3.3 (models in levels).

    >>> from genjax.likelihood.kalman import forecast
    >>> walk = Arma(jnp.array([0.5]), *[jnp.zeros(0)] * 4, jnp.array(1.0))
    >>> [part.tolist() for part in forecast(levels(walk, np.arange(4.0), Orders(difference=1)), 2)]
    [[3.5, 4.0], [1.0, 2.0]]
    """
    lags = difference_lags(orders)
    kind = jnp.asarray(model.variance).dtype
    known = jnp.asarray(series, kind)
    shocks = known if not len(lags) else _traced_differences(known, lags)
    start = after(model, shocks, orders.period)
    m, k = len(start.mean), len(lags)
    observation = jnp.concatenate([start.observation, jnp.sum(model.mean)[None], jnp.asarray(lags, kind)])
    transition = jnp.zeros((m + 1 + k, m + 1 + k), kind).at[:m, :m].set(start.transition).at[m, m].set(1.0)
    if k:  # the newest level joins the memory, the others move on by one
        transition = transition.at[m + 1].set(observation).at[m + 2 :, m + 1 : -1].set(jnp.eye(k - 1, dtype=kind))
    mean = jnp.concatenate([start.mean, jnp.ones(1, kind), known[len(known) - k :][::-1]])
    pad = lambda matrix: jnp.zeros_like(transition).at[:m, :m].set(matrix)
    return StateSpace(observation, transition, pad(start.noise), jnp.zeros((), kind), mean, pad(start.covariance))


def quantiles(coming: Forecast, probabilities: Sequence[float]) -> jax.Array:
    """The quantiles of each coming observation.

    A quantile passes through a monotone map: for a model of logarithms, exp(quantiles) are those of the series itself,
    and exp of the median is its median (its mean is larger).

    Args:
      coming: what `kalman.forecast` returned, [steps].
      probabilities: each in (0, 1).

    Returns:
      [probabilities, steps].

    Raises:
      BadInput: a probability outside of (0, 1).

    Source: Box, Jenkins and Reinsel, 1994, section 5.2.

    >>> [round(q, 2) for q in quantiles(Forecast(jnp.zeros(1), jnp.ones(1)), (0.025, 0.5, 0.975))[:, 0].tolist()]
    [-1.96, 0.0, 1.96]
    """
    if not all(0 < p < 1 for p in probabilities):
        raise BadInput(f"probabilities = {tuple(probabilities)}", "allowed: numbers between 0 and 1, both excluded")
    z = jax.scipy.special.ndtri(jnp.asarray(probabilities, coming.mean.dtype))
    return coming.mean[None] + z[:, None] * jnp.sqrt(coming.variance)[None]


def _traced_differences(series: jax.Array, lags: np.ndarray) -> jax.Array:
    n, k = len(series), len(lags)
    return series[k:] - sum(float(lag) * series[k - i : n - i] for i, lag in enumerate(lags, 1) if lag)
