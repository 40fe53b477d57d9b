"""Peak signal-to-noise ratio: how near an image is to another one, in decibels.

    PSNR = 10 log10(1 / MSE),   MSE the mean over pixels and channels of (x - y)^2, for images in [0, 1]

10 dB more is a tenth of the squared error.  The mean over images of this number is not the number of the mean error: it
weighs good images more.

Source: Wang, Bovik, Sheikh and Simoncelli, Image quality assessment: from error visibility to structural similarity,
2004, section I, https://doi.org/10.1109/TIP.2003.819861.
"""

import jax
import jax.numpy as jnp

from genjax.distributions import upcast
from genjax.errors import BadInput
from genjax.types import Array

HIGHEST = 100.0  # dB: of equal images, where the ratio has no limit


def mean_squared_error(image: Array, other: Array) -> jax.Array:
    """The mean over pixels and channels of (x - y)^2.

    Args:
      image, other: [B, H, W, C] in [0, 1].

    Returns:
      [B].

    Raises:
      BadInput: shapes that differ.

    >>> mean_squared_error(jnp.ones((1, 2, 2, 1)), jnp.full((1, 2, 2, 1), 0.5)).tolist()
    [0.25]
    """
    image, other = upcast(image), upcast(other)
    if image.shape != other.shape or image.ndim != 4:
        raise BadInput(
            f"images {list(image.shape)} and {list(other.shape)}", "allowed: [B, H, W, C], one shape for both"
        )
    return jnp.mean(jnp.square(image - other), axis=(1, 2, 3))


def psnr(image: Array, other: Array) -> jax.Array:
    """10 log10(1 / MSE), at most 100 dB.

    Args:
      image, other: [B, H, W, C] in [0, 1].

    Returns:
      [B] dB.

    Raises:
      BadInput: shapes that differ.

    >>> psnr(jnp.ones((1, 2, 2, 1)), jnp.full((1, 2, 2, 1), 0.9)).round(3).tolist()
    [20.0]
    """
    error = mean_squared_error(image, other)
    return -10.0 * jnp.log10(jnp.maximum(error, 10.0 ** (-HIGHEST / 10.0)))
