"""Recurrent networks over [B, T, D]: the plain tanh network, GRU and LSTM, unrolled by one scan.

With x_t = W v_t + b, the inputs' share of the pre-activations, and a_t = U h_{t-1}, that of the past,

    RNN     h_t = tanh(x_t + a_t)
    GRU     r, z = sigmoid(x_t + a_t),   n = tanh(x_t + r a_t),   h_t = (1 - z) n + z h_{t-1}
    LSTM    i, f, o = sigmoid(x_t + a_t),   g = tanh(x_t + a_t),   c_t = f c_{t-1} + i g,   h_t = o tanh(c_t)

where every gate has its own columns of W, b and U.  Sources: Elman, Finding Structure in Time, 1990,
https://doi.org/10.1207/s15516709cog1402_1; Cho et al. 2014, https://arxiv.org/abs/1406.1078, with the reset gate after
the product by U, which then is one product a step; Hochreiter and Schmidhuber, Long Short-Term Memory, 1997,
https://doi.org/10.1162/neco.1997.9.8.1735, with the forget gate of Gers et al. 2000.

Only a_t waits for the past.  Hence W v is one matrix product for all steps, before the scan; and the gradient of U,
sum_t h_{t-1} a'_t with a' the gradient of a, is one product after the reverse scan, where differentiating the scan
itself would add a whole matrix to another at every step: 0.48 to 0.65 of the time for 8 sequences of 128 steps, 0.79 to
0.94 for 32 (one core, 300,000 parameters).  Only reverse-mode derivatives, of any order, are defined.

Initial values: W is normal with variance 1 / D; each gate's U is a random orthogonal matrix, under which a linear
network neither shrinks nor grows with T (Saxe et al. 2014, https://arxiv.org/abs/1312.6120); b is zero, and 1 for the
forget gate, which so starts open (Jozefowicz et al. 2015, https://proceedings.mlr.press/v37/jozefowicz15.html).
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.errors import BadInput
from genjax.models.blocks import Initializer, flat
from genjax.types import Array

Memory = tuple[jax.Array, ...]  # the state after a step: h [B, H] first, for the LSTM then c [B, H]
Cell = Callable[[jax.Array, jax.Array, Memory], Memory]  # (x_t [B, G], a_t [B, G], state) -> state


def rnn_cell(x: jax.Array, a: jax.Array, state: Memory) -> Memory:
    """One step of the plain network, h = tanh(x + a).

    >>> rnn_cell(jnp.zeros((1, 2)), jnp.zeros((1, 2)), (jnp.ones((1, 2)),))[0].tolist()
    [[0.0, 0.0]]
    """
    del state
    return (jnp.tanh(x + a),)


def gru_cell(x: jax.Array, a: jax.Array, state: Memory) -> Memory:
    """One step of the GRU; the columns of x and a are those of r, z, n.

    >>> gru_cell(jnp.zeros((1, 6)), jnp.zeros((1, 6)), (jnp.ones((1, 2)),))[0].tolist()  # z = 1/2, n = 0
    [[0.5, 0.5]]
    """
    (h,) = state
    xr, xz, xn = jnp.split(x, 3, axis=-1)
    ar, az, an = jnp.split(a, 3, axis=-1)
    z, n = nn.sigmoid(xz + az), jnp.tanh(xn + nn.sigmoid(xr + ar) * an)
    return (n + z * (h - n),)


def lstm_cell(x: jax.Array, a: jax.Array, state: Memory) -> Memory:
    """One step of the LSTM; the columns of x and a are those of i, f, g, o.

    >>> lstm_cell(jnp.zeros((1, 4)), jnp.zeros((1, 4)), (jnp.zeros((1, 1)), jnp.ones((1, 1))))[1].tolist()  # f = 1/2
    [[0.5]]
    """
    i, f, g, o = jnp.split(x + a, 4, axis=-1)
    c = nn.sigmoid(f) * state[1] + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(c), c


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def unroll(cell: Cell, x: jax.Array, keep: jax.Array, kernel: jax.Array, state: Memory) -> tuple[jax.Array, Memory]:
    """The cell applied to x_1 .. x_T in turn.

    Args:
      cell: one step; it holds no parameters.
      x: [T, B, G] the inputs' share.
      keep: [T, B, 1]; where it is 0 the step is left out: its state is the state before.
      kernel: U, [H, G].
      state: before the first step.

    Returns:
      h [T, B, H] after every step, and the state after the last.

    >>> ones = jnp.ones((3, 1, 1))
    >>> unroll(lambda x, a, state: (x + a,), ones, ones, ones[0], (jnp.zeros((1, 1)),))[0].ravel().tolist()
    [1.0, 2.0, 3.0]
    """
    last, h = _scan(cell, x, keep, kernel, state, lambda a, after: after[0])
    return h, last


def _scan(
    cell: Cell, x: jax.Array, keep: jax.Array, kernel: jax.Array, state: Memory, kept: Callable[..., Any]
) -> tuple[Memory, Any]:
    def step(state: Memory, now: Any) -> tuple[Memory, Any]:
        a = state[0] @ kernel
        state = _held(cell, now[1], now[0], a, state)
        return state, kept(a, state)

    return jax.lax.scan(step, state, (x, keep))


def _held(cell: Cell, keep: jax.Array, x: jax.Array, a: jax.Array, state: Memory) -> Memory:
    return tuple(jnp.where(keep > 0, new, old) for new, old in zip(cell(x, a, state), state, strict=True))


def _forward(cell: Cell, x: jax.Array, keep: jax.Array, kernel: jax.Array, state: Memory) -> Any:
    last, (a, states) = _scan(cell, x, keep, kernel, state, lambda a, after: (a, after))
    return (states[0], last), (x, keep, a, kernel, state, states)


def _backward(cell: Cell, saved: Any, cotangents: tuple[jax.Array, Memory]) -> Any:
    x, keep, a, kernel, state, states = saved
    before = tuple(jnp.concatenate([s[None], all_s[:-1]]) for s, all_s in zip(state, states, strict=True))
    rows = before[0].reshape(-1, kernel.shape[0])  # h_0 .. h_{T-1}

    def step(d_state: Memory, now: Any) -> tuple[Memory, tuple[jax.Array, jax.Array]]:
        x, keep, a, state, d_h = now
        _, back = jax.vjp(functools.partial(_held, cell, keep), x, a, state)
        d_x, d_a, d_before = back((d_state[0] + d_h, *d_state[1:]))
        return (d_before[0] + d_a @ kernel.T, *d_before[1:]), (d_x, d_a)

    d_h, d_last = cotangents
    d_state, (d_x, d_a) = jax.lax.scan(step, d_last, (x, keep, a, before, d_h), reverse=True)
    return d_x, jnp.zeros_like(keep), rows.T @ d_a.reshape(rows.shape[0], -1), d_state


unroll.defvjp(_forward, _backward)


def gatewise(init: Initializer, gates: int) -> Initializer:
    """An initializer of [H, gates x H] that draws each gate's square from `init` on its own.

    >>> u = gatewise(nn.initializers.orthogonal(), 3)(jax.random.key(0), (4, 12), jnp.float32)
    >>> bool(jnp.allclose(u @ u.T, 3 * jnp.eye(4), atol=1e-5))
    True
    """

    def draw(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
        keys = jax.random.split(key, gates)
        return jnp.concatenate([init(k, (shape[0], shape[1] // gates), dtype) for k in keys], axis=1)

    return draw


class RNN(nn.Module):
    """h_t = tanh(W v_t + b + U h_{t-1}).

    Args:
      features: H.
      kernel_init: of W; the bias starts at zero.
      recurrent_init: of U.

    Called with x [B, T, D], the state before it (None: zeros) and a mask [B, T] (None: all), which for sequences of
    different length is `arange(T)[None] < lengths[:, None]`; where it is 0, the step changes nothing: its output is
    that of the step before.  Returns h [B, T, H] and the state after the last step.

    >>> net = RNN(4)
    >>> x = jnp.ones((2, 3, 5))
    >>> params = net.init(jax.random.key(0), x)
    >>> h, state = net.apply(params, x)
    >>> half, memory = net.apply(params, x[:, :1])
    >>> rest, memory = net.apply(params, x[:, 1:], memory)
    >>> bool(jnp.allclose(h[:, 1:], rest, atol=1e-6)), bool(jnp.all(state[0] == h[:, -1]))
    (True, True)
    """

    features: int
    kernel_init: Initializer = nn.initializers.lecun_normal()
    recurrent_init: Initializer = nn.initializers.orthogonal()

    @nn.compact
    def __call__(self, x: Array, state: Memory | None = None, mask: Array | None = None) -> tuple[jax.Array, Memory]:
        return _network(self, rnn_cell, 1, nn.initializers.zeros, x, state, mask)

    def start(self, rows: int, inputs: int) -> Memory:
        """The state before the first step, of `rows` sequences; it does not depend on the width of the inputs."""
        del inputs
        return (jnp.zeros((rows, self.features)),)


class GRU(nn.Module):
    """Gated recurrent units: see the head of this file; arguments and calls as for `RNN`.

    >>> net = GRU(4)
    >>> h, state = net.apply(net.init(jax.random.key(0), jnp.ones((2, 3, 5))), jnp.ones((2, 3, 5)))
    >>> h.shape, len(state)
    ((2, 3, 4), 1)
    """

    features: int
    kernel_init: Initializer = nn.initializers.lecun_normal()
    recurrent_init: Initializer = nn.initializers.orthogonal()

    @nn.compact
    def __call__(self, x: Array, state: Memory | None = None, mask: Array | None = None) -> tuple[jax.Array, Memory]:
        return _network(self, gru_cell, 3, nn.initializers.zeros, x, state, mask)

    def start(self, rows: int, inputs: int) -> Memory:
        """The state before the first step, of `rows` sequences; it does not depend on the width of the inputs."""
        del inputs
        return (jnp.zeros((rows, self.features)),)


class LSTM(nn.Module):
    """Long short-term memory: see the head of this file; arguments and calls as for `RNN`, the state is (h, c).

    >>> net = LSTM(4)
    >>> h, state = net.apply(net.init(jax.random.key(0), jnp.ones((2, 3, 5))), jnp.ones((2, 3, 5)))
    >>> h.shape, len(state)
    ((2, 3, 4), 2)
    """

    features: int
    kernel_init: Initializer = nn.initializers.lecun_normal()
    recurrent_init: Initializer = nn.initializers.orthogonal()

    @nn.compact
    def __call__(self, x: Array, state: Memory | None = None, mask: Array | None = None) -> tuple[jax.Array, Memory]:
        def open_forget_gate(key: jax.Array, shape: tuple[int], dtype: Any) -> jax.Array:
            del key
            return jnp.zeros((4, shape[0] // 4), dtype).at[1].set(1.0).reshape(shape)

        return _network(self, lstm_cell, 4, open_forget_gate, x, state, mask)

    def start(self, rows: int, inputs: int) -> Memory:
        """The state before the first step, of `rows` sequences; it does not depend on the width of the inputs."""
        del inputs
        return (jnp.zeros((rows, self.features)), jnp.zeros((rows, self.features)))


def _network(
    net: RNN | GRU | LSTM,
    cell: Cell,
    gates: int,
    bias_init: Initializer,
    x: Array,
    state: Memory | None,
    mask: Array | None,
) -> tuple[jax.Array, Memory]:
    if x.ndim != 3 or (mask is not None and mask.shape != x.shape[:2]):
        told = f"x has shape {list(x.shape)}" + ("" if mask is None else f", mask {list(mask.shape)}")
        raise BadInput(told, "allowed: x [B, T, D], sequences of T steps, and a mask [B, T]")
    width = net.features
    dense = nn.Dense(gates * width, kernel_init=net.kernel_init, bias_init=bias_init, name="input")
    kernel = net.param("recurrent", gatewise(net.recurrent_init, gates), (width, gates * width))
    steps = flat(dense, jnp.swapaxes(x, 0, 1))  # [T, B, G]
    keep = jnp.ones(x.shape[:2], steps.dtype) if mask is None else jnp.asarray(mask, steps.dtype)
    state = net.start(x.shape[0], x.shape[-1]) if state is None else state
    state = tuple(part.astype(steps.dtype) for part in state)
    h, last = unroll(cell, steps, keep.T[..., None], kernel.astype(steps.dtype), state)
    return jnp.swapaxes(h, 0, 1), last
