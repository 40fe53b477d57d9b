"""Blocks that several families share: multilayer perceptrons, plain and gated.

Leading axes are flattened once, so that every layer is one matrix product whatever the rank of its input (samples by
examples, examples by tokens): on CPU a batched product is several times slower.  The arithmetic follows the dtype of
inputs and parameters.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from genjax.types import Array

Initializer = Callable[..., jax.Array]  # (key, shape, dtype) -> array: jax.nn.initializers


def flat(layers: Callable[[Array], jax.Array], x: Array) -> jax.Array:
    """Apply [N, D] -> [N, E] to x [..., D], as one matrix of rows.

    >>> flat(lambda rows: rows * rows.ndim, jax.numpy.ones((4, 3, 5))).shape
    (4, 3, 5)
    """
    rows = layers(x.reshape(-1, x.shape[-1]))
    return rows.reshape(*x.shape[:-1], rows.shape[-1])


class MLP(nn.Module):
    """h_i = activation(W_i h_{i-1} + b_i): hidden layers, without an output layer.

    Args:
      widths: units of each hidden layer.
      activation: elementwise, after every layer.
      kernel_init: of the weights; biases start at zero.

    Called with x [..., D]; returns [..., widths[-1]].

    >>> net = MLP((8, 4))
    >>> params = net.init(jax.random.key(0), jax.numpy.ones((2, 3)))
    >>> net.apply(params, jax.numpy.ones((5, 2, 3))).shape
    (5, 2, 4)
    """

    widths: Sequence[int]
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        def layers(h):
            for i, width in enumerate(self.widths):
                h = self.activation(nn.Dense(width, kernel_init=self.kernel_init, name=f"layer_{i}")(h))
            return h

        return flat(layers, x)


class GatedDense(nn.Module):
    """h = (W1 x + b1) * sigmoid(W2 x + b2): a linear layer with a gate of its own.

    Dauphin et al., Language Modeling with Gated Convolutional Networks, 2017, eq. 1, https://arxiv.org/abs/1612.08083;
    as in Tomczak and Welling, VAE with a VampPrior, 2018, https://arxiv.org/abs/1705.07120.

    Args:
      features: units.
      kernel_init: of W1 and W2; biases start at zero.

    Called with x [..., D]; returns [..., features].

    >>> layer = GatedDense(1, nn.initializers.ones)
    >>> params = layer.init(jax.random.key(0), jax.numpy.zeros((1, 2)))
    >>> round(float(layer.apply(params, jax.numpy.ones((1, 2)))[0, 0]), 4)  # 2 sigmoid(2)
    1.7616
    """

    features: int
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        value = nn.Dense(self.features, kernel_init=self.kernel_init, name="value")
        gate = nn.Dense(self.features, kernel_init=self.kernel_init, name="gate")
        return flat(lambda h: value(h) * nn.sigmoid(gate(h)), x)


class GatedMLP(nn.Module):
    """A chain of `GatedDense` layers, without an output layer.

    Args:
      widths: units of each layer.
      kernel_init: of the weights; biases start at zero.

    Called with x [..., D]; returns [..., widths[-1]].

    >>> net = GatedMLP((8, 4))
    >>> params = net.init(jax.random.key(0), jax.numpy.ones((2, 3)))
    >>> net.apply(params, jax.numpy.ones((2, 3))).shape
    (2, 4)
    """

    widths: Sequence[int]
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        def layers(h):
            for i, width in enumerate(self.widths):
                h = GatedDense(width, self.kernel_init, name=f"layer_{i}")(h)
            return h

        return flat(layers, x)
