r"""The variational bound of a diffusion model whose noise schedule is learned too.

With gamma(t) = -log SNR(t), which rises from gamma_0 at t = 0 to gamma_1 at t = 1, alpha^2 = sigmoid(-gamma), sigma^2 =
sigmoid(gamma), and a network that predicts the noise from z and gamma (Kingma et al., 2021, eqs. 11 and 17):

    (1)  -log p(x) <= KL(q(z_1 | x) || N(0, sigma_1^2 I))                                             prior
                      + 1/2 E gamma'(t) ||eps - eps'(z_t, gamma(t))||^2,    t uniform in [0, 1]       diffusion
                      + E -log p(x | z_0)                                                             reconstruction

The paper's prior is N(0, I); here it is what samplers begin with, as in `genjax.likelihood.diffusion`.  Written as

    (2)  gamma(t) = gamma_0 + (gamma_1 - gamma_0) s(t),    s rising from s(0) = 0 to s(1) = 1

the bound depends on the ends and, whatever the network is, not on s: only the variance of its estimate does.  So the
ends descend the bound, and s the variance of a row's diffusion term L (appendix I.2).  The mean of L does not depend
on s, so that this is the descent of E L^2:

    (3)  grad_s L^2 = 2 L (dL/dgamma grad_s gamma(t) + dL/dgamma' grad_s gamma'(t))

where dL/dgamma goes through z and the network.  By Cauchy and Schwarz the least E L^2 is that of

    (4)  gamma'(t) proportional to (E L_gamma^2)^(-1/2),    L_gamma = 1/2 ||eps - eps'||^2 at a gamma

Kind: an UPPER BOUND of -log p(x) in expectation over the times and the noise that are drawn.

Source: Kingma, Salimans, Poole and Ho, Variational Diffusion Models, 2021, https://arxiv.org/abs/2107.00630.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax.corruption.gaussian import Process, corrupt
from genjax.corruption.schedules import by_log_snr
from genjax.distributions import event_sum, upcast
from genjax.errors import BadInput
from genjax.likelihood.diffusion import Bound, Reconstruction, prior_term
from genjax.types import Array, Key

Network = Callable[[jax.Array, jax.Array], jax.Array]
"""(z [B, ...], gamma [B]) -> the noise, of z's shape."""


class Schedule(NamedTuple):
    """gamma(t) = gamma_0 + (gamma_1 - gamma_0) shape(t), eq. 2; any part may be a trained one, under a trace."""

    gamma_0: Array | float  # -log SNR of what is nearly the data
    gamma_1: Array | float  # of what is nearly noise
    shape: Callable[[jax.Array], jax.Array]  # t [B] in [0, 1] -> [B], from 0 at 0 to 1 at 1, rising


def gamma_and_rate(schedule: Schedule, t: Array) -> tuple[jax.Array, jax.Array]:
    """gamma(t) and gamma'(t), by forward differentiation.

    Args:
      schedule: learned or not.
      t: [B] in [0, 1].

    Returns:
      Two arrays [B], the second positive.

    >>> square = Schedule(jnp.array(-6.0), jnp.array(2.0), lambda t: t**2)
    >>> [part.tolist() for part in gamma_and_rate(square, jnp.array([0.5]))]
    [[-4.0], [8.0]]
    """
    t = jnp.asarray(t, jnp.result_type(float))
    shape, slope = jax.jvp(schedule.shape, (t,), (jnp.ones_like(t),))
    length = schedule.gamma_1 - schedule.gamma_0
    return schedule.gamma_0 + length * shape, length * slope


def between_ends(gamma_0: Array | float, gamma_1: Array | float) -> Process:
    """The variance-preserving process with these ends whose log-SNR falls evenly.

    Args:
      gamma_0: at t = 0.
      gamma_1: at t = 1.

    Returns:
      Process; not checked, because learned ends may be under a trace.

    >>> import numpy as np
    >>> process = between_ends(-13.3, 5.0)
    >>> round(float(np.log(process.sigma(np.array(1.0)) ** 2 / process.alpha(np.array(1.0)) ** 2)), 6)
    5.0
    """
    return by_log_snr(lambda t: -(gamma_0 + (gamma_1 - gamma_0) * t))


def diffusion_term(network: Network, x: Array, noise: Array, gamma: Array, rate: Array) -> jax.Array:
    """1/2 gamma' ||eps - eps'(z, gamma)||^2 of eq. 1, at one time a row.

    Args:
      network: that predicts the noise.
      x: data [B, ...].
      noise: eps, of x's shape.
      gamma: [B].
      rate: gamma' [B].

    Returns:
      [B] nats; infinite where gamma falls: no bound is below that of a schedule that does not rise.

    Raises:
      BadInput: a network's output of another shape than x.

    >>> x, eps, at = jnp.zeros((1, 2)), jnp.ones((1, 2)), jnp.zeros(1)
    >>> diffusion_term(lambda z, gamma: 0 * z, x, eps, at, jnp.array([18.0])).tolist()
    [18.0]
    """
    x, gamma, wide = jnp.asarray(x), jnp.asarray(gamma), (len(x),) + (1,) * (jnp.ndim(x) - 1)
    alpha, sigma = (jnp.exp(0.5 * jax.nn.log_sigmoid(sign * gamma)).reshape(wide) for sign in (-1.0, 1.0))
    output = network(alpha * x + sigma * noise, gamma)
    if output.shape != x.shape:
        raise BadInput(
            f"the network's output is {list(output.shape)}, its data {list(x.shape)}",
            "allowed: one shape; the noise has a number for each of theirs",
        )
    rate = jnp.asarray(rate)
    return jnp.where(rate >= 0, 0.5 * rate * event_sum((noise - output) ** 2), jnp.inf)


