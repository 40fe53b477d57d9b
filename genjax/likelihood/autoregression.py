r"""Autoregressions whose first values are given: a linear regression of each value on the p values before it.

    w_t = c + \sum_{i=1}^p \phi_i w_{t-i} + e_t,   e_t ~ N(0, \sigma^2),   t > p,   \mu = c / (1 - \sum_i \phi_i)

Nothing keeps the result stationary; `arma.after` and what builds on it go on from such a model too.

Box, Jenkins and Reinsel, Time Series Analysis, 3rd edition, 1994, section 7.1.
"""

import math

import jax
import jax.numpy as jnp

from genjax.distributions import upcast
from genjax.errors import BadInput
from genjax.likelihood.arma import Arma, centred
from genjax.types import Array


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
