r"""The U-Net of denoising diffusion: a picture and its level of noise -> a picture.

    block   h -> h + W_2 * dropped(silu((1 + s) norm(W_1 * silu(norm(h))) + b)),   (s, b) linear in silu(c)
    down    the same picture at half the size: means of 2x2 pixels, then a 3x3 convolution
    up      at twice the size: every pixel four times, then a 3x3 convolution

with * a 3x3 convolution, norm GroupNorm, c the condition of `genjax.models.level`.  On the way down the output of every
block is kept, and on the way up the blocks see it beside their input.  Where `attention` says so every pixel attends to
all others.  The last convolution of each block, and that of the whole network, start at zero: the untrained network
says 0, and every block leaves its input as it is.

Sources: Ho, Jain and Abbeel, 2020, https://arxiv.org/abs/2006.11239, appendix B (the layout); Dhariwal and Nichol,
Diffusion Models Beat GANs on Image Synthesis, 2021, https://arxiv.org/abs/2105.05233, section 3 (scale and shift).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.attention import attend_all
from genjax.models.blocks import Initializer
from genjax.models.convolution import Conv
from genjax.models.dropout import dropped
from genjax.models.group_norm import GroupNorm
from genjax.models.level import Condition
from genjax.types import Array

ZEROS, LECUN = nn.initializers.zeros, nn.initializers.lecun_normal()


class UNet(nn.Module):
    """(z [B, H, W, C], level [B], label) -> [B, H, W, C].

    Args:
      width: channels of the first level.
      multipliers: channels of each level, in widths; every level but the last halves the picture.
      blocks: on each level on the way down; one more on the way up.
      attention: levels, counted from 0, whose blocks are followed by attention; the middle always has it.
      classes: K labels; 0: none.
      dropout: rate in the blocks, used where `deterministic` is False.
      dtype: of the computation; parameters, and what is returned, are float32.

    Called with (z, level, label or None, deterministic=True); with dropout it draws from the "dropout" key.

    Raises:
      BadInput: pictures that cannot be halved that often.

    Source: Ho et al., 2020, appendix B: width 128, multipliers (1, 2, 2, 2), two blocks, attention at 16x16.

    >>> net = UNet(8, (1, 2))
    >>> z, level = jnp.ones((2, 8, 8, 1)), jnp.zeros(2)
    >>> float(jnp.abs(net.apply(net.init(jax.random.key(0), z, level), z, level)).max())
    0.0
    """

    width: int
    multipliers: Sequence[int] = (1, 2, 2)
    blocks: int = 2
    attention: Sequence[int] = ()
    classes: int = 0
    dropout: float = 0.0
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, z: Array, level: Array, label: Array | None = None, deterministic: bool = True) -> jax.Array:
        self._check(z)
        c = nn.silu(Condition(4 * self.width, self.classes, name="condition")(level, label))
        widths, last = [self.width * m for m in self.multipliers], len(self.multipliers) - 1
        h = _conv(self.width, "in", dtype=self.dtype)(jnp.asarray(z, self.dtype))
        kept = [h]
        for i, width in enumerate(widths):
            for j in range(self.blocks):
                h = self._block(h, c, width, f"down_{i}_{j}", i, deterministic)
                kept.append(h)
            if i < last:
                h = _conv(width, f"half_{i}", dtype=self.dtype)(nn.avg_pool(h, (2, 2), (2, 2)))
                kept.append(h)
        h = self._block(h, c, widths[-1], "middle_0", None, deterministic)
        h = ResidualBlock(widths[-1], self.dropout, self.dtype, name="middle_1")(h, c, deterministic)
        for i, width in reversed(list(enumerate(widths))):
            for j in range(self.blocks + 1):
                h = jnp.concatenate([h, kept.pop()], axis=-1)
                h = self._block(h, c, width, f"up_{i}_{j}", i, deterministic)
            if i:
                h = _conv(width, f"twice_{i}", dtype=self.dtype)(h.repeat(2, axis=1).repeat(2, axis=2))
        h = nn.silu(_norm(h, "norm_out"))
        return _conv(z.shape[-1], "out", ZEROS, self.dtype)(h).astype(jnp.float32)

    def _block(
        self, h: jax.Array, c: jax.Array, width: int, name: str, i: int | None, deterministic: bool
    ) -> jax.Array:
        h = ResidualBlock(width, self.dropout, self.dtype, name=name)(h, c, deterministic)
        if i is None or i in self.attention:
            h = PixelAttention(max(width // 64, 1), self.dtype, name=f"{name}_attention")(h)
        return h

    def _check(self, z: Array) -> None:
        step = 2 ** (len(self.multipliers) - 1)
        if jnp.ndim(z) != 4 or z.shape[1] % step or z.shape[2] % step:
            raise BadInput(
                f"pictures {list(jnp.shape(z))} for a U-Net of {len(self.multipliers)} levels",
                f"allowed: [B, H, W, C], height and width divisible by {step}",
                "fewer multipliers, or pad the pictures",
            )


class ResidualBlock(nn.Module):
    """h + a branch that the condition scales and shifts; at first it is h, through a 1x1 convolution if widths differ.

    Args:
      width: channels out.
      dropout: rate.
      dtype: of the computation.

    Called with (h [B, H, W, C], silu(c) [B, F], deterministic); returns [B, H, W, width].

    >>> block, h = ResidualBlock(4), jnp.ones((1, 4, 4, 4))
    >>> bool((block.init_with_output(jax.random.key(0), h, jnp.ones((1, 8)))[0] == h).all())
    True
    """

    width: int
    dropout: float = 0.0
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, h: jax.Array, c: jax.Array, deterministic: bool = True) -> jax.Array:
        y = _conv(self.width, "first", dtype=self.dtype)(nn.silu(_norm(h, "norm_first")))
        modulation = nn.Dense(2 * self.width, dtype=self.dtype, name="modulation")(c)[:, None, None, :]
        scale, shift = jnp.split(modulation, 2, axis=-1)
        y = nn.silu(_norm(y, "norm_second") * (1 + scale) + shift)
        y = dropped(y, self.dropout, None if deterministic or not self.dropout else self.make_rng("dropout"))
        y = _conv(self.width, "second", ZEROS, self.dtype)(y)
        if h.shape[-1] != self.width:
            h = Conv(self.width, (1, 1), dtype=self.dtype, name="shortcut")(h)
        return h + y


class PixelAttention(nn.Module):
    """h + attention of every pixel to all; at first h itself.

    Args:
      heads: that the channels are cut into.
      dtype: of the computation; the softmax is float32's.

    Called with h [B, H, W, C]; returns the same shape.

    Raises:
      BadInput: heads that do not divide the channels.

    >>> layer, h = PixelAttention(2), jnp.ones((1, 4, 4, 8))
    >>> bool((layer.init_with_output(jax.random.key(0), h)[0] == h).all())
    True
    """

    heads: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        rows, height, across, width = h.shape
        if width % self.heads:
            raise BadInput(f"{self.heads} heads for {width} channels", "allowed: a divisor of the channels")
        flat = _norm(h, "norm").reshape(-1, width)
        split = (rows, height * across, self.heads, width // self.heads)
        q, k, v = (
            part.reshape(split)
            for part in jnp.split(nn.Dense(3 * width, dtype=self.dtype, name="qkv")(flat), 3, axis=1)
        )
        mixed = attend_all(q, k, v).reshape(-1, width)
        out = nn.Dense(width, kernel_init=ZEROS, dtype=self.dtype, name="out")(mixed)
        return h + out.reshape(h.shape)


def _conv(width: int, name: str, kernel_init: Initializer = LECUN, dtype: jnp.dtype | None = None) -> Conv:
    return Conv(width, (3, 3), kernel_init=kernel_init, dtype=dtype, name=name)


def _norm(h: jax.Array, name: str) -> jax.Array:
    """GroupNorm of at most 32 groups of at least 4 channels, its statistics in float32."""
    groups = max(g for g in range(1, min(32, h.shape[-1] // 4 or 1) + 1) if h.shape[-1] % g == 0)
    return GroupNorm(groups, name=name)(h)
