"""beta-TC: the rate of a VAE in three parts, of which one asks for independent latents.

With the data numbered n = 1 .. N, q(z) = 1/N sum_n q(z | n) is the aggregate posterior, and

    1/N sum_n KL(q(z | n) || p(z)) = KL(q(z, n) || q(z) p(n))            mutual information of z and the data
                                   + KL(q(z) || prod_d q(z_d))           total correlation
                                   + sum_d KL(q(z_d) || p(z_d))          dimension-wise KL                   (2)

for a prior that factorises.  beta-VAE weighs all three; beta-TC weighs the total correlation only (eq. 4).  log q(z)
needs all N posteriors and is estimated from the B of a batch, from `log_density[i, j] = log q(z_i | x_j)`:

    weighted      log 1/(N B) sum_j q(z_i | j)
    stratified    log (1/N q(z_i | i) + (N - 1)/(N (B - 1)) sum_{j != i} q(z_i | j))

z_i was drawn from the i-th posterior, which is therefore in the batch for certain.  The stratified sum gives it its
share 1/N: its mean over batches drawn without replacement is q(z_i) (its logarithm is biased downwards).  The
paper's form gives one of the others a weight of its own; averaged over which one, it is the sum above.  The weighted
sum is too low, by log B where the posteriors do not overlap and by log N where they are all alike: its level means
nothing, its gradient is what the paper trains with.

Every term is [B]; their sum is log q(z_i | x_i) - log p(z_i) whatever the estimate.  A single term may be negative.

Source: Chen, Li, Grosse and Duvenaud, Isolating Sources of Disentanglement in Variational Autoencoders, 2018, section 3
and appendix C, https://arxiv.org/abs/1802.04942.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax.distributions import event_sum, upcast
from genjax.errors import BadInput
from genjax.losses.variational import same_shape
from genjax.types import Array


class Decomposition(NamedTuple):
    """One sample's part in each term of the rate, [B] nats each."""

    mutual_information: jax.Array
    total_correlation: jax.Array
    dimension_wise: jax.Array


def minibatch_weighted(log_density: Array, rows: int) -> jax.Array:
    """log 1/(N B) sum_j q(z_i | j).  Kind: an estimate of log q(z_i), too low by log B to log N.

    Args:
      log_density: [B, B, ...] nats, log q(z_i | x_j), sample i against posterior j.
      rows: N, examples of the training set, at least B.

    Returns:
      [B, ...] nats.

    Raises:
      BadInput: other shapes, fewer rows than the batch has.

    Source: Chen et al., 2018, eq. 3.

    >>> estimate = jnp.exp(minibatch_weighted(jnp.log(jnp.array([[0.5, 0.1], [0.3, 0.5]])), 2))
    >>> [round(value, 4) for value in estimate.tolist()]
    [0.15, 0.2]
    """
    log_density = _square(log_density, rows)
    return jax.nn.logsumexp(log_density, axis=1) - math.log(rows * log_density.shape[0])


def minibatch_stratified(log_density: Array, rows: int) -> jax.Array:
    """log (1/N q(z_i | i) + (N - 1)/(N (B - 1)) sum_{j != i} q(z_i | j)).  Kind: an estimate of log q(z_i).

    For B = N it is log q(z_i) exactly.

    Args:
      log_density: [B, B, ...] nats, log q(z_i | x_j); B at least 2.
      rows: N, examples of the training set, at least B.

    Returns:
      [B, ...] nats.

    Raises:
      BadInput: other shapes, a batch of one, fewer rows than the batch has.

    Source: Chen et al., 2018, appendix C.

    >>> estimate = jnp.exp(minibatch_stratified(jnp.log(jnp.array([[0.5, 0.1], [0.3, 0.5]])), 2))
    >>> [round(value, 4) for value in estimate.tolist()]  # N = B: the mean of the row
    [0.3, 0.4]
    """
    log_density = _square(log_density, rows)
    batch = log_density.shape[0]
    if batch < 2:
        raise BadInput("a batch of 1", "allowed: at least 2 examples, own and others", "minibatch_weighted takes 1")
    own = jnp.eye(batch, dtype=bool).reshape(batch, batch, *(1,) * (log_density.ndim - 2))
    log_share = jnp.where(own, -math.log(rows), math.log((rows - 1) / (rows * (batch - 1))))
    return jax.nn.logsumexp(log_density + log_share.astype(log_density.dtype), axis=1)


