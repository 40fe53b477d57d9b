"""Temporal convolutional network: residual blocks of dilated causal convolutions with weight normalisation.

A causal convolution with k taps and dilation d sees the present and k - 1 steps of the past, d apart,

    y_t = b + sum_{j=0}^{k-1} W_j x_{t - (k-1-j) d},          x_t = 0 for t < 1                                (eq. 2)

and level i = 0 .. L-1 has the dilation 2^i.  A block is

    block(x) = relu(x + f(f(x))),      f = dropout . relu . causal convolution                                 (Fig. 1)

with a linear map in place of x where the widths differ.  Two convolutions a block reach back over
1 + 2 (k-1) (2^L - 1) steps.  W is written as g V / |V|, a norm for each output (Salimans and Kingma, Weight
Normalization, 2016, eq. 2, https://arxiv.org/abs/1602.07868).  Dropout takes single numbers, as in the program that the
authors published; the paper speaks of whole channels, with which chorales fit worse (8.57 against 8.49 nats a frame
after 2,500 updates).

Weights start uniform in +-1 / sqrt(n), n their inputs (for V all k taps count), biases at zero; normal values of
standard deviation 0.01 fit chorales worse (8.22 against 8.17 nats a frame of the validation split).

A sequence can be continued: the state holds the last (k-1) d inputs of every convolution, and is zero at the start.

Source: Bai, Kolter and Koltun, An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence
Modeling, 2018, https://arxiv.org/abs/1803.01271.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.blocks import Initializer, flat
from genjax.types import Array

Past = tuple[jax.Array, ...]  # [B, (k-1) d, C] for every convolution
UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def causal_convolve(x: Array, kernel: Array, dilation: int = 1) -> jax.Array:
    """y_t = sum_j x_{t + j d} w_j: T - (k-1) d steps, of a sequence that begins with the (k-1) d steps of the past.

    One matrix product of tokens by the k taps side by side.  On CPU XLA's own dilated convolution is about as fast, but
    its gradient 40 times slower inside `lax.scan`; by way of `convolution.py`, made for images, it takes twice as long.

    Args:
      x: [B, T, C].
      kernel: w, [k, C, D]; its last tap belongs to the present.
      dilation: d, steps between two taps.

    Returns:
      [B, T - (k-1) d, D].

    >>> causal_convolve(jnp.arange(5.0).reshape(1, 5, 1), jnp.array([1.0, 10.0]).reshape(2, 1, 1), 3).ravel().tolist()
    [30.0, 41.0]
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    taps, steps = kernel.shape[0], x.shape[1] - (kernel.shape[0] - 1) * dilation
    views = [x[:, j * dilation : j * dilation + steps] for j in range(taps)]
    matrix = kernel.reshape(-1, kernel.shape[-1])
    return flat(lambda tokens: jnp.asarray(tokens) @ matrix, jnp.concatenate(views, axis=-1))


def weight_norm(direction: Array, scale: Array) -> jax.Array:
    """g V / |V|, the norm of each output's weights over taps and inputs.

    Args:
      direction: V, [k, C, D].
      scale: g, [D].

    Returns:
      [k, C, D] in the dtype of `direction`.

    >>> weight_norm(jnp.array([3.0, 4.0]).reshape(2, 1, 1), jnp.array([10.0])).ravel().tolist()
    [6.0, 8.0]
    """
    factors = jnp.asarray(scale) / _norms(direction)
    return (jnp.asarray(direction) * factors.reshape(1, 1, -1)).astype(direction.dtype)


def receptive_field(levels: int, taps: int) -> int:
    """1 + 2 (k-1) (2^L - 1): the steps, the present one included, on which an output depends.

    >>> receptive_field(4, 5)
    121
    """
    return 1 + 2 * (taps - 1) * (2**levels - 1)


