"""Networks of a VQ-VAE: images to a grid of vectors, and a grid of vectors to images.

Both halve or double the image's sides by 4x4 (transposed) convolutions of stride 2, and have residual blocks of a
3x3 and a 1x1 convolution where the grid is small.  What lies between the two, the choice of the nearest code, is
`quantized`, a function of arrays: codes and their vectors are no parameters of these networks.

Source: van den Oord, Vinyals and Kavukcuoglu, Neural Discrete Representation Learning, 2017, section 4.1,
https://arxiv.org/abs/1711.00937.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.losses.codebook import Codebook, code_vectors
from genjax.losses.quantization import nearest_code, straight_through
from genjax.models.convolution import Conv, ConvTranspose
from genjax.models.vae import check_images
from genjax.types import Array


class Quantized(NamedTuple):
    """What the codebook makes of vectors [..., D]."""

    codes: jax.Array  # [...] int32
    vectors: jax.Array  # [..., D] the code vectors, without a gradient
    through: jax.Array  # [..., D] the same numbers, whose gradient is that of the vectors given


def quantized(vectors: Array, book: Codebook) -> Quantized:
    """The nearest code of every vector.

    >>> book = Codebook(jnp.ones(2), jnp.array([[0.0], [1.0]]))
    >>> quantized(jnp.array([[[0.8], [0.1]]]), book).codes.tolist()
    [[1, 0]]
    """
    centres = jax.lax.stop_gradient(code_vectors(book))
    codes = nearest_code(vectors, centres)
    chosen = centres[codes]
    return Quantized(codes, chosen, straight_through(vectors, chosen))


class Residual(nn.Module):
    """h + W relu(V relu(h)): V 3x3, W 1x1.

    Args:
      channels: of h.

    Called with h [B, h, w, channels]; returns the same shape.
    """

    channels: int

    @nn.compact
    def __call__(self, h: Array) -> jax.Array:
        inner = Conv(self.channels, (3, 3), name="wide")(nn.relu(h))
        return jnp.asarray(h) + Conv(self.channels, (1, 1), name="narrow")(nn.relu(inner))


class GridEncoder(nn.Module):
    """z_e(x): a grid of vectors, 2^halvings times smaller than the image.

    Args:
      dims: D of each vector.
      halvings: convolutions of stride 2.
      channels: of every layer.
      blocks: residual blocks.

    Called with x [B, H, W, C]; returns [B, H / 2^halvings, W / 2^halvings, D].

    Raises:
      BadInput: sides that 2^halvings does not divide.

    >>> encoder = GridEncoder(3, halvings=2, channels=4, blocks=1)
    >>> jax.eval_shape(encoder.init_with_output, jax.random.key(0), jnp.ones((2, 28, 28, 1)))[0].shape
    (2, 7, 7, 3)
    """

    dims: int
    halvings: int = 2
    channels: int = 64
    blocks: int = 2

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        grid_shape(x.shape[1:3], self.halvings)
        h = jnp.asarray(x)
        for i in range(self.halvings):
            h = Conv(self.channels, (4, 4), strides=(2, 2), name=f"down_{i}")(nn.relu(h) if i else h)
        h = Conv(self.channels, (3, 3), name="middle")(nn.relu(h) if self.halvings else h)
        for i in range(self.blocks):
            h = Residual(self.channels, name=f"block_{i}")(h)
        return Conv(self.dims, (1, 1), name="vectors")(nn.relu(h))


class GridDecoder(nn.Module):
    """params_out of p(x | z_q) from a grid of vectors: the encoder's mirror image.

    Args:
      image_shape: (H, W, C).
      multiplier: m, numbers a pixel and channel (`Likelihood.multiplier`).
      halvings, channels, blocks: as in the encoder.

    Called with q [B, h, w, D]; returns [B, H, W, C, m].

    >>> decoder = GridDecoder((28, 28, 1), 2, halvings=2, channels=4, blocks=1)
    >>> jax.eval_shape(decoder.init_with_output, jax.random.key(0), jnp.ones((2, 7, 7, 3)))[0].shape
    (2, 28, 28, 1, 2)
    """

    image_shape: Sequence[int]
    multiplier: int
    halvings: int = 2
    channels: int = 64
    blocks: int = 2

    @nn.compact
    def __call__(self, q: Array) -> jax.Array:
        h = Conv(self.channels, (3, 3), name="vectors")(jnp.asarray(q))
        for i in range(self.blocks):
            h = Residual(self.channels, name=f"block_{i}")(h)
        out = self.image_shape[-1] * self.multiplier
        for i in range(self.halvings):
            features = out if i == self.halvings - 1 else self.channels
            h = ConvTranspose(features, (4, 4), strides=(2, 2), name=f"up_{i}")(nn.relu(h))
        if not self.halvings:
            h = Conv(out, (1, 1), name="pixels")(nn.relu(h))
        return h.reshape(len(h), *self.image_shape, self.multiplier)


class VQVAE(nn.Module):
    """An encoder and a decoder of grids under one set of parameters.

    `model.apply(params, x, method="encode")` gives vectors [B, h, w, D], `quantized` the codes and what is to be
    decoded, `model.apply(params, q, method="decode")` params_out; the call itself, encode and decode without codes, is
    what `model.init(key, x)` traces.

    Args:
      encoder: a `GridEncoder`.
      decoder: a `GridDecoder`; its `image_shape` is what the model accepts.

    Raises:
      BadInput: when first called, if the images have another layout, size or number of channels.

    >>> model = VQVAE(GridEncoder(3, 1, 4, 1), GridDecoder((8, 8, 1), 2, 1, 4, 1))
    >>> jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.ones((2, 8, 8, 1)))[0].shape
    (2, 8, 8, 1, 2)
    """

    encoder: nn.Module
    decoder: nn.Module

    def encode(self, x: Array) -> jax.Array:
        """Vectors z_e(x)."""
        check_images(x, self.decoder.image_shape)
        return self.encoder(x)

    def decode(self, q: Array) -> jax.Array:
        """params_out of p(x | q)."""
        return self.decoder(q)

    def __call__(self, x: Array) -> jax.Array:
        return self.decode(self.encode(x))


def grid_shape(sides: Sequence[int], halvings: int) -> tuple[int, int]:
    """(h, w) of the grid of an image's (H, W).

    >>> grid_shape((28, 28), 2)
    (7, 7)
    """
    height, width = sides
    if halvings < 0 or height % 2**halvings or width % 2**halvings:
        raise BadInput(
            f"halvings = {halvings}: images of {height} x {width} pixels",
            "allowed: as often as both sides can be halved, at least 0",
        )
    return height // 2**halvings, width // 2**halvings
