r"""Losses of classifiers that learn from unlabelled examples too.

x has one of K classes; p(y | x) = softmax of the logits l(x).

FixMatch, and pseudo-labels.  What the network says of a weakly changed example is the label of the strongly changed
one, if it is sure enough (Sohn et al., 2020, equation 4; Lee, 2013, without a threshold, with a growing weight):

    1[max_y q(y) >= tau] * -log p(argmax_y q(y) | A(x)),    q = p(. | a(x)), no gradient through q              (1)

Mean teacher.  The network agrees with one whose parameters are the moving average of its own (Tarvainen and Valpola,
2017): sum_y (p'(y | x') - p(y | x))^2 / K, no gradient through the teacher p'.                                 (2)

K + 1 classes.  A critic's class K + 1, whose logit is 0, is "drawn by the generator".  With Z(x) = sum_y exp l_y(x),

    D = Z / (Z + 1):   real, unlabelled  -log D = softplus(-log Z),    drawn  -log(1 - D) = softplus(log Z)       (3)

(Salimans et al., 2016, section 5), beside the usual cross-entropy of K classes where the label is known.

M2.  A model p(x, y) with a bound L(x, y) <= log p(x, y), and a classifier q(y | x) (Kingma et al., 2014, equation 7):

    log p(x) >= sum_y q(y | x) [L(x, y) - log q(y | x)]                                                          (4)

with equality of the inner sum to log sum_y exp L(x, y) where q is proportional to exp L(x, .), which is also how a
generative model classifies: p(y | x) by Bayes' rule.                                                            (5)

Ladder.  A network with noise in its layers l of m_l units guesses z^(l) of what they would be without, z(l), which is
normalised by the mean mu(l) and deviation s(l) that a batch has there; the guess is normalised by the same numbers:

    C(l) = |z(l) - (z^(l) - mu(l)) / s(l)|^2 / m_l,    loss = -log p(y | x~) + sum_l lambda_l C(l)                (6)

(Rasmus et al., 2015, algorithm 1).  The gradient goes through z(l) too, which cannot collapse to a
constant, because its variance is 1.  A cost of 1 is that of a guess which says nothing.

Sources: Lee, Pseudo-Label, 2013; Kingma et al., Semi-supervised Learning with Deep Generative Models, 2014,
https://arxiv.org/abs/1406.5298; Rasmus et al., Semi-Supervised Learning with Ladder Networks, 2015,
https://arxiv.org/abs/1507.02672; Salimans et al., Improved Techniques for Training GANs, 2016,
https://arxiv.org/abs/1606.03498; Laine and Aila, Temporal Ensembling, 2017, https://arxiv.org/abs/1610.02242;
Tarvainen and Valpola, Mean Teachers, 2017, https://arxiv.org/abs/1703.01780; Sohn et al., FixMatch, 2020,
https://arxiv.org/abs/2001.07685.
"""

import jax
import jax.numpy as jnp

from genjax.distributions import categorical_log_prob, softplus, upcast
from genjax.errors import BadInput
from genjax.types import Array


def own_label(teacher: Array, student: Array, threshold: float = 0.95) -> jax.Array:
    """Cross-entropy with the network's own surest label, zero where it is not sure: (1).

    Args:
      teacher: logits of weakly changed examples [B, K]; constants here.
      student: logits of the same, changed strongly, [B, K].
      threshold: tau in [0, 1]; 0 takes every label.

    Returns:
      [B] nats.

    Raises:
      BadInput: other shapes, a threshold outside [0, 1].

    >>> sure = jnp.array([[9.0, 0.0], [0.1, 0.0]])
    >>> [round(v, 4) for v in own_label(sure, jnp.zeros((2, 2))).tolist()]  # the second is not sure
    [0.6931, 0.0]
    """
    teacher, student = _pair(teacher, student)
    if not 0 <= threshold <= 1:
        raise BadInput(f"threshold = {threshold}", "allowed: 0 to 1")
    q = jax.nn.softmax(jax.lax.stop_gradient(teacher))
    cost = -categorical_log_prob(jnp.argmax(q, axis=-1), student)
    return jnp.where(jnp.max(q, axis=-1) >= threshold, cost, 0.0)


def agreement(teacher: Array, student: Array) -> jax.Array:
    """Mean squared difference of two sets of probabilities: (2).

    Args:
      teacher: logits [B, K]; constants here.
      student: logits [B, K].

    Returns:
      [B], in [0, 2 / K].

    Raises:
      BadInput: other shapes.

    >>> [round(v, 4) for v in agreement(jnp.array([[50.0, 0.0]]), jnp.array([[0.0, 50.0]])).tolist()]
    [1.0]
    """
    teacher, student = _pair(teacher, student)
    gap = jax.nn.softmax(student) - jax.nn.softmax(jax.lax.stop_gradient(teacher))
    return jnp.mean(jnp.square(gap), axis=-1)


