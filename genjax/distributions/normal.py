"""Normal variables, given by mean and log-variance."""

import math

import jax
import jax.numpy as jnp

from genjax.distributions.arrays import upcast
from genjax.types import Array, Key

_LOG_2PI = math.log(2.0 * math.pi)


def normal_log_prob(x: Array, mean: Array | float, log_var: Array | float) -> jax.Array:
    """log N(x; mean, exp(log_var)) = -1/2 (log 2 pi + log_var + (x - mean)^2 exp(-log_var)).

    Args:
      x, mean, log_var: [...] one shape, or scalars; `log_var` is the logarithm of the variance.

    Returns:
      [...] nats per element.

    >>> round(float(normal_log_prob(0.0, 0.0, 0.0)), 4)
    -0.9189
    """
    x, mean, log_var = upcast(x), upcast(mean), upcast(log_var)
    return -0.5 * (_LOG_2PI + log_var + jnp.square(x - mean) * jnp.exp(-log_var))


def kl_normal(
    mean_q: Array | float, log_var_q: Array | float, mean_p: Array | float, log_var_p: Array | float
) -> jax.Array:
    """KL(N(mean_q, exp(log_var_q)) || N(mean_p, exp(log_var_p))), exactly.

    1/2 (log_var_p - log_var_q + (exp(log_var_q) + (mean_q - mean_p)^2) exp(-log_var_p) - 1).

    Args:
      mean_q, log_var_q, mean_p, log_var_p: [...] one shape, or scalars.

    Returns:
      [...] nats per element, >= 0.

    >>> float(kl_normal(1.0, 0.0, 0.0, 0.0))
    0.5
    """
    mean_q, log_var_q, mean_p, log_var_p = map(upcast, (mean_q, log_var_q, mean_p, log_var_p))
    log_ratio = log_var_q - log_var_p
    return 0.5 * (jnp.expm1(log_ratio) - log_ratio + jnp.square(mean_q - mean_p) * jnp.exp(-log_var_p))


def kl_normal_standard(mean: Array | float, log_var: Array | float) -> jax.Array:
    """KL(N(mean, exp(log_var)) || N(0, 1)) = 1/2 (exp(log_var) + mean^2 - 1 - log_var).

    Kingma and Welling, Auto-Encoding Variational Bayes, 2014, appendix B, https://arxiv.org/abs/1312.6114.

    Args:
      mean, log_var: [...] one shape.

    Returns:
      [...] nats per element, >= 0.

    >>> float(kl_normal_standard(2.0, 0.0))
    2.0
    """
    return kl_normal(mean, log_var, 0.0, 0.0)


def sample_normal(mean: Array, log_var: Array, key: Key) -> jax.Array:
    """mean + exp(log_var / 2) eps, eps ~ N(0, 1): a sample through which gradients flow (Kingma and Welling 2014).

    Args:
      mean, log_var: [...] one shape.
      key: the key of eps; one key gives one eps.

    Returns:
      [...] in the dtype of `mean`; the arithmetic is float32.

    >>> sample_normal(jnp.array([3.0]), jnp.array([-200.0]), jax.random.key(0)).tolist()
    [3.0]
    """
    mean = jnp.asarray(mean)
    centre, log_var = upcast(mean), upcast(log_var)
    eps = jax.random.normal(key, centre.shape, centre.dtype)
    return (centre + jnp.exp(0.5 * log_var) * eps).astype(mean.dtype)
