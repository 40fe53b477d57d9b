"""NADE, the neural autoregressive distribution estimator: a hidden layer for each conditional, with shared weights.

With the dimensions numbered in the model's order,

    p(x_d = 1 | x_1 .. x_{d-1}) = s(b_d + V_d . h_d),    h_d = s(c + sum_{e < d} W_e x_e),

s the logistic function, W [D, H], V [D, H].  The weights W are shared by the D hidden layers, so that their activations
follow from each other, a_{d+1} = a_d + W_d x_d: all conditionals cost O(D H) and not O(D^2 H).

The fast form takes the dimensions in chunks of C: within a chunk the activations of all its dimensions are one matrix
product, of W's rows with x under a mask that keeps those before, and a scan carries the activation from chunk to chunk.
Differentiating a plain scan over dimensions would keep every activation, B D H numbers (157 MB at B = 100, D = 784,
H = 500).  Here a chunk's are computed anew in the backward pass, which keeps B (D / C + C) H of them.

Source: Larochelle and Murray, The neural autoregressive distribution estimator, 2011,
https://proceedings.mlr.press/v15/larochelle11a.html; Uria, Cote, Gregor, Murray and Larochelle, Neural Autoregressive
Distribution Estimation, 2016, https://arxiv.org/abs/1605.02226.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.distributions import sample_bernoulli
from genjax.errors import BadInput
from genjax.models.blocks import Initializer
from genjax.types import Array, Key


def nade_logits(x: Array, w: Array, v: Array, b: Array, c: Array, chunk: int = 14) -> jax.Array:
    """The logits of all D conditionals, b_d + V_d . s(c + sum_{e < d} W_e x_e).

    Args:
      x: [B, D] zeros and ones, in the model's order.
      w, v: [D, H].
      b: [B, D] biases of the outputs; one row for all: `jnp.broadcast_to`.  A recurrent network may give them.
      c: [B, H] biases of the hidden layer.
      chunk: the most dimensions at once.  It changes time and memory, not the result.

    Returns:
      [B, D] in the dtype of `x`.

    Source: Larochelle and Murray, 2011, algorithm 1.

    >>> ones = jnp.ones((3, 2))
    >>> nade_logits(jnp.ones((1, 3)), 100 * ones, ones, jnp.zeros((1, 3)), jnp.full((1, 2), -50.0)).round(3).tolist()
    [[0.0, 2.0, 2.0]]
    """
    x, w, v, b, c = (jnp.asarray(array) for array in (x, w, v, b, c))
    dims, units = w.shape
    steps = -(-dims // max(chunk, 1))
    size = -(-dims // steps)
    earlier = np.tril(np.ones((size, size), np.float32), -1)

    def one_chunk(activation: jax.Array, parts: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        x, w, v = parts  # [B, C], [C, H], [C, H]
        seen = (
            x[:, None, :] * jnp.asarray(earlier, x.dtype)[None]
        )  # [B, C, C]: before each dimension, those of the chunk
        inside = (seen.reshape(-1, size) @ w).reshape(*seen.shape[:2], units)
        hidden = jax.nn.sigmoid(activation[:, None, :] + inside)
        return activation + x @ w, jnp.sum(hidden * v[None], axis=-1)

    def chunks(array: jax.Array, axis: int) -> jax.Array:
        widths = [(0, steps * size - dims if i == axis else 0) for i in range(array.ndim)]
        shape = (*array.shape[:axis], steps, size, *array.shape[axis + 1 :])
        return jnp.moveaxis(jnp.pad(array, widths).reshape(shape), axis, 0)

    body = jax.checkpoint(one_chunk, prevent_cse=False)  # the scan already keeps the two passes apart
    _, outputs = jax.lax.scan(body, c, (chunks(x, 1), chunks(w, 0), chunks(v, 0)))
    return b + jnp.moveaxis(outputs, 0, 1).reshape(len(x), -1)[:, :dims]


def sample_nade(w: Array, v: Array, b: Array, c: Array, key: Key) -> jax.Array:
    """x_1, x_2, ... in turn, each from the running activation: O(D H) a sample.

    Args:
      w, v: [D, H].
      b: [n, D], c: [n, H]: the biases of each sample, as in `nade_logits`.
      key: the key of the samples.

    Returns:
      [n, D] zeros and ones in the model's order, in the dtype of `b`.

    >>> ones = jnp.ones((3, 2))
    >>> sample_nade(0 * ones, 0 * ones, jnp.array([[90.0, -90.0, 90.0]]), jnp.zeros((1, 2)), jax.random.key(0)).tolist()
    [[1.0, 0.0, 1.0]]
    """

    def one(activation: jax.Array, parts: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        w, v, b, number = parts
        logits = b + jax.nn.sigmoid(activation) @ v
        x = sample_bernoulli(logits, jax.random.fold_in(key, number))
        return activation + x[:, None] * w[None], x

    w, v, b, c = (jnp.asarray(array) for array in (w, v, b, c))
    _, x = jax.lax.scan(one, c, (w, v, b.T, jnp.arange(len(w))))
    return x.T


class NADE(nn.Module):
    """p(x) over D binary dimensions in one order.

    Args:
      dims: D.
      units: H.
      order: the position of each dimension, a permutation of 0 .. D-1; None: as they stand.
      chunk: as in `nade_logits`.
      kernel_init: of W and V, which it is given the shape [D, H] for.
      bias_init: of b, in the order of the data; c starts at zero.

    Called with x [B, D]; returns logits [B, D], both in the order of the data: that of d depends on the dimensions at
    positions before d's.  `model.apply(params, key, n, method="sample")` returns [n, D].

    Raises:
      BadInput: an order that is no permutation of the dimensions, or x of other dimensions.

    >>> model = NADE(6, 8)
    >>> params = model.init(jax.random.key(0), jnp.ones((1, 6)))
    >>> model.apply(params, jnp.ones((2, 6))).shape, model.apply(params, jax.random.key(0), 5, method="sample").shape
    ((2, 6), (5, 6))
    """

    dims: int
    units: int
    order: Sequence[int] | None = None
    chunk: int = 14
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros

    def setup(self) -> None:
        shape = (self.dims, self.units)
        self.w = self.param("w", self.kernel_init, shape)
        self.v = self.param("v", self.kernel_init, shape)
        self.b = self.param("b", self.bias_init, shape[:1])
        self.c = self.param("c", nn.initializers.zeros, shape[1:])

    def __call__(self, x: Array) -> jax.Array:
        if x.ndim != 2 or x.shape[1] != self.dims:
            raise BadInput(f"x has shape {list(x.shape)}", f"the model takes [B, {self.dims}]")
        positions, sequence = self._order()
        w, v, b, c = self._weights(len(x), sequence)
        return _columns(nade_logits(_columns(x, sequence), w, v, b, c, self.chunk), positions)

    def sample(self, key: Key, n: int) -> jax.Array:
        """n samples [n, D], zeros and ones in the order of the data."""
        positions, sequence = self._order()
        w, v, b, c = self._weights(n, sequence)
        return _columns(sample_nade(w, v, b, c, key), positions)

    def _weights(self, rows: int, sequence: np.ndarray) -> tuple[jax.Array, ...]:
        """(w, v, b, c) with one row of biases for each row of x; w and v are kept in the model's order."""
        b, c = _columns(self.b[None], sequence), self.c[None]
        return self.w, self.v, jnp.broadcast_to(b, (rows, self.dims)), jnp.broadcast_to(c, (rows, self.units))

    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """The position of each dimension, and the dimension at each position."""
        positions = np.arange(self.dims) if self.order is None else np.array(self.order)
        if sorted(positions.tolist()) != list(range(self.dims)):
            raise BadInput("order is no permutation", f"allowed: each position 0 .. {self.dims - 1} once")
        return positions, np.argsort(positions)


def _columns(array: Array, chosen: np.ndarray) -> jax.Array:
    return jnp.asarray(array).at[:, chosen].get(unique_indices=True, mode="promise_in_bounds")
