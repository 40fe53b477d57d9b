r"""Gaussian forward processes: data x, mixed with noise at a time t.

    (1)  q(z_t | x) = N(alpha_t x, sigma_t^2 I),    so  z_t = alpha_t x + sigma_t eps,  eps ~ N(0, I)
    (2)  SNR_t = alpha_t^2 / sigma_t^2,    lambda_t = log SNR_t, which falls from t = first to t = last

A process is the two functions alpha and sigma and the range of t; everything else follows.  Between two times s < t it
is a Markov chain (Kingma et al., 2021, appendix A), with alpha_{t|s} = alpha_t / alpha_s:

    (3)  q(z_t | z_s) = N(alpha_{t|s} z_s, sigma_{t|s}^2 I),    sigma_{t|s}^2 = sigma_t^2 - alpha_{t|s}^2 sigma_s^2
    (4)  q(z_s | z_t, x) = N(alpha_{t|s} (sigma_s / sigma_t)^2 z_t + alpha_s (sigma_{t|s} / sigma_t)^2 x,
                             (sigma_{t|s} sigma_s / sigma_t)^2 I),
         sigma_{t|s}^2 / sigma_t^2 = -expm1(lambda_t - lambda_s)

and its law is also that of an ordinary differential equation (Song et al., 2021, eq. 13), in terms of the expectations
of x and of eps given z_t:

    (5)  dz / dt = alpha_t' E[x | z_t] + sigma_t' E[eps | z_t]

Variance preserving: alpha^2 + sigma^2 = 1.  Variance exploding: alpha = 1.  Rectified flow: alpha + sigma = 1.  Two
processes differ by a scale of z and a warp of t only, alpha / sigma being what matters: a network trained on one may
be sampled by another.

The functions are formulas of whatever array t is: NumPy's float64 on the host, JAX's under a trace.

Sources: Kingma, Salimans, Poole and Ho, Variational Diffusion Models, 2021, https://arxiv.org/abs/2107.00630; Song et
al., Score-Based Generative Modeling through Stochastic Differential Equations, 2021, https://arxiv.org/abs/2011.13456.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.errors import BadInput
from genjax.types import Array, Key

Function = Callable[[Any], Any]  # of times, an array of any shape -> of the same shape, by t's own array library


class Process(NamedTuple):
    """q(z_t | x) = N(alpha(t) x, sigma(t)^2 I) for t from `first` (nearly data) to `last` (nearly noise)."""

    alpha: Function
    sigma: Function
    first: float
    last: float


class Point(NamedTuple):
    """A process at times: arrays of one shape."""

    alpha: jax.Array
    sigma: jax.Array
    alpha_rate: jax.Array  # d alpha / dt
    sigma_rate: jax.Array  # d sigma / dt


def point(process: Process, t: Array, like: Array | None = None) -> Point:
    """alpha, sigma and their rates of change at times, exactly (by forward differentiation).

    Args:
      process: whose.
      t: times, [B] or a scalar.
      like: [B, ...]; if given, what is returned has as many axes, of size 1 after the first.

    Returns:
      Point of t's shape, or [B, 1, ..., 1].

    >>> from genjax.corruption.schedules import rectified_flow
    >>> [float(part) for part in point(rectified_flow(), jnp.array(0.25))]
    [0.75, 0.25, -1.0, 1.0]
    """
    t = jnp.asarray(t, jnp.result_type(float))
    if like is not None:
        t = t.reshape(t.shape + (1,) * (jnp.ndim(like) - t.ndim))
    alpha, alpha_rate = jax.jvp(process.alpha, (t,), (jnp.ones_like(t),))
    sigma, sigma_rate = jax.jvp(process.sigma, (t,), (jnp.ones_like(t),))
    return Point(alpha, sigma, alpha_rate, sigma_rate)


def log_snr(process: Process, t: Array) -> Any:
    """lambda_t = 2 log(alpha_t / sigma_t), eq. 2.

    Args:
      process: whose.
      t: times, of any shape; NumPy's give NumPy's float64.

    Returns:
      Of t's shape; minus infinity where alpha is 0.

    >>> from genjax.corruption.schedules import rectified_flow
    >>> float(log_snr(rectified_flow(), np.array(0.5)))
    0.0
    """
    xp = t.__array_namespace__()
    with np.errstate(divide="ignore"):
        return 2.0 * (xp.log(process.alpha(t)) - xp.log(process.sigma(t)))


def times_of(process: Process, wanted: np.ndarray) -> np.ndarray:
    """The times at which a process has some log-SNRs, by bisection.

    Args:
      process: whose.
      wanted: lambda; what lies outside the process's is taken as its nearest.

    Returns:
      t, of the same shape, float64.

    >>> from genjax.corruption.schedules import rectified_flow
    >>> times_of(rectified_flow(), np.array([0.0])).round(9).tolist()
    [0.5]
    """
    low, high = np.full(np.shape(wanted), process.first), np.full(np.shape(wanted), process.last)
    for _ in range(100):
        middle = 0.5 * (low + high)
        later = log_snr(process, middle) > wanted
        low, high = np.where(later, middle, low), np.where(later, high, middle)
    for end in (process.first, process.last):  # the ends themselves, to the last digit
        at_end = np.isclose(0.5 * (low + high), end, rtol=1e-14, atol=1e-14)
        low, high = np.where(at_end, end, low), np.where(at_end, end, high)
    return 0.5 * (low + high)


def corrupt(process: Process, x: Array, noise: Array, t: Array) -> jax.Array:
    """z_t = alpha_t x + sigma_t eps, eq. 1.

    Args:
      process: of the corruption.
      x: data [B, ...].
      noise: eps, of x's shape.
      t: [B], from `first` to `last`.

    Returns:
      z_t, of x's shape.

    Raises:
      BadInput: shapes that do not fit.

    >>> from genjax.corruption.schedules import rectified_flow
    >>> corrupt(rectified_flow(), jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.array([0.25])).tolist()
    [[0.75, 0.75]]
    """
    if jnp.shape(x) != jnp.shape(noise) or jnp.shape(t) != jnp.shape(x)[:1]:
        raise BadInput(
            f"data {list(jnp.shape(x))}, noise {list(jnp.shape(noise))}, times {list(jnp.shape(t))}",
            "allowed: data and noise [B, ...] of one shape, times [B]",
        )
    at = point(process, t, x)
    return at.alpha * x + at.sigma * noise


def draw_last(process: Process, key: Key, shape: tuple[int, ...]) -> jax.Array:
    """z at t = last as sampling begins with it: N(0, sigma_last^2 I), which neglects what is left of the data.

    Args:
      process: whose.
      key: of the draw.
      shape: of z.

    Returns:
      z of that shape, float32.

    >>> from genjax.corruption.schedules import edm
    >>> bool(jnp.std(draw_last(edm(), jax.random.key(0), (10_000,))) > 75)
    True
    """
    return jnp.float32(process.sigma(np.float64(process.last))) * jax.random.normal(key, shape)


class Between(NamedTuple):
    """q(z_s | z_t, x) = N(keep z_t + pull x, variance): eq. 4."""

    keep: Any
    pull: Any
    variance: Any


def between(process: Process, s: Array, t: Array) -> Between:
    """The posterior of an earlier z_s given a later z_t and the data, eq. 4.

    Args:
      process: whose.
      s: earlier times; NumPy's give NumPy's float64.
      t: later ones, t > s, of the same shape.

    Returns:
      Between, each of the shape of s.

    >>> from genjax.corruption.schedules import rectified_flow
    >>> [round(float(part), 4) for part in between(rectified_flow(), np.array(0.0), np.array(0.5))]  # z_0 is x
    [0.0, 1.0, 0.0]
    """
    xp = t.__array_namespace__()
    alpha_s, sigma_s, sigma_t = process.alpha(s), process.sigma(s), process.sigma(t)
    with np.errstate(divide="ignore"):
        gained = -xp.expm1(log_snr(process, t) - log_snr(process, s))  # (sigma_{t|s} / sigma_t)^2
    keep = process.alpha(t) / alpha_s * (sigma_s / sigma_t) ** 2
    return Between(keep, alpha_s * gained, gained * sigma_s**2)


def check_process(process: Process, points: int = 257) -> Process:
    """The same process, if its signal-to-noise ratio falls all the way.

    Args:
      process: to be looked at, on a grid of times.
      points: of the grid.

    Returns:
      `process`.

    Raises:
      BadInput: first >= last; alpha or sigma negative or no number; a ratio that does not fall, and where.

    >>> check_process(Process(lambda t: t, lambda t: 1 - t, 0.0, 1.0))
    Traceback (most recent call last):
    genjax.errors.BadInput: the signal-to-noise ratio of a process rises at t = 0.00390625, or stays
    allowed: ...
    """
    if not process.first < process.last:
        raise BadInput(f"a process from t = {process.first} to {process.last}", "allowed: first < last")
    t = np.linspace(process.first, process.last, points)
    with np.errstate(all="ignore"):
        alpha, sigma = np.asarray(process.alpha(t)), np.asarray(process.sigma(t))
    if not (np.isfinite(alpha).all() and np.isfinite(sigma).all() and (alpha >= 0).all() and (sigma >= 0).all()):
        raise BadInput("alpha or sigma of a process is negative or no number", "allowed: both finite, at least 0")
    rises = np.flatnonzero(np.diff(np.arctan2(alpha, sigma)) >= 0)
    if len(rises):
        raise BadInput(
            f"the signal-to-noise ratio of a process rises at t = {t[rises[0] + 1]:.8g}, or stays",
            "allowed: a schedule that falls from first to last; look at the signs of its formula",
        )
    return process
