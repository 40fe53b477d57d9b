"""Depthwise convolution, one kernel a channel, as shifted multiply-adds: XLA's own is 10 to 60 times slower on CPU."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

Pair = tuple[int, int]


def shifted_sum(
    x: jax.Array, w: jax.Array, strides: Pair, padding: tuple[Pair, Pair], size: Pair, dilation: Pair = (1, 1)
) -> jax.Array:
    """sum over a, b of x[n, s i + a, s j + b, c] w[a, b, 0, c], x [B, H, W, C] dilated and padded first.

    >>> shifted_sum(jnp.ones((1, 3, 3, 2)), jnp.ones((2, 2, 1, 2)), (1, 1), ((0, 0), (0, 0)), (2, 2))[0, 0, 0].tolist()
    [4.0, 4.0]
    """
    views = _shifted(_padded(x, padding, dilation), (w.shape[0], w.shape[1]), strides, size)
    weights = w.reshape(-1, 1, 1, 1, w.shape[-1])
    wide = jnp.promote_types(x.dtype, jnp.float32)
    terms = (view.astype(wide) * weight for view, weight in zip(views, weights.astype(wide), strict=True))
    return sum(terms, start=jnp.zeros((), wide)).astype(x.dtype)


def shifted_product(x: jax.Array, y: jax.Array, kernel: Pair, strides: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    """sum over n, i, j of x[n, s i + a, s j + b, c] y[n, i, j, c] -> [a, b, 1, C], x [B, H, W, C] padded first.

    >>> shifted_product(jnp.ones((1, 3, 3, 2)), jnp.ones((1, 2, 2, 2)), (2, 2), (1, 1), ((0, 0), (0, 0))).shape
    (2, 2, 1, 2)
    """
    image, wide = _padded(x, padding, (1, 1)), jnp.promote_types(x.dtype, jnp.float32)

    def add(n, totals):  # image by image: a reduction fused with the shifts would not be vectorised
        one = lax.dynamic_slice_in_dim(image, n, 1).astype(wide)
        weight = lax.dynamic_slice_in_dim(y, n, 1).astype(wide)
        views = _shifted(one, kernel, strides, (y.shape[1], y.shape[2]))
        return tuple(total + view * weight for total, view in zip(totals, views, strict=True))

    totals = (jnp.zeros((1, *y.shape[1:]), wide),) * (kernel[0] * kernel[1])
    totals = lax.fori_loop(0, len(y), add, totals)
    return jnp.stack([total.sum(axis=(0, 1, 2)) for total in totals]).reshape(*kernel, 1, -1).astype(x.dtype)


def _shifted(x: jax.Array, kernel: Pair, strides: Pair, size: Pair) -> Iterator[jax.Array]:
    down, across = (s * (n - 1) + 1 for s, n in zip(strides, size, strict=True))
    for a in range(kernel[0]):
        for b in range(kernel[1]):
            yield x[:, a : a + down : strides[0], b : b + across : strides[1]]


def _padded(x: jax.Array, padding: tuple[Pair, Pair], dilation: Pair) -> jax.Array:
    inside = [(below, above, d - 1) for (below, above), d in zip(padding, dilation, strict=True)]
    # the barrier: padding fused into every shift would test the borders at every element
    return lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *inside, (0, 0, 0)]))
