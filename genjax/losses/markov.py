r"""State-space models with a learned posterior: the ELBO of a chain of latents that a sequence is emitted from.

    p(x, z)  = prod_t p(z_t | z_{t-1}) p(x_t | z_t)                       z_0 a constant, t = 1 .. T
    q(z | x) = prod_t q(z_t | z_{t-1}, x_t .. x_T)

The exact posterior has the form of q: given z_{t-1}, the observations before t say nothing more about z_t.  With normal
transitions and a normal q the divergence of every step is known given the latent before it, and only that is sampled:

    log p(x) >= E_q sum_t [log p(x_t | z_t) - KL(q(z_t | z_{t-1}, x_t .. x_T) || p(z_t | z_{t-1}))]              (eq. 6)

Only q waits for the past: the draw of z_1 .. z_T is one scan of it, and the transitions p(z_t | z_{t-1}) of all steps
are computed at once afterwards.  Noise is an argument, not a key, so that an oracle may integrate over it.

Source: Krishnan, Shalit and Sontag, Structured Inference Networks for Nonlinear State Space Models, 2017,
https://arxiv.org/abs/1609.09869.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax.distributions import kl_normal, normal_log_prob, upcast
from genjax.errors import BadInput
from genjax.types import Array

Law = tuple[jax.Array, jax.Array]  # mean and log_var of z_t
Transition = Callable[[jax.Array], Law]  # z_{t-1} [..., D] -> the law of z_t, for any leading axes
Posterior = Callable[[jax.Array, jax.Array], Law]  # (z_{t-1} [B, D], what is read of x_t .. x_T [B, H]) -> of z_t


class Chain(NamedTuple):
    """One draw of z_1 .. z_T from the posterior, and what it says of every step."""

    z: jax.Array  # [B, T, D]
    rate: jax.Array  # [B, T, D] nats, KL(q(z_t | z_{t-1}, x) || p(z_t | z_{t-1})) of each latent, exact given z_{t-1}
    log_ratio: jax.Array  # [B, T, D] nats, log p(z_t | z_{t-1}) - log q(z_t | z_{t-1}, x) of what was drawn


def draw_chain(transition: Transition, posterior: Posterior, start: Array, read: Array, noise: Array) -> Chain:
    """z_t = mean + exp(log_var / 2) noise_t of q(z_t | z_{t-1}, x), reparameterised, for t = 1 .. T.

    The negative ELBO is the sum over steps and latents of `rate` less the log-likelihood of the frames given z; the
    logarithm of an importance weight is that log-likelihood and the sum of `log_ratio`.

    Args:
      transition: z_{t-1} [..., D] -> mean and log_var of p(z_t | z_{t-1}).
      posterior: (z_{t-1} [B, D], read_t [B, H]) -> mean and log_var of q(z_t | z_{t-1}, x).
      start: [B, D] z_0.
      read: [B, T, H], what the posterior knows of x_t .. x_T.
      noise: [B, T, D], standard normal.

    Returns:
      Chain.  Steps after the end of a sequence are there too and touch none before them: leave them out of the sum.

    Raises:
      BadInput: shapes that do not fit.

    Source: Krishnan et al., 2017, section 4.

    >>> still = lambda z: (z, jnp.zeros_like(z))
    >>> chain = draw_chain(still, lambda z, read: still(z + read), jnp.zeros((1, 1)), *jnp.ones((2, 1, 3, 1)))
    >>> chain.z.ravel().tolist(), chain.rate.ravel().tolist()  # 1 further than expected, by a standard deviation of 1
    ([2.0, 4.0, 6.0], [0.5, 0.5, 0.5])
    """
    start, read, noise = map(jnp.asarray, (start, read, noise))
    if noise.ndim != 3 or read.ndim != 3 or read.shape[:2] != noise.shape[:2] or start.shape != noise[:, 0].shape:
        raise BadInput(
            f"start {list(start.shape)}, read {list(read.shape)}, noise {list(noise.shape)}",
            "allowed: start [B, D], read [B, T, H], noise [B, T, D]",
        )

    def step(before: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        mean, log_var = posterior(before, now[0])
        z = _moved(mean, log_var, now[1]).astype(start.dtype)
        return z, (z, mean, log_var)

    by_time = lambda array: jnp.swapaxes(array, 0, 1)
    _, (z, mean, log_var) = jax.lax.scan(step, start, (by_time(read), by_time(noise)))
    expected = transition(jnp.concatenate([start[None], z[:-1]]))
    rate = kl_normal(mean, log_var, *expected)
    log_ratio = normal_log_prob(z, *expected) - normal_log_prob(z, mean, log_var)
    return Chain(by_time(z), by_time(rate), by_time(log_ratio))


def draw_prior(transition: Transition, start: Array, noise: Array) -> jax.Array:
    """z_1 .. z_T from the model itself, as for a sample of it.

    Args:
      transition: z_{t-1} [B, D] -> mean and log_var of p(z_t | z_{t-1}).
      start: [B, D] z_0.
      noise: [B, T, D], standard normal.

    Returns:
      [B, T, D].

    Source: Krishnan et al., 2017, eq. 1.

    >>> draw_prior(lambda z: (z, jnp.zeros_like(z)), jnp.zeros((1, 1)), jnp.ones((1, 3, 1))).ravel().tolist()
    [1.0, 2.0, 3.0]
    """
    start = jnp.asarray(start)

    def step(before: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = _moved(*transition(before), noise).astype(start.dtype)
        return z, z

    return jnp.swapaxes(jax.lax.scan(step, start, jnp.swapaxes(jnp.asarray(noise), 0, 1))[1], 0, 1)


def inside(length: Array, steps: int) -> jax.Array:
    """Which of T steps belong to each sequence.

    Args:
      length: [B] integers, 0 .. T.
      steps: T.

    Returns:
      [B, T] booleans, True for the first `length` steps.

    Source: Krishnan et al., 2017.

    >>> inside(jnp.array([2, 0]), 3).tolist()
    [[True, True, False], [False, False, False]]
    """
    return jnp.arange(steps)[None] < jnp.asarray(length)[:, None]


def sum_inside(values: Array, mask: Array) -> jax.Array:
    """The sum of a sequence's values, over the steps that belong to it and all that each step holds.

    Args:
      values: [B, T, ...] nats.
      mask: [B, T], not 0 for the steps that count; what stands in the others may be anything, NaN included.

    Returns:
      [B] nats.

    Source: Krishnan et al., 2017.

    >>> sum_inside(jnp.array([[[1.0, 2.0], [jnp.nan, 5.0]]]), jnp.array([[True, False]])).tolist()
    [3.0]
    """
    values = upcast(values)
    each = jnp.sum(values, axis=tuple(range(2, values.ndim)))
    return jnp.sum(jnp.where(jnp.asarray(mask) > 0, each, 0.0), axis=1)


def _moved(mean: jax.Array, log_var: jax.Array, noise: jax.Array) -> jax.Array:
    return upcast(mean) + jnp.exp(0.5 * upcast(log_var)) * upcast(noise)
