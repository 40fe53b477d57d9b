r"""The Kalman filter: the exact log-likelihood of a linear Gaussian state-space model, and its forecasts.

    y_t = Z . alpha_t + eps_t,              eps_t ~ N(0, H)          (observation)
    alpha_{t+1} = T alpha_t + eta_t,        eta_t ~ N(0, Q)          (transition)
    alpha_1 ~ N(a_1, P_1)                                            (start)

Given y_1 .. y_{t-1} the state alpha_t is N(a_t, P_t), hence y_t is N(Z . a_t, F_t) with F_t = Z P_t Z' + H, and

    v_t = y_t - Z . a_t                     (innovation)
    K_t = T P_t Z' / F_t                    (gain)
    a_{t+1} = T a_t + K_t v_t,              P_{t+1} = T P_t T' + Q - F_t K_t K_t'
    log p(y_1 .. y_n) = -1/2 sum_t [log(2 pi F_t) + v_t^2 / F_t]

Kind: EXACT.  The sum is the prediction error decomposition, and no term of it is approximate: a stationary model starts
from its own stationary law, P_1 = T P_1 T' + Q, and not from the first observations.

Everything is computed in the precision of the arguments.  float32 carries the log-likelihood of a few hundred
observations to a relative 1e-5; slopes by differences, and series near a unit root, ask for `jax.enable_x64`.

Source: Kalman, A new approach to linear filtering and prediction problems, 1960, https://doi.org/10.1115/1.3662552;
Harvey, Forecasting, Structural Time Series Models and the Kalman Filter, 1989, sections 3.1-3.4,
https://doi.org/10.1017/CBO9781107049994.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.types import Array, Key


class StateSpace(NamedTuple):
    """A linear Gaussian model of one series; its start is the law of the state before the next observation."""

    observation: jax.Array  # [m] Z
    transition: jax.Array  # [m, m] T
    noise: jax.Array  # [m, m] Q
    error: jax.Array  # scalar H >= 0, the variance of an observation given the state
    mean: jax.Array  # [m] a_1
    covariance: jax.Array  # [m, m] P_1


class Filtered(NamedTuple):
    """What the filter knew before each observation, and the model as it stands after the last."""

    log_density: jax.Array  # [n] nats, log p(y_t | y_1 .. y_{t-1}); its sum is the log-likelihood
    mean: jax.Array  # [n] of y_t given the observations before it
    variance: jax.Array  # [n] F_t of the same law
    after: StateSpace  # starts with the law of alpha_{n+1} given all observations


class Forecast(NamedTuple):
    """The law of each coming observation given all that were seen: normal, with this mean and variance."""

    mean: jax.Array  # [steps]
    variance: jax.Array  # [steps]


def stationary_covariance(transition: Array, noise: Array, doublings: int = 25) -> jax.Array:
    """P = T P T' + Q, the covariance of a stationary state: sum over k of T^k Q T'^k, summed by doubling.

    After i rounds the sum holds 2^i terms: P <- P + A P A', A <- A A, from P = Q and A = T.  That is a handful of small
    products, where the linear system of the m^2 entries of P would be solved at a cost of m^6.

    Args:
      transition: [m, m] T, all eigenvalues inside of the unit circle.
      noise: [m, m] Q, symmetric, non-negative definite.
      doublings: rounds; 25 sum 33 million terms, enough for eigenvalues up to about 1 - 1e-6.

    Returns:
      [m, m].  On the unit circle, where no stationary law exists, a large but finite matrix.

    Source: Smith, Matrix equation XA + BX = C, 1968, https://doi.org/10.1137/0116017.

    >>> round(float(stationary_covariance(jnp.array([[0.6]]), jnp.array([[1.0]]))[0, 0]), 4)  # 1 / (1 - 0.36)
    1.5625
    """
    transition, noise = jnp.asarray(transition), jnp.asarray(noise)

    def double(_: int, carried: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        power, total = carried
        return power @ power, total + power @ total @ power.T

    with jax.default_matmul_precision("highest"):
        return jax.lax.fori_loop(0, doublings, double, (transition, noise))[1]


def kalman_filter(model: StateSpace, series: Array) -> Filtered:
    """The law of every observation given those before it: one scan over the series.

    Args:
      model: of the series.
      series: [n] y_1 .. y_n, finite.

    Returns:
      Filtered; `log_density.sum()` is the exact log p(y_1 .. y_n) in nats, differentiable in the model.

    Raises:
      BadInput: a series that is not [n], or a model whose parts do not fit together.

    Source: Kalman, 1960; Harvey, 1989, eq. 3.2.4 and 3.4.5.

    >>> noise = StateSpace(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones((1, 1)), 0.0, jnp.zeros(1), jnp.ones((1, 1)))
    >>> round(float(kalman_filter(noise, jnp.array([0.0, 1.0])).log_density.sum()), 4)  # -log(2 pi) - 1/2
    -2.3379
    """
    model, (series,) = _checked(model, series)

    def step(start: tuple[jax.Array, jax.Array], y: jax.Array) -> tuple[tuple[jax.Array, jax.Array], tuple]:
        mean, covariance = start
        shared = covariance @ model.observation  # [m] covariance of the state with y_t
        expected, variance = model.observation @ mean, model.observation @ shared + model.error
        innovation, gain = y - expected, model.transition @ shared / variance
        density = -0.5 * (jnp.log(2 * math.pi * variance) + innovation**2 / variance)
        coming = _predicted(model, covariance) - variance * jnp.outer(gain, gain)
        return (model.transition @ mean + gain * innovation, coming), (density, expected, variance)

    with jax.default_matmul_precision("highest"):
        start, (density, expected, variance) = jax.lax.scan(step, (model.mean, model.covariance), jnp.asarray(series))
    return Filtered(density, expected, variance, model._replace(mean=start[0], covariance=start[1]))


def forecast(model: StateSpace, steps: int) -> Forecast:
    """The law of each of the next observations.

    Args:
      model: `kalman_filter(...).after`, or any model: its start is the law of the state before the first step.
      steps: observations to foresee, at least 1.

    Returns:
      Forecast(mean [steps], variance [steps]): of single observations; their errors are correlated.

    Raises:
      BadInput: steps < 1, or a model whose parts do not fit together.

    Source: Harvey, 1989, section 3.5.

    >>> walk = StateSpace(jnp.ones(1), jnp.ones((1, 1)), jnp.ones((1, 1)), 0.5, jnp.zeros(1), jnp.zeros((1, 1)))
    >>> forecast(walk, 3).variance.tolist()  # a random walk seen with an error of variance 1/2
    [0.5, 1.5, 2.5]
    """
    check_steps(steps)
    model, _ = _checked(model)

    def step(start: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], tuple]:
        mean, covariance = start
        law = model.observation @ mean, model.observation @ covariance @ model.observation + model.error
        return (model.transition @ mean, _predicted(model, covariance)), law

    with jax.default_matmul_precision("highest"):
        _, (mean, variance) = jax.lax.scan(step, (model.mean, model.covariance), length=steps)
    return Forecast(mean, variance)


def simulate(model: StateSpace, key: Key, steps: int) -> jax.Array:
    """One path of the coming observations, with the correlations between them.

    Args:
      model: as in `forecast`.
      key: of the path; `vmap` over keys gives many.
      steps: observations to draw, at least 1.

    Returns:
      [steps].

    Raises:
      BadInput: steps < 1, or a model whose parts do not fit together.

    Source: Harvey, 1989, section 3.1.

    >>> still = StateSpace(jnp.ones(1), jnp.ones((1, 1)), jnp.zeros((1, 1)), 0.0, jnp.ones(1), jnp.zeros((1, 1)))
    >>> simulate(still, jax.random.key(0), 3).tolist()
    [1.0, 1.0, 1.0]
    """
    check_steps(steps)
    model, _ = _checked(model)
    start_key, state_key, error_key = jax.random.split(key, 3)
    size, kind = model.mean.shape, model.mean.dtype
    shocks = jax.random.normal(state_key, (steps, *size), kind) @ _square_root(model.noise).T
    errors = jnp.sqrt(model.error) * jax.random.normal(error_key, (steps,), kind)

    def step(state: jax.Array, noise: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        shock, error = noise
        return model.transition @ state + shock, model.observation @ state + error

    with jax.default_matmul_precision("highest"):
        first = model.mean + _square_root(model.covariance) @ jax.random.normal(start_key, size, kind)
        return jax.lax.scan(step, first, (shocks, errors))[1]


def check_steps(steps: int) -> None:
    """Refuse a number of coming observations that is none.

    Args:
      steps: observations ahead.

    Returns:
      Nothing.

    Raises:
      BadInput: steps < 1.

    >>> check_steps(0)
    Traceback (most recent call last):
    genjax.errors.BadInput: steps = 0
    allowed: the number of coming observations, a whole number from 1
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise BadInput(f"steps = {steps!r}", "allowed: the number of coming observations, a whole number from 1")


