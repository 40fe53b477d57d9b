"""The discretised logistic: a logistic variable rounded to the grid level / (L - 1) of an image with L grey levels."""

import jax
import jax.numpy as jnp

from genjax.distributions.arrays import upcast
from genjax.errors import BadInput
from genjax.types import Array, Key


def _in_levels(mean: Array, log_scale: Array, levels: int) -> tuple[jax.Array, jax.Array]:
    """Mean and 1 / scale in units of one level: there the edges of the bins are half-integers, exact in float32."""
    if levels < 2:
        raise BadInput(f"levels = {levels}", "allowed: the number of grey levels of the data, at least 2")
    # The clip keeps exp finite; at either end the distribution has long been one level, or the two edges alone.
    inverse_scale = jnp.exp(-jnp.clip(upcast(log_scale), -30.0, 30.0)) / (levels - 1)
    return upcast(mean) * (levels - 1), inverse_scale


def discretized_logistic_log_prob(x: Array, mean: Array, log_scale: Array, levels: int) -> jax.Array:
    """log P(x): the mass that a logistic variable puts on the bin of the grid value x.

    With s the logistic function, h = 1 / (2 (L - 1)), a = (x + h - mean) / scale and b = (x - h - mean) / scale,

        P(x) = s(a) - s(b); the lowest level takes all mass below (s(b) := 0), the highest all above (s(a) := 1),

    so that the L probabilities sum to 1.  Computed as log s(a) + log s(-b) + log(1 - exp(b - a)): nothing cancels.

    Args:
      x: [...] in [0, 1] on the grid level / (levels - 1).  Values are rounded to the grid.
      mean: [...] location, any real number, in units of x.
      log_scale: [...] logarithm of the scale in units of x; clipped to [-30, 30].
      levels: L >= 2.

    Returns:
      [...] nats per element, <= 0.

    Raises:
      BadInput: fewer than two levels.

    Source: Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016, appendix C.3,
    https://arxiv.org/abs/1606.04934; Salimans et al., PixelCNN++, 2017, https://arxiv.org/abs/1701.05517.

    >>> grid = jnp.arange(3) / 2
    >>> jnp.exp(discretized_logistic_log_prob(grid, 0.5, 20.0, 3)).round(2).tolist()  # very wide: the two edges
    [0.5, 0.0, 0.5]
    """
    mean, inverse_scale = _in_levels(mean, log_scale, levels)
    level = jnp.round(upcast(x) * (levels - 1))
    below_upper = jax.nn.log_sigmoid((level + 0.5 - mean) * inverse_scale)
    above_lower = jax.nn.log_sigmoid(-(level - 0.5 - mean) * inverse_scale)
    inner = below_upper + above_lower + jnp.log(-jnp.expm1(-inverse_scale))
    return jnp.where(level <= 0, below_upper, jnp.where(level >= levels - 1, above_lower, inner))


def discretized_logistic_mean(mean: Array, log_scale: Array, levels: int) -> jax.Array:
    """E[x] of the discretised logistic, exactly: sum over the inner edges e of P(x > e), in units of x.

    Args:
      mean, log_scale, levels: as in `discretized_logistic_log_prob`.

    Returns:
      [...] in [0, 1].

    >>> round(float(discretized_logistic_mean(jnp.array(5.0), jnp.array(-10.0), 256)), 4)  # all mass on the top level
    1.0
    """
    mean, inverse_scale = _in_levels(mean, log_scale, levels)

    def add(level, total):
        return total + jax.nn.sigmoid((mean - level - 0.5) * inverse_scale)

    zero = jnp.zeros(jnp.broadcast_shapes(mean.shape, inverse_scale.shape), mean.dtype)
    return jax.lax.fori_loop(0, levels - 1, add, zero) / (levels - 1)


def sample_discretized_logistic(mean: Array, log_scale: Array, levels: int, key: Key) -> jax.Array:
    """A logistic variable, rounded to the grid and clipped to [0, 1]: distributed as `discretized_logistic_log_prob`.

    Args:
      mean, log_scale, levels: as in `discretized_logistic_log_prob`; one shape.
      key: the key of the sample.

    Returns:
      [...] on the grid level / (levels - 1), in the dtype of `mean`.

    >>> sample_discretized_logistic(jnp.array([0.5]), jnp.array([-20.0]), 3, jax.random.key(0)).tolist()
    [0.5]
    """
    dtype = jnp.asarray(mean).dtype
    mean, inverse_scale = _in_levels(mean, log_scale, levels)
    noise = jax.random.logistic(key, mean.shape, mean.dtype)
    level = jnp.clip(jnp.round(mean + noise / inverse_scale), 0, levels - 1)
    return (level / (levels - 1)).astype(dtype)
