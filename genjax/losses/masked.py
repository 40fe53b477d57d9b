r"""Masked diffusion's bound of -log p(x), by time and by the number of masked tokens: the same in two forms.

With z_t = x where a token is kept, with probability alpha_t, and the mask elsewhere, in the limit of infinitely many
steps (Shi et al., 2024, section 2; Sahoo et al., 2024, section 3.4)

    (1)  -log p(x) <= \int_0^1 -alpha'(t) / (1 - alpha(t))  E_{z_t} \sum_{d masked} -log p(x_d | z_t)  dt

Let m = 1 - alpha.  n of D tokens are masked with probability C(D, n) m^n (1 - m)^{D-n}, all sets of n equally often,
and \int_0^1 m^{n-1} (1 - m)^{D-n} dm = 1 / (n C(D, n)).  So (1) is, whatever the schedule,

    (2)  \sum_{n=1}^D  1/n  E_{sets of n} \sum_{d masked} -log p(x_d | z)
      =  D  E_{n uniform on 1 .. D} E_{sets of n} [ mean over d masked of -log p(x_d | z) ]     (Hoogeboom et al., 2022)
      =  E_{orders} \sum_i -log p(x_{order_i} | x_{order_1} .. x_{order_{i-1}})                  (Uria et al., 2014)

the expected -log p of an autoregressive model in a random order.  Also \int_0^1 C(D, n) m^n (1 - m)^{D-n} dm is
1 / (D + 1): where m is uniform and each token is masked by itself with probability m, n is uniform on 0 .. D.  So

    (3)  E_{m uniform}  E_{each masked with m}  [ (D + 1) / n  \sum_{d masked} -log p(x_d | z) ],    0 where n = 0

is (2) again, and no set of n tokens must be drawn: sorting random numbers to draw one is what a small network's update
would spend most of its time on.

By Jensen's inequality (2) bounds -log of the average over orders, which is what unmasking one token after the other in
a random order draws from (`samplers/unmasking.py`).

A network is `logits(tokens [B, D], the mask being K) -> [B, D, K]`; it need not know t, and what it says of tokens that
it sees counts for nothing.

Kind: an UPPER BOUND of -log p(x) in expectation over masks; one loss is a random number.

Sources: Hoogeboom et al., Autoregressive Diffusion Models, 2022, https://arxiv.org/abs/2110.02037; Uria, Murray and
Larochelle, A Deep and Tractable Density Estimator, 2014, https://arxiv.org/abs/1310.1757; Shi et al., 2024,
https://arxiv.org/abs/2406.04329; Sahoo et al., 2024, https://arxiv.org/abs/2406.07524.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax.corruption.discrete import absorbing, corrupt
from genjax.corruption.survival import Schedule, hazard
from genjax.corruption.times import low_discrepancy
from genjax.distributions import categorical_log_prob
from genjax.errors import BadInput
from genjax.types import Array, Key

Logits = Callable[[jax.Array], jax.Array]
"""tokens [B, D], K where masked -> [B, D, K]."""


def continuous_loss(logits: Logits, schedule: Schedule, categories: int, x: Array, t: Array, key: Key) -> jax.Array:
    """-alpha'(t) / (1 - alpha(t)) sum over masked tokens of -log p(x_d | z_t), eq. 1.

    Args:
      logits: the network.
      schedule: alpha.
      categories: K.
      x: tokens [B, D] in 0 .. K-1.
      t: [B] uniform on (0, 1]: `masking_times`.
      key: of what is masked.

    Returns:
      [B] nats.  Kind: upper bound of -log p(x) in expectation.

    Raises:
      BadInput: logits of another shape.

    >>> from genjax.corruption.survival import linear
    >>> x = jnp.zeros((1, 4), jnp.int32)
    >>> half = lambda tokens: jnp.zeros((*tokens.shape, 2))
    >>> loss = continuous_loss(half, linear(), 2, x, jnp.ones(1), jax.random.key(0))  # all masked, weight 1
    >>> round(float(loss[0] / jnp.log(2.0)), 4)
    4.0
    """
    z = corrupt(absorbing(schedule, categories), x, t, key)
    return hazard(schedule, t) * jnp.sum(masked_nats(logits, categories, x, z == categories), axis=1)


def masking_times(key: Key, n: int) -> jax.Array:
    """t uniform on (0, 1], one in each n-th of it: at t = 0 nothing is masked and the weight is infinite.

    Args:
      key: of the draw.
      n: how many.

    Returns:
      [n].

    Source: Kingma et al., 2021, https://arxiv.org/abs/2107.00630, appendix I.1.

    >>> t = masking_times(jax.random.key(0), 100)
    >>> bool(t.min() > 0) and bool(t.max() <= 1)
    True
    """
    return 1.0 - low_discrepancy(key, n)


def order_agnostic_loss(logits: Logits, categories: int, x: Array, count: Array, key: Key) -> jax.Array:
    """D times the mean of -log p(x_d | z) over n masked tokens, eq. 2.

    Args:
      logits: the network.
      categories: K.
      x: tokens [B, D] in 0 .. K-1.
      count: n [B], uniform on 1 .. D: `masked_counts`.
      key: of what is masked.

    Returns:
      [B] nats.  Kind: upper bound of -log p(x) in expectation.

    Raises:
      BadInput: logits of another shape.

    Source: Hoogeboom et al., 2022, algorithm 2.

    >>> half = lambda tokens: jnp.zeros((*tokens.shape, 2))
    >>> loss = order_agnostic_loss(half, 2, jnp.zeros((1, 4), jnp.int32), jnp.array([1]), jax.random.key(0))
    >>> round(float(loss[0] / jnp.log(2.0)), 4)  # whatever n
    4.0
    """
    return term(logits, categories, x, ranks(key, *jnp.shape(x)), count)


def independent_loss(logits: Logits, categories: int, x: Array, share: Array, key: Key) -> jax.Array:
    """(D + 1) times the mean of -log p(x_d | z) over tokens each masked by itself, 0 where none is: eq. 3.

    Args:
      logits: the network.
      categories: K.
      x: tokens [B, D] in 0 .. K-1.
      share: m [B], uniform on [0, 1): `low_discrepancy`.
      key: of what is masked.

    Returns:
      [B] nats.  Kind: upper bound of -log p(x) in expectation over m and masks; given m alone it is none.

    Raises:
      BadInput: logits of another shape.

    Source: Hoogeboom et al., 2022, algorithm 2, whose sets of n are drawn otherwise here.

    >>> half = lambda tokens: jnp.zeros((*tokens.shape, 2))
    >>> loss = independent_loss(half, 2, jnp.zeros((2, 4), jnp.int32), jnp.array([0.0, 1.0]), jax.random.key(0))
    >>> [round(float(nats / jnp.log(2.0)), 4) for nats in loss]  # none is masked; all are
    [0.0, 5.0]
    """
    masked = jax.random.uniform(key, jnp.shape(x)) < jnp.asarray(share)[:, None]
    nats = jnp.sum(masked_nats(logits, categories, x, masked), axis=1)
    return nats * (jnp.shape(x)[1] + 1) / jnp.maximum(jnp.sum(masked, axis=1), 1)


def term(logits: Logits, categories: int, x: Array, rank: Array, count: Array) -> jax.Array:
    """One term of eq. 2, D / n times the sum over the n tokens of lowest rank, which are masked.

    Args:
      logits: the network.
      categories: K.
      x: tokens [B, D].
      rank: [B, D], a permutation of 0 .. D-1 in each row: `ranks`.
      count: n [B] in 1 .. D.

    Returns:
      [B] nats.

    Source: Hoogeboom et al., 2022, section 3.

    >>> sure = lambda tokens: jnp.full((*tokens.shape, 2), jnp.array([0.0, -90.0])[None, None])
    >>> term(sure, 2, jnp.array([[0, 1]]), jnp.array([[1, 0]]), jnp.array([1])).tolist()  # the second is masked
    [180.0]
    """
    masked = jnp.asarray(rank) < jnp.asarray(count)[:, None]
    nats = jnp.sum(masked_nats(logits, categories, x, masked), axis=1)
    return nats * (jnp.shape(x)[1] / jnp.asarray(count, nats.dtype))


def masked_counts(key: Key, rows: int, dims: int) -> jax.Array:
    """n uniform on 1 .. D, spread evenly over the rows of a batch.

    Args:
      key: of the draw.
      rows: B.
      dims: D.

    Returns:
      [B] int32.

    >>> sorted(masked_counts(jax.random.key(0), 4, 4).tolist())
    [1, 2, 3, 4]
    """
    return jnp.clip((low_discrepancy(key, rows) * dims).astype(jnp.int32), 0, dims - 1) + 1


def ranks(key: Key, rows: int, dims: int) -> jax.Array:
    """A random permutation of 0 .. D-1 in every row: the n lowest ranks are a set of n tokens, all equally likely.

    Args:
      key: of the draw.
      rows: B.
      dims: D.

    Returns:
      [B, D] int32.

    >>> ranks(jax.random.key(0), 2, 5).sum(axis=1).tolist()
    [10, 10]
    """
    return jnp.argsort(jax.random.uniform(key, (rows, dims)), axis=1).astype(jnp.int32)


def masked_nats(logits: Logits, categories: int, x: Array, masked: Array) -> jax.Array:
    """-log p(x_d | the tokens that are not masked) of those that are.

    Args:
      logits: the network.
      categories: K.
      x: tokens [B, D] in 0 .. K-1.
      masked: [B, D] booleans.

    Returns:
      [B, D] nats; 0 where nothing is masked, NaN where what is masked is no token of 0 .. K-1.

    Raises:
      BadInput: logits of another shape; tokens that are no integers.

    Source: Hoogeboom et al., 2022, section 3.

    >>> half = lambda tokens: jnp.zeros((*tokens.shape, 2))
    >>> nats = masked_nats(half, 2, jnp.array([[0, 1]]), jnp.array([[True, False]]))
    >>> [round(float(n), 4) for n in nats[0]]
    [0.6931, 0.0]
    """
    x = jnp.asarray(x)
    if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
        raise BadInput(f"tokens {list(x.shape)} of {x.dtype}", "allowed: [B, D] integers")
    found = logits(jnp.where(masked, categories, x))
    if found.shape != (*x.shape, categories):
        raise BadInput(
            f"the network's logits are {list(found.shape)} for tokens {list(x.shape)}",
            f"allowed: {[*x.shape, categories]}: of each token its {categories} categories, the mask left out",
        )
    known = (x >= 0) & (x < categories)
    return jnp.where(masked, jnp.where(known, -categorical_log_prob(x, found), jnp.nan), 0.0)
