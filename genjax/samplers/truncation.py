r"""Truncation: latents nearer to their mean, which most generators draw better and with less variety.

    towards the mean      z' = m + psi (z - m),          0 <= psi <= 1
    truncated normal      z' = F_t^-1(Phi(z)),           F_t the distribution function of N(0, 1) given |z| <= t

psi = 1 and t = infinity change nothing.  For z ~ N(0, 1) and m = 0 the first is N(0, psi^2): a lower temperature.  The
second is the law of draws that are drawn anew until they lie within t; as the one increasing map from the one law to
the other it keeps which latent is which, so that a ladder of t shows the same images changing.

Sources: Karras, Laine and Aila, A Style-Based Generator Architecture, 2019, https://arxiv.org/abs/1812.04948,
appendix B (towards the mean); Brock, Donahue and Simonyan, BigGAN, 2019, https://arxiv.org/abs/1809.11096, section 3.1
(the truncated normal); Kingma and Dhariwal, Glow, 2018, https://arxiv.org/abs/1807.03039, section 6 (temperature).
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri

from genjax.distributions import upcast
from genjax.errors import BadInput
from genjax.types import Array


def towards_mean(z: Array, psi: float, mean: Array | float = 0.0) -> jax.Array:
    """m + psi (z - m).

    Args:
      z: [..., Z]; of a network between z and the images, what it makes of them.
      psi: from 0, the mean alone, to 1, nothing changed.
      mean: m, [..., Z] of as many axes as z, or one number; 0 for z ~ N(0, I).

    Returns:
      [..., Z].

    Raises:
      BadInput: a psi outside [0, 1].

    Source: Karras, Laine and Aila, 2019, appendix B.

    >>> towards_mean(jnp.array([4.0, -2.0]), 0.5).tolist()
    [2.0, -1.0]
    """
    if not 0.0 <= psi <= 1.0:
        raise BadInput(f"psi = {psi}", "allowed: from 0, the mean alone, to 1, nothing changed")
    z, mean = upcast(jnp.asarray(z)), upcast(jnp.asarray(mean))
    return mean + psi * (z - mean)


def truncated_normal(z: Array, bound: float) -> jax.Array:
    """Draws of N(0, 1) as draws of N(0, 1) given |z| <= t, in the same order.

    Args:
      z: of any shape, from N(0, 1).
      bound: t, above 0.

    Returns:
      The shape of z, in [-t, t].

    Raises:
      BadInput: a bound that is not above 0.

    Source: Brock, Donahue and Simonyan, 2019, section 3.1.

    >>> [round(v, 3) for v in truncated_normal(jnp.array([-9.0, -1.0, 1.0]), 1.0).tolist()]
    [-1.0, -0.622, 0.622]
    """
    if not bound > 0.0:
        raise BadInput(f"bound = {bound}", "allowed: numbers above 0")
    z = upcast(jnp.asarray(z))
    outside = ndtr(jnp.asarray(-bound, z.dtype))  # below -t; from the lower tail, where no digits are lost
    below = outside + (1.0 - 2.0 * outside) * ndtr(-jnp.abs(z))
    return -jnp.sign(z) * jnp.maximum(ndtri(jnp.minimum(below, 0.5)), -bound)
