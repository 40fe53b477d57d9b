"""The discretised mixture of logistics of PixelCNN++: one component a pixel, channels that depend on one another.

For a pixel of C channels x_1 .. x_C, each on the grid level / (L - 1), and K components,

    p(x) = sum_k pi_k prod_c P(x_c; m_ck(x), s_ck),    m_ck(x) = mu_ck + sum_{e < c} a_cek (x_e - 1/2),

P the discretised logistic of `genjax.distributions.logistic`, whose edges take the mass outside of [0, 1].  Each factor
sums to 1 over x_c whatever the channels before it are, so p sums to 1 over the L^C colours at every scale.  A component
is drawn once a pixel: channels are dependent through it, and through the coefficients a, which bind green to red, and
blue to red and green.

Source: Salimans, Karpathy, Chen and Kingma, PixelCNN++, 2017, section 2.1, https://arxiv.org/abs/1701.05517.  There
the channels are scaled to [-1, 1]; here to [0, 1], so that they are centred by the 1/2.
"""

import jax
import jax.numpy as jnp

from genjax.distributions.arrays import upcast
from genjax.distributions.discrete import sample_categorical
from genjax.distributions.logistic import (
    discretized_logistic_log_prob,
    discretized_logistic_mean,
    sample_discretized_logistic,
)
from genjax.errors import BadInput
from genjax.types import Array, Key


def logistic_mixture_log_prob(
    x: Array, logits: Array, locations: Array, log_scales: Array, coefficients: Array, levels: int
) -> jax.Array:
    """log p(x) of pixels: log sum_k pi_k prod_c P(x_c; m_ck(x), s_ck).

    Args:
      x: [..., C] in [0, 1] on the grid level / (levels - 1).
      logits: [..., K], of the components: pi = softmax(logits).
      locations: mu, [..., C, K], any real numbers, in units of x.
      log_scales: log s, [..., C, K], in units of x; clipped to [-30, 30].
      coefficients: a, [..., C (C - 1) / 2, K]: of channel 1 on 0, then of 2 on 0 and 1, and so on; none for C = 1.
      levels: L >= 2.

    Returns:
      [...] nats a pixel, summed over its channels.

    Raises:
      BadInput: fewer than two levels, or numbers that do not belong to the channels of x.

    >>> grid = jnp.arange(4.0).reshape(4, 1) / 3
    >>> flat = lambda *shape: jnp.zeros((4, *shape))
    >>> log_p = logistic_mixture_log_prob(grid, flat(2), flat(1, 2) + 0.3, flat(1, 2), flat(0, 2), 4)
    >>> round(float(jnp.exp(log_p).sum()), 4)
    1.0
    """
    x, logits = upcast(x), upcast(logits)
    centres = _centres(x, locations, coefficients)
    values = jnp.broadcast_to(x[..., None], centres.shape)
    of_components = discretized_logistic_log_prob(values, centres, log_scales, levels).sum(axis=-2)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits, axis=-1) + of_components, axis=-1)


def logistic_mixture_mean(
    logits: Array, locations: Array, log_scales: Array, coefficients: Array, levels: int
) -> jax.Array:
    """sum_k pi_k E_k[x_c]: what a pixel is on average.

    Exact for one channel.  With more, the mean of the channels before stands for their values in m_ck(x), in which m is
    linear: what is missing comes from the rounding to levels and from the mass at the edges.

    Args:
      logits, locations, log_scales, coefficients, levels: as in `logistic_mixture_log_prob`.

    Returns:
      [..., C] in [0, 1].

    >>> one = lambda value: jnp.full((1, 1), value)
    >>> round(float(logistic_mixture_mean(jnp.zeros(1), one(0.25), one(-9.0), jnp.zeros((0, 1)), 5)[0]), 4)
    0.25
    """
    locations = upcast(locations)
    means: list[jax.Array] = []  # of each component, [..., K]
    for channel in range(locations.shape[-2]):
        centre = _centre(channel, [mean - 0.5 for mean in means], locations, upcast(coefficients))
        means.append(discretized_logistic_mean(centre, log_scales[..., channel, :], levels))
    weights = jax.nn.softmax(upcast(logits), axis=-1)
    return jnp.stack([jnp.sum(weights * mean, axis=-1) for mean in means], axis=-1)


def sample_logistic_mixture(
    logits: Array, locations: Array, log_scales: Array, coefficients: Array, levels: int, key: Key
) -> jax.Array:
    """A component for each pixel, then its channels in turn: distributed as `logistic_mixture_log_prob`.

    Args:
      logits, locations, log_scales, coefficients, levels: as in `logistic_mixture_log_prob`.
      key: the key of the sample.

    Returns:
      [..., C] on the grid level / (levels - 1), in the dtype of `locations`.

    >>> one = lambda value: jnp.full((1, 1), value)
    >>> sample_logistic_mixture(jnp.zeros(1), one(0.5), one(-20.0), jnp.zeros((0, 1)), 3, jax.random.key(0)).tolist()
    [0.5]
    """
    dtype, channels = jnp.asarray(locations).dtype, locations.shape[-2]
    component_key, *keys = jax.random.split(key, channels + 1)
    component = sample_categorical(logits, component_key)
    # what belongs to the component drawn, as mixtures of one component
    locations, log_scales, coefficients = (
        jnp.take_along_axis(upcast(array), component[..., None, None], axis=-1)
        for array in (locations, log_scales, coefficients)
    )
    values: list[jax.Array] = []
    for channel in range(channels):
        centre = _centre(channel, [value - 0.5 for value in values], locations, coefficients)
        values.append(sample_discretized_logistic(centre, log_scales[..., channel, :], levels, keys[channel]))
    return jnp.concatenate(values, axis=-1).astype(dtype)


def _centres(x: jax.Array, locations: Array, coefficients: Array) -> jax.Array:
    """m_ck(x) [..., C, K] for pixels x [..., C]."""
    channels = x.shape[-1]
    if locations.shape[-2] != channels or coefficients.shape[-2] != channels * (channels - 1) // 2:
        raise BadInput(
            f"{locations.shape[-2]} locations and {coefficients.shape[-2]} coefficients for {channels} channels",
            "allowed: C locations and C (C - 1) / 2 coefficients a component",
        )
    centred = [x[..., channel, None] - 0.5 for channel in range(channels)]
    rows = (_centre(c, centred[:c], upcast(locations), upcast(coefficients)) for c in range(channels))
    return jnp.stack(list(rows), axis=-2)


def _centre(channel: int, earlier: list[jax.Array], locations: jax.Array, coefficients: jax.Array) -> jax.Array:
    """m_ck [..., K] of one channel from those before it, each [..., 1] or [..., K] less 1/2."""
    first = channel * (channel - 1) // 2
    terms = (coefficients[..., first + e, :] * value for e, value in enumerate(earlier))
    return sum(terms, start=locations[..., channel, :])
