"""Standard errors of maximum-likelihood estimates from the observed information.

Near its maximum t the log-likelihood is a parabola, log p(x; theta) = const - 1/2 (theta - t)' J (theta - t), and J,
minus its second derivatives there, is the observed information.  t - theta is then normal with covariance J^-1,
approximately, for many observations.

Kind: an approximation for many observations; the second derivatives themselves are exact, by automatic differentiation.

Source: Efron and Hinkley, Assessing the accuracy of the maximum likelihood estimator: observed versus expected Fisher
information, 1978, https://doi.org/10.1093/biomet/65.3.457.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from genjax.types import Params


def standard_errors(log_likelihood: Callable[[Params], jax.Array], params: Params) -> Any:
    """The square roots of the diagonal of J^-1.

    Args:
      log_likelihood: params -> scalar, nats of the whole sample, twice differentiable.
      params: a pytree of arrays of one floating type, where the log-likelihood is largest.

    Returns:
      A pytree like `params`.  Where J is not positive definite (no maximum, or one that the sample does not determine)
      every entry is the largest number of its type: no error that could be taken for one.

    Source: Efron and Hinkley, 1978, section 1.

    >>> x = jnp.array([1.0, 2.0, 3.0, 4.0])  # four draws of a normal law of variance 1: 1 / sqrt(4)
    >>> float(standard_errors(lambda mean: -0.5 * jnp.sum((x - mean) ** 2), jnp.array(2.5)))
    0.5
    """
    flat, structured = ravel_pytree(params)
    information = -jax.hessian(lambda one: log_likelihood(structured(one)))(flat)
    diagonal = jnp.diagonal(information)
    unit = 1 / jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))  # parameters may have very different units
    scaled = information * jnp.outer(unit, unit)
    variance = jnp.diagonal(jnp.linalg.inv(scaled)) * unit**2
    rounding = 10 * len(flat) * jnp.finfo(flat.dtype).eps  # of eigenvalues whose mean is one
    maximum = jnp.all(jnp.isfinite(information)) & (jnp.linalg.eigvalsh(scaled)[0] > rounding)
    safe = jnp.where(maximum & (variance > 0), variance, 1.0)
    return structured(jnp.where(maximum, jnp.sqrt(safe), jnp.finfo(flat.dtype).max))
