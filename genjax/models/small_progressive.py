r"""A small generator and a crippled critic of 4, 8, 16, ... pixels, for tests of mode coverage; grown or not.

With C_k = 64 / 2^k channels at level k, of 4 2^k pixels,

    generator   z -> dense [4, 4, C_0] -> (doubled -> 3x3 convolution to C_k) for k = 1 .. L -> 3x3 colours -> tanh
    critic      x -> (3x3 convolution to C_k / K -> halved) for k = L .. 1 -> one number

where below the top level a 1x1 convolution makes images the C_{L+1} / K channels that a level above would hand down.

There are as few layers as that: at L = 3 the critic has 557 parameters with K = 4, so that it cannot know what 1,000
modes look like, and only how it is trained decides how many the generator finds.  With `normalised` weights are scaled
by the layer and the generator's activations normalised at every pixel; without, initial values are those of He et al.
and nothing is normalised: the published baseline has batch normalisation there, in both networks.

While a level fades in, colours are mixed as in `genjax.models.progressive`; with alpha = None nothing fades and layers
of the level below do not exist.

Source: Karras, Aila, Laine and Lehtinen, Progressive Growing of GANs, 2018, https://arxiv.org/abs/1710.10196, the test
of discrete modes in the appendix; after Metz, Poole, Pfau and Sohl-Dickstein, Unrolled Generative Adversarial Networks,
2017, https://arxiv.org/abs/1611.02163.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.blocks import Initializer
from genjax.models.convolution import Conv
from genjax.models.gan_layers import GAIN, EqualConv, EqualDense, doubled, halved, minibatch_stddev, pixel_norm
from genjax.models.progressive import FIRST, side
from genjax.types import Array

WIDTH = 64  # C_0


class SmallGenerator(nn.Module):
    """z [B, Z] -> images [B, side, side, channels] in [-1, 1].

    Args:
      level: L.
      channels: of the images.
      normalised: equalised learning rate and pixel normalisation.

    >>> model = SmallGenerator(level=1)
    >>> params = model.init(jax.random.key(0), jnp.ones((2, 64)))
    >>> model.apply(params, jnp.ones((2, 64))).shape
    (2, 8, 8, 3)
    """

    level: int
    channels: int = 3
    normalised: bool = True

    @nn.compact
    def __call__(self, z: Array, alpha: Array | float | None = None) -> jax.Array:
        first = _dense(self.normalised, FIRST**2 * WIDTH, "block_0")(pixel_norm(z))
        h = below = self._active(first.reshape(-1, FIRST, FIRST, WIDTH))
        for level in range(1, self.level + 1):
            below, h = h, _conv(self.normalised, WIDTH >> level, f"block_{level}")(doubled(h))
            h = self._active(h)
        images = self._colours(self.level, h)
        if alpha is not None and self.level:
            images = _between(doubled(self._colours(self.level - 1, below)), images, alpha)
        return nn.tanh(images)

    def _active(self, h: jax.Array) -> jax.Array:
        h = nn.leaky_relu(h, 0.3)
        return pixel_norm(h) if self.normalised else h

    def _colours(self, level: int, h: jax.Array) -> jax.Array:
        return _conv(self.normalised, self.channels, f"colours_{level}", gain=1.0)(h)


class CrippledCritic(nn.Module):
    """Images [B, side, side, channels] -> scores [B].

    Args:
      level: L.
      top: the level at which growing ends; there images are read as they are.
      divisor: K: channels are a K-th of the generator's, 2 or 4 in the paper.
      channels: of the images.
      normalised: equalised learning rate.
      stddev: whether a channel tells the standard deviation over the whole batch.

    Raises:
      BadInput: images of another size or number of channels; a divisor that leaves no channel.

    >>> model = CrippledCritic(level=3, top=3)
    >>> params = model.init(jax.random.key(0), jnp.ones((2, 32, 32, 3)))
    >>> sum(p.size for p in jax.tree.leaves(params))
    557
    """

    level: int
    top: int
    divisor: int = 4
    channels: int = 3
    normalised: bool = True
    stddev: bool = False

    @nn.compact
    def __call__(self, x: Array, alpha: Array | float | None = None) -> jax.Array:
        h = images = jnp.asarray(x)
        self._check(images)
        if self.level < self.top:
            h = self._read(self.level, images)
        for level in range(self.level, 0, -1):
            h = halved(nn.leaky_relu(_conv(self.normalised, self._width(level), f"block_{level}")(h), 0.2))
            if alpha is not None and level == self.level:
                h = _between(self._read(level - 1, halved(images)), h, alpha)
        h = minibatch_stddev(h, len(h)) if self.stddev else h
        return _dense(self.normalised, 1, "score", gain=1.0)(h.reshape(len(h), -1))[:, 0]

    def _read(self, level: int, images: jax.Array) -> jax.Array:
        return nn.leaky_relu(_conv(self.normalised, self._width(level + 1), f"from_{level}", 1)(images), 0.2)

    def _width(self, level: int) -> int:
        return (WIDTH >> level) // self.divisor

    def _check(self, images: jax.Array) -> None:
        wanted = (side(self.level), side(self.level), self.channels)
        if images.ndim != 4 or images.shape[1:] != wanted:
            raise BadInput(
                f"images {list(images.shape)} for a critic of level {self.level} and {self.channels} channels",
                f"allowed: [B, {wanted[0]}, {wanted[1]}, {wanted[2]}]",
            )
        if not 0 <= self.level <= self.top or self.divisor < 1 or self._width(self.top) < 1:
            told = f"level {self.level} of {self.top}, divisor {self.divisor}"
            raise BadInput(told, f"allowed: levels from 0 to the top, divisors from 1 to {max(WIDTH >> self.top, 1)}")


def level_of(pixels: int) -> int:
    """The level of images of so many pixels a side: the inverse of `side`.

    Raises:
      BadInput: pixels that are no power of two from 4.

    >>> level_of(32)
    3
    """
    if pixels < FIRST or pixels & (pixels - 1):
        near = max(FIRST, 1 << max(pixels, 1).bit_length() - 1)
        raise BadInput(f"a resolution of {pixels} pixels", f"allowed: powers of two from {FIRST}, for example {near}")
    return pixels.bit_length() - FIRST.bit_length()


def _conv(normalised: bool, features: int, name: str, size: int = 3, gain: float = GAIN) -> nn.Module:
    if normalised:
        return EqualConv(features, size, gain, name=name)
    return Conv(features, (size, size), kernel_init=_initial(gain), name=name)


def _dense(normalised: bool, features: int, name: str, gain: float = GAIN) -> nn.Module:
    if normalised:
        return EqualDense(features, gain, name=name)
    return nn.Dense(features, kernel_init=_initial(gain), name=name)


def _initial(gain: float) -> Initializer:
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


def _between(low: jax.Array, high: jax.Array, alpha: Array | float) -> jax.Array:
    weight = jnp.asarray(alpha, high.dtype)
    return (1 - weight) * low + weight * high
