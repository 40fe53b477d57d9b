r"""Classifier two-sample tests: whether a classifier tells samples from data better than by chance.

Where both sets come from one law no classifier is right more often than half the time on rows that it has not seen.
Two classifiers, on features:

    nearest neighbour  each row has the label of its nearest other row, of both sets together
    logistic           fitted on half of the rows, with a ridge penalty, right or wrong on the other half

The accuracy of the first over real rows and over samples says more than their mean: samples that are copies have
samples or their originals nearest; below 1/2 for both is a sign of copying, where each has its copy of the other kind
nearest.  Its rows are not independent; but under the hypothesis the labels are in random order over the rows, so the
share of all orders that are as accurate, of which some are drawn, is a p-value, exactly.  The logistic classifier's
answers on n rows that it was not fitted on are independent, and the number of right ones, balanced as the sets are, is
no more spread than a binomial one of n and 1/2.

Sources: Lopez-Paz and Oquab, Revisiting Classifier Two-Sample Tests, 2017, https://arxiv.org/abs/1610.06545; Xu et al.,
An empirical study on evaluation metrics of generative adversarial networks, 2018, section 3,
https://arxiv.org/abs/1806.07755; Schilling, Multivariate two-sample tests based on nearest neighbors, 1986,
https://doi.org/10.1080/01621459.1986.10478337; Hoeffding, On the distribution of the number of successes in independent
trials, 1956 (the spread).
"""

import math
from typing import NamedTuple

import numpy as np

from genjax.errors import BadInput
from genjax.metrics.features import checked
from genjax.metrics.neighbours import nearest_others
from genjax.types import Array

NEWTON = 30  # steps at most


class NeighbourTest(NamedTuple):
    """Leave-one-out accuracies of the nearest neighbour."""

    accuracy: float  # 1/2: not told apart
    real: float  # over real rows
    fake: float  # over samples
    p_value: float  # of an accuracy as large, if both sets had one law


class LogisticTest(NamedTuple):
    """Accuracy of a logistic classifier on rows that it was not fitted on."""

    accuracy: float
    p_value: float


def neighbour_test(real: Array, fake: Array, rng: np.random.Generator, orders: int = 999) -> NeighbourTest:
    """The test by nearest neighbours.

    Args:
      real, fake: [N, F], as many of each.
      rng: of the orders.
      orders: of the labels that are drawn for the p-value, whose smallest value is 1 / (orders + 1).

    Returns:
      NeighbourTest.

    Raises:
      BadInput: sets that cannot be compared, of different size.

    Source: Xu et al., 2018, section 3; Schilling, 1986, for the test.

    >>> x = np.random.default_rng(0).normal(size=(2, 50, 3))
    >>> found = neighbour_test(x[0], x[1] + 9.0, np.random.default_rng(1))
    >>> found.accuracy, found.p_value
    (1.0, 0.001)
    """
    real, fake = _as_many(real, fake)
    neighbour = nearest_others(np.concatenate([real, fake])).index[:, 0]
    label = np.repeat([False, True], len(real))
    right = label[neighbour] == label
    count, as_good = int(right.sum()), 0
    for _ in range(orders):
        drawn = rng.permutation(label)
        as_good += int(np.count_nonzero(drawn[neighbour] == drawn) >= count)
    ours, theirs = (float(part.mean()) for part in np.split(right, 2))
    return NeighbourTest(count / len(label), ours, theirs, (1 + as_good) / (1 + orders))


