"""Convolution layers with the parameters and results of Flax's, fast on CPU too; elsewhere they are XLA's own.

`Conv` and `ConvTranspose` have the names, shapes and initial values of `nn.Conv` and `nn.ConvTranspose`, so a
checkpoint moves between machines and between the two kinds of layer.  On CPU a convolution is computed by
`genjax.models.trilinear`, a 1x1 convolution as a matrix product, a depthwise one as shifted multiply-adds.  Measured
on one core (jaxlib 0.10.2, float32), as ratios of the times of XLA's own:

    gradient of a transposed convolution's kernel     0.04     the same inside lax.scan     0.01
    gradient of a 3x3 kernel, 64 channels, 32x32      0.3      depthwise 3x3, forward       0.07

Winograd's F(4, 3) was tried and left out: with this XLA it gains nothing at 64 channels and a quarter at 128.

Only reverse-mode derivatives, of any order, are defined on CPU; for jvp or jacfwd build the network of `nn.Conv`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax

from genjax.errors import BadInput
from genjax.models.blocks import Initializer
from genjax.models.trilinear import AXES, Pair, Window, forward, spread
from genjax.types import Array

Padding = str | int | Sequence[int | Pair]  # "SAME", "VALID", or what stands before and after height and width


def convolve(x: Array, kernel: Array, strides: Pair = (1, 1), padding: Padding = "SAME", groups: int = 1) -> jax.Array:
    """y[n, i, j, d] = sum over a, b, c of x[n, s i + a - p, s j + b - p, c] w[a, b, c, d].

    Args:
      x: [B, H, W, C] images.
      kernel: w, [a, b, C / groups, D].
      strides: s, for height and width.
      padding: "SAME" (ceil(H / s) rows out), "VALID" (no padding), or numbers p as in `Padding`.
      groups: C and D are cut into this many parts that do not mix; C of them: a depthwise convolution.

    Returns:
      [B, h, w, D] in the dtype of `x`.

    >>> convolve(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].tolist()
    [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    size, image = (kernel.shape[0], kernel.shape[1]), (x.shape[1], x.shape[2])
    if isinstance(padding, str):
        pads = _pair(lax.padtype_to_pads(image, size, strides, _known(padding)))
    else:
        pads = _numbers(padding)
    depthwise = 1 < groups == x.shape[-1] == kernel.shape[-1]
    window = Window(image, size, strides, pads, depthwise)
    plain = not (groups == 1 or depthwise) or 0 in (x.size, *window.output)
    if plain or jax.default_backend() != "cpu":
        return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=AXES, feature_group_count=groups)
    if size == (1, 1) and groups == 1 and pads == ((0, 0), (0, 0)):
        seen = x[:, :: strides[0], :: strides[1]]
        return (seen.reshape(-1, seen.shape[-1]) @ kernel[0, 0]).reshape(*seen.shape[:-1], -1)
    return forward(window, x, kernel)


