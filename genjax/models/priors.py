"""Learned priors of a VAE: mixtures of what its own encoder says of pseudo-inputs, or of training images.

The prior that makes the ELBO largest is the average posterior, 1/N sum_n q(z | x_n).  Two ways to afford it:

    p(z) = 1/K sum_k q(z | u_k)                  u_k learned images, K far below N                       (VampPrior)
    p(z) = 1/M sum_m N(z; mean(x_m), s^2)        x_m training images, s^2 one learned variance           (Exemplar)

In training, an example is not its own exemplar: the sum leaves it out.  Otherwise the posterior is pulled to the one
component that is made of the same image, and the bound of the training set says nothing about new images.  On new
images nothing is left out.

Sources: Tomczak and Welling, VAE with a VampPrior, 2018, eq. 9, https://arxiv.org/abs/1705.07120; Norouzi, Fleet and
Norouzi, Exemplar VAEs, 2020, eq. 5 and 9, https://arxiv.org/abs/2004.04795.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.distributions.latent import Distribution, component_log_probs, distribution, normal_mixture
from genjax.errors import BadInput
from genjax.models.blocks import Initializer
from genjax.types import Array


def around(mean: float, scale: float) -> Initializer:
    """Initial values from N(mean, scale^2), as the VampPrior's authors start their pseudo-inputs.

    >>> values = around(0.05, 0.01)(jax.random.key(0), (1000,), jnp.float32)
    >>> round(float(values.mean()), 2), round(float(values.std()), 2)
    (0.05, 0.01)
    """
    return lambda key, shape, dtype=jnp.float32: mean + scale * jax.random.normal(key, shape, dtype)


class PseudoInputs(nn.Module):
    """K images that are learned, clipped to [0, 1].

    The VampPrior is then `normal_mixture(*encode(images))`.  Where a pixel is outside of [0, 1] its gradient is zero:
    it starts inside.

    Args:
      count: K, at least 1.
      image_shape: (H, W, C).
      init_images: of the pixels.

    Called without arguments; returns [K, H, W, C].

    Raises:
      BadInput: no pseudo-inputs.

    >>> inputs = PseudoInputs(5, (8, 8, 1))
    >>> inputs.init_with_output(jax.random.key(0))[0].shape
    (5, 8, 8, 1)
    """

    count: int
    image_shape: Sequence[int]
    init_images: Initializer = around(0.05, 0.01)

    @nn.compact
    def __call__(self) -> jax.Array:
        check_components("pseudo-inputs", self.count, 1)
        pixels = self.param("images", self.init_images, (self.count, math.prod(self.image_shape)))
        return jnp.clip(pixels, 0.0, 1.0).reshape(self.count, *self.image_shape)


def exemplar_prior(mean: Array, log_var: Array, rows: Array | None = None, own: Array | None = None) -> Distribution:
    """1/M sum_m N(mean_m, exp(log_var)), for each example without itself.

    Args:
      mean: [M, D], the encoder's means of M exemplars, M >= 2.
      log_var: scalar, of all components and dimensions.
      rows: [M] the numbers of the exemplars in the training set, each at most once.
      own: [B] the numbers of the examples in the training set; None: new images, of which nothing is left out.

    Returns:
      The law of vectors [..., B, D] where `own` is given, and [..., D] else.  Where the example is among the exemplars
      its component is left out, and the average is that of the M - 1 others.  `sample` draws from all M.

    Raises:
      BadInput: fewer than two exemplars, `own` without `rows`, `rows` that are not [M].

    >>> prior = exemplar_prior(jnp.array([[0.0], [9.0]]), jnp.zeros(()), jnp.array([3, 7]), jnp.array([3]))
    >>> round(float(prior.log_prob(jnp.array([[9.0]]))[0]), 4)  # row 3 sees row 7 only
    -0.9189
    """
    mean = jnp.asarray(mean)
    check_components("exemplars", len(mean), 2)
    if own is not None and rows is None:
        raise BadInput("exemplar_prior(own=...) without rows", "the numbers of the exemplars in the training set too")
    if rows is not None and jnp.shape(rows) != (len(mean),):
        raise BadInput(f"rows {list(jnp.shape(rows))} of {len(mean)} exemplars", "allowed: [M], a number an exemplar")
    variances = jnp.broadcast_to(log_var, mean.shape)

    def log_prob(z: Array) -> jax.Array:
        each = component_log_probs(z, mean, variances)
        if own is None or rows is None:
            others = jnp.ones_like(each, bool)
        else:
            others = jnp.broadcast_to(jnp.asarray(own)[:, None] != jnp.asarray(rows)[None, :], each.shape)
        count = jnp.sum(others, axis=-1)
        return jax.nn.logsumexp(each, axis=-1, where=others) - jnp.log(count.astype(each.dtype))

    return distribution(normal_mixture(mean, variances).sample, log_prob)


def check_components(name: str, count: int, least: int, rows: int | None = None) -> None:
    """Refuse a number of components that no mixture can have.

    >>> check_components("exemplars", 70_000, 2, rows=50_000)
    Traceback (most recent call last):
    genjax.errors.BadInput: exemplars = 70000
    allowed: whole numbers from 2 to 50000, the images of the training set
    """
    if count < least or (rows is not None and count > rows):
        to = f" to {rows}, the images of the training set" if rows is not None else ""
        raise BadInput(f"{name} = {count}", f"allowed: whole numbers from {least}{to}")