def learned_bound(
    schedule: Schedule,
    network: Network,
    reconstruction: Callable[[Process], Reconstruction],
    x: Array,
    t: Array,
    key: Key,
) -> Bound:
    """Eq. 1 with one time a row; its gradient is that of the bound itself, in all that is learned.

    Args:
      schedule: learned or not.
      network: (z, gamma [B]) -> eps'.
      reconstruction: process -> -log p(x | z_0): `of_reals`, or `of_levels` of some values.
      x: data [B, ...].
      t: [B], each uniform in [0, 1], such as `low_discrepancy`.
      key: of the noise.

    Returns:
      Bound, each term unbiased.

    Raises:
      BadInput: a network's output of another shape than x.

    >>> from genjax.likelihood.diffusion import of_reals
    >>> even = Schedule(jnp.array(-4.0), jnp.array(4.0), lambda t: t)
    >>> none = lambda z, gamma: z / jnp.sqrt(jax.nn.sigmoid(gamma))[:, None]  # the noise of data that are 0
    >>> found = learned_bound(even, none, of_reals, jnp.zeros((1, 2)), jnp.array([0.5]), jax.random.key(0))
    >>> float(found.prior[0]), bool(found.diffusion[0] < 1e-9)
    (0.0, True)
    """
    x = upcast(x)
    first, path = _noises(key, x)
    gamma, rate = gamma_and_rate(schedule, t)
    return _with_ends(schedule, reconstruction, x, first, diffusion_term(network, x, path, gamma, rate))


def trained_bound(
    schedule: Schedule,
    network: Network,
    reconstruction: Callable[[Process], Reconstruction],
    x: Array,
    t: Array,
    key: Key,
) -> Bound:
    """The numbers of `learned_bound`, with other gradients in the schedule: the shape's is that of L^2, eq. 3.

    Network and ends descend the bound, the shape the variance of its estimate, in one pass backwards.  A gradient
    of L^2 has other units than one of L: give the shape an optimizer of its own whose steps do not depend on the scale.

    Args:
      schedule, network, reconstruction, x, t, key: as of `learned_bound`.

    Returns:
      Bound, to be minimized in its total.

    Raises:
      BadInput: as `learned_bound`.

    >>> from genjax.likelihood.diffusion import of_reals
    >>> t, x = jnp.array([0.5]), jnp.ones((1, 2))
    >>> none = lambda z, gamma: 0 * z
    >>> def slopes(bound):
    ...     def total(ends, power):
    ...         made = Schedule(ends[0], ends[1], lambda t: t**power)
    ...         return bound(made, none, of_reals, x, t, jax.random.key(0)).diffusion[0]
    ...     return total(jnp.array([-4.0, 4.0]), 2.0), jax.grad(total, 1)(jnp.array([-4.0, 4.0]), 2.0)
    >>> (value, slope), (same, of_square) = slopes(learned_bound), slopes(trained_bound)
    >>> bool(value == same), bool(jnp.allclose(of_square, 2 * value * slope))
    (True, True)
    """
    x, still = upcast(x), jax.lax.stop_gradient
    first, path = _noises(key, x)
    by_shape = gamma_and_rate(Schedule(still(schedule.gamma_0), still(schedule.gamma_1), schedule.shape), t)
    held, length = gamma_and_rate(Schedule(0.0, 1.0, schedule.shape), t), schedule.gamma_1 - schedule.gamma_0
    by_ends = schedule.gamma_0 + length * still(held[0]), length * still(held[1])
    diffusion, pull = jax.vjp(lambda *at: diffusion_term(network, x, path, *at), *by_ends)
    slopes = still(pull(jnp.ones_like(diffusion)))
    square = 2.0 * still(diffusion) * sum(slope * at for slope, at in zip(slopes, by_shape, strict=True))
    return _with_ends(schedule, reconstruction, x, first, diffusion + (square - still(square)))


def _noises(key: Key, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    first, path = (jax.random.normal(k, x.shape, x.dtype) for k in jax.random.split(key))
    return first, path


def _with_ends(
    schedule: Schedule,
    reconstruction: Callable[[Process], Reconstruction],
    x: jax.Array,
    noise: jax.Array,
    term: jax.Array,
) -> Bound:
    process = between_ends(schedule.gamma_0, schedule.gamma_1)
    z = corrupt(process, x, noise, jnp.zeros(len(x), x.dtype))
    return Bound(prior_term(process, x), term, reconstruction(process)(x, z))