class CausalConv(nn.Module):
    """A causal convolution with weight normalisation.

    Args:
      features: D.
      taps: k.
      dilation: d.
      kernel_init: of V; g starts as |V|, so that W starts as V, and the bias at zero.

    Called with x [B, T, C] and the (k-1) d inputs before it; returns [B, T, D] and the last (k-1) d inputs.

    >>> layer, x = CausalConv(4, taps=2, dilation=3), jnp.ones((1, 5, 2))
    >>> params = layer.init(jax.random.key(0), x, jnp.zeros((1, 3, 2)))
    >>> [part.shape for part in layer.apply(params, x, jnp.zeros((1, 3, 2)))]
    [(1, 5, 4), (1, 3, 2)]
    """

    features: int
    taps: int
    dilation: int = 1
    kernel_init: Initializer = UNIFORM

    @nn.compact
    def __call__(self, x: Array, past: Array) -> tuple[jax.Array, jax.Array]:
        direction = self.param("direction", self.kernel_init, (self.taps, x.shape[-1], self.features))
        scale = self.param("scale", lambda key: _norms(direction))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        seen = jnp.concatenate([past.astype(x.dtype), x], axis=1)
        y = causal_convolve(seen, weight_norm(direction, scale), self.dilation)
        return y + bias.reshape(1, 1, -1), seen[:, x.shape[1] :]


class TCN(nn.Module):
    """Blocks with dilations 1, 2, 4, ...: see the head of this file.

    Args:
      widths: channels of each block.
      taps: k of every convolution, at least 2.
      dropout: rate at which numbers are dropped where an rng `dropout` is given, as in training.
      kernel_init: of V in the convolutions, and of the linear maps; biases start at zero.

    Called with x [B, T, D] and the state before it (None: the start); returns [B, T, widths[-1]] and the state after.

    >>> net, x = TCN((8, 8), taps=3), jnp.ones((2, 7, 5))
    >>> params = net.init(jax.random.key(0), x)
    >>> y, state = net.apply(params, x)
    >>> y.shape, [past.shape for past in state]
    ((2, 7, 8), [(2, 2, 5), (2, 2, 8), (2, 4, 8), (2, 4, 8)])
    """

    widths: Sequence[int] = (150, 150, 150, 150)
    taps: int = 5
    dropout: float = 0.25
    kernel_init: Initializer = UNIFORM

    @nn.compact
    def __call__(self, x: Array, state: Past | None = None) -> tuple[jax.Array, Past]:
        if x.ndim != 3:
            raise BadInput(f"x has shape {list(x.shape)}", "allowed: [B, T, D], sequences of T steps")
        state = self.start(x.shape[0], x.shape[-1]) if state is None else state
        dropout = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))
        x, after = jnp.asarray(x), []
        for level, width in enumerate(self.widths):
            h = x
            for number in (0, 1):
                name = f"level_{level}_{number}"
                conv = CausalConv(width, self.taps, 2**level, self.kernel_init, name=name)
                h, past = conv(h, state[2 * level + number])
                h = dropout(nn.relu(h))
                after.append(past)
            if x.shape[-1] != width:
                x = flat(nn.Dense(width, kernel_init=self.kernel_init, name=f"level_{level}_skip"), x)
            x = nn.relu(x + h)
        return x, tuple(after)

    def start(self, rows: int, inputs: int) -> Past:
        """The state before the first step of `rows` sequences whose steps have `inputs` numbers: zeros."""
        if self.taps < 2:
            raise BadInput(f"taps = {self.taps}", "allowed: 2 or more; one tap sees no past")
        widths = [inputs, *(width for width in self.widths for _ in (0, 1))][:-1]
        spans = [(self.taps - 1) * 2 ** (number // 2) for number in range(len(widths))]
        return tuple(jnp.zeros((rows, span, width)) for span, width in zip(spans, widths, strict=True))


def _norms(direction: Array) -> jax.Array:
    wide = jnp.asarray(direction, jnp.promote_types(direction.dtype, jnp.float32))
    return jnp.sqrt(jnp.sum(wide * wide, axis=(0, 1)))
