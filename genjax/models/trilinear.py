"""The three maps of a convolution, each the derivative of the other two, as XLA's CPU backend computes them fast.

For x [B, H, W, C], kernel w [a, b, C, D], y [B, h, w, D], strides s and padding p, a convolution is the trilinear

    T(x, w, y) = sum over n, i, j, a, b, c, d of  x[n, s i + a - p, s j + b - p, c] w[a, b, c, d] y[n, i, j, d].

`forward` is its derivative in y, the convolution; `spread` in x, the transposed convolution; `correlate` in w, the
gradient of the kernel.  The gradient of each map is made of the other two, so reverse mode of any order (gradient
penalties) stays inside the three; forward mode (jvp, jacfwd) is not defined.

Why not leave it to JAX: its rules name the axes of a convolution's gradients in an order for which the CPU backend has
no fast routine for transposed convolutions, and for no gradient at all inside a loop (lax.scan): 20 to 100 times
slower, measured with jaxlib 0.10.2.  Here every dense convolution is NHWC with an HWIO kernel, its operands transposed
by hand before a barrier, which XLA computes equally fast in and out of loops.
"""

import functools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from genjax.models import depthwise

Pair = tuple[int, int]
AXES = ("NHWC", "HWIO", "NHWC")
CHUNK_BYTES = (
    300_000  # of y in one product of `correlate`: 150 to 600 kB measured alike, 2.4 MB up to four times slower
)


