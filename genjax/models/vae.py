"""Encoders and decoders of variational autoencoders, dense and convolutional.

An encoder maps images [..., H, W, C] in [0, 1] to mean and log_var of q(z | x) = N(mean, exp(log_var)), [..., D] each;
a decoder maps z [..., D] to `params_out` [..., H, W, C, m], which a `Likelihood` (genjax.models.observation) reads.
`VAE` binds one of each.  Losses never see these modules: they are given arrays, or functions made by `model.apply`.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.blocks import Initializer, flat
from genjax.models.convolution import Conv, ConvTranspose
from genjax.types import Array

ImageShape = Sequence[int]  # (H, W, C)


class DenseEncoder(nn.Module):
    """q(z | x) from the flattened image: hidden layers, then two linear heads.

    Args:
      latents: D.
      hidden: [..., H * W * C] -> [..., width], e.g. `MLP((200, 200), nn.tanh)` or `GatedMLP((300, 300))`.
      log_var_range: (least, greatest) to which log_var is clipped; None: free.
      kernel_init: of the heads.

    Called with x [..., H, W, C]; returns (mean, log_var), [..., D] each.

    >>> from genjax.models.blocks import MLP
    >>> encoder = DenseEncoder(3, MLP((16,)))
    >>> (mean, log_var), _ = encoder.init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 1)))
    >>> mean.shape, log_var.shape
    ((2, 3), (2, 3))
    """

    latents: int
    hidden: nn.Module
    log_var_range: tuple[float, float] | None = None
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array) -> tuple[jax.Array, jax.Array]:
        h = self.hidden(x.reshape(*x.shape[:-3], math.prod(x.shape[-3:])))
        mean = flat(nn.Dense(self.latents, kernel_init=self.kernel_init, name="mean"), h)
        log_var = flat(nn.Dense(self.latents, kernel_init=self.kernel_init, name="log_var"), h)
        return mean, log_var if self.log_var_range is None else jnp.clip(log_var, *self.log_var_range)


class DenseDecoder(nn.Module):
    """params_out from z: hidden layers, then one linear layer.

    Args:
      image_shape: (H, W, C).
      multiplier: m, numbers a pixel and channel (`Likelihood.multiplier`).
      hidden: [..., D] -> [..., width].
      kernel_init: of the output layer.
      bias_init: of the output layer, [H * W * C * m]; e.g. `constant(logit_of_mean(images, 256))` for Bernoulli.

    Called with z [..., D]; returns [..., H, W, C, m].

    >>> from genjax.models.blocks import MLP
    >>> decoder = DenseDecoder((8, 8, 1), 1, MLP((16,)))
    >>> decoder.init_with_output(jax.random.key(0), jnp.ones((5, 2, 3)))[0].shape
    (5, 2, 8, 8, 1, 1)
    """

    image_shape: ImageShape
    multiplier: int
    hidden: nn.Module
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, z: Array) -> jax.Array:
        features = math.prod(self.image_shape) * self.multiplier
        output = nn.Dense(features, kernel_init=self.kernel_init, bias_init=self.bias_init, name="output")
        return flat(output, self.hidden(z)).reshape(*z.shape[:-1], *self.image_shape, self.multiplier)


def halvings(height: int, width: int) -> int:
    """How many convolutions of stride 2 an image takes: one as long as both sides are even and above 7 pixels.

    >>> [halvings(side, side) for side in (8, 28, 32, 64, 27)]
    [1, 2, 3, 4, 0]
    """
    count = 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) > 7:
        height, width, count = height // 2, width // 2, count + 1
    return count


class ConvolutionalEncoder(nn.Module):
    """q(z | x) by 4x4 convolutions of stride 2 (`halvings` of them), a dense layer, and two linear heads.

    Args:
      latents: D.
      channels: of the first convolution; each further one has twice as many.
      width: units of the dense layer.

    Called with x [..., H, W, C]; returns (mean, log_var), [..., D] each.

    >>> encoder = ConvolutionalEncoder(3, channels=4, width=8)
    >>> (mean, log_var), _ = encoder.init_with_output(jax.random.key(0), jnp.ones((2, 28, 28, 1)))
    >>> mean.shape
    (2, 3)
    """

    latents: int
    channels: int = 32
    width: int = 256

    @nn.compact
    def __call__(self, x: Array) -> tuple[jax.Array, jax.Array]:
        h = x.reshape(-1, *x.shape[-3:])
        for i in range(halvings(*x.shape[-3:-1])):
            h = nn.relu(Conv(self.channels * 2**i, (4, 4), strides=(2, 2), name=f"conv_{i}")(h))
        h = nn.relu(nn.Dense(self.width, name="dense")(h.reshape(h.shape[0], -1)))
        mean, log_var = nn.Dense(self.latents, name="mean")(h), nn.Dense(self.latents, name="log_var")(h)
        shape = (*x.shape[:-3], self.latents)
        return mean.reshape(shape), log_var.reshape(shape)


class ConvolutionalDecoder(nn.Module):
    """params_out from z: the encoder's mirror image, by 4x4 transposed convolutions of stride 2.

    Args:
      image_shape: (H, W, C).
      multiplier: m, numbers a pixel and channel (`Likelihood.multiplier`).
      channels: of the layer before the last; each one before has twice as many.
      width: units of the dense layer.

    Called with z [..., D]; returns [..., H, W, C, m].

    >>> decoder = ConvolutionalDecoder((28, 28, 1), 2, channels=4, width=8)
    >>> decoder.init_with_output(jax.random.key(0), jnp.ones((2, 3)))[0].shape
    (2, 28, 28, 1, 2)
    """

    image_shape: ImageShape
    multiplier: int
    channels: int = 32
    width: int = 256

    @nn.compact
    def __call__(self, z: Array) -> jax.Array:
        height, width, image_channels = self.image_shape
        count = halvings(height, width)
        features = [image_channels * self.multiplier, *(self.channels * 2**i for i in range(count))]
        small = (height // 2**count, width // 2**count, features[count])
        h = nn.relu(nn.Dense(self.width, name="dense")(z.reshape(-1, z.shape[-1])))
        h = nn.Dense(math.prod(small), name="pixels")(h).reshape(-1, *small)
        for i in reversed(range(count)):
            h = ConvTranspose(features[i], (4, 4), strides=(2, 2), name=f"conv_{i}")(nn.relu(h))
        return h.reshape(*z.shape[:-1], *self.image_shape, self.multiplier)


class VAE(nn.Module):
    """An encoder and a decoder under one set of parameters.

    `model.apply(params, x, method="encode")` gives (mean, log_var), `model.apply(params, z, method="decode")` gives
    params_out; the call itself decodes the posterior mean and is what `model.init(key, x)` traces.

    Args:
      encoder: x [..., H, W, C] -> (mean, log_var).
      decoder: z [..., D] -> params_out [..., H, W, C, m]; its `image_shape` is what the model accepts.

    Raises:
      BadInput: when first called, if the images have another layout, size or number of channels.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, 2014, https://arxiv.org/abs/1312.6114.

    >>> from genjax.models.blocks import MLP
    >>> model = VAE(DenseEncoder(3, MLP((16,))), DenseDecoder((8, 8, 1), 1, MLP((16,))))
    >>> params = jax.jit(model.init)(jax.random.key(0), jnp.ones((2, 8, 8, 1)))
    >>> model.apply(params, jnp.zeros((4, 3)), method="decode").shape
    (4, 8, 8, 1, 1)
    """

    encoder: nn.Module
    decoder: nn.Module

    def encode(self, x: Array) -> tuple[jax.Array, jax.Array]:
        """(mean, log_var) of q(z | x)."""
        check_images(x, self.decoder.image_shape)
        return self.encoder(x)

    def decode(self, z: Array) -> jax.Array:
        """params_out of p(x | z)."""
        return self.decoder(z)

    def __call__(self, x: Array) -> jax.Array:
        """params_out at the posterior mean."""
        mean, _ = self.encode(x)
        return self.decode(mean)


def check_images(x: Array, image_shape: ImageShape) -> None:
    """Stop unless x is [..., H, W, C] with the sizes that the model was built for.

    Raises:
      BadInput: naming the field, both shapes, and the likely cause.

    >>> check_images(jnp.ones((2, 8, 8, 1)), (8, 8, 1))
    """
    expected, shape = tuple(image_shape), tuple(x.shape)
    if len(shape) >= 3 and shape[-3:] == expected:
        return
    height, width, channels = expected
    if shape[-3:] == (channels, height, width):
        cause = "channels stand last here: np.moveaxis(images, -3, -1)"
    elif shape[-2:] == (height, width) and channels == 1:
        cause = "the axis of channels is missing: images[..., None]"
    elif shape[-1] == math.prod(expected):
        cause = f"the images are flattened: images.reshape(-1, {height}, {width}, {channels})"
    else:
        cause = "build the model for the data's size, or resize the images before training"
    raise BadInput(f"image has shape {list(shape)}", f"the model takes [..., {height}, {width}, {channels}]", cause)
