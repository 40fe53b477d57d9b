"""Maximum mean discrepancy: the distance of two laws from samples of each, and the autoencoders that minimise it.

For a kernel k, x, x' ~ P and y, y' ~ Q independent,

    MMD^2(P, Q) = E k(x, x') + E k(y, y') - 2 E k(x, y),

which is 0 only for P = Q where the kernel is characteristic, as those below are.  Between the codes of a batch and as
many draws of the prior it replaces the KL divergence by one of the *aggregate* posterior: single codes stay informative
while all of them together look like the prior (InfoVAE, Wasserstein autoencoder).

A kernel is a function of squared distances; a sum of kernels of several widths is a kernel:

    kernel = lambda d: gaussian_kernel(1.0)(d) + gaussian_kernel(4.0)(d)

Sources: Gretton et al., A Kernel Two-Sample Test, 2012, https://jmlr.org/papers/v13/gretton12a.html; Zhao, Song and
Ermon, InfoVAE, 2017, https://arxiv.org/abs/1706.02262; Tolstikhin et al., Wasserstein Auto-Encoders, 2018,
https://arxiv.org/abs/1711.01558.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax.distributions import upcast
from genjax.errors import BadInput
from genjax.losses.variational import negative_elbo
from genjax.types import Array

Kernel = Callable[[jax.Array], jax.Array]
"""Squared distances [...] -> values [...], 1 at distance 0."""


def gaussian_kernel(width: float) -> Kernel:
    """exp(-d^2 / (2 width^2)).

    Args:
      width: in the unit of the samples, above 0; for a standard normal prior of D dimensions sqrt(D) is a start.

    Returns:
      A Kernel.

    Raises:
      BadInput: a width that is not positive.

    Source: Gretton et al., 2012.

    >>> round(float(gaussian_kernel(1.0)(jnp.array(2.0))), 4)  # 1/e
    0.3679
    """
    _positive("width", width)
    return lambda squared: jnp.exp(-squared / (2.0 * width**2))


def inverse_multiquadratic_kernel(scale: float) -> Kernel:
    """C / (C + d^2): its tails are heavy, so that far outliers still feel a gradient.

    Args:
      scale: C above 0, in the squared unit of the samples; 2 D for a standard normal prior of D dimensions, the mean
        squared distance of two of its draws.

    Returns:
      A Kernel.

    Raises:
      BadInput: a scale that is not positive.

    Source: Tolstikhin et al., 2018, section 4.

    >>> float(inverse_multiquadratic_kernel(3.0)(jnp.array(1.0)))
    0.75
    """
    _positive("scale", scale)
    return lambda squared: scale / (scale + squared)


def mmd_unbiased(x: Array, y: Array, kernel: Kernel) -> jax.Array:
    """MMD^2 with the pairs i = j left out.  Kind: an unbiased estimate; it may be negative.

    Args:
      x: [n, D] samples of P, n at least 2.
      y: [m, D] samples of Q, m at least 2.
      kernel: of squared distances.

    Returns:
      scalar.

    Raises:
      BadInput: other shapes, fewer than two samples.

    Source: Gretton et al., 2012, eq. 3.

    >>> x = jnp.array([[0.0], [1.0]])
    >>> round(float(mmd_unbiased(x, x, gaussian_kernel(1.0))), 4)  # 2 e^-1/2 - (1 + e^-1/2)
    -0.3935
    """
    x, y = _samples(x, y, least=2)
    pairs = lambda a: jnp.sum(jnp.where(jnp.eye(len(a), dtype=bool), 0.0, _gram(a, a, kernel)))
    mean = lambda a: pairs(a) / (len(a) * (len(a) - 1))
    return mean(x) + mean(y) - 2.0 * jnp.mean(_gram(x, y, kernel))


def mmd_biased(x: Array, y: Array, kernel: Kernel) -> jax.Array:
    """MMD^2 of the two empirical laws, all pairs counted.  Kind: an estimate, biased upwards.

    Too large by (1 - E k(x, x')) / n + (1 - E k(y, y')) / m in the mean.

    Args:
      x: [n, D] samples of P, n at least 1.
      y: [m, D] samples of Q, m at least 1.
      kernel: of squared distances.

    Returns:
      scalar >= 0; 0 where the samples are the same.

    Raises:
      BadInput: other shapes, no samples.

    Source: Gretton et al., 2012, eq. 5.

    >>> x = jnp.array([[0.0], [1.0]])
    >>> float(mmd_biased(x, x, gaussian_kernel(1.0)))
    0.0
    """
    x, y = _samples(x, y, least=1)
    return jnp.mean(_gram(x, x, kernel)) + jnp.mean(_gram(y, y, kernel)) - 2.0 * jnp.mean(_gram(x, y, kernel))


def negative_info_vae(log_likelihood: Array, rate: Array, divergence: Array, alpha: float, weight: float) -> jax.Array:
    """-log p(x | z) + (1 - alpha) KL(q(z | x) || p(z)) + (alpha + lambda - 1) D(q(z) || p(z)).

    alpha = 0, lambda = 1 is the negative ELBO.  alpha = 1 drops the rate: a Wasserstein autoencoder with weight lambda
    (Tolstikhin et al. 2018, algorithm 2).  With other weights it is no bound.

    Args:
      log_likelihood: [B] nats.
      rate: [B] nats.
      divergence: scalar, of the batch's codes and as many draws of the prior: `mmd_unbiased`.
      alpha: at most 1.
      weight: lambda, at least 1 - alpha.

    Returns:
      [B] nats and units of the divergence.

    Raises:
      BadInput: shapes that do not fit, a term with a negative weight.

    Source: Zhao, Song and Ermon, 2017, the InfoVAE objective.

    >>> negative_info_vae(jnp.array([-90.0]), jnp.array([20.0]), jnp.float32(0.5), alpha=0.5, weight=10.5).tolist()
    [105.0]
    """
    if not (alpha <= 1 and alpha + weight >= 1):
        raise BadInput(
            f"alpha = {alpha}, weight = {weight}",
            "allowed: alpha at most 1, alpha + weight at least 1: no term rewards",
        )
    if jnp.ndim(divergence) != 0:
        raise BadInput(f"divergence has shape {list(jnp.shape(divergence))}", "allowed: one number for the batch")
    return negative_elbo(log_likelihood, rate, 1.0 - alpha) + (alpha + weight - 1.0) * upcast(divergence)


def _gram(x: jax.Array, y: jax.Array, kernel: Kernel) -> jax.Array:
    product = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    squared = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None] - 2.0 * product
    return kernel(jnp.maximum(squared, 0.0))


def _samples(x: Array, y: Array, least: int) -> tuple[jax.Array, jax.Array]:
    x, y = upcast(x), upcast(y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < least:
        raise BadInput(
            f"samples of shapes {list(x.shape)} and {list(y.shape)}",
            f"allowed: [n, D] and [m, D], at least {least} of each",
        )
    return x, y


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise BadInput(f"{name} = {value}", "allowed: above 0 and finite, in the unit of the samples")
