"""PixelCNN and gated PixelCNN: convolutions whose masks let a pixel see only what comes before it, row by row.

Pixels are in raster order, rows from the top, each from the left.  A convolution of k x k pixels needs the upper
(k + 1) / 2 rows of its kernel only; `causal_mask` says which of their weights remain:

    A       the rows above, and the own row left of the pixel: the first layer, so that no pixel sees itself
    B       A and the pixel itself: layers after the first, whose input at the pixel has not seen the pixel
    above   the rows above: the first layer of the vertical stack
    rows    the rows above and the whole own row: layers of the vertical stack, whose row i has seen the rows before i

A stack of A and B has a blind spot: with 3x3 kernels, a step up moves right by at most one pixel, so that what stands
far to the right in the rows just above is never seen.  The gated PixelCNN has two stacks.  The vertical one sees the
rows above, of all widths; the horizontal one sees the own row to the left, and the vertical one at every layer.

An image of C channels is drawn pixel by pixel: the channels of a pixel see all of the pixels before and none of their
own; what binds them is the likelihood, e.g. `genjax.models.observation.logistic_mixture`.

Every layer looks back a fixed number of rows.  Where the collection "rows" is mutable, each keeps that many rows of its
input and takes them as what stands above the next ones: so an image is drawn with passes over single rows
(`row_by_row`, `sample_images`), which give what the pass over the whole image gives.

Source: van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, 2016,
https://arxiv.org/abs/1601.06759; van den Oord et al., Conditional Image Generation with PixelCNN Decoders, 2016,
https://arxiv.org/abs/1606.05328.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype

from genjax.errors import BadInput
from genjax.models.blocks import Initializer
from genjax.models.convolution import Conv, convolve
from genjax.samplers.ancestral import Draw, by_rows
from genjax.types import Array, Key, Params

Kind = Literal["A", "B", "above", "rows"]


def causal_mask(size: Sequence[int], kind: Kind) -> np.ndarray:
    """Which weights of the upper half of a kernel remain, [size[0] // 2 + 1, size[1]]; the last row is the pixel's own.

    >>> causal_mask((3, 3), "A").astype(int).tolist(), causal_mask((1, 5), "B").astype(int).tolist()
    ([[1, 1, 1], [1, 0, 0]], [[1, 1, 1, 0, 0]])
    """
    if size[0] % 2 == 0 or size[1] % 2 == 0:
        raise BadInput(f"kernel_size = {tuple(size)}", "allowed: odd numbers, so that a kernel has a middle")
    side = size[1] // 2
    mask = np.ones((size[0] // 2 + 1, size[1]), bool)
    mask[-1] = np.arange(size[1]) < {"A": side, "B": side + 1, "above": 0, "rows": size[1]}[kind]
    return mask


class CausalConv(nn.Module):
    """A convolution under a causal mask, with a bias; outside of the image are zeros.

    Args:
      features: channels out.
      kernel_size: height and width of the whole kernel, odd; its lower half does not exist.
      kind: of the mask.
      kernel_init: of the weights, before they are masked.

    Called with x [B, H, W, C]; returns [B, H, W, features].  With "rows" mutable: x are the rows that follow those
    seen before, and what it needs of them is kept.

    >>> layer = CausalConv(1, (3, 3), "A", nn.initializers.ones)
    >>> layer.init_with_output(jax.random.key(0), jnp.ones((1, 2, 3, 1)))[0][0, :, :, 0].tolist()
    [[0.0, 1.0, 1.0], [2.0, 4.0, 3.0]]
    """

    features: int
    kernel_size: Sequence[int]
    kind: Kind
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        mask = causal_mask(self.kernel_size, self.kind)[..., None, None]
        kernel = self.param("kernel", self.kernel_init, (*mask.shape[:2], x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias)
        rows, side = len(mask) - 1, self.kernel_size[1] // 2
        missing = rows
        if rows and self.is_mutable_collection("rows") and not self.is_initializing():
            x = jnp.concatenate([self.get_variable("rows", "above", _blank(x, rows)), x], axis=1)
            self.put_variable("rows", "above", x[:, -rows:])
            missing = 0
        y = convolve(x, jnp.where(mask, kernel, 0), padding=((missing, 0), (side, side)))
        return y + bias.reshape(1, 1, 1, -1)


class PixelCNN(nn.Module):
    """The PixelCNN of 2016: a 7x7 convolution (A), residual blocks of 1x1, 3x3 (B), 1x1, and two hidden layers of 1x1.

    A block takes 2h channels to h, through a 3x3 convolution of h, back to 2h, with a rectifier before each, and adds
    its input.

    Args:
      multiplier: m, numbers a pixel and channel (`Likelihood.multiplier`).
      blocks: residual blocks.
      channels: h.
      features: units of the two hidden layers before the output.
      first: height and width of the first kernel.

    Called with x [B, H, W, C] in [0, 1]; returns params_out [B, H, W, C, m].

    Source: van den Oord et al., 2016, section 5 and table 1, https://arxiv.org/abs/1601.06759.

    >>> model = PixelCNN(1, blocks=1, channels=2)
    >>> model.init_with_output(jax.random.key(0), jnp.ones((2, 6, 5, 1)))[0].shape
    (2, 6, 5, 1, 1)
    """

    multiplier: int
    blocks: int = 15
    channels: int = 16
    features: int = 32
    first: int = 7

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        h = CausalConv(2 * self.channels, (self.first, self.first), "A", name="first")(x)
        for i in range(self.blocks):
            inner = Conv(self.channels, (1, 1), name=f"in_{i}")(nn.relu(h))
            inner = CausalConv(self.channels, (3, 3), "B", name=f"conv_{i}")(nn.relu(inner))
            h += Conv(2 * self.channels, (1, 1), name=f"out_{i}")(nn.relu(inner))
        return _Output(self.features, self.multiplier, hidden=2, name="output")(h, x)


class GatedPixelCNN(nn.Module):
    """The gated PixelCNN: no blind spot, and gates tanh(a) s(b) in place of rectifiers.

    Layer l, with v and h the vertical and the horizontal stack, * convolutions:

        p = V * v,   v' = gate(p),        h' = h + 1x1(gate(N * h + 1x1(p)))        without `h +` in the first layer

    Args:
      multiplier: m, numbers a pixel and channel (`Likelihood.multiplier`).
      layers: gated layers after the first.
      channels: of each stack.
      features: units of the last hidden layer.
      first: height and width of the first kernels; those of the other layers are 3x3 and 1x3.

    Called with x [B, H, W, C] in [0, 1]; returns params_out [B, H, W, C, m].

    Source: van den Oord et al., 2016, section 2 and figure 2, https://arxiv.org/abs/1606.05328.

    >>> model = GatedPixelCNN(2, layers=1, channels=2)
    >>> model.init_with_output(jax.random.key(0), jnp.ones((2, 6, 5, 1)))[0].shape
    (2, 6, 5, 1, 2)
    """

    multiplier: int
    layers: int = 10
    channels: int = 32
    features: int = 64
    first: int = 7

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        v = h = jnp.asarray(x)
        for i in range(self.layers + 1):
            size, twice = 3 if i else self.first, 2 * self.channels
            p = CausalConv(twice, (size, size), "rows" if i else "above", name=f"vertical_{i}")(v)
            q = CausalConv(twice, (1, size), "B" if i else "A", name=f"horizontal_{i}")(h)
            inner = Conv(self.channels, (1, 1), name=f"out_{i}")(_gate(q + Conv(twice, (1, 1), name=f"link_{i}")(p)))
            v, h = _gate(p), h + inner if i else inner
        return _Output(self.features, self.multiplier, name="output")(h, x)


class _Output(nn.Module):
    features: int
    multiplier: int
    hidden: int = 1

    @nn.compact
    def __call__(self, h: jax.Array, x: Array) -> jax.Array:
        for i in range(self.hidden):
            h = Conv(self.features, (1, 1), name=f"hidden_{i}")(nn.relu(h))
        h = nn.relu(h)
        out = Conv(x.shape[-1] * self.multiplier, (1, 1), name="params")(h)
        return out.reshape(*x.shape, self.multiplier)


def row_by_row(
    model: nn.Module, params: Params, shape: Sequence[int]
) -> tuple[Callable[[jax.Array, Any], tuple[jax.Array, Any]], Any]:
    """The pass of a PixelCNN as one over rows: what `genjax.samplers.ancestral.by_rows` needs.

    Args:
      model: a `PixelCNN`, a `GatedPixelCNN`, or another network of `CausalConv`s and 1x1 convolutions.
      params: its parameters.
      shape: (n, H, W, C) of the images.

    Returns:
      ((row [n, 1, W, C], above) -> (params_out [n, 1, W, C, m], above with this row), what stands above the first row).

    >>> model = PixelCNN(1, blocks=1, channels=2)
    >>> image = jnp.arange(12.0).reshape(1, 3, 4, 1) / 11
    >>> params = model.init(jax.random.key(0), image)
    >>> step, above = row_by_row(model, params, image.shape)
    >>> _, above = step(image[:, :1], above)
    >>> out, _ = step(image[:, 1:2], above)
    >>> bool(jnp.allclose(out, model.apply(params, image)[:, 1:2], atol=1e-6))
    True
    """

    def step(row: jax.Array, above: Any) -> tuple[jax.Array, Any]:
        out, kept = model.apply({**params, **above}, row, mutable=["rows"])
        return out, kept

    n, _, width, channels = shape
    first = jax.ShapeDtypeStruct((n, 1, width, channels), jnp.float32)
    kept = jax.eval_shape(lambda row: step(row, {})[1], first)
    return step, jax.tree.map(lambda rows: jnp.zeros(rows.shape, rows.dtype), kept)


def sample_images(model: nn.Module, params: Params, draw: Draw, shape: Sequence[int], key: Key) -> jax.Array:
    """Images pixel by pixel, in raster order, from remembered rows.

    Args:
      model, params, shape: as in `row_by_row`.
      draw: (params_out [n, 1, 1, C, m], key) -> pixels [n, 1, 1, C]: `Likelihood.sample`.
      key: the key of the sample.

    Returns:
      [n, H, W, C] float32.

    >>> model = PixelCNN(1, blocks=1, channels=2)
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 3, 4, 1)))
    >>> white = lambda out, key: jnp.ones(out.shape[:-1])
    >>> float(sample_images(model, params, white, (2, 3, 4, 1), jax.random.key(0)).sum())
    24.0
    """
    step, above = row_by_row(model, params, shape)
    return by_rows(step, draw, above, shape, key)


def _gate(x: jax.Array) -> jax.Array:
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.tanh(a) * nn.sigmoid(b)


def _blank(x: Array, rows: int) -> jax.Array:
    return jnp.zeros((len(x), rows, *x.shape[2:]), x.dtype)
