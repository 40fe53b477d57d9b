r"""Autoregressive moving-average models: coefficients, exact likelihood, stationary by construction.

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

from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax.distributions import upcast
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
    transition, noise = _harvey(model, period)
    return _started(transition, model.variance * noise, model.variance * stationary_covariance(transition, noise))


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


def after(model: Arma, series: Array, period: int = 0) -> StateSpace:
    """The state space of w_{n+1} - mu, w_{n+2} - mu, ..., given w_1 .. w_n.

    An autoregression knows its state from the last values alone, and then needs not be stationary: the i-th coordinate
    is sum over j >= i of phi_j w_{n+i-j}.  With a moving average the filter finds the state, from the stationary law.

    Args:
      model: stationary, or without moving averages.
      series: [n] w, finite.
      period: s, at least 1 where the model has a seasonal part.

    Returns:
      A StateSpace as `state_space`.

    Source: Harvey, 1989, section 3.4.

    >>> walk = Arma(jnp.zeros(0), jnp.array([1.0]), *[jnp.zeros(0)] * 3, jnp.array(4.0))
    >>> [after(walk, jnp.array([1.0, 7.0])).mean.tolist(), after(walk, jnp.array([1.0, 7.0])).covariance.tolist()]
    [[7.0], [[4.0]]]
    """
    level, ar = centred(model, series), -product(-upcast(model.ar), -upcast(model.seasonal_ar), period)
    p, n = len(ar), len(level)
    if len(model.ma) or len(model.seasonal_ma) or n < p:
        return kalman_filter(state_space(model, period), level).after
    transition, noise = _harvey(model, period)
    last = jnp.zeros(len(transition), ar.dtype).at[:p].set(level[n - p :][::-1])
    mean = jnp.stack([jnp.pad(ar[i:], (0, len(last) - p + i)) @ last for i in range(len(last))])
    return _started(transition, model.variance * noise, model.variance * noise, mean)


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


def _harvey(model: Arma, period: int) -> tuple[jax.Array, jax.Array]:
    """Harvey's transition T, and the covariance of what an innovation of variance 1 does to the state."""
    ar = -product(-upcast(model.ar), -upcast(model.seasonal_ar), period)
    ma = product(model.ma, model.seasonal_ma, period)
    m = max(len(ar), len(ma) + 1)
    transition = jnp.eye(m, k=1, dtype=ar.dtype).at[: len(ar), 0].set(ar)
    shock = jnp.zeros(m, ma.dtype).at[0].set(1.0).at[1 : len(ma) + 1].set(ma)
    return transition, jnp.outer(shock, shock)


def _started(
    transition: jax.Array, noise: jax.Array, covariance: jax.Array, mean: jax.Array | None = None
) -> StateSpace:
    """Its first coordinate is what is observed, without error; mean None: zero."""
    first = jnp.zeros(len(transition), transition.dtype).at[0].set(1.0)
    return StateSpace(
        first, transition, noise, jnp.zeros(()), jnp.zeros_like(first) if mean is None else mean, covariance
    )
