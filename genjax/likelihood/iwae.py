"""Importance sampling of log p(x) with the posterior of a VAE as the proposal.

    w_i = p(x, z_i) / q(z_i | x),   z_i ~ q(z | x),   L_k = E log 1/k sum_i w_i <= log p(x)

Kind: a LOWER BOUND of log p(x) in expectation, for every k; it rises with k towards log p(x) (Burda, Grosse and
Salakhutdinov, Importance Weighted Autoencoders, 2016, eq. 8 and theorem 1, https://arxiv.org/abs/1509.00519).  One
evaluation is a random number: its mean over a test set lies below the mean of log p(x) up to its standard error.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax.distributions import event_sum, log_mean_exp, normal_log_prob, sample_normal, upcast
from genjax.errors import BadInput
from genjax.types import Array, Key


class Importance(NamedTuple):
    """What k importance samples say of each example."""

    bound: jax.Array  # [B] nats: lower bound of log p(x) in expectation
    effective: jax.Array  # [B] effective sample size (sum w)^2 / sum w^2, in [1, k]


def log_weights(log_joint: Array, log_posterior: Array) -> jax.Array:
    """log w = log p(x, z) - log q(z | x).

    Args:
      log_joint: [k, B] nats, log p(x | z) + log p(z).
      log_posterior: [k, B] nats, log q(z | x) of the same samples.

    Returns:
      [k, B] nats.

    >>> log_weights(jnp.array([[-100.0]]), jnp.array([[-10.0]])).tolist()
    [[-90.0]]
    """
    return upcast(log_joint) - upcast(log_posterior)


def normal_log_weights(
    log_likelihood: Callable[[jax.Array], jax.Array], mean: Array, log_var: Array, key: Key, k: int
) -> jax.Array:
    """log w_i of k reparameterised samples, for q(z | x) = N(mean, exp(log_var)) and the prior p(z) = N(0, 1).

    Args:
      log_likelihood: z [k, B, D] -> log p(x | z) [k, B], nats summed over pixels.
      mean, log_var: [B, D] of the posterior.
      key: the key of the samples.
      k: samples per example, at least 1.

    Returns:
      [k, B] nats, differentiable in whatever `mean`, `log_var` and `log_likelihood` depend on.

    Raises:
      BadInput: k < 1.

    >>> prior = jnp.zeros((2, 3))  # posterior = prior: every weight is the likelihood
    >>> normal_log_weights(lambda z: jnp.full((4, 2), -5.0), prior, prior, jax.random.key(0), k=4).round(2).tolist()
    [[-5.0, -5.0], [-5.0, -5.0], [-5.0, -5.0], [-5.0, -5.0]]
    """
    if k < 1:
        raise BadInput(f"k = {k}", "allowed: the number of importance samples, at least 1")
    mean, log_var = (jnp.broadcast_to(a, (k, *jnp.shape(a))) for a in (mean, log_var))
    z = sample_normal(mean, log_var, key)
    log_prior = event_sum(normal_log_prob(z, 0.0, 0.0), leading=2)
    log_posterior = event_sum(normal_log_prob(z, mean, log_var), leading=2)
    return log_weights(upcast(log_likelihood(z)) + log_prior, log_posterior)


def iwae_bound(log_weights: Array) -> jax.Array:
    """log 1/k sum_i w_i.  Kind: lower bound of log p(x) in expectation.

    Args:
      log_weights: [k, B] nats.

    Returns:
      [B] nats.

    >>> iwae_bound(jnp.array([[-90.0], [-90.0]])).tolist()
    [-90.0]
    """
    return log_mean_exp(log_weights, axis=0)


def effective_sample_size(log_weights: Array) -> jax.Array:
    """(sum_i w_i)^2 / sum_i w_i^2: how many of the k samples carry the estimate.

    Args:
      log_weights: [k, B] nats.

    Returns:
      [B] in [1, k]; near 1, the bound may lie far below log p(x).

    >>> effective_sample_size(jnp.array([[0.0, 0.0], [0.0, -200.0]])).tolist()
    [2.0, 1.0]
    """
    share = jax.nn.softmax(upcast(log_weights), axis=0)
    return 1.0 / jnp.sum(jnp.square(share), axis=0)


def importance_sampling(
    log_weight_of: Callable[[Key, int], jax.Array], key: Key, k: int, chunk: int = 50
) -> Importance:
    """The bound and the effective sample size of k samples, in the memory of `chunk` of them.

    A scan over chunks carries log sum w and log sum w^2, so that k = 5,000 costs no more memory than k = 50.

    Args:
      log_weight_of: (key, n) -> [n, B] nats: the log weights of n fresh samples, e.g. by `normal_log_weights`.
      key: chunk i of the samples uses `fold_in(key, i)`.
      k: samples per example, at least 1.
      chunk: samples at a time, at least 1; the last chunk may be smaller.

    Returns:
      Importance(bound [B], effective [B]).  Kind: lower bound of log p(x) in expectation.

    Raises:
      BadInput: k or chunk below 1.

    >>> uniform = importance_sampling(lambda key, n: jnp.full((n, 2), -3.0), jax.random.key(0), k=7, chunk=3)
    >>> [round(v, 3) for v in uniform.bound.tolist()], [round(v, 3) for v in uniform.effective.tolist()]
    ([-3.0, -3.0], [7.0, 7.0])
    """
    if k < 1 or chunk < 1:
        raise BadInput(f"k = {k}, chunk = {chunk}", "allowed: numbers of importance samples, at least 1")
    chunk = min(chunk, k)
    whole, rest = divmod(k, chunk)

    def sums(i, n):
        log_w = upcast(log_weight_of(jax.random.fold_in(key, i), n))
        return jax.nn.logsumexp(log_w, axis=0), jax.nn.logsumexp(2.0 * log_w, axis=0)

    def add(total, i):
        return jax.tree.map(jnp.logaddexp, total, sums(i, chunk)), None

    shapes = jax.eval_shape(lambda: sums(0, chunk))
    nothing = jax.tree.map(lambda a: jnp.full(a.shape, -jnp.inf, a.dtype), shapes)
    total, _ = jax.lax.scan(add, nothing, jnp.arange(whole))
    if rest:
        total = jax.tree.map(jnp.logaddexp, total, sums(whole, rest))
    return Importance(total[0] - math.log(k), jnp.exp(2.0 * total[0] - total[1]))
