r"""Layers of adversarial networks: what keeps their weights, activations and batches in balance.

    equalised learning rate      y = c W x + b,  W ~ N(0, 1) at the start,  c = gain / sqrt(fan-in)
    pixel normalisation          y_c = x_c / sqrt(mean over channels of x^2 + 1e-8), at every pixel
    minibatch standard deviation one more channel: how much a group of examples differs, one number a group

With c in the layer rather than in the initial values, Adam, whose steps do not know a parameter's size, moves every
layer equally fast.  Pixel normalisation keeps a generator's activations from growing when the two networks race.
A discriminator that is told how much a batch varies sees a generator that has collapsed.

Spectral normalisation is Flax's `nn.SpectralNorm`; its estimate of the largest singular value lives in "batch_stats".

Source: Karras et al., Progressive Growing of GANs, 2018, https://arxiv.org/abs/1710.10196, sections 3, 4.1, 4.2.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.convolution import convolve
from genjax.types import Array

GAIN = 2.0**0.5  # of He et al., for rectifiers


class EqualDense(nn.Module):
    """y = c W x + b with W ~ N(0, 1), c = gain / sqrt(D).

    Args:
      features: E, of y.
      gain: of c; sqrt 2 before a rectifier, 1 for a last layer.

    Called with x [..., D], returns [..., E].

    Source: Karras et al., 2018, section 4.1.

    >>> layer = EqualDense(2)
    >>> params = layer.init(jax.random.key(0), jnp.ones((1, 8)))
    >>> kernel = params["params"]["kernel"]
    >>> bool(jnp.allclose(layer.apply(params, jnp.ones((1, 8))), 0.5 * kernel.sum(axis=0, keepdims=True)))
    True
    """

    features: int
    gain: float = GAIN

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        x = jnp.asarray(x)
        kernel = self.param("kernel", nn.initializers.normal(1.0), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        scale = self.gain / x.shape[-1] ** 0.5
        return x @ (scale * kernel).astype(x.dtype) + bias.astype(x.dtype).reshape(*[1] * (x.ndim - 1), -1)


class EqualConv(nn.Module):
    """A convolution of stride 1 that keeps the size, c W in place of W: W ~ N(0, 1), c = gain / sqrt(k k C).

    Args:
      features: channels of y.
      size: k, of the kernel's sides.
      gain: of c.

    Called with x [B, H, W, C], returns [B, H, W, features].

    Source: Karras et al., 2018, section 4.1.

    >>> layer = EqualConv(5)
    >>> layer.init_with_output(jax.random.key(0), jnp.ones((2, 4, 4, 3)))[0].shape
    (2, 4, 4, 5)
    """

    features: int
    size: int = 3
    gain: float = GAIN

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        x = jnp.asarray(x)
        fan_in = self.size**2 * x.shape[-1]
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = convolve(x, (self.gain / fan_in**0.5 * kernel).astype(x.dtype))
        return y + bias.astype(x.dtype).reshape(1, 1, 1, -1)


def pixel_norm(x: Array) -> jax.Array:
    """x / sqrt(mean over the last axis of x^2 + 1e-8).

    Args:
      x: [..., C].

    Returns:
      [..., C], of mean square 1 over C.

    Source: Karras et al., 2018, section 4.2.

    >>> [round(float(y), 4) for y in pixel_norm(jnp.array([3.0, 4.0]))]  # by sqrt(12.5)
    [0.8485, 1.1314]
    """
    x = jnp.asarray(x)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-8)


def minibatch_stddev(x: Array, group: int = 4) -> jax.Array:
    """One more channel: the standard deviation over a group of examples, averaged over all pixels and channels.

    Args:
      x: [B, H, W, C].  Example i is in group i mod (B / n).
      group: n, examples of a group; at most B, and B divides by it.

    Returns:
      [B, H, W, C + 1]; the last channel is one number a group.

    Raises:
      BadInput: a batch that the group does not divide.

    Source: Karras et al., 2018, section 3.

    >>> x = jnp.array([1.0, 3.0]).reshape(2, 1, 1, 1)
    >>> minibatch_stddev(x, 2)[..., 1].ravel().tolist()
    [1.0, 1.0]
    """
    x = jnp.asarray(x)
    n = min(group, len(x))
    if n < 1 or len(x) % n:
        raise BadInput(f"groups of {group} in a batch of {len(x)}", "allowed: a group that divides the batch")
    apart = x.astype(jnp.float32).reshape(n, -1, *x.shape[1:])
    variance = jnp.mean(jnp.square(apart - jnp.mean(apart, axis=0, keepdims=True)), axis=0)
    told = jnp.mean(jnp.sqrt(variance + 1e-8), axis=(1, 2, 3))  # [B / n]
    channel = jnp.broadcast_to(jnp.tile(told, n).reshape(-1, 1, 1, 1), (*x.shape[:3], 1))
    return jnp.concatenate([x, channel.astype(x.dtype)], axis=-1)


def doubled(x: Array) -> jax.Array:
    """Images of twice the size: every pixel four times.

    >>> doubled(jnp.array([[1.0, 2.0]]).reshape(1, 1, 2, 1))[0, :, :, 0].tolist()
    [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]
    """
    return jnp.repeat(jnp.repeat(jnp.asarray(x), 2, axis=1), 2, axis=2)


def halved(x: Array) -> jax.Array:
    """Images of half the size: means of two by two pixels.

    >>> float(halved(jnp.array([[1.0, 2.0], [3.0, 6.0]]).reshape(1, 2, 2, 1))[0, 0, 0, 0])
    3.0
    """
    x = jnp.asarray(x)
    b, h, w, c = x.shape
    if h % 2 or w % 2:
        raise BadInput(f"images of {h} x {w} pixels cannot be halved", "allowed: even sides")
    return jnp.mean(x.reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4))
