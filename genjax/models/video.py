r"""Adversarial networks of clips: what is seen and how it moves are two latents; one critic of frames, one of motion.

    generator        h_t = GRU(h_{t-1}, e_t),   e_t ~ N(0, I),   frame t = image(z, h_t),   z ~ N(0, I) of the clip
    critic of clips  twice a 4x4 convolution of stride 2 in every frame, then one of 4 frames, stride 2, in time

The content z is the same in all frames, so that a clip shows one thing; h_t holds what changes, and comes from the past
only.  The image generator is `ConvGenerator` and sees each frame alone: all frames are one batch of images, and nothing
but the small recurrent network is inside a scan.  The critic of frames is `ConvCritic`, which needs no change: it sees
frames out of their clips, and cannot know their order.  The critic of clips sees motion, and may see smaller frames.

A convolution in time after one in space, (2+1)-D, has the span of a 3-D convolution with fewer products and a rectifier
more, and is a 2-D convolution of [T, H W] images, which every backend has a fast routine for.

Sources: Tulyakov, Liu, Yang and Kautz, MoCoGAN: Decomposing Motion and Content for Video Generation, 2018, section 3,
https://arxiv.org/abs/1707.04993; Clark, Donahue and Simonyan, Adversarial Video Generation on Complex Datasets, 2019,
section 3.2, https://arxiv.org/abs/1907.06571 (a critic of whole frames and one of smaller clips); Tran et al., A Closer
Look at Spatiotemporal Convolutions for Action Recognition, 2018, https://arxiv.org/abs/1711.11248 (2+1).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.convolution import Conv
from genjax.models.gan import ConvGenerator
from genjax.models.recurrent import GRU
from genjax.types import Array


class ClipGenerator(nn.Module):
    """Content z [B, Z] and noise [B, T, M] -> clips [B, T, H, W, C] in [-1, 1].

    Args:
      shape: H, W, C of a frame; H and W are multiples of 4.
      motion: numbers of h_t.
      widths: of `ConvGenerator`.

    Frames may be drawn without those between them: `latents` makes [B, T, Z + motion] of the same arguments, and
    `images` frames [N, H, W, C] of any rows [N, Z + motion] of it.

    Raises:
      BadInput: noise that is not [B, T, M] for the B of the content.

    >>> model = ClipGenerator((8, 8, 1), 4, (8, 4))
    >>> z, noise = jnp.ones((2, 3)), jnp.ones((2, 5, 6))
    >>> params = model.init(jax.random.key(0), z, noise)
    >>> clips, latents = model.apply(params, z, noise), model.apply(params, z, noise, method="latents")
    >>> third = model.apply(params, latents[:, 2], method="images")
    >>> clips.shape, bool(jnp.allclose(third, clips[:, 2], atol=1e-6))
    ((2, 5, 8, 8, 1), True)
    """

    shape: Sequence[int]
    motion: int = 32
    widths: Sequence[int] = (128, 64)

    def setup(self) -> None:
        self.gru = GRU(self.motion)
        self.image = ConvGenerator(self.shape, self.widths)

    def __call__(self, content: Array, noise: Array) -> jax.Array:
        latents = self.latents(content, noise)
        return self.image(latents.reshape(-1, latents.shape[-1])).reshape(*latents.shape[:2], *self.shape)

    def latents(self, content: Array, noise: Array) -> jax.Array:
        """What frame t is made of: z and h_t."""
        content, noise = jnp.asarray(content), jnp.asarray(noise)
        if content.ndim != 2 or noise.ndim != 3 or len(noise) != len(content):
            told = f"content {list(content.shape)}, noise {list(noise.shape)}"
            raise BadInput(told, "allowed: [B, Z] and [B, T, M]")
        h, _ = self.gru(noise)
        same = jnp.broadcast_to(content[:, None], (*noise.shape[:2], content.shape[-1]))
        return jnp.concatenate([same, h], axis=-1)

    def images(self, latents: Array) -> jax.Array:
        """Frames of rows of `latents`."""
        return self.image(latents)


class ClipCritic(nn.Module):
    """Clips [B, T, H, W, C] -> scores [B].

    Args:
      widths: channels at half and at a quarter of the size and of the time.
      features: units before the score.

    Raises:
      BadInput: what is no clip.

    >>> model = ClipCritic((4, 8), 16)
    >>> params = model.init(jax.random.key(0), jnp.ones((2, 8, 8, 8, 1)))
    >>> model.apply(params, jnp.ones((2, 8, 8, 8, 1))).shape
    (2,)
    """

    widths: Sequence[int] = (64, 128)
    features: int = 256

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        h = jnp.asarray(x)
        if h.ndim != 5:
            raise BadInput(f"clips {list(h.shape)}", "allowed: [B, T, H, W, C]")
        for width in self.widths:
            h = nn.leaky_relu(Conv(width, (4, 4), 2)(h), 0.2)
            rows, frames, height, breadth, channels = h.shape
            h = Conv(width, (4, 1), (2, 1))(h.reshape(rows, frames, height * breadth, channels))
            h = nn.leaky_relu(h.reshape(rows, -1, height, breadth, width), 0.2)
        h = nn.leaky_relu(nn.Dense(self.features)(h.reshape(len(h), -1)), 0.2)
        return nn.Dense(1)(h)[:, 0]
