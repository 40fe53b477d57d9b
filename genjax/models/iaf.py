"""The networks of an inverse autoregressive flow: MADE's masks, two numbers a dimension, a context that all may see.

A posterior with such a flow starts from a diagonal normal and is moved by T steps, each with a network of its own and
the order of the dimensions reversed from step to step, so that no dimension is always first.  The flow itself stands in
`genjax.distributions.flows`; what is posterior about it is the context: features of the image, given to each network.

Sources: Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016, section 4 and algorithm
1, https://arxiv.org/abs/1606.04934; masks: Germain et al., MADE, 2015, https://arxiv.org/abs/1502.03509.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.distributions.flows import Flow, composed, inverse_autoregressive
from genjax.errors import BadInput
from genjax.models.blocks import flat
from genjax.models.made import MaskedDense, Masking, masks
from genjax.types import Array, Key, Params


def even_masking(dims: int, widths: Sequence[int], backwards: bool = False) -> Masking:
    """The dimensions in their order, or in the opposite one, and the degrees of each hidden layer spread evenly.

    Args:
      dims: D >= 2.
      widths: units of each hidden layer; at least D - 1 of them, or some dimensions are not seen.
      backwards: whether the last dimension comes first.

    Raises:
      BadInput: fewer than two dimensions: nothing comes before anything.

    >>> even_masking(3, (4,), backwards=True)
    Masking(order=array([2, 1, 0]), degrees=(array([0, 0, 1, 1]),))
    """
    if dims < 2:
        raise BadInput(f"dims = {dims}", "allowed: at least 2 dimensions, of which one can depend on another")
    order = np.arange(dims)[::-1].copy() if backwards else np.arange(dims)
    return Masking(order, tuple(np.arange(width) * (dims - 1) // width for width in widths))


class AutoregressiveNet(nn.Module):
    """(m, s) of each dimension from those before it and from a context.

    Args:
      dims: D.
      widths: units of each hidden layer.
      backwards: whether the last dimension comes first.
      activation: of the hidden layers.
      open: where s starts: the gate s(open) is near 1 at first, so that a step changes little.

    Called with z [..., B, D] and a context [B, E]; returns (m, s), [..., B, D] each.

    >>> net = AutoregressiveNet(4, (16,))
    >>> (m, s), _ = net.init_with_output(jax.random.key(0), jnp.ones((3, 2, 4)), jnp.ones((2, 5)))
    >>> m.shape, s.shape
    ((3, 2, 4), (3, 2, 4))
    """

    dims: int
    widths: Sequence[int]
    backwards: bool = False
    activation: Callable[[jax.Array], jax.Array] = nn.elu
    open: float = 2.0

    @nn.compact
    def __call__(self, z: Array, context: Array) -> tuple[jax.Array, jax.Array]:
        first, *hidden, last = masks(even_masking(self.dims, self.widths, self.backwards))
        seen = nn.Dense(self.widths[0], use_bias=False, name="context")(context)
        h = self._masked("layer_0", first, z)
        h = self.activation(h + jnp.broadcast_to(seen, h.shape))
        for i, mask in enumerate(hidden, 1):
            h = self.activation(self._masked(f"layer_{i}", mask, h))
        return self._masked("m", last, h), self._masked("s", last, h, self.open)

    def _masked(self, name: str, mask: Array, h: Array, bias: float = 0.0) -> jax.Array:
        layer = MaskedDense(bias_init=nn.initializers.constant(bias), name=name)
        return flat(lambda rows: layer(rows, mask), h)


def iaf_nets(steps: int, dims: int, widths: Sequence[int]) -> list[AutoregressiveNet]:
    """The networks of T steps, forwards and backwards in turn.

    >>> [net.backwards for net in iaf_nets(3, 4, (16,))]
    [False, True, False]
    """
    return [AutoregressiveNet(dims, widths, backwards=bool(i % 2)) for i in range(steps)]


def init_iaf(nets: Sequence[AutoregressiveNet], key: Key, context: Array) -> list[Params]:
    """The parameters of each step, for a context [B, E].

    >>> nets = iaf_nets(2, 4, (16,))
    >>> len(init_iaf(nets, jax.random.key(0), jnp.ones((2, 5))))
    2
    """
    rows = len(context)
    return [net.init(jax.random.fold_in(key, i), jnp.zeros((rows, net.dims)), context) for i, net in enumerate(nets)]


def iaf(nets: Sequence[AutoregressiveNet], params: Sequence[Params], context: Array) -> Flow:
    """The flow of all steps: the posterior is `flowed(diagonal_normal(mean, log_var), iaf(nets, params, context))`.

    Args:
      nets, params: of each step, from `iaf_nets` and `init_iaf`.
      context: [B, E] features of the images.

    Returns:
      A flow of z [..., B, D].

    >>> nets, context = iaf_nets(2, 4, (16,)), jnp.ones((2, 5))
    >>> flow = iaf(nets, init_iaf(nets, jax.random.key(0), context), context)
    >>> y, log_det = flow.forward(jnp.ones((3, 2, 4)))
    >>> bool(jnp.allclose(flow.inverse(y)[0], 1.0, atol=1e-4)), log_det.shape
    (True, (3, 2))
    """
    return composed([_step(net, own, context) for net, own in zip(nets, params, strict=True)])


def _step(net: Any, params: Params, context: Array) -> Flow:
    order = even_masking(net.dims, net.widths, net.backwards).order
    return inverse_autoregressive(lambda z: net.apply(params, z, context), order)
