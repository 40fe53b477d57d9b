"""Bernoulli and categorical variables, given by logits."""

import jax
import jax.numpy as jnp

from genjax.distributions.arrays import upcast
from genjax.distributions.words import random_words
from genjax.types import Array, Key


def bernoulli_log_prob(x: Array, logits: Array) -> jax.Array:
    """x log s(l) + (1 - x) log s(-l) = x l - log(1 + exp(l)), s the logistic function, l the logits.

    A log-probability for x in {0, 1} only.  For x between 0 and 1 the same formula is a cross-entropy, and its
    exponentials over the levels of x do not sum to 1.

    Args:
      x: [...] 0 or 1.
      logits: [...] log-odds of 1, any real number.

    Returns:
      [...] nats per element, <= 0.

    >>> round(float(bernoulli_log_prob(1.0, 0.0)), 4)
    -0.6931
    """
    x, logits = upcast(x), upcast(logits)
    # x l - max(l, 0) is exact for binary x, so that nothing cancels where the probability is near 1.  Both branches
    # take the same side at l = 0, where maximum and abs would give a wrong gradient: a decoder may start at zero.
    positive = logits >= 0.0
    tail = jnp.log1p(jnp.exp(jnp.where(positive, -logits, logits)))
    return (x * logits - jnp.where(positive, logits, 0.0)) - tail


def kl_bernoulli(logits_q: Array, logits_p: Array) -> jax.Array:
    """KL between Bernoulli variables of probability q and p: q log(q/p) + (1-q) log((1-q)/(1-p)).

    Args:
      logits_q, logits_p: [...] finite log-odds, one shape, or scalars.

    Returns:
      [...] nats per element, >= 0.

    >>> round(float(kl_bernoulli(0.0, 1.0986123)), 4)  # log 3: 1/2 log(2/3) + 1/2 log 2
    0.1438
    """
    logits_q, logits_p = upcast(logits_q), upcast(logits_p)
    q = jax.nn.sigmoid(logits_q)
    positive = jax.nn.log_sigmoid(logits_q) - jax.nn.log_sigmoid(logits_p)
    negative = jax.nn.log_sigmoid(-logits_q) - jax.nn.log_sigmoid(-logits_p)
    return q * positive + jax.nn.sigmoid(-logits_q) * negative


def sample_bernoulli(logits: Array, key: Key) -> jax.Array:
    """0 or 1 with log-odds `logits`.

    Args:
      logits: [...] log-odds of 1.
      key: the key of the sample.

    Returns:
      [...] zeros and ones in the dtype of `logits`.

    >>> sample_bernoulli(jnp.array([-200.0, 200.0]), jax.random.key(0)).tolist()
    [0.0, 1.0]
    """
    logits = jnp.asarray(logits)
    uniform = (random_words(key, logits.shape) >> 8).astype(jnp.float32) * 2.0**-24  # smaller p count as 2^-24
    return (uniform < jax.nn.sigmoid(upcast(logits))).astype(logits.dtype)


def categorical_log_prob(level: Array, logits: Array) -> jax.Array:
    """l_level - log sum_j exp(l_j): the log-probability of one of K categories.

    Args:
      level: [...] integers in 0 .. K-1.
      logits: [..., K].

    Returns:
      [...] nats per element, <= 0.

    >>> round(float(categorical_log_prob(jnp.array(1), jnp.zeros(4))), 4)  # -log 4
    -1.3863
    """
    log_probs = jax.nn.log_softmax(upcast(logits), axis=-1)
    category = jax.lax.broadcasted_iota(jnp.int32, log_probs.shape, log_probs.ndim - 1)
    chosen = category == jnp.asarray(level, jnp.int32)[..., None]  # a gather's gradient is a scatter, which is slow
    return jnp.sum(jnp.where(chosen, log_probs, 0.0), axis=-1)


def kl_categorical(logits_q: Array, logits_p: Array) -> jax.Array:
    """KL between two categorical variables: sum_j q_j (log q_j - log p_j).

    Args:
      logits_q, logits_p: [..., K] finite, one shape.

    Returns:
      [...] nats, >= 0.

    >>> round(float(kl_categorical(jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.75, 0.25])))), 4)
    0.1438
    """
    log_q = jax.nn.log_softmax(upcast(logits_q), axis=-1)
    log_p = jax.nn.log_softmax(upcast(logits_p), axis=-1)
    return jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)


def sample_categorical(logits: Array, key: Key) -> jax.Array:
    """One of K categories with probability proportional to exp(logits).

    Args:
      logits: [..., K].
      key: the key of the sample.

    Returns:
      [...] int32 in 0 .. K-1.

    >>> int(sample_categorical(jnp.array([-200.0, 0.0, -200.0]), jax.random.key(0)))
    1
    """
    return jax.random.categorical(key, upcast(logits), axis=-1).astype(jnp.int32)
