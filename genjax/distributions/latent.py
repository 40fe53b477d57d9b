"""Distributions of latent vectors, as functions bound to their parameters: priors, posteriors, layers of a hierarchy.

A `Distribution` is three functions of one law.  Its parameters may carry axes of a batch, and the samples stand before
them: of a posterior with mean [B, D], `sample(key, k)` is [k, B, D]; of a prior with mean [D], `sample(key, n)` is
[n, D], and its `log_prob` takes the posterior's [k, B, D] as well.

A path is one draw of every layer of a hierarchy, each given those before it, in whatever order the layers are drawn:

    q(z | x) = q(z_1 | x) q(z_2 | x, z_1) ...          p(z) = p(z_1) p(z_2 | z_1) ...
    log w = log p(x | z) + sum_l log p(z_l | ...) - log q(z_l | ...)

A layer is then a function of the layers before it that returns a Distribution.  Keeping the terms of the layers apart
gives the rate of each: log q - log p, whose mean over q is its share of the divergence.  In a top-down model both
orders are the same, and the share of a layer is the mean of KL(q(z_l | x, above) || p(z_l | above)), never negative;
in a bottom-up one only the sum is a divergence.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax.distributions.arrays import event_sum, log_mean_exp, upcast
from genjax.distributions.discrete import bernoulli_log_prob, sample_bernoulli, sample_categorical
from genjax.distributions.normal import normal_log_prob, sample_normal
from genjax.errors import BadInput
from genjax.types import Array, Key


class Distribution(NamedTuple):
    """A law of vectors of D numbers."""

    sample: Callable[..., jax.Array]  # (key, *leading) -> z [*leading, *batch, D], reparameterised where it is normal
    log_prob: Callable[[Array], jax.Array]  # z [..., *batch, D] -> [..., *batch] nats
    draw: Callable[..., tuple[jax.Array, jax.Array]]  # (key, *leading) -> (z, log_prob(z)), at the price of one


Layer = Callable[..., Distribution]
"""(*the latents of the layers before) -> the law of this layer."""


def distribution(sample: Callable[..., jax.Array], log_prob: Callable[[Array], jax.Array]) -> Distribution:
    """A law whose density of a sample is had by asking for it.

    Args:
      sample, log_prob: as in `Distribution`.

    Returns:
      The two, and a `draw` made of them.

    >>> point = distribution(lambda key, *leading: jnp.ones((*leading, 1)), lambda z: z[..., 0] - 1.0)
    >>> [part.tolist() for part in point.draw(jax.random.key(0), 2)]
    [[[1.0], [1.0]], [0.0, 0.0]]
    """

    def draw(key: Key, *leading: int) -> tuple[jax.Array, jax.Array]:
        z = sample(key, *leading)
        return z, log_prob(z)

    return Distribution(sample, log_prob, draw)


def diagonal_normal(mean: Array, log_var: Array) -> Distribution:
    """Independent normal numbers, N(mean, exp(log_var)).

    Args:
      mean, log_var: [*batch, D].

    Returns:
      Its samples are mean + exp(log_var / 2) eps, differentiable in both.

    >>> law = diagonal_normal(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    >>> law.sample(jax.random.key(0), 5).shape, law.log_prob(jnp.zeros((5, 2, 3))).shape
    ((5, 2, 3), (5, 2))
    """
    mean, log_var = jnp.asarray(mean), jnp.asarray(log_var)

    def sample(key: Key, *leading: int) -> jax.Array:
        shape = (*leading, *mean.shape)
        return sample_normal(jnp.broadcast_to(mean, shape), jnp.broadcast_to(log_var, shape), key)

    def log_prob(z: Array) -> jax.Array:
        values = normal_log_prob(z, jnp.broadcast_to(mean, z.shape), jnp.broadcast_to(log_var, z.shape))
        return event_sum(values, leading=z.ndim - 1)

    return distribution(sample, log_prob)


def standard_normal(dims: int) -> Distribution:
    """N(0, 1) in D dimensions: the usual prior.

    Args:
      dims: D.

    Returns:
      The law, without axes of a batch.

    >>> round(float(standard_normal(2).log_prob(jnp.zeros(2))), 4)  # -log 2 pi
    -1.8379
    """
    return diagonal_normal(jnp.zeros(dims), jnp.zeros(dims))


def independent_bernoulli(logits: Array) -> Distribution:
    """Independent bits; no gradient passes through their samples.

    Args:
      logits: [*batch, D], log-odds of 1.

    Returns:
      The law of zeros and ones.

    >>> round(float(independent_bernoulli(jnp.zeros(3)).log_prob(jnp.ones(3))), 4)  # -3 log 2
    -2.0794
    """
    logits = jnp.asarray(logits)

    def sample(key: Key, *leading: int) -> jax.Array:
        return sample_bernoulli(jnp.broadcast_to(logits, (*leading, *logits.shape)), key)

    def log_prob(z: Array) -> jax.Array:
        return event_sum(bernoulli_log_prob(z, jnp.broadcast_to(logits, z.shape)), leading=z.ndim - 1)

    return distribution(sample, log_prob)


def normal_mixture(mean: Array, log_var: Array) -> Distribution:
    """1/K sum_k N(mean_k, exp(log_var_k)).

    Args:
      mean, log_var: [K, D].

    Returns:
      The law, without axes of a batch; no gradient passes through the choice of a component.

    Raises:
      BadInput: anything but two [K, D] with K >= 1.

    >>> mixture = normal_mixture(jnp.array([[-1.0], [1.0]]), jnp.zeros((2, 1)))
    >>> round(float(mixture.log_prob(jnp.zeros(1))), 4)  # -1/2 log 2 pi - 1/2
    -1.4189
    """
    mean, log_var = jnp.asarray(mean), jnp.asarray(log_var)
    if mean.ndim != 2 or mean.shape != log_var.shape or len(mean) < 1:
        raise BadInput(
            f"components: mean {list(mean.shape)}, log_var {list(log_var.shape)}",
            "allowed: one shape [K, D] for both, K components of D dimensions, K at least 1",
        )

    def sample(key: Key, *leading: int) -> jax.Array:
        choice_key, normal_key = jax.random.split(key)
        chosen = sample_categorical(jnp.zeros((*leading, len(mean))), choice_key)
        return sample_normal(mean[chosen], log_var[chosen], normal_key)

    return distribution(sample, lambda z: log_mean_exp(component_log_probs(z, mean, log_var), axis=-1))


def component_log_probs(z: Array, mean: Array, log_var: Array) -> jax.Array:
    """log N(z; mean_k, exp(log_var_k)) of every component, by one matrix product.

    (z - m)^2 / v, summed over dimensions, is z^2 . (1 / v) - 2 z . (m / v) + m^2 . (1 / v): K numbers a row instead of
    K D.  The three sums nearly cancel where z is near m; in float32 the result is wrong by about 1e-7 times the sum of
    z^2 / v, after both are centred at the mean of the m_k: 1e-3 nats where variances and the spread of the m_k are
    around 1, and some hundredths where variances of exp(-6) meet means 3 apart.

    Args:
      z: [..., D].
      mean, log_var: [K, D].

    Returns:
      [..., K] nats.

    >>> both = component_log_probs(jnp.zeros((1, 2)), jnp.array([[0.0, 0.0], [3.0, 4.0]]), jnp.zeros((2, 2)))
    >>> [round(float(one), 3) for one in both[0]]
    [-1.838, -14.338]
    """
    z, mean, log_var = upcast(z), upcast(mean), upcast(log_var)
    centre = jax.lax.stop_gradient(jnp.mean(mean, axis=0, keepdims=True))
    rows, mean, precision = z.reshape(-1, z.shape[-1]) - centre, mean - centre, jnp.exp(-log_var)
    left = jnp.concatenate([jnp.square(rows), -2.0 * rows], axis=1)
    right = jnp.concatenate([precision, mean * precision], axis=1)
    squares = jnp.matmul(left, right.T, precision=jax.lax.Precision.HIGHEST)
    constant = jnp.sum(normal_log_prob(mean, jnp.zeros_like(mean), log_var), axis=1)
    return (constant.reshape(1, -1) - 0.5 * squares).reshape(*z.shape[:-1], -1)


def draw_path(layers: Sequence[Layer], key: Key, *leading: int) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """One draw of every layer in turn, each given those before it.

    Args:
      layers: in the order in which they are drawn.
      key: layer i uses fold_in(key, i).
      leading: axes of samples, which the first layer brings and the others inherit.

    Returns:
      (latents, log-probabilities): z_l [*leading, *batch, D_l] and [*leading, *batch] nats of each layer.

    >>> walk = [lambda: standard_normal(2), lambda z: diagonal_normal(z, jnp.zeros_like(z))]
    >>> latents, log_probs = draw_path(walk, jax.random.key(0), 7)
    >>> [z.shape for z in latents], [log_prob.shape for log_prob in log_probs]
    ([(7, 2), (7, 2)], [(7,), (7,)])
    """
    latents: tuple[jax.Array, ...] = ()
    log_probs: tuple[jax.Array, ...] = ()
    for number, layer in enumerate(layers):
        z, log_prob = layer(*latents).draw(jax.random.fold_in(key, number), *(() if latents else leading))
        latents, log_probs = (*latents, z), (*log_probs, log_prob)
    return latents, log_probs


def path_log_probs(layers: Sequence[Layer], latents: Sequence[Array]) -> tuple[jax.Array, ...]:
    """The log-probability of each layer of a path that is given.

    Args:
      layers: in the order in which they are drawn.
      latents: of each layer in that order, [*leading, *batch, D_l].  A model that generates in the opposite order takes
        `latents[::-1]`, and its result stands in that order too.

    Returns:
      [*leading, *batch] nats of each layer; their sum is that of the path.

    >>> walk = [lambda: standard_normal(1), lambda z: diagonal_normal(z, jnp.zeros_like(z))]
    >>> [round(float(part), 3) for part in path_log_probs(walk, [jnp.ones(1), jnp.ones(1)])]
    [-1.419, -0.919]
    """
    if len(layers) != len(latents):
        raise BadInput(f"{len(latents)} latents for {len(layers)} layers", "allowed: one array of latents a layer")
    return tuple(layer(*latents[:i]).log_prob(z) for i, (layer, z) in enumerate(zip(layers, latents, strict=True)))