def _predicted(model: StateSpace, covariance: jax.Array) -> jax.Array:
    """T P T' + Q, kept symmetric against rounding."""
    moved = model.transition @ covariance @ model.transition.T
    return 0.5 * (moved + moved.T) + model.noise


def _square_root(covariance: Array) -> jax.Array:
    """A matrix R with R R' = P for a P that may be singular; rounding below zero counts as zero."""
    values, vectors = jnp.linalg.eigh(covariance)
    return vectors * jnp.sqrt(jnp.maximum(values, 0.0))[None]


def _checked(model: StateSpace, *series: Array) -> tuple[StateSpace, list[jax.Array]]:
    """Model and series as arrays of one floating type; BadInput where shapes do not fit."""
    m = jnp.shape(model.observation)[:1]
    wanted = dict(zip(StateSpace._fields, (m, m * 2, m * 2, (), m, m * 2), strict=True))
    found = {name: jnp.shape(part) for name, part in model._asdict().items()}
    wrong = [name for name in wanted if not m or found[name] != wanted[name]]
    if wrong:
        raise BadInput(
            f"state-space model: {wrong[0]} has shape {list(found[wrong[0]])}",
            "allowed: observation and mean [m]; transition, noise and covariance [m, m]; error a scalar",
        )
    for one in series:
        if jnp.ndim(one) != 1 or not len(one):
            raise BadInput(f"series has shape {list(jnp.shape(one))}", "allowed: [n], one series, not empty")
    kind = jnp.promote_types(jnp.float32, jnp.result_type(*model, *series))  # never bfloat16
    return StateSpace(*(jnp.asarray(part, kind) for part in model)), [jnp.asarray(one, kind) for one in series]
