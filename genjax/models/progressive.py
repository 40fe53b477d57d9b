r"""Progressive growing: a generator and a discriminator that begin at 4x4 pixels and gain a block of twice the size.

At level L images have 4 2^L pixels a side.  While the newest block fades in, alpha goes from 0 to 1:

    generator        y = (1 - alpha) doubled(rgb_{L-1}(x_{L-1})) + alpha rgb_L(x_L)
    discriminator    h = (1 - alpha) from_{L-1}(halved(y)) + alpha block_L(from_L(y))

so that at alpha = 0 the networks are those of the level below, seen through a doubling and a halving, and at alpha = 1
the layers of the level below that only made or read colours are out of use.  Real images fade as well (`faded`).

Parameters carry the same names at every level, so that what a level learned is what the next one begins with
(`inherited`).  Latents are drawn from N(0, 1) and brought to length sqrt(Z), activations of the generator normalised at
every pixel, weights scaled by the layer; the discriminator sees how much its batch varies.

Source: Karras, Aila, Laine and Lehtinen, Progressive Growing of GANs for Improved Quality, Stability, and Variation,
2018, https://arxiv.org/abs/1710.10196, figures 1 and 2, sections 2 to 4, table 2.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.gan_layers import EqualConv, EqualDense, doubled, halved, minibatch_stddev, pixel_norm
from genjax.types import Array, Params

FIRST = 4  # pixels of level 0
GAIN_FIRST = 2.0**0.5 / 4  # as published: the fan-in of the first layer counts the 4x4 places that it makes


def side(level: int) -> int:
    """Pixels of a side at a level: 4, 8, 16, ...

    >>> side(3)
    32
    """
    return FIRST * 2**level


class Generator(nn.Module):
    """z -> images.

    Args:
      widths: channels of the blocks of levels 0, 1, ...; their number less one is the highest level.
      level: L, of the images.
      channels: of the images: 1, 3, ...

    Called with z [B, Z] and alpha in [0, 1], returns [B, side, side, channels], about [-1, 1] but not bounded.

    Raises:
      BadInput: a level that has no width.

    >>> model = Generator((16, 8), level=1, channels=3)
    >>> params = model.init(jax.random.key(0), jnp.ones((2, 10)), 1.0)
    >>> model.apply(params, jnp.ones((2, 10)), 0.5).shape
    (2, 8, 8, 3)
    """

    widths: Sequence[int]
    level: int
    channels: int

    @nn.compact
    def __call__(self, z: Array, alpha: Array | float = 1.0) -> jax.Array:
        check_level(self.level, self.widths)
        z = pixel_norm(z)
        first = EqualDense(FIRST**2 * self.widths[0], GAIN_FIRST, name="first")(z)
        x = _active(first.reshape(-1, FIRST, FIRST, self.widths[0]))
        x = below = _active(EqualConv(self.widths[0], name="block_0")(x))
        for level in range(1, self.level + 1):
            below, x = x, doubled(x)
            for part in "ab":
                x = _active(EqualConv(self.widths[level], name=f"block_{level}{part}")(x))
        images = self._rgb(self.level, x)
        if self.level == 0:
            return images
        return _between(doubled(self._rgb(self.level - 1, below)), images, alpha)

    def _rgb(self, level: int, x: jax.Array) -> jax.Array:
        return EqualConv(self.channels, 1, gain=1.0, name=f"rgb_{level}")(x)


class Discriminator(nn.Module):
    """Images -> one score each.

    Args:
      widths, level: as the generator's.
      group: examples whose standard deviation a channel tells; 0: none.

    Called with x [B, side, side, C] and alpha, returns [B].

    Raises:
      BadInput: a level that has no width, images of another size.

    >>> model = Discriminator((16, 8), level=1)
    >>> params = model.init(jax.random.key(0), jnp.ones((4, 8, 8, 3)), 1.0)
    >>> model.apply(params, jnp.ones((4, 8, 8, 3)), 0.5).shape
    (4,)
    """

    widths: Sequence[int]
    level: int
    group: int = 4

    @nn.compact
    def __call__(self, x: Array, alpha: Array | float = 1.0) -> jax.Array:
        check_level(self.level, self.widths)
        images = jnp.asarray(x)
        if images.ndim != 4 or images.shape[1:3] != (side(self.level),) * 2:
            wanted = f"[B, {side(self.level)}, {side(self.level)}, C]"
            raise BadInput(f"images {list(images.shape)} at level {self.level}", f"allowed: {wanted}")
        h = self._read(self.level, images)
        for level in range(self.level, 0, -1):
            h = nn.leaky_relu(EqualConv(self.widths[level], name=f"block_{level}a")(h), 0.2)
            h = halved(nn.leaky_relu(EqualConv(self.widths[level - 1], name=f"block_{level}b")(h), 0.2))
            if level == self.level:
                h = _between(self._read(level - 1, halved(images)), h, alpha)
        h = minibatch_stddev(h, self.group) if self.group else h
        h = nn.leaky_relu(EqualConv(self.widths[0], name="block_0")(h), 0.2)
        h = nn.leaky_relu(EqualDense(self.widths[0], name="last")(h.reshape(len(h), -1)), 0.2)
        return EqualDense(1, gain=1.0, name="score")(h)[:, 0]

    def _read(self, level: int, images: jax.Array) -> jax.Array:
        return nn.leaky_relu(EqualConv(self.widths[level], 1, name=f"from_{level}")(images), 0.2)


def faded(x: Array, alpha: Array | float) -> jax.Array:
    """Real images while a block fades in: (1 - alpha) doubled(halved(x)) + alpha x.

    Args:
      x: [B, H, W, C].
      alpha: in [0, 1].

    Returns:
      [B, H, W, C].

    >>> faded(jnp.array([1.0, 3.0, 5.0, 7.0]).reshape(1, 2, 2, 1), 0.5).ravel().tolist()
    [2.5, 3.5, 4.5, 5.5]
    """
    return _between(doubled(halved(x)), jnp.asarray(x), alpha)


def inherited(previous: Params, fresh: Params) -> Any:
    """Fresh parameters with what the previous level learned wherever a name and a shape are the same.

    Args:
      previous, fresh: nested dictionaries of arrays.

    Returns:
      The structure of `fresh`.

    >>> inherited({"a": jnp.ones(1), "old": jnp.ones(1)}, {"a": jnp.zeros(1), "b": jnp.zeros(1)})["a"].tolist()
    [1.0]
    """
    known = dict(jax.tree_util.tree_leaves_with_path(previous))

    def pick(path: Any, leaf: jax.Array) -> jax.Array:
        before = known.get(path)
        return leaf if before is None or before.shape != leaf.shape else before

    return jax.tree_util.tree_map_with_path(pick, fresh)


def check_level(level: int, widths: Sequence[int]) -> None:
    """Refuse a level without a width.

    >>> check_level(2, (8, 8, 4))
    """
    if not 0 <= level < len(widths) or min(widths) < 1:
        raise BadInput(f"level {level} of networks of widths {list(widths)}", f"allowed: 0 to {len(widths) - 1}")


def _active(x: jax.Array) -> jax.Array:
    return pixel_norm(nn.leaky_relu(x, 0.2))


def _between(low: jax.Array, high: jax.Array, alpha: Array | float) -> jax.Array:
    weight = jnp.asarray(alpha, high.dtype)
    return (1 - weight) * low + weight * high
