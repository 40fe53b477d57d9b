"""Ancestral sampling of grids and vectors: each dimension is drawn given those before it.

From p(x) = prod_d p(x_d | x_1 .. x_{d-1}) a sample is x_1 ~ p(x_1), x_2 ~ p(x_2 | x_1), and so on.  A network that is
autoregressive by its masks (MADE, PixelCNN) gives the parameters of all conditionals of a complete x in one pass, and
those of dimension d do not look at x_d or what follows; so D passes over an x that is blank where nothing is drawn yet
give a sample.  `ancestral` does that for any such network.  `by_rows` does it for images whose network can go row by
row, keeping what it computed of the rows above: H times less work.

Both draw position p with the key fold_in(key, p), so that they give the same sample.

Source: the chain rule; for images by masked convolutions van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent
Neural Networks, 2016, https://arxiv.org/abs/1601.06759.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from genjax.types import Array, Key

Draw = Callable[[jax.Array, Key], jax.Array]  # (parameters of one position, key) -> its values


def ancestral(
    parameters: Callable[[jax.Array], jax.Array], draw: Draw, blank: Array, order: Array, key: Key
) -> jax.Array:
    """x_d ~ p(x_d | those before d) for d in `order`, by one full pass a dimension.

    Args:
      parameters: x [n, D, ...] -> the parameters of every conditional [n, D, ...].
      draw: (parameters of one dimension [n, 1, ...], key) -> its values [n, 1, ...].
      blank: [n, D, ...] what stands where nothing is drawn yet; its values do not matter for a correct network.
      order: [D] integers: the dimension drawn first, second, ...
      key: the key of the sample.

    Returns:
      [n, D, ...] in the dtype of `blank`.

    Example: a chain of coins in which each one is the opposite of the one before, the first is heads.
      >>> opposite = lambda x: jnp.pad(1.0 - x[:, :-1], ((0, 0), (1, 0)), constant_values=1.0)
      >>> ancestral(opposite, lambda p, key: p, jnp.zeros((1, 5)), jnp.arange(5), jax.random.key(0)).tolist()
      [[1.0, 0.0, 1.0, 0.0, 1.0]]
    """
    order = jnp.asarray(order)

    def place(step: jax.Array, x: jax.Array) -> jax.Array:
        found = lax.dynamic_slice_in_dim(parameters(x), order[step], 1, axis=1)
        value = draw(found, jax.random.fold_in(key, step))
        return lax.dynamic_update_slice_in_dim(x, value.astype(x.dtype), order[step], axis=1)

    return lax.fori_loop(0, len(order), place, jnp.asarray(blank))


def by_rows(
    parameters: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
    draw: Draw,
    above: Any,
    shape: Sequence[int],
    key: Key,
) -> jax.Array:
    """An image, pixel by pixel in raster order, with what the network remembers of the rows above.

    A pass sees one row instead of H, and there are W + 1 passes a row: one a pixel, and one over the finished row for
    what is kept of it.

    Args:
      parameters: (row [n, 1, W, C], above) -> (parameters of its pixels [n, 1, W, ...], above with this row).
      draw: (parameters of one pixel [n, 1, 1, ...], key) -> its value [n, 1, 1, C].
      above: a pytree: what is remembered above the first row.
      shape: (n, H, W, C).
      key: the key of the sample.

    Returns:
      [n, H, W, C] float32.

    Example: a pixel is 1 plus the one above it.
      >>> plus_one, key = lambda row, above: (above + 1.0, row), jax.random.key(0)
      >>> by_rows(plus_one, lambda p, key: p, jnp.zeros((1, 1, 2, 1)), (1, 3, 2, 1), key)[0, :, :, 0].tolist()
      [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    """
    n, height, width, channels = shape

    def one_row(above: Any, i: jax.Array) -> tuple[Any, jax.Array]:
        def one_pixel(j: jax.Array, row: jax.Array) -> jax.Array:
            found = lax.dynamic_slice_in_dim(parameters(row, above)[0], j, 1, axis=2)
            value = draw(found, jax.random.fold_in(key, i * width + j))
            return lax.dynamic_update_slice_in_dim(row, value.astype(row.dtype), j, axis=2)

        row = lax.fori_loop(0, width, one_pixel, jnp.zeros((n, 1, width, channels)))
        return parameters(row, above)[1], row[:, 0]

    _, rows = lax.scan(one_row, above, jnp.arange(height))
    return jnp.moveaxis(rows, 0, 1)