class Window(NamedTuple):
    """All that is static about a convolution."""

    image: Pair  # H, W of x
    kernel: Pair
    strides: Pair
    padding: tuple[Pair, Pair]  # (below, above) for H and W; may be negative
    depthwise: bool = False  # w is [a, b, 1, C] and y has C channels: T sums over c = d only

    @property
    def output(self) -> Pair:
        """h, w of y."""
        spans = zip(self.image, self.padding, self.kernel, self.strides, strict=True)
        height, width = (max(0, (size + sum(pad) - k) // s + 1) for size, pad, k, s in spans)
        return height, width

    @property
    def complement(self) -> tuple[Pair, Pair]:
        """Padding of the dilated y with which a convolution by the flipped kernel gives back the size of x."""
        spans = zip(self.image, self.output, self.padding, self.kernel, self.strides, strict=True)
        height, width = ((k - 1 - p, size + p - s * (n - 1) - 1) for size, n, (p, _), k, s in spans)
        return height, width


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def forward(window: Window, x: jax.Array, w: jax.Array) -> jax.Array:
    """dT/dy [B, h, w, D]: the convolution of x [B, H, W, C] with w [a, b, C, D]."""
    if window.depthwise:
        return depthwise.shifted_sum(x, w, window.strides, window.padding, window.output)
    return lax.conv_general_dilated(x, w, window.strides, window.padding, dimension_numbers=AXES)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def spread(window: Window, y: jax.Array, w: jax.Array) -> jax.Array:
    """dT/dx [B, H, W, C]: every y [B, h, w, D] adds its multiple of the kernel w [a, b, C, D] to the image."""
    flipped = w[::-1, ::-1]
    if window.depthwise:
        return depthwise.shifted_sum(y, flipped, (1, 1), window.complement, window.image, dilation=window.strides)
    if window.strides != (1, 1) and not any(k % s for k, s in zip(window.kernel, window.strides, strict=True)):
        return _tiled(window, y, w)
    turned = lax.optimization_barrier(flipped.transpose(0, 1, 3, 2))
    return lax.conv_general_dilated(
        y, turned, (1, 1), window.complement, lhs_dilation=window.strides, dimension_numbers=AXES
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def correlate(window: Window, x: jax.Array, y: jax.Array) -> jax.Array:
    """dT/dw [a, b, C, D]: how x [B, H, W, C] at every offset goes with y [B, h, w, D]."""
    if window.depthwise:
        return depthwise.shifted_product(x, y, window.kernel, window.strides, window.padding)
    if window.strides == (1, 1) and y.shape[-1] < x.shape[-1]:  # the image with fewer channels slides: faster
        swapped = window._replace(image=window.output, padding=window.complement)
        return _correlate_in_chunks(swapped, y, x)[::-1, ::-1].transpose(0, 1, 3, 2)
    return _correlate_in_chunks(window, x, y)


def _tiled(window: Window, y: jax.Array, w: jax.Array) -> jax.Array:
    """`spread` where strides divide the kernel: one matrix product gives every y its q x r tiles of s x t pixels."""
    (height, width), (s, t) = window.image, window.strides
    q, r = window.kernel[0] // s, window.kernel[1] // t
    batch, h, v, features = y.shape
    channels = w.shape[2]
    tiles = w.reshape(q, s, r, t, channels, features).transpose(0, 2, 1, 3, 4, 5).reshape(-1, features)
    painted = (y.reshape(-1, features) @ tiles.T).reshape(batch, h, v, q, r, s * t * channels)
    places = [((0, 0), (i, q - 1 - i), (j, r - 1 - j), (0, 0)) for i in range(q) for j in range(r)]
    padded = [jnp.pad(painted[:, :, :, n // r, n % r], place) for n, place in enumerate(places)]
    grid = functools.reduce(jnp.add, padded)
    pixels = grid.reshape(batch, h + q - 1, v + r - 1, s, t, channels).transpose(0, 1, 3, 2, 4, 5)
    pixels = pixels.reshape(batch, (h + q - 1) * s, (v + r - 1) * t, channels)
    (top, _), (left, _) = window.padding
    edges = (
        (0, 0, 0),
        (-top, height + top - pixels.shape[1], 0),
        (-left, width + left - pixels.shape[2], 0),
        (0, 0, 0),
    )
    return lax.pad(pixels, jnp.zeros((), y.dtype), edges)


def _correlate_in_chunks(window: Window, x: jax.Array, y: jax.Array) -> jax.Array:
    """A sum over chunks of the batch small enough for the processor's cache, in float32 at least."""
    rows = max(1, min(len(y), CHUNK_BYTES * len(y) // max(1, y.size * y.dtype.itemsize)))
    while len(y) % rows:
        rows -= 1
    if rows == len(y):
        return _correlate(window, x, y)
    total = jnp.zeros((*window.kernel, x.shape[-1], y.shape[-1]), jnp.promote_types(x.dtype, jnp.float32))

    def add(i, total):
        part = _correlate(window, *(lax.dynamic_slice_in_dim(a, i * rows, rows) for a in (x, y)))
        return total + part.astype(total.dtype)

    return lax.fori_loop(0, len(y) // rows, add, total).astype(x.dtype)


def _correlate(window: Window, x: jax.Array, y: jax.Array) -> jax.Array:
    """A convolution whose batch is C, whose channels are the rows, and whose kernel is y, dilated by the strides."""
    image = lax.optimization_barrier(x.transpose(3, 1, 2, 0))
    kernel = lax.optimization_barrier(y.transpose(1, 2, 0, 3))
    spans = zip(window.image, window.output, window.padding, window.kernel, window.strides, strict=True)
    padding = [(p, k - 1 + s * (n - 1) + 1 - size - p) for size, n, (p, _), k, s in spans]
    product = lax.conv_general_dilated(
        image, kernel, (1, 1), padding, rhs_dilation=window.strides, dimension_numbers=AXES
    )
    return product.transpose(1, 2, 0, 3)


def _keep(map_):
    return lambda window, a, b: (map_(window, a, b), (a, b))


forward.defvjp(
    _keep(forward),
    lambda window, kept, y: (spread(window, y, kept[1]), correlate(window, kept[0], y)),
)
spread.defvjp(
    _keep(spread),
    lambda window, kept, x: (forward(window, x, kept[1]), correlate(window, x, kept[0])),
)
correlate.defvjp(
    _keep(correlate),
    lambda window, kept, w: (spread(window, kept[1], w), forward(window, kept[0], w)),
)