def kl_decomposition(
    log_density: Array,
    log_prior: Array,
    rows: int,
    estimate: Callable[[jax.Array, int], jax.Array] = minibatch_stratified,
) -> Decomposition:
    """The three terms of eq. 2, at the samples of a batch.

    Args:
      log_density: [B, B, D] nats, log q(z_{i,d} | x_j) of every latent by itself; of normal posteriors
        `normal_log_prob` of z[:, None], mean[None] and log_var[None], broadcast to [B, B, D].
      log_prior: [B, D] nats, log p(z_{i,d}).
      rows: N, examples of the training set, at least B.
      estimate: `minibatch_stratified` or `minibatch_weighted`.

    Returns:
      Decomposition of [B] nats; its sum is log q(z_i | x_i) - log p(z_i).

    Raises:
      BadInput: other shapes, fewer rows than the batch has.

    Source: Chen et al., 2018, eq. 2.

    >>> same = jnp.zeros((4, 4, 3))  # all posteriors equal, and equal to the prior
    >>> [term.round(4).tolist()[0] for term in kl_decomposition(same, same[0], rows=100)]
    [0.0, 0.0, 0.0]
    """
    log_density, log_prior = upcast(log_density), upcast(log_prior)
    if log_density.ndim != 3 or log_prior.shape != (log_density.shape[0], log_density.shape[2]):
        raise BadInput(
            f"log_density has shape {list(log_density.shape)}, log_prior {list(log_prior.shape)}",
            "allowed: [B, B, D] and [B, D], samples by posteriors by latents",
        )
    own = jnp.sum(jnp.diagonal(log_density), axis=0)  # diagonal: [D, B]
    joint = estimate(jnp.sum(log_density, axis=2), rows)
    product = event_sum(estimate(log_density, rows))
    return Decomposition(own - joint, joint - product, product - event_sum(log_prior))


def negative_beta_tc(
    log_likelihood: Array,
    parts: Decomposition,
    beta: Array | float,
    alpha: Array | float = 1.0,
    gamma: Array | float = 1.0,
) -> jax.Array:
    """-log p(x | z) + alpha MI + beta TC + gamma dimension-wise KL: what a beta-TC-VAE minimises.

    With all weights 1 it is the negative ELBO, its rate estimated by the sample.  With other weights it is no bound of
    any one example's log p(x).

    Args:
      log_likelihood: [B] nats.
      parts: of `kl_decomposition`.
      beta, alpha, gamma: scalars >= 0.

    Returns:
      [B] nats.

    Raises:
      BadInput: shapes that differ, a negative weight.

    Source: Chen et al., 2018, eq. 4.

    >>> parts = Decomposition(jnp.array([3.0]), jnp.array([1.0]), jnp.array([2.0]))
    >>> negative_beta_tc(jnp.array([-90.0]), parts, beta=6.0).tolist()
    [101.0]
    """
    for name, weight in (("beta", beta), ("alpha", alpha), ("gamma", gamma)):
        if isinstance(weight, int | float) and not weight >= 0:
            raise BadInput(f"{name} = {weight}", "allowed: the weight of a term of the rate, at least 0")
    fit, *terms = same_shape(log_likelihood=log_likelihood, **parts._asdict())
    weights = [jnp.asarray(weight, fit.dtype) for weight in (alpha, beta, gamma)]
    return sum((weight * term for weight, term in zip(weights, terms, strict=True)), -fit)


def _square(log_density: Array, rows: int) -> jax.Array:
    log_density = upcast(log_density)
    if log_density.ndim < 2 or log_density.shape[0] != log_density.shape[1] or log_density.shape[0] < 1:
        raise BadInput(
            f"log_density has shape {list(log_density.shape)}", "allowed: [B, B, ...], samples by posteriors, B >= 1"
        )
    if rows < log_density.shape[0]:
        raise BadInput(
            f"rows = {rows}, a batch of {log_density.shape[0]}",
            "allowed: rows is the number of examples of the training set, at least the batch's",
        )
    return log_density
