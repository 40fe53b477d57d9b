"""MADE: a multilayer perceptron whose masks make its D outputs the D conditionals of an autoregressive model.

An order gives each dimension d a position o(d) in 0 .. D-1, and each hidden unit k has a degree m(k) in 0 .. D-2: it
may see the dimensions at positions <= m(k).  With units of the layer before of degrees m'(j),

    hidden layers   j -> k  where  m'(j) <= m(k)          the first layer's inputs have the degrees o(d)
    outputs         k -> d  where  m(k)  <  o(d)          strictly: x_d never reaches its own logit
    direct          e -> d  where  o(e)  <  o(d)

so that the logit of d depends on those before it only, p(x) = prod_d p(x_d | x_{o(e) < o(d)}) sums to 1, and all D
conditionals come from one pass.  (The paper counts positions and degrees from 1; the conditions are the same.)

One set of weights can serve many orders and degrees.  Each of them is a density of its own, and their ensemble is the
average of these densities, log p(x) = log 1/M sum_m p_m(x).  Averaging logits, or the conditionals of single
dimensions, over orders looks at x_d to predict x_d and is no density: its "likelihoods" come out far too good.

Source: Germain, Gregor, Murray and Larochelle, MADE: Masked Autoencoder for Distribution Estimation, 2015,
https://arxiv.org/abs/1502.03509.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype

from genjax.distributions import log_mean_exp
from genjax.errors import BadInput
from genjax.models.blocks import Initializer, flat
from genjax.types import Array


class Masking(NamedTuple):
    """An order and the degrees of the hidden units: all that the masks depend on.  With a leading axis: M of them."""

    order: Array  # [D] int32: o(d), the position of dimension d
    degrees: tuple[Array, ...]  # [H] int32 of each hidden layer


def hidden_mask(before: Array, after: Array) -> Array:
    """m'(j) <= m(k): which units of the layer before a hidden layer sees.

    >>> hidden_mask(np.array([0, 1, 2]), np.array([0, 1])).astype(int).tolist()
    [[1, 1], [0, 1], [0, 0]]
    """
    return before[:, None] <= after[None, :]


def output_mask(before: Array, order: Array) -> Array:
    """m(k) < o(d): which units of the layer before the output of each dimension sees.

    >>> output_mask(np.array([0, 1]), np.array([0, 1, 2])).astype(int).tolist()
    [[0, 1, 1], [0, 0, 1]]
    """
    return before[:, None] < order[None, :]


def masks(masking: Masking) -> list[Array]:
    """The mask of each layer of weights, [units before, units after], of one order and its degrees.

    Of NumPy arrays they are NumPy arrays, of traced arrays traced ones: a mask is cheaper to compare anew than to keep.

    >>> two = Masking(np.array([1, 0]), (np.array([0, 0, 0]),))  # the second dimension comes first
    >>> [mask.astype(int).tolist() for mask in masks(two)]
    [[[0, 0, 0], [1, 1, 1]], [[1, 0], [1, 0], [1, 0]]]
    """
    layers = (masking.order, *masking.degrees)
    hidden = [hidden_mask(before, after) for before, after in itertools.pairwise(layers)]
    return [*hidden, output_mask(layers[-1], masking.order)]


def random_maskings(
    seed: int, count: int, dims: int, widths: Sequence[int], order: Sequence[int] | None = None
) -> Masking:
    """`count` maskings: uniformly random orders, and degrees uniform from the least of the layer before to D - 2.

    Args:
      seed: of NumPy's generator.
      count: M, how many.
      dims: D >= 2.
      widths: H of each hidden layer.
      order: one order for all of them: the positions of the D dimensions; None: a random one each.

    Returns:
      A Masking of NumPy arrays [M, D] and [M, H].

    Raises:
      BadInput: fewer than two dimensions, or an order that is no permutation of 0 .. D-1.

    >>> three = random_maskings(0, 3, 4, (5,))
    >>> three.order.shape, three.degrees[0].shape, int(three.degrees[0].max())
    ((3, 4), (3, 5), 2)
    """
    if dims < 2:
        raise BadInput(f"dims = {dims}", "allowed: at least 2 dimensions")
    if order is not None and sorted(order) != list(range(dims)):
        raise BadInput("order is no permutation", f"allowed: each position 0 .. {dims - 1} once")
    rng = np.random.default_rng(seed)

    def one() -> Masking:
        positions = rng.permutation(dims) if order is None else np.array(order)
        degrees: list[np.ndarray] = []
        for width in widths:
            least = degrees[-1].min() if degrees else 0
            degrees.append(rng.integers(least, dims - 1, width, dtype=np.int32))
        return Masking(positions.astype(np.int32), tuple(degrees))

    return jax.tree.map(lambda *arrays: np.stack(arrays), *[one() for _ in range(count)])


def pick(maskings: Masking, index: Array | int) -> Masking:
    """The masking of number `index`, or those of several numbers, by a traced integer or array of them.

    >>> pick(random_maskings(0, 3, 4, (5,)), 2).order.shape
    (4,)
    """
    return jax.tree.map(lambda array: jnp.asarray(array)[index], maskings)


def ensemble_log_prob(log_prob: Callable[[Masking], jax.Array], maskings: Masking) -> jax.Array:
    """log 1/M sum_m p_m(x): the average of M densities, which is a density.

    Args:
      log_prob: a masking -> log p_m(x) [B] nats, the *joint* log-probability of each example.
      maskings: M of them; they are visited one by one, so that memory does not grow with M.

    Returns:
      [B] nats.

    Source: Germain et al., 2015, section 4.2.

    >>> two = random_maskings(0, 2, 4, (5,), order=range(4))
    >>> halves = lambda masking: jnp.log(jnp.where(masking.order[:1] == 0, jnp.array([0.5]), 0.0))
    >>> round(float(jnp.exp(ensemble_log_prob(halves, two))[0]), 4)
    0.5
    """
    return log_mean_exp(jax.lax.map(log_prob, jax.tree.map(jnp.asarray, maskings)), axis=0)


class MADE(nn.Module):
    """Logits of D binary dimensions, each from the dimensions before it.

    Args:
      widths: units of each hidden layer.
      activation: of the hidden layers.
      direct: whether inputs reach outputs by weights of their own too, as in the paper's best network of MNIST.
      kernel_init: of the weights, before they are masked.
      bias_init: of the outputs; those of the hidden layers start at zero.

    Called with x [..., D] and one Masking; returns logits [..., D] in the order of the data.

    >>> net, masking = MADE((16,)), pick(random_maskings(0, 1, 4, (16,)), 0)
    >>> params = net.init(jax.random.key(0), jnp.ones((2, 4)), masking)
    >>> net.apply(params, jnp.ones((3, 4)), masking).shape
    (3, 4)
    """

    widths: Sequence[int]
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    direct: bool = False
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array, masking: Masking) -> jax.Array:
        found, expected = tuple(len(degrees) for degrees in masking.degrees), tuple(self.widths)
        if found != expected or len(masking.order) != x.shape[-1]:
            raise BadInput(
                f"a masking of {len(masking.order)} dimensions and hidden layers of {found}",
                f"the data have {x.shape[-1]} dimensions, the network hidden layers of {expected}",
                "make the maskings with the sizes of the network: random_maskings(seed, count, dims, widths)",
            )
        *hidden, last = masks(masking)

        def layers(rows):
            h = rows
            for i, mask in enumerate(hidden):
                h = self.activation(MaskedDense(self.kernel_init, name=f"layer_{i}")(h, mask))
            logits = MaskedDense(self.kernel_init, self.bias_init, name="output")(h, last)
            if self.direct:
                earlier = output_mask(masking.order, masking.order)
                logits += MaskedDense(self.kernel_init, bias_init=None, name="direct")(rows, earlier)
            return logits

        return flat(layers, x)


class MaskedDense(nn.Module):
    """y = x (W * mask) + b.

    Args:
      kernel_init: of W, before it is masked.
      bias_init: of b; None: no b.

    Called with x [N, E] and a mask [E, F]; returns [N, F].

    >>> layer = MaskedDense(nn.initializers.ones)
    >>> layer.init_with_output(jax.random.key(0), jnp.ones((1, 2)), np.array([[True], [False]]))[0].tolist()
    [[1.0]]
    """

    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer | None = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, mask.shape)
        bias = None if self.bias_init is None else self.param("bias", self.bias_init, mask.shape[1:])
        x, kernel, bias = promote_dtype(x, kernel, bias)
        y = jnp.asarray(x) @ jnp.where(mask, kernel, 0)
        return y if bias is None else y + bias.reshape(1, -1)
