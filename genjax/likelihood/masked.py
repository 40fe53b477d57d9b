r"""Masked diffusion's bound, summed over the number of masked tokens; and the law of random orders that it bounds.

With c_n(x) = E over sets of n masked tokens of the mean of -log p(x_d | z) over them (`losses/masked.py`, eq. 2)

    (1)  bound = \sum_{n=1}^D c_n(x),    -log p(x) <= bound

`masked_bound` takes k values of n spread evenly over 1 .. D, D / k c_n each; with k = D all of them, the sum over n is
then exact, and what stays random is which tokens are masked.  One random order serves all terms of an example: the n
tokens at its end are the masked ones.

Under an order o the network is an autoregressive model, and its likelihood is exact,

    (2)  log p_o(x) = \sum_i log p(x_{o_i} | x_{o_1} .. x_{o_{i-1}})

Over M orders drawn beforehand, or over all D! of them, the average of p_o is a density too: what unmasking one token
after the other in one of these orders draws from.  The bound is the average of -log p_o over all of them:

    (3)  p(x) = mean_o p_o(x),    -log p(x) <= mean_o -log p_o(x) = bound

Kinds: (1) an UPPER BOUND of -log p(x) in expectation; (2) EXACT for that order; (3) the mean of p_o over orders that
do not depend on x EXACT for this ensemble.  Standard errors come from the spread of examples (`evaluate.py`), which
holds that of the masks.

Sources: Hoogeboom et al., Autoregressive Diffusion Models, 2022, https://arxiv.org/abs/2110.02037; Uria, Murray and
Larochelle, A Deep and Tractable Density Estimator, 2014, https://arxiv.org/abs/1310.1757 (ensembles of orders).
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.survival import Schedule
from genjax.corruption.times import low_discrepancy
from genjax.distributions import log_mean_exp
from genjax.errors import BadInput
from genjax.losses.masked import Logits, continuous_loss, masked_nats, masking_times, ranks, term
from genjax.types import Array, Key

MOST = 8  # tokens of which all orders are listed: 40,320


class Orders(NamedTuple):
    """What M orders say of each example, [B] nats each."""

    bound: jax.Array  # mean of -log p_o
    nll: jax.Array  # -log mean p_o


def masked_bound(logits: Logits, categories: int, x: Array, key: Key, k: int) -> jax.Array:
    """The sum over n of eq. 1, by k values of n.

    Args:
      logits: tokens [B, D], K where masked -> [B, D, K].
      categories: K.
      x: tokens [B, D] in 0 .. K-1.
      key: of the orders, one an example, and of n.
      k: passes of the network, 1 .. D; D: all n.

    Returns:
      [B] nats.  Kind: upper bound of -log p(x) in expectation, unbiased for every k.

    Raises:
      BadInput: k outside 1 .. D, logits of another shape.

    Source: Hoogeboom et al., 2022, section 3.

    >>> half = lambda tokens: jnp.zeros((*tokens.shape, 2))
    >>> bound = masked_bound(half, 2, jnp.zeros((1, 6), jnp.int32), jax.random.key(0), 3)
    >>> round(float(bound[0] / jnp.log(2.0)), 4)
    6.0
    """
    x = jnp.asarray(x)
    rows, dims = x.shape
    if not 1 <= k <= dims or k != int(k):
        raise BadInput(
            f"k = {k} numbers of masked tokens", f"allowed: whole numbers 1 .. {dims}; {dims} is the exact sum"
        )
    order_key, key = jax.random.split(key)
    rank = ranks(order_key, rows, dims)

    def one(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        place = low_discrepancy(jax.random.fold_in(key, i), rows) if k < dims else jnp.zeros(rows)
        count = jnp.clip(((i + place) * (dims / k)).astype(jnp.int32), 0, dims - 1) + 1
        return total + term(logits, categories, x, rank, count) / k, None

    with jax.default_matmul_precision("highest"):
        return jax.lax.scan(one, jnp.zeros(rows), jnp.arange(k))[0]


def timed_bound(logits: Logits, schedule: Schedule, categories: int, x: Array, key: Key, k: int) -> jax.Array:
    """The same bound as an integral over time, by k times: `losses/masked.py`, eq. 1.

    Args:
      logits: tokens [B, D], K where masked -> [B, D, K].
      schedule: alpha, which changes the variance alone.
      categories: K.
      x: tokens [B, D] in 0 .. K-1.
      key: of times and masks.
      k: times, at least 1, one in each k-th of (0, 1].

    Returns:
      [B] nats.  Kind: upper bound of -log p(x) in expectation, unbiased for every k.

    Raises:
      BadInput: no times, logits of another shape.

    Source: Shi et al., 2024, https://arxiv.org/abs/2406.04329, section 2.

    >>> from genjax.corruption.survival import linear
    >>> half = lambda tokens: jnp.zeros((*tokens.shape, 2))
    >>> bound = timed_bound(half, linear(), 2, jnp.zeros((1000, 6), jnp.int32), jax.random.key(0), 8)
    >>> bool(abs(bound.mean() - 6 * jnp.log(2.0)) < 0.1)
    True
    """
    if not k >= 1 or k != int(k):
        raise BadInput(f"k = {k} times of a bound", "allowed: whole numbers from 1")
    x = jnp.asarray(x)

    def one(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        time_key, mask_key = jax.random.split(jax.random.fold_in(key, i))
        t = (i + masking_times(time_key, len(x))) / k
        return total + continuous_loss(logits, schedule, categories, x, t, mask_key) / k, None

    with jax.default_matmul_precision("highest"):
        return jax.lax.scan(one, jnp.zeros(len(x)), jnp.arange(k))[0]


def order_log_prob(logits: Logits, categories: int, x: Array, order: Array) -> jax.Array:
    """log p_o(x), eq. 2, by D passes.

    Args:
      logits: tokens [B, D], K where masked -> [B, D, K].
      categories: K.
      x: tokens [B, D] in 0 .. K-1.
      order: [D] positions, a permutation of 0 .. D-1: the first is drawn first.

    Returns:
      [B] nats.  Kind: exact, of the model in this order.

    Raises:
      BadInput: an order of another length, logits of another shape.

    Source: Uria et al., 2014.

    >>> half = lambda tokens: jnp.zeros((*tokens.shape, 2))
    >>> nats = order_log_prob(half, 2, jnp.array([[0, 1, 1]]), jnp.array([2, 0, 1]))
    >>> round(float(nats[0] / jnp.log(2.0)), 4)
    -3.0
    """
    x, order = jnp.asarray(x), jnp.asarray(order)
    if order.shape != x.shape[1:]:
        raise BadInput(f"an order of {order.size} positions", f"allowed: a permutation of 0 .. {x.shape[1] - 1}")
    place = jnp.argsort(order)[None]  # when each token is drawn

    def one(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        nats = masked_nats(logits, categories, x, jnp.broadcast_to(place >= i, x.shape))
        return total - jnp.sum(jnp.where(place == i, nats, 0.0), axis=1), None

    with jax.default_matmul_precision("highest"):
        return jax.lax.scan(one, jnp.zeros(len(x)), jnp.arange(x.shape[1]))[0]


def over_orders(logits: Logits, categories: int, x: Array, orders: Array) -> Orders:
    """The bound and the exact -log p(x) of a model that draws in one of M orders, eq. 3, by M D passes.

    Args:
      logits: tokens [B, D], K where masked -> [B, D, K].
      categories: K.
      x: tokens [B, D] in 0 .. K-1.
      orders: [M, D], chosen without looking at x; `every_order` for the average over all.

    Returns:
      Orders.  Kind: `bound` is an upper bound of `nll`, which is exact for the ensemble of these orders.

    Raises:
      BadInput: orders of another length, logits of another shape.

    Source: Uria et al., 2014.

    >>> half = lambda tokens: jnp.zeros((*tokens.shape, 2))
    >>> found = over_orders(half, 2, jnp.array([[0, 1, 1]]), every_order(3))
    >>> [round(float(nats[0] / jnp.log(2.0)), 4) for nats in found]
    [3.0, 3.0]
    """
    each = jax.lax.map(lambda order: order_log_prob(logits, categories, x, order), jnp.asarray(orders))
    return Orders(-jnp.mean(each, axis=0), -log_mean_exp(each, axis=0))


def every_order(dims: int) -> np.ndarray:
    """All D! orders of a few tokens.

    Args:
      dims: D, 1 .. 8.

    Returns:
      [D!, D] int32.

    Raises:
      BadInput: too many tokens to list their orders.

    Source: Uria et al., 2014.

    >>> every_order(2).tolist()
    [[0, 1], [1, 0]]
    """
    if not 1 <= dims <= MOST:
        raise BadInput(f"all orders of {dims} tokens", f"allowed: 1 .. {MOST}; more: draw some, by rng.permuted")
    return np.array(list(itertools.permutations(range(dims))), np.int32)