def convolve_transpose(x: Array, kernel: Array, strides: Pair = (1, 1), padding: Padding = "SAME") -> jax.Array:
    """The convolution of x with s - 1 zeros between its pixels, as `jax.lax.conv_transpose` defines it.

    It is the gradient in its image of a convolution of strides s by the flipped kernel, and computed as that.

    Args:
      x: [B, H, W, C] images.
      kernel: [a, b, C, D].
      strides: s, for height and width.
      padding: "SAME" (s H rows out), "VALID" (every pixel that x reaches), or numbers of the padding of the dilated x.

    Returns:
      [B, h, w, D] in the dtype of `x`.

    >>> convolve_transpose(jnp.ones((1, 2, 1, 1)), jnp.arange(1.0, 4.0).reshape(3, 1, 1, 1), (2, 1), "VALID").tolist()
    [[[[3.0]], [[2.0]], [[4.0]], [[2.0]], [[1.0]]]]
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    size, rows = (kernel.shape[0], kernel.shape[1]), (x.shape[1], x.shape[2])
    if isinstance(padding, str):
        pads = _map(lambda k, s: _transposed_pads(k, s, _known(padding)), size, strides)
    else:
        pads = _numbers(padding)
    image = _map(lambda n, k, s, p: s * (n - 1) + sum(p) - k + 2, rows, size, strides, pads)
    if jax.default_backend() != "cpu" or x.size == 0 or min(image) < 1:
        return lax.conv_transpose(x, kernel, strides, pads, dimension_numbers=AXES)
    below = _map(lambda k, p: k - 1 - p[0], size, pads)
    above = _map(lambda n, m, k, s, p: s * (n - 1) + k - m - p, rows, image, size, strides, below)
    window = Window(image, size, strides, _map(lambda *p: p, below, above))
    return spread(window, x, kernel[::-1, ::-1].transpose(0, 1, 3, 2))


class Conv(nn.Module):
    """`nn.Conv` for images: the same parameters, initial values and results.

    Args:
      features: D, channels out.
      kernel_size: height and width.
      strides: of the window, one number for both or two.
      padding: "SAME", "VALID", or numbers of rows and columns.
      feature_group_count: groups of channels that do not mix; the number of channels: depthwise.
      use_bias: whether a bias is added to each channel.
      dtype: of the computation; None: that of inputs and parameters.
      param_dtype: of the parameters.
      kernel_init, bias_init: initial values.

    Called with x [..., H, W, C]; returns [..., h, w, D].

    >>> params = Conv(4, (3, 3)).init(jax.random.key(0), jnp.ones((1, 8, 8, 2)))
    >>> jax.tree.map(jnp.shape, params)
    {'params': {'bias': (4,), 'kernel': (3, 3, 2, 4)}}
    """

    features: int
    kernel_size: Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    feature_group_count: int = 1
    use_bias: bool = True
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        groups = self.feature_group_count
        if x.shape[-1] % groups or self.features % groups:
            raise BadInput(
                f"feature_group_count = {groups}: {x.shape[-1]} channels in, {self.features} out",
                "allowed: a divisor of both",
            )
        size, strides = _pair(self.kernel_size), _pair(self.strides)
        kernel = self.param("kernel", self.kernel_init, (*size, x.shape[-1] // groups, self.features), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return _layer(lambda images: convolve(images, kernel, strides, self.padding, groups), x, bias)


class ConvTranspose(nn.Module):
    """`nn.ConvTranspose` for images: the same parameters, initial values and results.

    Args:
      features: D, channels out.
      kernel_size: height and width.
      strides: how many times larger the image becomes, one number for both or two.
      padding: "SAME", "VALID", or numbers of rows and columns added to the dilated image.
      use_bias: whether a bias is added to each channel.
      dtype: of the computation; None: that of inputs and parameters.
      param_dtype: of the parameters.
      kernel_init, bias_init: initial values.

    Called with x [..., H, W, C]; returns [..., h, w, D].

    >>> layer = ConvTranspose(4, (3, 3), strides=(2, 2))
    >>> layer.init_with_output(jax.random.key(0), jnp.ones((1, 8, 8, 2)))[0].shape
    (1, 16, 16, 4)
    """

    features: int
    kernel_size: Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    use_bias: bool = True
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        size, strides = _pair(self.kernel_size), _pair(self.strides)
        kernel = self.param("kernel", self.kernel_init, (*size, x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return _layer(lambda images: convolve_transpose(images, kernel, strides, self.padding), x, bias)


def _layer(convolution: Callable[[jax.Array], jax.Array], x: Array, bias: jax.Array | None) -> jax.Array:
    """Any leading axes as one batch, and the bias."""
    y = convolution(jnp.asarray(x).reshape(-1, *x.shape[-3:]))
    y = y if bias is None else y + bias.reshape(1, 1, 1, -1)
    return y.reshape(*x.shape[:-3], *y.shape[1:])


def _map(function: Callable[..., Any], *pairs: tuple[Any, Any]) -> tuple[Any, Any]:
    """`function` of what the pairs say of height, and of what they say of width."""
    height, width = map(function, *pairs)
    return height, width


def _pair(value: Any) -> tuple[Any, Any]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


def _numbers(padding: Any) -> tuple[Pair, Pair]:
    return _map(_pair, _pair(padding))


def _known(padding: str) -> str:
    if padding not in ("SAME", "VALID"):
        raise BadInput(f"padding = {padding!r}", 'allowed: "SAME", "VALID" or numbers', "pad with jnp.pad first")
    return padding


def _transposed_pads(k: int, s: int, padding: str) -> Pair:
    """Padding of the dilated image: SAME makes s H rows of H; an odd row goes before them unless s >= k."""
    total = k + s - 2 + (max(k - s, 0) if padding == "VALID" else 0)
    below = k - 1 if padding == "VALID" or s > k - 1 else -(-total // 2)
    return below, total - below
