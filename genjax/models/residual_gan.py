r"""A residual generator and critic without normalisation, of images whose sides are 4 times a whole number.

    block       y = s + W_3 a(W_2 * a(W_1 s)),   s = P r(x)

with r the resampling (doubled, halved, or none), P a 1x1 convolution where widths differ, a a leaky rectifier, W_1 and
W_3 of 1x1 and W_2 of 3x3 pixels, in groups of channels that do not mix if asked for: the bottleneck of R3GAN's blocks.
Nothing is normalised.  Instead, as in Fix-up, W_3 is zero at the start, so that every block begins as its shortcut, and
W_1 and W_2 begin L^(-1/4) times as large as those of He et al., L the number of blocks of the network: with m = 3
layers a branch, that is L^(-1/(2m - 2)), by which one update changes the network's output alike at every depth.

    generator   (z, y) -> dense [h, w, C_0] -> block -> up -> up -> 3x3 convolution -> tanh
    critic      x -> 3x3 convolution -> block -> down -> down -> dense -> phi(x), score = psi . phi(x) + v_y . phi(x)

What differs from R3GAN: its generator begins with a learned picture that z scales, its critic ends with a depthwise
convolution, pixels are resampled by longer filters, and images are not bounded by tanh.

Sources: Huang et al., The GAN is dead; long live the GAN! A Modern Baseline GAN, 2024, section 4,
https://arxiv.org/abs/2501.05441; Zhang, Dauphin and Ma, Fixup Initialization, 2019, section 3,
https://arxiv.org/abs/1901.09321; Gulrajani et al., 2017, https://arxiv.org/abs/1704.00028 (residual GANs).
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.convolution import Conv
from genjax.models.gan import check_sides, given_labels, projected
from genjax.models.gan_layers import doubled, halved
from genjax.types import Array

SLOPE, BLOCKS = 0.2, 3  # of the leaky rectifier; L, of each network


class FixupBlock(nn.Module):
    """s + W_3 a(W_2 * a(W_1 s)), s = P resample(x).

    Args:
      width: channels out.
      resample: `doubled`, `halved` or None.
      blocks: L, of the whole network.
      expansion: channels inside, in widths.
      groups: of W_2's channels; they divide `expansion * width`.

    Called with x [B, H, W, C], returns [B, H', W', width].

    Raises:
      BadInput: groups that do not divide the channels.

    Source: Huang et al., 2024, section 4; Zhang et al., 2019, section 3.

    >>> x = jnp.arange(8.0).reshape(1, 2, 2, 2)
    >>> y, _ = FixupBlock(2, halved).init_with_output(jax.random.key(0), x)
    >>> y.tolist()  # the branch begins at zero: means of four pixels
    [[[[3.0, 4.0]]]]
    """

    width: int
    resample: Callable[[Array], jax.Array] | None = None
    blocks: int = BLOCKS
    expansion: int = 1
    groups: int = 1

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        inside = self.expansion * self.width
        if self.groups < 1 or inside % self.groups:
            raise BadInput(f"{self.groups} groups of {inside} channels", "allowed: groups that divide the channels")
        s = jnp.asarray(x) if self.resample is None else self.resample(x)
        if s.shape[-1] != self.width:
            s = Conv(self.width, (1, 1), use_bias=False, kernel_init=_he(1.0, 1.0), name="shortcut")(s)
        begin = _he(2.0, self.blocks**-0.25)
        y = nn.leaky_relu(Conv(inside, (1, 1), kernel_init=begin, name="first")(s), SLOPE)
        y = Conv(inside, (3, 3), feature_group_count=self.groups, kernel_init=begin, name="second")(y)
        last = Conv(self.width, (1, 1), use_bias=False, kernel_init=nn.initializers.zeros, name="last")
        return s + last(nn.leaky_relu(y, SLOPE))


class ResidualGenerator(nn.Module):
    """z [B, Z] and labels [B] -> images [B, H, W, C] in [-1, 1].

    Args:
      shape: H, W, C; H and W are multiples of 4.
      widths: channels at a quarter, half and all of the size.
      classes: K; 0: no labels.
      groups: of the blocks' 3x3 convolutions.

    Raises:
      BadInput: sides that are no multiples of 4; labels where there are none, or none where there are.

    >>> model = ResidualGenerator((28, 28, 1), (16, 8, 4), classes=10)
    >>> params = model.init(jax.random.key(0), jnp.ones((2, 5)), jnp.array([3, 7]))
    >>> model.apply(params, jnp.ones((2, 5)), jnp.array([3, 7])).shape
    (2, 28, 28, 1)
    """

    shape: Sequence[int]
    widths: Sequence[int] = (128, 64, 32)
    classes: int = 0
    groups: int = 1

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None) -> jax.Array:
        height, width, channels = self.shape
        check_sides(height, width)
        given = given_labels(self.classes, label)
        h = jnp.asarray(z) if given is None else jnp.concatenate([jnp.asarray(z), given], axis=-1)
        h = nn.Dense(height * width // 16 * self.widths[0])(h).reshape(-1, height // 4, width // 4, self.widths[0])
        for features, resample in zip(self.widths, (None, doubled, doubled), strict=True):
            h = FixupBlock(features, resample, groups=self.groups)(h)
        return nn.tanh(Conv(channels, (3, 3))(h))


class ResidualCritic(nn.Module):
    """Images [B, H, W, C] and labels [B] -> scores [B].

    Args:
      widths: channels at all, half and a quarter of the size.
      features: of phi.
      classes: K; 0: no labels.
      groups: of the blocks' 3x3 convolutions.

    Raises:
      BadInput: sides that are no multiples of 4; labels where there are none, or none where there are.

    >>> model = ResidualCritic((4, 8, 16), 32, classes=10)
    >>> params = model.init(jax.random.key(0), jnp.ones((2, 28, 28, 1)), jnp.array([3, 7]))
    >>> model.apply(params, jnp.ones((2, 28, 28, 1)), jnp.array([3, 7])).shape
    (2,)
    """

    widths: Sequence[int] = (32, 64, 128)
    features: int = 256
    classes: int = 0
    groups: int = 1

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None) -> jax.Array:
        h, given = jnp.asarray(x), given_labels(self.classes, label)
        check_sides(*h.shape[1:3])
        h = Conv(self.widths[0], (3, 3))(h)
        for features, resample in zip(self.widths, (None, halved, halved), strict=True):
            h = FixupBlock(features, resample, groups=self.groups)(h)
        phi = nn.leaky_relu(nn.Dense(self.features)(h.reshape(len(h), -1)), SLOPE)
        return projected(phi, given)


def _he(gain: float, scale: float) -> Callable[..., jax.Array]:
    return nn.initializers.variance_scaling(gain * scale**2, "fan_in", "normal")
