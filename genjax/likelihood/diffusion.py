r"""The variational bound of a diffusion model, in T steps or without steps.

The model draws z_last ~ N(0, sigma_last^2 I), then z_s given z_t as q(z_s | z_t, x) with x' in the place of x, and at
the end x given z_first.  With SNR = alpha^2 / sigma^2, first = t_0 < .. < t_T = last (Kingma et al., 2021, eqs. 11-17):

    (1)  -log p(x) <= KL(q(z_last | x) || N(0, sigma_last^2 I))                                       prior
                      + sum_i 1/2 (SNR(t_{i-1}) - SNR(t_i)) E ||x - x'(z_{t_i}, t_i)||^2              diffusion
                      + E -log p(x | z_first)                                                         reconstruction
    (2)  T to infinity:  diffusion = -1/2 integral SNR'(t) E ||x - x'(z_t, t)||^2 dt

The first is ||alpha_last x||^2 / (2 sigma_last^2).  (2) depends on the process by the SNR of its ends alone, the form
of the schedule changes no more than the variance of its estimate; here t is drawn so that log SNR is uniform.

Kind: an UPPER BOUND of -log p(x) in expectation over the noise that is drawn; its terms are separate random numbers.

The last term: of grey levels with values v_1 .. v_L each pixel is given z_first by Bayes' rule under equal odds,
p(v_l | z) = softmax_l(-(z - alpha v_l)^2 / (2 sigma^2)); of real-valued data by N(z / alpha, sigma^2 / alpha^2).

Source: Kingma, Salimans, Poole and Ho, Variational Diffusion Models, 2021, https://arxiv.org/abs/2107.00630; Ho, Jain
and Abbeel, 2020, https://arxiv.org/abs/2006.11239, eq. 5.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.gaussian import Process, check_process, corrupt, log_snr, point, times_of
from genjax.corruption.predictions import Denoise, checked
from genjax.corruption.times import low_discrepancy
from genjax.distributions import event_sum, upcast
from genjax.errors import BadInput
from genjax.losses.denoising import likelihood_weight
from genjax.samplers.grids import path
from genjax.types import Array, Key

Reconstruction = Callable[[jax.Array, jax.Array], jax.Array]
"""(x [B, ...], z_first) -> -log p(x | z_first) [B] nats."""
TABLE = 1024  # places at which the inverse of lambda(t) is known exactly


class Bound(NamedTuple):
    """The three terms of eq. 1, each [B] nats."""

    prior: jax.Array
    diffusion: jax.Array
    reconstruction: jax.Array

    def total(self) -> jax.Array:
        """Their sum [B] nats, an upper bound of -log p(x) in expectation."""
        return self.prior + self.diffusion + self.reconstruction


def stepwise_bound(
    process: Process, denoise: Denoise, reconstruction: Reconstruction, grid: np.ndarray, x: Array, key: Key
) -> Bound:
    """Eq. 1: all T steps of a grid, each with noise of its own: the bound of what is sampled on that grid.

    Args:
      process: with noise at its first time.
      denoise: (z, t [B]) -> E[x | z_t = z].
      reconstruction: `of_levels` or `of_reals`.
      grid: T + 1 times, falling from the last to the first of the process; T calls of the network.  Steps that are
        even in t suit a process whose log-SNR falls evenly; for EDM they make a bound that says nothing.
      x: data [B, ...].
      key: of the noise.

    Returns:
      Bound.

    Raises:
      BadInput: a grid without steps, or that does not run through the process; a process that has no noise at its first
        time; a denoiser's output of another shape than x.

    Source: Kingma et al., 2021, eqs. 11 to 14.

    >>> from genjax.corruption.schedules import cosine
    >>> zero = lambda z, t: jnp.zeros_like(z)
    >>> from genjax.samplers.grids import uniform
    >>> grid = uniform(cosine(), 11)
    >>> found = stepwise_bound(cosine(), zero, of_reals(cosine()), grid, jnp.zeros((1, 2)), jax.random.key(0))
    >>> float(found.prior[0]), float(found.diffusion[0])
    (0.0, 0.0)
    """
    x, t = upcast(x), path(process, grid)["t"]
    if len(t) < 2 or not np.allclose(t[[0, -1]], [process.last, process.first], rtol=1e-9):
        raise BadInput(
            f"a bound along {len(t)} times from {t[0]} to {t[-1]}",
            f"allowed: two times or more from {process.last} to {process.first}, such as uniform(process, 1001)",
        )
    snr = log_snr(process, t)
    fall = np.exp(snr[1:]) * -np.expm1(snr[:-1] - snr[1:])

    def step(total: jax.Array, row: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        i, time, weight = row
        times = jnp.full(len(x), time, x.dtype)
        noise = jax.random.normal(jax.random.fold_in(key, i + 1), x.shape, x.dtype)
        return total + 0.5 * weight * _error(process, denoise, x, noise, times), None

    rows = (jnp.arange(len(fall)), jnp.asarray(t[:-1], x.dtype), jnp.asarray(fall, x.dtype))
    diffusion, _ = jax.lax.scan(step, jnp.zeros(len(x), x.dtype), rows)
    return Bound(prior_term(process, x), diffusion, _reconstruct(process, reconstruction, x, key))


def continuous_bound(
    process: Process, denoise: Denoise, reconstruction: Reconstruction, k: int, x: Array, key: Key
) -> Bound:
    """Eq. 2, by k times an example, each in its own k-th of lambda's range.

    Args:
      process, denoise, reconstruction, x, key: as of `stepwise_bound`; the process has signal at its last time.
      k: times, at least 1; as many calls of the network.

    Returns:
      Bound; the diffusion term is unbiased for every k.

    Raises:
      BadInput: no times; a process whose signal does not fall, that has no noise at its first time, or no signal at its
        last; a denoiser's output of another shape than x.

    Source: Kingma et al., 2021, eq. 17; the spread of times, appendix I.1.

    >>> from genjax.corruption.schedules import cosine
    >>> zero = lambda z, t: jnp.zeros_like(z)
    >>> found = continuous_bound(cosine(), zero, of_reals(cosine()), 4, jnp.zeros((1, 2)), jax.random.key(0))
    >>> float(found.diffusion[0])
    0.0
    """
    if not k >= 1 or k != int(k):
        raise BadInput(f"k = {k} times of a bound", "allowed: whole numbers from 1")
    x, table = upcast(x), _table(process)
    length = np.diff(table) * (TABLE - 1)  # dt / du, constant between two places of the table

    def one(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        place_key, noise_key = jax.random.split(jax.random.fold_in(key, i + 1))
        u = (i + low_discrepancy(place_key, len(x))) / k
        at = jnp.clip((u * (TABLE - 1)).astype(int), 0, TABLE - 2)
        t = jnp.interp(u, jnp.linspace(0.0, 1.0, TABLE), jnp.asarray(table, x.dtype)).astype(x.dtype)
        noise = jax.random.normal(noise_key, x.shape, x.dtype)
        error = _error(process, denoise, x, noise, t)
        return total + likelihood_weight(point(process, t)) * jnp.asarray(length, x.dtype)[at] * error / k, None

    diffusion, _ = jax.lax.scan(one, jnp.zeros(len(x), x.dtype), jnp.arange(k))
    return Bound(prior_term(process, x), diffusion, _reconstruct(process, reconstruction, x, key))


def prior_term(process: Process, x: Array) -> jax.Array:
    """KL(q(z_last | x) || N(0, sigma_last^2 I)) = ||alpha_last x||^2 / (2 sigma_last^2).

    Args:
      process: whose last time.
      x: data [B, ...].

    Returns:
      [B] nats.

    >>> from genjax.corruption.schedules import rectified_flow
    >>> prior_term(rectified_flow(last=0.5), jnp.ones((1, 4))).tolist()
    [2.0]
    """
    x, last = upcast(x), np.array(process.last)
    return jnp.asarray((process.alpha(last) / process.sigma(last)) ** 2 / 2, x.dtype) * event_sum(x**2)


def of_levels(process: Process, values: Array) -> Reconstruction:
    """-log p(x | z_first) of grey levels, each pixel by Bayes' rule under equal odds.

    Args:
      process: whose first time.
      values: [L] what the levels are in the data's scale, such as linspace(-1, 1, 256), no two alike.

    Returns:
      Reconstruction; infinite where a pixel of x is none of the levels, to a twentieth of their least distance.

    Raises:
      BadInput: fewer than two levels, or two that are alike.

    Source: Kingma et al., 2021, section 3.3.

    >>> from genjax.corruption.schedules import edm
    >>> unsure = of_levels(edm(1.0), jnp.array([-1.0, 1.0]))
    >>> [round(float(unsure(x, jnp.ones((1, 1)))[0]), 4) for x in (jnp.ones((1, 1)), -jnp.ones((1, 1)))]
    [0.1269, 2.1269]
    """

    def logits(z: jax.Array) -> jax.Array:
        alpha, sigma = (jnp.asarray(part, z.dtype) for part in _first(process))
        return -0.5 * ((z[..., None] - alpha * jnp.reshape(jnp.asarray(values), (1,) * z.ndim + (-1,))) / sigma) ** 2

    return of_logits(values, logits)


def of_logits(values: Array, logits: Callable[[jax.Array], jax.Array]) -> Reconstruction:
    """-log p(x | z_first) of grey levels, each pixel by the softmax of what is said of its levels.

    Args:
      values: [L] as of `of_levels`.
      logits: z_first [B, ...] -> [B, ..., L].

    Returns:
      Reconstruction; infinite as that of `of_levels`: between the levels the model has no probability.

    Raises:
      BadInput: as `least_distance`.

    >>> even = of_logits(jnp.array([-1.0, 1.0]), lambda z: jnp.zeros((*z.shape, 2)))
    >>> [round(float(even(jnp.full((1, 1), x), jnp.zeros((1, 1)))[0]), 4) for x in (1.0, 0.5)]
    [0.6931, inf]
    """
    slack, values = 0.05 * least_distance(values), jnp.asarray(values)

    def neg_log_prob(x: jax.Array, z: jax.Array) -> jax.Array:
        level = jnp.argmin(jnp.abs(x[..., None] - jnp.reshape(values, (1,) * x.ndim + (-1,))), axis=-1)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits(z)), level[..., None], axis=-1)[..., 0]
        return -event_sum(jnp.where(jnp.abs(x - values[level]) <= slack, log_prob, -jnp.inf))

    return neg_log_prob


def least_distance(values: Array) -> float:
    """Of grey levels that are next to each other.

    Args:
      values: [L] what the levels are in the data's scale.

    Returns:
      Above 0.

    Raises:
      BadInput: fewer than two levels, or two that are alike.

    >>> least_distance([1.0, -1.0, 0.5])
    0.5
    """
    host = np.sort(np.atleast_1d(np.asarray(values, np.float64)))
    if host.ndim != 1 or len(host) < 2:
        raise BadInput(f"levels of shape {list(np.shape(values))}", "allowed: [L] values of grey levels, at least two")
    if not (least := float(np.diff(host).min())) > 0:
        raise BadInput("two grey levels of one value, or none", "allowed: [L] different values")
    return least


def of_reals(process: Process) -> Reconstruction:
    """-log N(x; z_first / alpha, sigma^2 / alpha^2): of real-valued data.

    Args:
      process: whose first time.

    Returns:
      Reconstruction.

    >>> from genjax.corruption.schedules import edm
    >>> round(float(of_reals(edm(1.0))(jnp.zeros((1, 1)), jnp.zeros((1, 1)))[0]), 4)  # log(2 pi) / 2
    0.9189
    """

    def neg_log_prob(x: jax.Array, z: jax.Array) -> jax.Array:
        alpha, sigma = _first(process)
        constant = (sigma / alpha).__array_namespace__().log(sigma / alpha) + 0.5 * math.log(2 * math.pi)
        alpha, sigma, constant = (jnp.asarray(part, z.dtype) for part in (alpha, sigma, constant))
        return event_sum(0.5 * ((alpha * x - z) / sigma) ** 2 + constant)

    return neg_log_prob


def _first(process: Process) -> tuple[Any, Any]:
    """alpha and sigma there: NumPy's float64 on the host; of a learned schedule, arrays under a trace."""
    first = np.array(process.first)
    return process.alpha(first), process.sigma(first)


def _error(process: Process, denoise: Denoise, x: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    return event_sum((x - checked(denoise)(corrupt(process, x, noise, t), t)) ** 2)


def _reconstruct(process: Process, reconstruction: Reconstruction, x: jax.Array, key: Key) -> jax.Array:
    noise = jax.random.normal(jax.random.fold_in(key, 0), x.shape, x.dtype)
    return reconstruction(x, corrupt(process, x, noise, jnp.full(len(x), process.first, x.dtype)))


def _table(process: Process) -> np.ndarray:
    ends = log_snr(check_process(process), np.array([process.first, process.last]))
    _check_noise(ends[0])
    if not np.isfinite(ends[1]):
        raise BadInput(
            "the continuous bound of a process that reaches zero signal",
            "allowed: one whose `last` stops before; stepwise_bound fits this one",
        )
    return times_of(process, np.linspace(ends[0], ends[1], TABLE))


def _check_noise(log_ratio: float) -> None:
    if not np.isfinite(log_ratio):
        raise BadInput(
            "the bound of a process that reaches the data themselves: its SNR is infinite at `first`",
            "allowed: one whose `first` stops before, such as rectified_flow(first=0.001)",
        )
