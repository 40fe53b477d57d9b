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

from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from genjax.errors import BadInput
from genjax.metrics.features import checked
from genjax.metrics.neighbours import nearest_others
from genjax.types import Array


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
    from sklearn.linear_model import LogisticRegression

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
    found = LogisticRegression(C=1.0 / penalty, tol=1e-6, max_iter=1_000).fit(scaled(seen), np.repeat([0, 1], half))
    right = found.predict(scaled(new)) == np.repeat([0, 1], len(new) // 2)
    return LogisticTest(float(right.mean()), float(binom.sf(right.sum() - 1, len(right), 0.5)))


def _as_many(real: Array, fake: Array, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    real, fake = checked(real, fake, least=least)
    if len(real) != len(fake):
        raise BadInput(f"{len(real)} real rows, {len(fake)} samples", "allowed: as many of each", "leave some out")
    return real, fake
