"""Variational objectives: the ELBO with beta and free bits, and the importance-weighted bound.

For a latent-variable model p(x, z) = p(x | z) p(z) and a posterior q(z | x),

    log p(x) >= E_q[log p(x | z)] - KL(q(z | x) || p(z))                                                        (ELBO)
    log p(x) >= E log 1/k sum_i p(x, z_i) / q(z_i | x),   z_1 .. z_k ~ q(z | x)                                 (IWAE)

`distortion` is -log p(x | z), `rate` the divergence; both are [B] nats and their sum is the negative ELBO, which is
minimised.  A warm-up of the rate is a weight `beta` that the caller computes from `state.step`
(genjax/losses/warm_up.py): no function of this file knows about time.  Other bounds of several samples and other
gradients of this one stand in importance.py, discrete latents in discrete_latents.py.

Sources: Kingma and Welling, Auto-Encoding Variational Bayes, 2014, https://arxiv.org/abs/1312.6114; Burda, Grosse and
Salakhutdinov, Importance Weighted Autoencoders, 2016, https://arxiv.org/abs/1509.00519.
"""

import jax
import jax.numpy as jnp

from genjax.distributions import log_mean_exp, upcast
from genjax.errors import BadInput
from genjax.types import Array


def negative_elbo(log_likelihood: Array, rate: Array, beta: Array | float = 1.0) -> jax.Array:
    """-log p(x | z) + beta KL(q(z | x) || p(z)): what a VAE minimises.

    An upper bound of -log p(x) in expectation over z for beta = 1, and for beta > 1 a looser one; for beta < 1 it is
    no bound.

    Args:
      log_likelihood: [B] nats, log p(x | z) of one sample z ~ q(z | x), summed over pixels.
      rate: [B] nats, KL(q(z | x) || p(z)), summed over latents.
      beta: scalar >= 0; 1 is the ELBO.

    Returns:
      [B] nats.

    Raises:
      BadInput: shapes that differ, a negative beta.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, 2014, eq. 3, https://arxiv.org/abs/1312.6114;
    Higgins et al., beta-VAE, 2017, eq. 4, https://openreview.net/forum?id=Sy2fzU9gl.

    >>> negative_elbo(jnp.array([-90.0]), jnp.array([20.0])).tolist()
    [110.0]
    """
    log_likelihood, rate = same_shape(log_likelihood=log_likelihood, rate=rate)
    if isinstance(beta, int | float) and not beta >= 0:
        raise BadInput(f"beta = {beta}", "allowed: the weight of the rate, at least 0; 1 is the ELBO")
    return jnp.asarray(beta, rate.dtype) * rate - log_likelihood


def free_bits(rate: Array, floor: float) -> jax.Array:
    """sum_j max(lambda, mean_B KL_j): no pressure on a group of latents whose mean rate is below lambda nats.

    Returned per example so that the mean over the batch is the paper's sum: a group above the floor counts by each
    example's own rate, a group below it as the constant lambda, whose gradient is zero.  The maximum stands outside
    of the mean, as in the paper.  The mean is that of the rows of this call: with accumulated gradients or under pmap
    these are a part of the batch, and the bound is slightly another.

    Args:
      rate: [B, J] nats, KL of each example and group of latents (one latent each, or a layer).
      floor: lambda >= 0, nats per group.

    Returns:
      [B] nats, in place of the rate in `negative_elbo`.

    Raises:
      BadInput: a negative floor, or a rate that is not [B, J].

    Source: Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016, eq. 15,
    https://arxiv.org/abs/1606.04934.

    >>> free_bits(jnp.array([[0.1, 2.0], [0.3, 4.0]]), 0.5).tolist()
    [2.5, 4.5]
    """
    rate = upcast(rate)
    if rate.ndim != 2:
        raise BadInput(f"rate has shape {list(rate.shape)}", "allowed: [B, J], examples by groups of latents")
    if floor < 0:
        raise BadInput(f"floor = {floor}", "allowed: nats per group, at least 0")
    below = jnp.mean(rate, axis=0, keepdims=True) <= floor  # a rate that is no number is not: it stays one
    return jnp.sum(jnp.where(below, floor, rate), axis=1)


def negative_iwae(log_weights: Array) -> jax.Array:
    """-log 1/k sum_i w_i: the importance-weighted bound as a loss.

    Its gradient by differentiation through reparameterised samples is that of the bound: each sample's path gradient
    weighted by w_i / sum_j w_j (eq. 14).  For k = 1 it is the negative ELBO with the rate estimated by the same sample.

    Args:
      log_weights: [k, B] nats, log w_i = log p(x, z_i) - log q(z_i | x), z_i reparameterised; no stop_gradient.

    Returns:
      [B] nats: in expectation an upper bound of -log p(x) that falls with k.

    Raises:
      BadInput: anything but [k, B] with k >= 1.

    Source: Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2016, eq. 8,
    https://arxiv.org/abs/1509.00519.

    >>> negative_iwae(jnp.array([[-90.0], [-90.0]])).tolist()
    [90.0]
    """
    (log_weights,) = samples_by_examples(log_weights=log_weights)
    return -log_mean_exp(log_weights, axis=0)


def same_shape(**arrays: Array) -> list[jax.Array]:
    """The arrays in float32 at least, after the check that all have one shape: ranks are never broadcast silently.

    Args:
      arrays: name -> array; the names are told where shapes differ.

    Returns:
      The arrays, in the order given.

    Raises:
      BadInput: shapes that differ.

    >>> [array.dtype.name for array in same_shape(fit=jnp.zeros(2, jnp.bfloat16), rate=jnp.ones(2))]
    ['float32', 'float32']
    """
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise BadInput(
            "shapes differ: " + ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()),
            "allowed: one shape for all, [B] or [k, B]: one number per example, or per sample and example",
            "sum over pixels and over latents first: genjax.distributions.event_sum",
        )
    return [upcast(array) for array in arrays.values()]


def samples_by_examples(least: int = 1, **arrays: Array) -> list[jax.Array]:
    """The arrays in float32 at least, after the check that they are [k, B] with k large enough.

    Args:
      least: the smallest k that is allowed.
      arrays: name -> [k, B], all of one shape.

    Returns:
      The arrays, in the order given.

    Raises:
      BadInput: other shapes, shapes that differ, too few samples.

    >>> samples_by_examples(2, log_weights=jnp.zeros((1, 8)))
    Traceback (most recent call last):
    genjax.errors.BadInput: log_weights has shape [1, 8]
    allowed: [k, B], samples by examples, k at least 2
    """
    checked = same_shape(**arrays)
    for name, array in zip(arrays, checked, strict=True):
        if array.ndim != 2 or array.shape[0] < least:
            raise BadInput(
                f"{name} has shape {list(array.shape)}", f"allowed: [k, B], samples by examples, k at least {least}"
            )
    return checked
