"""What a decoder's output means: distributions over images on a grid of grey levels.

A `Likelihood` is three pure functions.  The decoder, of whatever family, returns for each image `params_out`
[..., H, W, C, m], m numbers a pixel and channel; images x are [..., H, W, C] in [0, 1], on the grid
level / (levels - 1).  The leading axes of both agree, except that x may lack some: [B, ...] against [k, B, ...].
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax import distributions
from genjax.errors import BadInput
from genjax.types import Array, Key


class Likelihood(NamedTuple):
    """p(x | params_out), with independent pixels; only `logistic_mixture` binds the channels of a pixel."""

    name: str  # for messages and reports
    levels: int  # grey levels of the data it is a probability of
    multiplier: int  # m: numbers that the decoder gives a pixel and channel
    log_prob: Callable[[Array, Array], jax.Array]  # (params_out [..., H, W, C, m], x) -> [...] nats, summed over pixels
    mean: Callable[[Array], jax.Array]  # params_out -> image [..., H, W, C] in [0, 1]
    sample: Callable[[Array, Key], jax.Array]  # (params_out, key) -> image [..., H, W, C] on the grid


def bernoulli() -> Likelihood:
    """Black and white pixels: params_out are the logits of 1.

    A probability of binary data only.  Grey images need `categorical` or `discretized_logistic`, or a data set that
    binarises them: the Bernoulli formula of grey values is not normalised, so that no bound follows from it.

    >>> round(float(bernoulli().log_prob(jnp.zeros((1, 2, 2, 1, 1)), jnp.ones((1, 2, 2, 1)))[0]), 4)  # -4 log 2
    -2.7726
    """
    return Likelihood(
        name="Bernoulli",
        levels=2,
        multiplier=1,
        log_prob=_pixel_sum(lambda out, x: distributions.bernoulli_log_prob(x, out[..., 0])),
        mean=lambda out: jax.nn.sigmoid(distributions.upcast(out[..., 0])),
        sample=lambda out, key: distributions.sample_bernoulli(out[..., 0], key),
    )


def categorical(levels: int) -> Likelihood:
    """One free probability for each grey level: params_out are the `levels` logits of a pixel and channel.

    Args:
      levels: L >= 2, the grey levels of the data.

    >>> flat = categorical(17).log_prob(jnp.zeros((1, 8, 8, 1, 17)), jnp.zeros((1, 8, 8, 1)))
    >>> round(float(distributions.bits_per_dim(-flat, 64)[0]), 4)  # log2(17)
    4.0875
    """

    def log_prob(out, x):
        return distributions.categorical_log_prob(jnp.round(x * (levels - 1)), out)

    def mean(out):
        grid = jnp.arange(levels, dtype=jnp.float32) / (levels - 1)
        return jax.nn.softmax(distributions.upcast(out), axis=-1) @ grid

    return Likelihood(
        name=f"categorical({levels})",
        levels=_at_least_two(levels),
        multiplier=levels,
        log_prob=_pixel_sum(log_prob),
        mean=mean,
        sample=lambda out, key: distributions.sample_categorical(out, key) / jnp.float32(levels - 1),
    )


def discretized_logistic(levels: int) -> Likelihood:
    """A logistic variable rounded to the grid: params_out are location - 1/2 and log scale + 2 of a pixel and channel.

    The offsets make a decoder of zeros a broad distribution around mid-grey (scale exp(-2)), so that training starts
    with gradients everywhere.

    Args:
      levels: L >= 2, the grey levels of the data.

    >>> total = sum(jnp.exp(discretized_logistic(4).log_prob(jnp.zeros((1, 1, 1, 1, 2)), jnp.full((1, 1, 1, 1), v / 3)))
    ...             for v in range(4))
    >>> round(float(total[0]), 4)
    1.0
    """

    def split(out: jax.Array) -> tuple[jax.Array, jax.Array]:
        return out[..., 0] + 0.5, out[..., 1] - 2.0

    def log_prob(out, x):
        return distributions.discretized_logistic_log_prob(x, *split(out), levels)

    return Likelihood(
        name=f"discretised logistic({levels})",
        levels=_at_least_two(levels),
        multiplier=2,
        log_prob=_pixel_sum(log_prob),
        mean=lambda out: distributions.discretized_logistic_mean(*split(distributions.upcast(out)), levels),
        sample=lambda out, key: distributions.sample_discretized_logistic(
            *split(distributions.upcast(out)), levels, key
        ),
    )


def logistic_mixture(levels: int, components: int = 5, channels: int = 1) -> Likelihood:
    """A mixture of logistics rounded to the grid, whose component is drawn once a pixel, for all of its channels.

    Unlike the others it binds the channels of a pixel: through the component, and by coefficients in (-1, 1) of each
    channel on those before it.  A pixel has K (1 + 2 C + C (C - 1) / 2) numbers; they are read from the C m numbers
    of its channels, of which up to C - 1 are left over.  Where they are all zero, K logistics of scale exp(-2) are
    spread over [0, 1], so that the components start apart.

    Args:
      levels: L >= 2, the grey levels of the data.
      components: K >= 1.
      channels: C of the images.

    >>> total = sum(jnp.exp(logistic_mixture(4).log_prob(jnp.zeros((1, 1, 1, 1, 15)), jnp.full((1, 1, 1, 1), v / 3)))
    ...             for v in range(4))
    >>> round(float(total[0]), 4), logistic_mixture(256, 10, channels=3).multiplier
    (1.0, 34)
    """
    rows = 1 + 2 * channels + channels * (channels - 1) // 2
    multiplier = -(-components * rows // channels)
    middles = np.float32((np.arange(components) + 0.5) / components)

    def split(out: Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        numbers = distributions.upcast(out).reshape(*out.shape[:-2], channels * multiplier)[..., : components * rows]
        parts = numbers.reshape(*out.shape[:-2], rows, components)
        locations = parts[..., 1 : channels + 1, :] + middles.reshape((1,) * (parts.ndim - 1) + (components,))
        log_scales = parts[..., channels + 1 : 2 * channels + 1, :] - 2.0
        return parts[..., 0, :], locations, log_scales, jnp.tanh(parts[..., 2 * channels + 1 :, :])

    def log_prob(out, x):
        x = jnp.broadcast_to(distributions.upcast(x), out.shape[:-1])
        return distributions.logistic_mixture_log_prob(x, *split(out), levels).sum(axis=(-2, -1))

    return Likelihood(
        name=f"mixture of {components} logistics({levels})",
        levels=_at_least_two(levels),
        multiplier=multiplier,
        log_prob=log_prob,
        mean=lambda out: distributions.logistic_mixture_mean(*split(out), levels),
        sample=lambda out, key: distributions.sample_logistic_mixture(*split(out), levels, key),
    )


def check_support(dataset: Any, likelihood: Likelihood) -> None:
    """Stop unless `likelihood` is a probability of the values that the images of `dataset` take.

    Args:
      dataset: a `genjax.data.Dataset`: its name and the number of grey levels of its prepared images.
      likelihood: the decoder's.

    Raises:
      BadInput: other levels; the message names the range of the data and the decoder that fits.

    >>> from types import SimpleNamespace
    >>> check_support(SimpleNamespace(name="digits", levels=17), categorical(17))
    """
    levels = dataset.levels
    if levels == likelihood.levels:
        return
    fits = f"discretized_logistic({levels}) or categorical({levels})" if levels > 2 else "bernoulli()"
    remedy = f"likelihood = {fits}" + (", or a binarized set: genjax data list" if likelihood.levels == 2 else "")
    raise BadInput(
        f"likelihood = {likelihood.name}: the images of {dataset.name} take "
        + (f"{levels} grey levels in [0, 1]" if levels else "real values"),
        f"allowed with this decoder: {likelihood.levels} levels, the values level / {likelihood.levels - 1} in [0, 1]",
        remedy if levels else "store the images as bytes: 256 grey levels",
    )


def logit_of_mean(images: np.ndarray, levels: int, least: float = 0.001) -> np.ndarray:
    """log(m / (1 - m)), m the mean image in [0, 1]: the bias with which a Bernoulli decoder starts at the data's mean.

    Args:
      images: [N, H, W, C] stored grey levels 0 .. levels-1.
      levels: of the stored images, before any binarization: 256 for bytes, 2 for bits.
      least: m is clipped to [least, 1 - least].

    Returns:
      [H * W * C] float32 logits.

    Source: Burda, Grosse and Salakhutdinov, 2016, their public code, https://github.com/yburda/iwae.

    >>> logit_of_mean(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1), 256).tolist()
    [0.0]
    """
    mean = images.mean(axis=0, dtype=np.float64) / (_at_least_two(levels) - 1)
    mean = np.clip(mean, least, 1.0 - least)
    return np.log(mean / (1.0 - mean)).astype(np.float32).reshape(-1)


def level_log_probs(likelihood: Likelihood, params_out: Array) -> jax.Array:
    """The log-probability of every grey level at every pixel: what an entropy coder needs.

    Args:
      likelihood: with independent channels, or of images with one channel.
      params_out: [..., H, W, C, m].

    Returns:
      [..., H * W * C, levels] nats.

    >>> level_log_probs(bernoulli(), jnp.zeros((5, 2, 2, 1, 1))).round(3)[0, 0].tolist()
    [-0.693..., -0.693...]
    """
    pixels = math.prod(params_out.shape[-4:-1])
    alone = params_out.reshape(-1, 1, 1, 1, params_out.shape[-1])  # each pixel as an image of its own
    grid = jnp.arange(likelihood.levels, dtype=jnp.float32) / (likelihood.levels - 1)
    one = lambda level: likelihood.log_prob(alone, jnp.broadcast_to(level, alone.shape[:-1]))
    return jax.vmap(one, out_axes=-1)(grid).reshape(*params_out.shape[:-4], pixels, likelihood.levels)


def _pixel_sum(log_prob: Callable[[Array, Array], jax.Array]) -> Callable[[Array, Array], jax.Array]:
    """From nats [..., D] of numbers [..., D, m] and pixels [..., D] to nats [...] of params_out and an image.

    Height, width and channels are made one axis first: over a last axis of one channel XLA's CPU backend computes
    logarithms and exponentials one by one, ten times slower.
    """

    def summed(out: Array, x: Array) -> jax.Array:
        x = jnp.broadcast_to(distributions.upcast(x), out.shape[:-1])
        pixels = (*out.shape[:-4], math.prod(out.shape[-4:-1]))
        return jnp.sum(log_prob(out.reshape(*pixels, out.shape[-1]), x.reshape(pixels)), axis=-1)

    return summed


def _at_least_two(levels: int) -> int:
    if levels < 2:
        raise BadInput(f"levels = {levels}", "allowed: the number of grey levels of the data, at least 2")
    return levels