def logistic_test(real: Array, fake: Array, rng: np.random.Generator, penalty: float = 1.0) -> LogisticTest:
    """The test by a logistic classifier.

    Args:
      real, fake: [N, F], as many of each, at least 4.
      rng: divides both sets into halves.
      penalty: weight of |w|^2 / 2 beside the sum of the rows' nats; features are brought to variance 1 first.

    Returns:
      LogisticTest.

    Raises:
      BadInput: sets that cannot be compared, of different size, a penalty that is not positive.

    Source: Lopez-Paz and Oquab, 2017, section 3.

    >>> x = np.random.default_rng(0).normal(size=(2, 100, 3))
    >>> logistic_test(x[0], x[1] + 3.0, np.random.default_rng(1)).p_value < 1e-6
    True
    """
    real, fake = _as_many(real, fake, least=4)
    if not penalty > 0:
        raise BadInput(f"penalty = {penalty}", "allowed: a positive number")
    half, orders = len(real) // 2, [rng.permutation(len(real)) for _ in range(2)]
    seen, new = (
        np.concatenate([part[order[rows]] for part, order in zip((real, fake), orders, strict=True)])
        for rows in (slice(half), slice(half, None))
    )
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)
    scaled = lambda rows: (rows - mean) / np.where(deviation > 0, deviation, 1.0)
    weights, bias = logistic_fit(scaled(seen), np.repeat([0.0, 1.0], half), penalty)
    right = (scaled(new) @ weights + bias > 0) == np.repeat([False, True], len(new) // 2)
    return LogisticTest(float(right.mean()), binomial_tail(int(right.sum()), len(right)))


def logistic_fit(features: Array, label: Array, penalty: float = 1.0) -> tuple[np.ndarray, float]:
    """The minimum of sum_i [log(1 + exp(l_i)) - y_i l_i] + penalty |w|^2 / 2, l_i = w x_i + b, by Newton's method.

    Args:
      features: x, [N, F].
      label: y, [N], 0 or 1, both among them.
      penalty: > 0; the bias has none.

    Returns:
      w [F] and b.

    Raises:
      BadInput: features that are not [N, F] or not finite.

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2009, section 4.4.1.

    >>> w, b = logistic_fit([[-1.0], [1.0]], [0, 1])  # w (1 + exp(w)) = 2
    >>> round(float(w[0]), 4), abs(round(b, 4))
    (0.6748, 0.0)
    """
    (x,), y = checked(features), np.asarray(label, np.float64)
    x = np.column_stack([x, np.ones(len(x))])
    ridge = penalty * np.append(np.ones(x.shape[1] - 1), 0.0)
    nats = lambda w: np.sum(np.logaddexp(0.0, x @ w) - y * (x @ w)) + 0.5 * ridge @ np.square(w)
    w = np.zeros(x.shape[1])
    for _ in range(NEWTON):
        share = 0.5 * (1.0 + np.tanh(0.5 * (x @ w)))
        gradient = x.T @ (share - y) + ridge * w
        curvature = (x.T * (share * (1.0 - share))) @ x + np.diag(ridge + 1e-10)
        step, size, before = np.linalg.solve(curvature, gradient), 1.0, nats(w)
        while nats(w - size * step) > before - 1e-4 * size * (gradient @ step) and size > 1e-8:
            size /= 2.0  # a whole step may go too far where the classes hardly overlap
        w = w - size * step
        if gradient @ step < 1e-12 * max(1.0, before):
            break
    return w[:-1], float(w[-1])


def binomial_tail(successes: int, trials: int) -> float:
    """P(X >= successes) of X binomial with probability 1/2.

    Args:
      successes: 0 to `trials`.
      trials: at least 1.

    Returns:
      A probability.  Kind: exact.

    Raises:
      BadInput: numbers out of range.

    >>> binomial_tail(2, 3), binomial_tail(0, 5)
    (0.5, 1.0)
    """
    if not 0 <= successes <= trials or trials < 1:
        raise BadInput(f"{successes} of {trials}", "allowed: 0 to the number of trials, which is at least 1")
    logs = np.append(0.0, np.cumsum(np.log(np.arange(1, trials + 1))))  # log n!
    k = np.arange(successes, trials + 1)
    return min(1.0, float(np.exp(logs[trials] - logs[k] - logs[trials - k] - trials * math.log(2.0)).sum()))


def _as_many(real: Array, fake: Array, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    real, fake = checked(real, fake, least=least)
    if len(real) != len(fake):
        raise BadInput(f"{len(real)} real rows, {len(fake)} samples", "allowed: as many of each", "leave some out")
    return real, fake
