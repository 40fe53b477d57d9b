"""Spearman's rank correlation: whether one number orders examples as another does.

It is the correlation of the ranks, equal values having the mean of their ranks: 1 where the orders agree, -1 where they
are reversed, near 0 for independent ones.  Its standard error here is that of Fisher's transform with the factor for
ranks, (1 + rho^2 / 2) / (n - 3), carried back: se = (1 - rho^2) sqrt((1 + rho^2 / 2) / (n - 3)).

Sources: Spearman, The Proof and Measurement of Association between Two Things, 1904, https://doi.org/10.2307/1412159;
Bonett and Wright, Sample size requirements for estimating Pearson, Kendall and Spearman correlations, 2000,
https://doi.org/10.1007/BF02294183.
"""

from typing import NamedTuple

import numpy as np

from genjax.errors import BadInput
from genjax.types import Array


class RankCorrelation(NamedTuple):
    """Spearman's rho."""

    value: float
    standard_error: float


def rank_correlation(x: Array, y: Array) -> RankCorrelation:
    """Spearman's rho of two lists of numbers.

    Args:
      x: [N], N at least 4.
      y: [N].

    Returns:
      RankCorrelation in [-1, 1]; 0 with an error of 1 / sqrt(N - 3) where one of them is constant.

    Raises:
      BadInput: other shapes, too few, numbers that are not finite.

    >>> rank_correlation([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 4.0, 9.0, 25.0, 16.0]).value
    0.9
    """
    from scipy.stats import spearmanr

    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 4:
        raise BadInput(f"numbers {list(a.shape)} and {list(b.shape)}", "allowed: both [N], N at least 4")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise BadInput("numbers that are not finite", "allowed: finite ones")
    constant = np.ptp(a) == 0 or np.ptp(b) == 0
    rho = 0.0 if constant else round(float(spearmanr(a, b).statistic), 12)
    return RankCorrelation(rho, (1.0 - rho**2) * ((1.0 + rho**2 / 2.0) / (len(a) - 3)) ** 0.5)
