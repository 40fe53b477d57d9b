r"""Autoregressive moving-average models: coefficients, likelihood exact or conditional, stationary by construction.

A series w_t of mean mu is ARMA(p, q) with a seasonal part (P, Q) of period s if

    phi(B) Phi(B^s) (w_t - mu) = theta(B) Theta(B^s) e_t,       e_t ~ N(0, sigma^2) independent, B w_t = w_{t-1}
    phi(B) = 1 - sum_i phi_i B^i      Phi(B^s) = 1 - sum_j Phi_j B^(s j)
    theta(B) = 1 + sum_i theta_i B^i  Theta(B^s) = 1 + sum_j Theta_j B^(s j)

The products are plain polynomials with coefficients phi_1 .. and theta_1 .., and w_t - mu is the first component of a
state of m = max(p + s P, q + s Q + 1) dimensions (Harvey's form, shown for m = 3):

    alpha_{t+1} = [phi_1 1 0; phi_2 0 1; phi_3 0 0] alpha_t + (1, theta_1, theta_2)' e_{t+1}
    w_t - mu = (1, 0, 0) alpha_t

whose stationary law starts the Kalman filter.  The log-likelihood is that of the whole series: EXACT.

An AR polynomial of order p is stationary exactly if its p partial autocorrelations lie in (-1, 1), and the map between
them is the recursion of Durbin and Levinson.  A free real x becomes the partial autocorrelation x / sqrt(1 + x^2), so
an optimizer without constraints moves among stationary and invertible models only.

Source: Harvey, 1989, section 3.4 (https://doi.org/10.1017/CBO9781107049994); Jones, Maximum likelihood fitting of ARMA
models to time series with missing observations, 1980, https://doi.org/10.1080/00401706.1980.10486171; Monahan, A note
on enforcing stationarity in autoregressive-moving average models, 1984, https://doi.org/10.1093/biomet/71.2.403.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax.distributions import upcast
from genjax.errors import BadInput
from genjax.likelihood.kalman import StateSpace, kalman_filter, stationary_covariance
from genjax.types import Array


class Arma(NamedTuple):
    """The coefficients of a model; an array without elements is a part that the model does not have."""

    mean: jax.Array  # [1] mu, in the unit of the series; [0]: none, the mean is zero
    ar: jax.Array  # [p] phi
    ma: jax.Array  # [q] theta
    seasonal_ar: jax.Array  # [P] Phi
    seasonal_ma: jax.Array  # [Q] Theta
    variance: jax.Array  # scalar sigma^2 > 0 of a shock, in the squared unit of the series


def named(model: Arma) -> dict[str, jax.Array]:
    """Every coefficient under a name of its own, for tables.

    Args:
      model: coefficients, or their standard errors.

    Returns:
      {"mean": scalar, "ar1": scalar, .., "variance": scalar}: what the model has, in this order.

    Source: Box, Jenkins and Reinsel, 1994, section 9.1.

    >>> list(named(Arma(jnp.zeros(1), jnp.zeros(2), *[jnp.zeros(0)] * 2, jnp.zeros(1), jnp.zeros(()))))
    ['mean', 'ar1', 'ar2', 'seasonal_ma1', 'variance']
    """
    groups = {name: part for name, part in model._asdict().items() if name not in ("mean", "variance")}
    counted = {f"{name}{i + 1}": part[i] for name, part in groups.items() for i in range(len(part))}
    return {**({"mean": model.mean[0]} if len(model.mean) else {}), **counted, "variance": model.variance}


def constrained(free: Arma, location: float = 0.0, scale: float = 1.0) -> Arma:
    """Free real numbers -> the coefficients of a stationary, invertible model.

    Args:
      free: of the shapes of the model, every entry any real number.  All zero: white noise of mean `location` and
        standard deviation `scale`, where an optimizer may start.
      location, scale: mean and standard deviation of the series, so that a step of one matters alike in every entry.

    Returns:
      mean = location + scale m; variance = scale^2 exp(v); AR and MA coefficients from partial autocorrelations
      x / sqrt(1 + x^2).

    Source: Jones, 1980; Monahan, 1984.

    >>> white = Arma(jnp.zeros(1), jnp.zeros(1), *[jnp.zeros(0)] * 3, jnp.zeros(()))
    >>> one = constrained(white._replace(ar=jnp.array([0.75])), location=50.0, scale=40.0)
    >>> one.mean.tolist(), [round(x, 6) for x in one.ar.tolist()], float(one.variance)
    ([50.0], [0.6], 1600.0)
    """
    free = Arma(*(upcast(part) for part in free))
    bounded = lambda x: from_partial(x / jnp.sqrt(1 + x**2))
    mean, variance = location + scale * free.mean, scale**2 * jnp.exp(free.variance)
    return Arma(
        mean, bounded(free.ar), -bounded(free.ma), bounded(free.seasonal_ar), -bounded(free.seasonal_ma), variance
    )


def from_partial(partial: Array) -> jax.Array:
    """The AR coefficients that have given partial autocorrelations: the recursion of Durbin and Levinson.

    From phi_1 .. phi_{k-1} of order k - 1 follow those of order k: phi_k = r_k, and phi_i <- phi_i - r_k phi_{k-i}.

    Args:
      partial: [p] r_1 .. r_p, in (-1, 1) for a stationary model.

    Returns:
      [p] phi_1 .. phi_p.

    Source: Monahan, 1984, eq. 1.

    >>> from_partial(jnp.array([0.5, -0.5])).tolist()
    [0.75, -0.5]
    """
    coefficients = jnp.zeros_like(partial[:0])
    for k in range(len(partial)):
        inner = coefficients - partial[k] * coefficients[::-1]
        coefficients = jnp.concatenate([inner, partial[k : k + 1]])
    return coefficients


def product(ordinary: Array, seasonal: Array, period: int) -> jax.Array:
    """(1 + sum_i a_i B^i) (1 + sum_j b_j B^(s j)) = 1 + sum_k c_k B^k.

    Args:
      ordinary: [p] a.
      seasonal: [P] b.
      period: s, at least 1 where there is a seasonal part.

    Returns:
      [p + s P] c.  For AR polynomials, whose coefficients have the other sign, c = -product(-phi, -Phi, s).

    Source: Box, Jenkins and Reinsel, Time Series Analysis, 3rd edition, 1994, section 9.1.

    >>> product(jnp.array([-0.5]), jnp.array([-0.25]), 4).tolist()
    [-0.5, 0.0, 0.0, -0.25, 0.125]
    """
    ordinary, seasonal = upcast(ordinary), upcast(seasonal)
    one = jnp.concatenate([jnp.ones_like(ordinary, shape=1), ordinary])
    whole = jnp.zeros_like(one, shape=len(one) + period * len(seasonal)).at[: len(one)].set(one)
    for j in range(len(seasonal)):
        start = period * (j + 1)
        whole = whole.at[start : start + len(one)].add(seasonal[j] * one)
    return whole[1:]


def state_space(model: Arma, period: int = 0) -> StateSpace:
    """The model of w_t - mu as a state space in Harvey's form, started from its stationary law.

    Args:
      model: stationary.
      period: s, at least 1 where the model has a seasonal part.

    Returns:
      A StateSpace of m = max(p + s P, q + s Q + 1) dimensions, without error of observation.

    Source: Harvey, 1989, section 3.4.

    >>> moving = Arma(jnp.zeros(0), jnp.zeros(0), jnp.array([0.5]), *[jnp.zeros(0)] * 2, jnp.array(4.0))
    >>> state_space(moving).covariance.tolist()  # variance (1 + 0.25) 4, covariance with the next 0.5 * 4
    [[5.0, 2.0], [2.0, 1.0]]
    """
    ar = -product(-upcast(model.ar), -upcast(model.seasonal_ar), period)
    ma = product(model.ma, model.seasonal_ma, period)
    m = max(len(ar), len(ma) + 1)
    transition = jnp.eye(m, k=1, dtype=ar.dtype).at[: len(ar), 0].set(ar)
    shock = jnp.zeros(m, ma.dtype).at[0].set(1.0).at[1 : len(ma) + 1].set(ma)
    noise = jnp.outer(shock, shock)
    covariance = model.variance * stationary_covariance(transition, noise)
    first = jnp.zeros(m, ar.dtype).at[0].set(1.0)
    return StateSpace(first, transition, model.variance * noise, jnp.zeros(()), jnp.zeros_like(first), covariance)


def centred(model: Arma, series: Array) -> jax.Array:
    """w_t - mu.

    Args:
      model: of the series.
      series: [n] w.

    Returns:
      [n].

    Source: Harvey, 1989, section 3.4.

    >>> model = Arma(jnp.array([3.0]), *[jnp.zeros(0)] * 4, jnp.array(1.0))
    >>> centred(model, jnp.array([3.0, 5.0])).tolist()
    [0.0, 2.0]
    """
    return upcast(series) - jnp.sum(model.mean)


def log_likelihood(model: Arma, series: Array, period: int = 0) -> jax.Array:
    """log p(w_1 .. w_n), exactly.

    Args:
      model: stationary.
      series: [n] w, finite.
      period: s, at least 1 where the model has a seasonal part.

    Returns:
      Scalar, nats.  Kind: exact.

    Raises:
      BadInput: a series that is not [n].

    Source: Harvey, 1989, section 3.4.2.

    >>> one = Arma(jnp.zeros(0), jnp.array([0.6]), *[jnp.zeros(0)] * 3, jnp.array(1.0))
    >>> round(float(log_likelihood(one, jnp.array([1.0]))), 4)  # log N(1; 0, 1 / (1 - 0.36))
    -1.4621
    """
    return jnp.sum(kalman_filter(state_space(model, period), centred(model, series)).log_density)


def conditional_log_likelihood(model: Arma, series: Array) -> jax.Array:
    """log p(w_{p+1} .. w_n | w_1 .. w_p) of an AR(p): a regression on the values before.

    Args:
      model: with an AR part only, stationary or not.
      series: [n] w, finite, n > p.

    Returns:
      Scalar, nats.  Kind: exact, of fewer observations: it never stands beside an unconditional one.

    Raises:
      BadInput: a model with another part.

    Source: Box, Jenkins and Reinsel, 1994, section 7.1.

    >>> one = Arma(jnp.zeros(0), jnp.array([1.0]), *[jnp.zeros(0)] * 3, jnp.array(1.0))
    >>> round(float(conditional_log_likelihood(one, jnp.array([1.0, 2.0]))), 4)  # log N(2; 1, 1)
    -1.4189
    """
    _check_autoregressive(model)
    level, p = centred(model, series), len(model.ar)
    residual = level[p:] - _lagged(level, p) @ upcast(model.ar)
    return -0.5 * jnp.sum(jnp.log(2 * math.pi * model.variance) + residual**2 / model.variance)


def conditional_least_squares(series: Array, order: int) -> Arma:
    """The AR(p) with a mean that maximises `conditional_log_likelihood`: a linear regression.

    w_t = c + sum_i phi_i w_{t-i} + e_t for t = p + 1 .. n by least squares; mu = c / (1 - sum_i phi_i), and sigma^2 is
    the mean of the n - p squared residuals.  Nothing keeps the result stationary.

    Args:
      series: [n] w, finite.
      order: p, from 0 to (n - 2) / 2.

    Returns:
      Arma.

    Raises:
      BadInput: an order that the series is too short for.

    Source: Box, Jenkins and Reinsel, 1994, section 7.1.

    >>> conditional_least_squares(jnp.array([0.0, 1.0, 1.5, 1.75, 1.875]), 1).ar.round(4).tolist()
    [0.5]
    """
    if order < 0 or 2 * order + 2 > len(series):
        raise BadInput(
            f"an autoregression of order {order} on a series of {len(series)} values",
            f"allowed: orders from 0 to {max(0, len(series) // 2 - 1)}",
        )
    series = upcast(series)
    middle = jnp.mean(series)
    level = series - middle  # regressors around zero: float32 loses nothing to the level
    design = jnp.concatenate([jnp.ones_like(level[order:, None]), _lagged(level, order)], axis=1)
    with jax.default_matmul_precision("highest"):
        solution = jnp.linalg.lstsq(design, level[order:])[0]
        variance = jnp.mean((level[order:] - design @ solution) ** 2)
    mean = middle + solution[:1] / (1 - jnp.sum(solution[1:]))
    none = jnp.zeros_like(mean, shape=0)
    return Arma(mean, solution[1:], none, none, none, variance)


def _lagged(series: jax.Array, order: int) -> jax.Array:
    """[n - p, p]: the p values before each, the newest first."""
    n = len(series)
    columns = [series[order - i : n - i] for i in range(1, order + 1)]
    return jnp.stack(columns, axis=1) if columns else jnp.zeros_like(series, shape=(n, 0))


def _check_autoregressive(model: Arma) -> None:
    others = [name for name in ("ma", "seasonal_ar", "seasonal_ma") if len(getattr(model, name))]
    if others:
        raise BadInput(
            f"the conditional likelihood of a model with the part {others[0]!r}",
            "allowed: autoregressive models, with a mean or without",
            "use log_likelihood, which is exact for every part",
        )
