r"""Langevin chains: down the slope of an energy, with noise; and a buffer of chains that live on, some begun anew.

    (1)  x <- x - s grad E(x) + sigma n,    n ~ N(0, I)

With sigma^2 = 2 s it is Euler's step of dx = -grad E dt + sqrt(2) dW, whose law at rest is p(x) = exp(-E(x)) / Z; the
step is not corrected, so that chains rest in a law that differs from p by something of the order of s.  Another noise
is another temperature, (2) T = sigma^2 / (2 s): the law is near exp(-E / T).  Energy-based models of images are trained
with such as s = 1/2, sigma = 0.01, T = 1e-4: cold chains that find valleys, and no samples of exp(-E).

What eq. 1 does to a normal law is exact.  For E(x) = x^2 / (2 v) and r = 1 - s / v the mean falls by r each step, and

    (3)  var_k = r^{2k} var_0 + sigma^2 (1 - r^{2k}) / (1 - r^2),   at rest  sigma^2 / (1 - r^2) = T v / (1 - s / 2v)

so that with sigma^2 = 2 s the variance comes out too large by 1 / (1 - s / 2v), and nothing rests if s > 2 v.

A buffer holds the ends of chains.  A round takes some of them, begins each anew with a small probability (else they all
end up in the same valleys), lets them go on for a few steps, and writes them back.

Sources: Roberts and Tweedie, Exponential convergence of Langevin distributions and their discrete approximations, 1996,
https://doi.org/10.2307/3318418; Welling and Teh, Bayesian Learning via Stochastic Gradient Langevin Dynamics, 2011; Du
and Mordatch, Implicit Generation and Modeling with Energy Based Models, 2019, https://arxiv.org/abs/1903.08689 (the
buffer); Grathwohl et al., Your Classifier is Secretly an Energy Based Model and You Should Treat it Like One, 2020,
https://arxiv.org/abs/1912.03263, algorithm 1.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.samplers.gibbs import Step
from genjax.types import Array, Key

Energy = Callable[[jax.Array], jax.Array]  # x [B, D] -> E(x) [B] nats, row by row


def langevin(energy: Energy, step_size: float, noise: float | None = None) -> Step:
    """Eq. 1 as a step of a chain, for `run_chain`.

    Args:
      energy: x [B, D] -> E(x) [B] nats, each row's of this row alone.
      step_size: s, above 0, in squared units of x.
      noise: sigma, the standard deviation of what is added, in units of x; None: sqrt(2 s), the temperature 1; 0: none,
        which is gradient descent.

    Returns:
      (x, key) -> x.

    Raises:
      BadInput: a step that is not above zero, a noise below zero.

    Source: Grathwohl et al., 2020, section 2, where s is half of alpha.

    >>> descent = langevin(lambda x: 0.5 * jnp.sum(x**2, axis=1), 0.25, noise=0.0)
    >>> descent(jnp.array([[4.0, -8.0]]), jax.random.key(0)).tolist()
    [[3.0, -6.0]]
    """
    sigma = math.sqrt(2.0 * step_size) if noise is None and step_size > 0 else noise
    if not step_size > 0 or sigma is None or not sigma >= 0 or not math.isfinite(step_size + sigma):
        raise BadInput(f"step_size = {step_size}, noise = {noise}", "allowed: a step above 0; a noise from 0, or None")
    slope = jax.grad(lambda x: jnp.sum(energy(x)))

    def step(x: jax.Array, key: Key) -> jax.Array:
        return x - step_size * slope(x) + sigma * jax.random.normal(key, x.shape, x.dtype)

    return step


def taken(buffer: Array, fresh: Array, rate: float, key: Key) -> tuple[jax.Array, jax.Array]:
    """Where the chains of a round begin: rows of the buffer, no row twice, each begun anew with a small probability.

    Args:
      buffer: [M, D], the ends of chains.
      fresh: [B, D] of the law that chains begin with, B at most M.
      rate: probability of beginning anew, in [0, 1]; 0.05 in the papers.
      key: of the choice.

    Returns:
      Numbers of the rows [B], and starts [B, D]; what the chains end in is written back by
      `buffer.at[rows].set(ends)`.

    Raises:
      BadInput: shapes that do not fit, more chains than the buffer has, a rate outside [0, 1].

    Source: Du and Mordatch, 2019, algorithm 1.

    >>> rows, starts = taken(jnp.arange(4.0).reshape(4, 1), jnp.full((4, 1), 9.0), 0.0, jax.random.key(0))
    >>> sorted(rows.tolist()), bool((starts[:, 0] == rows).all())
    ([0, 1, 2, 3], True)
    """
    buffer, fresh = jnp.asarray(buffer), jnp.asarray(fresh)
    fits = buffer.ndim == fresh.ndim == 2 and buffer.shape[1:] == fresh.shape[1:] and 1 <= len(fresh) <= len(buffer)
    if not fits or not 0 <= rate <= 1:
        told = f"a buffer {list(buffer.shape)}, fresh starts {list(fresh.shape)}, rate = {rate}"
        raise BadInput(told, "allowed: [M, D] and [B, D], B from 1 to M; a rate from 0 to 1")
    row_key, anew_key = jax.random.split(key)
    rows = jax.random.permutation(row_key, len(buffer))[: len(fresh)]
    anew = jax.random.bernoulli(anew_key, rate, (len(fresh), 1))
    return rows, jnp.where(anew, fresh, buffer[rows])
