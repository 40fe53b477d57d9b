r"""A convolutional generator and critic of images whose sides are 4 times a whole number, with or without labels.

    generator   (z, y) -> dense [h, w, C_0] -> twice: transposed 4x4 convolution of stride 2 -> tanh, images in [-1, 1]
    critic      x -> twice: 4x4 convolution of stride 2 -> dense -> phi(x),  score = psi . phi(x) + v_y . phi(x)

as in DCGAN, but for its batch normalisation: there a sample would depend on its batch, and gradient penalties, which
treat rows alone, would not hold.  The generator's activations are normalised at every pixel instead.

A label enters the generator as a one-hot vector beside z.  It enters the critic by projection: with log-odds
log p(x | y) / q(x | y) = log p(y | x) / q(y | x) + log p(x) / q(x), and both classifiers linear in features phi, the
first term is an inner product of phi with a vector of the label.

Sources: Radford, Metz and Chintala, Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
Networks, 2016, https://arxiv.org/abs/1511.06434; Miyato and Koyama, cGANs with Projection Discriminator, 2018, eq. 5,
https://arxiv.org/abs/1802.05637.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.conditional import one_hot
from genjax.models.convolution import Conv, ConvTranspose
from genjax.models.gan_layers import minibatch_stddev, pixel_norm
from genjax.types import Array


class ConvGenerator(nn.Module):
    """z [B, Z] and labels [B] -> images [B, H, W, C] in [-1, 1].

    Args:
      shape: H, W, C; H and W are multiples of 4.
      widths: channels at a quarter and at half of the size.
      classes: K; 0: no labels.

    Raises:
      BadInput: sides that are no multiples of 4; labels where there are none, or none where there are.

    >>> model = ConvGenerator((28, 28, 1), (16, 8), classes=10)
    >>> params = model.init(jax.random.key(0), jnp.ones((2, 5)), jnp.array([3, 7]))
    >>> model.apply(params, jnp.ones((2, 5)), jnp.array([3, 7])).shape
    (2, 28, 28, 1)
    """

    shape: Sequence[int]
    widths: Sequence[int] = (128, 64)
    classes: int = 0

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None) -> jax.Array:
        height, width, channels = self.shape
        check_sides(height, width)
        given = given_labels(self.classes, label)
        h = jnp.asarray(z) if given is None else jnp.concatenate([jnp.asarray(z), given], axis=-1)
        h = nn.Dense(height * width // 16 * self.widths[0])(h)
        h = pixel_norm(nn.relu(h.reshape(-1, height // 4, width // 4, self.widths[0])))
        h = pixel_norm(nn.relu(ConvTranspose(self.widths[1], (4, 4), 2)(h)))
        return nn.tanh(ConvTranspose(channels, (4, 4), 2)(h))


class ConvCritic(nn.Module):
    """Images [B, H, W, C] and labels [B] -> scores [B].

    Args:
      widths: channels at half and at a quarter of the size.
      features: of phi.
      classes: K; 0: no labels.
      group: examples whose standard deviation a channel tells; 0: none.

    Raises:
      BadInput: labels where there are none, or none where there are.

    >>> model = ConvCritic((8, 16), 32, classes=10)
    >>> params = model.init(jax.random.key(0), jnp.ones((2, 28, 28, 1)), jnp.array([3, 7]))
    >>> model.apply(params, jnp.ones((2, 28, 28, 1)), jnp.array([3, 7])).shape
    (2,)
    """

    widths: Sequence[int] = (64, 128)
    features: int = 256
    classes: int = 0
    group: int = 0

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None) -> jax.Array:
        h, given = jnp.asarray(x), given_labels(self.classes, label)
        for width in self.widths:
            h = nn.leaky_relu(Conv(width, (4, 4), 2)(h), 0.2)
        h = minibatch_stddev(h, self.group) if self.group else h
        phi = nn.leaky_relu(nn.Dense(self.features)(h.reshape(len(h), -1)), 0.2)
        return projected(phi, given)


def projected(phi: jax.Array, given: jax.Array | None) -> jax.Array:
    """psi . phi + v_y . phi: the score of features, inside a critic's call, whose layers `psi` and `v` it makes.

    Args:
      phi: [B, F].
      given: [B, K] one-hot labels; None: psi . phi alone.

    Returns:
      [B].

    Source: Miyato and Koyama, 2018, eq. 5.

    Example:
      score = projected(phi, given_labels(self.classes, label))
    """
    score = nn.Dense(1, name="psi")(phi)[:, 0]
    if given is None:
        return score
    return score + jnp.sum(phi * nn.Dense(phi.shape[-1], use_bias=False, name="v")(given), axis=-1)


def given_labels(classes: int, label: Array | None) -> jax.Array | None:
    """One-hot labels [B, K] of a network of K classes; None where K is 0.

    Raises:
      BadInput: labels where there are none, or none where there are.

    >>> given_labels(3, jnp.array([2])).tolist()
    [[0.0, 0.0, 1.0]]
    """
    if (label is None) != (classes == 0):
        told = "no labels" if label is None else "labels"
        raise BadInput(f"{told} for a network of classes = {classes}", "allowed: labels where there are classes")
    return None if label is None else one_hot(label, classes)


def check_sides(height: int, width: int) -> None:
    """Refuse images that cannot be halved twice.

    >>> check_sides(28, 32)
    """
    if height % 4 or width % 4:
        raise BadInput(f"images of {height} x {width} pixels", "allowed: sides that are multiples of 4")
