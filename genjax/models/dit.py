r"""The diffusion transformer, DiT: a picture in patches and its level of noise -> a picture.

    h_0 = W patches(z) + P,    (b_1, s_1, g_1, b_2, s_2, g_2) = M silu(c),    in every layer:
    h <- h + g_1 attention(norm(h) (1 + s_1) + b_1),    h <- h + g_2 MLP(norm(h) (1 + s_2) + b_2)
    output = patches put together of W' (norm(h) (1 + s) + b),    (b, s) = M' silu(c)

c is the condition of `genjax.models.level`, P holds the sinusoids of a patch's row beside those of its column, and norm
is a LayerNorm without gain and bias, which the condition gives instead.  Every M and W' start at zero ("adaLN-zero"):
the untrained network says 0, and every layer leaves its input as it is.

The parameters of all layers lie in arrays with one leading axis of layers, as the GPT's do: compiling takes the same
time for 2 layers and for 28.

Source: Peebles and Xie, Scalable Diffusion Models with Transformers, 2023, https://arxiv.org/abs/2212.09748, section 3.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.attention import attend_all
from genjax.models.blocks import flat
from genjax.models.dropout import dropped
from genjax.models.level import Condition, sinusoids
from genjax.types import Array

ZEROS, XAVIER = nn.initializers.zeros, nn.initializers.xavier_uniform()


def patches(z: Array, size: int) -> jax.Array:
    """A picture cut into squares, each a row of numbers: its lines from above, in them pixels from the left.

    Args:
      z: [B, H, W, C].
      size: p, a divisor of H and W.

    Returns:
      [B, H / p, W / p, p p C].

    >>> patches(jnp.arange(8).reshape(1, 2, 4, 1), 2).tolist()
    [[[[0, 1, 4, 5], [2, 3, 6, 7]]]]
    """
    rows, height, width, channels = jnp.shape(z)
    cut = jnp.asarray(z).reshape(rows, height // size, size, width // size, size, channels)
    return cut.swapaxes(2, 3).reshape(rows, height // size, width // size, size * size * channels)


def assembled(cut: Array, size: int) -> jax.Array:
    """The picture that was cut by `patches`.

    Args:
      cut: [B, h, w, p p C].
      size: p.

    Returns:
      [B, p h, p w, C].

    >>> z = jnp.arange(8).reshape(1, 2, 4, 1)
    >>> bool((assembled(patches(z, 2), 2) == z).all())
    True
    """
    rows, height, width, features = jnp.shape(cut)
    squares = jnp.asarray(cut).reshape(rows, height, width, size, size, features // size**2)
    return squares.swapaxes(2, 3).reshape(rows, height * size, width * size, features // size**2)


def places(height: int, width: int, features: int) -> jax.Array:
    """P: half of the numbers are the sinusoids of a patch's row, half those of its column.

    Args:
      height, width: of the picture, in patches.
      features: F, divisible by 4.

    Returns:
      [height, width, F].

    >>> places(1, 1, 8)[0, 0].tolist()
    [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    """
    row, column = (sinusoids(jnp.arange(n), features // 2) for n in (height, width))
    shape = (height, width, features // 2)
    parts = (jnp.broadcast_to(row[:, None, :], shape), jnp.broadcast_to(column[None, :, :], shape))
    return jnp.concatenate(parts, axis=-1)


class DiTBlock(nn.Module):
    """One layer: attention of every patch to all, then a multilayer perceptron, each gated by the condition.

    Args:
      heads: that divide the width of h.
      dropout: rate, on what is added.
      dtype: of the computation; norms and softmax are float32's.

    Called with (h [B, T, C], silu(c) [B, F], deterministic); returns (h, None), as a scan over layers wants it.

    >>> block, h = DiTBlock(2), jnp.ones((1, 3, 8))
    >>> bool((block.init_with_output(jax.random.key(0), h, jnp.ones((1, 4)), True)[0][0] == h).all())
    True
    """

    heads: int
    dropout: float = 0.0
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, h: jax.Array, c: jax.Array, deterministic: bool) -> tuple[jax.Array, None]:
        width = h.shape[-1]
        dense = lambda features, name: nn.Dense(features, kernel_init=XAVIER, dtype=self.dtype, name=name)
        key = lambda: None if deterministic or not self.dropout else self.make_rng("dropout")
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = _modulation(6, width, "modulation", self.dtype)(c)
        qkv = flat(dense(3 * width, "qkv"), _modulated(h, shift_1, scale_1))
        q, k, v = jnp.split(qkv.reshape(*h.shape[:2], 3 * self.heads, width // self.heads), 3, axis=2)
        mixed = flat(dense(width, "mix"), attend_all(q, k, v).reshape(h.shape))
        h = h + gate_1 * dropped(mixed, self.dropout, key())
        up, down = dense(4 * width, "up"), dense(width, "down")
        wide = flat(lambda rows: down(nn.gelu(up(rows))), _modulated(h, shift_2, scale_2))
        return h + gate_2 * dropped(wide, self.dropout, key()), None


class DiT(nn.Module):
    """(z [B, H, W, C], level [B], label) -> [B, H, W, C].

    Args:
      layers: of attention and MLP.
      width: numbers a patch, divisible by 4 and by `heads`.
      heads: of attention.
      patch: p, pixels of its side.
      classes: K labels; 0: none.
      dropout: rate on what each layer adds, used where `deterministic` is False.
      dtype: of the computation; parameters, and what is returned, are float32.

    The paper's S, B, L and XL have 12, 12, 24, 28 layers, widths 384, 768, 1024, 1152, and 6, 12, 16, 16 heads; S/2 is
    the default.  Called with (z, level, label or None, deterministic=True); with dropout it draws from the "dropout"
    key.

    Raises:
      BadInput: pictures that cannot be cut into such patches, sizes that do not divide.

    >>> net = DiT(layers=2, width=8, heads=2)
    >>> z, level = jnp.ones((2, 8, 6, 1)), jnp.zeros(2)
    >>> float(jnp.abs(net.apply(net.init(jax.random.key(0), z, level), z, level)).max())
    0.0
    """

    layers: int = 12
    width: int = 384
    heads: int = 6
    patch: int = 2
    classes: int = 0
    dropout: float = 0.0
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, z: Array, level: Array, label: Array | None = None, deterministic: bool = True) -> jax.Array:
        self._check(z)
        c = nn.silu(Condition(self.width, self.classes, name="condition")(level, label))
        cut = patches(jnp.asarray(z, self.dtype), self.patch)
        h = flat(nn.Dense(self.width, kernel_init=XAVIER, dtype=self.dtype, name="in"), cut)
        placed = h + places(cut.shape[1], cut.shape[2], self.width)[None].astype(h.dtype)
        h = placed.reshape(len(z), -1, self.width)
        h, _ = self._layers()(h, c, deterministic)
        shift, scale = _modulation(2, self.width, "modulation_out", self.dtype)(c)
        out = nn.Dense(cut.shape[-1], kernel_init=ZEROS, dtype=self.dtype, name="out")
        return assembled(flat(out, _modulated(h, shift, scale)).reshape(cut.shape), self.patch).astype(jnp.float32)

    def _layers(self) -> Any:
        scanned = nn.scan(
            DiTBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=self.layers,
        )
        return scanned(self.heads, self.dropout, self.dtype, name="blocks")

    def _check(self, z: Array) -> None:
        if jnp.ndim(z) != 4 or z.shape[1] % self.patch or z.shape[2] % self.patch:
            raise BadInput(
                f"pictures {list(jnp.shape(z))} in patches of {self.patch} x {self.patch}",
                f"allowed: [B, H, W, C], height and width divisible by {self.patch}",
                "another patch, or pad the pictures",
            )
        if self.width % self.heads or self.width % 4:
            raise BadInput(
                f"width = {self.width}, heads = {self.heads}", "allowed: a width divisible by heads and by 4"
            )


def _modulation(parts: int, width: int, name: str, dtype: Any) -> Any:
    """silu(c) [B, F] -> shifts, scales, gates [B, 1, C] each: 0 at first."""
    dense = nn.Dense(parts * width, kernel_init=ZEROS, dtype=dtype, name=name)
    return lambda c: jnp.split(dense(c)[:, None, :], parts, axis=-1)


def _modulated(h: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    norm = nn.LayerNorm(use_scale=False, use_bias=False, dtype=jnp.float32)
    return norm(h).astype(h.dtype) * (1 + scale) + shift