def ramp_up(step: Array, length: float) -> jax.Array:
    """exp(-5 (1 - t)^2), t from 0 to 1 in `length` steps, then 1: the weight of a loss that trusts the network.

    Args:
      step: the update's number.
      length: in steps, above 0.

    Returns:
      Scalar in [exp(-5), 1].

    Raises:
      BadInput: a length that is not above 0.

    Source: Laine and Aila, 2017, section 3.

    >>> round(float(ramp_up(0, 10.0)), 4), float(ramp_up(10, 10.0))
    (0.0067, 1.0)
    """
    if not length > 0:
        raise BadInput(f"length = {length}", "allowed: above 0")
    left = 1.0 - jnp.clip(jnp.asarray(step) / length, 0.0, 1.0)
    return jnp.exp(-5.0 * jnp.square(left))


def real_unlabelled(logits: Array) -> jax.Array:
    """-log D(x) of a critic of K + 1 classes, the last one's logit being 0: (3).

    Args:
      logits: [B, K].

    Returns:
      [B] nats.

    >>> float(real_unlabelled(jnp.zeros((1, 1)))[0]) == float(jnp.log(2.0))
    True
    """
    z = jax.nn.logsumexp(upcast(logits), axis=-1)
    return softplus(-z)


def drawn(logits: Array) -> jax.Array:
    """-log(1 - D(x)) of a critic of K + 1 classes: (3).

    Args:
      logits: of what a generator drew, [B, K].

    Returns:
      [B] nats.

    >>> round(float(drawn(jnp.zeros((1, 3)))[0]), 4)  # log 4
    1.3863
    """
    return softplus(jax.nn.logsumexp(upcast(logits), axis=-1))


def marginal_bound(log_joint: Array, logits: Array) -> jax.Array:
    """The bound of log p(x) from bounds of log p(x, y), for an example without label: (4).

    Args:
      log_joint: L(x, y) of every class, [B, K] nats.
      logits: of q(y | x), [B, K].

    Returns:
      [B] nats; a lower bound of log p(x) where each L is one of log p(x, y).

    Raises:
      BadInput: other shapes.

    >>> joint = jnp.log(jnp.array([[0.1, 0.3]]))
    >>> round(float(jnp.exp(marginal_bound(joint, joint))[0]), 4)  # q is the posterior: p(x) itself
    0.4
    """
    joint, logits = _pair(log_joint, logits)
    log_q = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_q) * (joint - log_q), axis=-1)


def log_posterior(log_likelihood: Array, log_prior: Array) -> jax.Array:
    """log p(y | x) by Bayes' rule: (5).

    Args:
      log_likelihood: log p(x | y) of every class [B, K] nats; of bounds the result is an estimate.
      log_prior: log P(y) [K].

    Returns:
      [B, K] nats.

    Raises:
      BadInput: other shapes.

    >>> jnp.exp(log_posterior(jnp.log(jnp.array([[0.2, 0.6]])), jnp.log(jnp.array([0.5, 0.5])))).round(2).tolist()
    [[0.25, 0.75]]
    """
    fit, prior = upcast(log_likelihood), upcast(log_prior)
    if fit.ndim != 2 or prior.shape != fit.shape[1:]:
        raise BadInput(f"log p(x | y) {list(fit.shape)}, prior {list(prior.shape)}", "allowed: [B, K] and [K]")
    return jax.nn.log_softmax(fit + prior[None], axis=-1)


def denoising_cost(z: Array, guess: Array, mean: Array | float = 0.0, deviation: Array | float = 1.0) -> jax.Array:
    """C(l), the mean squared error of a layer's guess: (6).

    Args:
      z: z(l) of the clean pass, normalised, [B, m].
      guess: z^(l) [B, m], on the scale of what was normalised.
      mean: mu(l) [m]; 0 of the input, which is not normalised.
      deviation: s(l) [m], above 0; 1 of the input.

    Returns:
      [B], >= 0.

    Raises:
      BadInput: other shapes.

    >>> denoising_cost(jnp.array([[1.0, 0.0]]), jnp.array([[7.0, 9.0]]), jnp.array([5.0, 5.0]), 2.0).tolist()
    [2.0]
    """
    z, guess = _pair(z, guess)
    mean, deviation = (jnp.broadcast_to(upcast(part), z.shape[1:])[None] for part in (mean, deviation))
    return jnp.mean(jnp.square(z - (guess - mean) / deviation), axis=-1)


def _pair(first: Array, second: Array) -> tuple[jax.Array, jax.Array]:
    first, second = upcast(first), upcast(second)
    if first.ndim != 2 or first.shape != second.shape:
        raise BadInput(f"shapes {list(first.shape)} and {list(second.shape)}", "allowed: both [B, K]")
    return first, second
