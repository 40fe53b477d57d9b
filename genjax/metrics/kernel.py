r"""The kernel distance of two sets of features: an unbiased estimate of a squared maximum mean discrepancy.

With k(x, y) = (x y / F + 1)^3 on features of F dimensions, over m of each set,

    MMD^2 = 1/(m (m-1)) sum over i != j of [k(x_i, x_j) + k(y_i, y_j)]  -  2/m^2 sum over i, j of k(x_i, y_j)

has the expectation E k(x, x') + E k(y, y') - 2 E k(x, y) at every m: numbers from different N compare, other than
Frechet distances, and a distance of nothing is as often negative as positive.  The sets are cut, in random order, into
pairs of m rows that share no row.  Their estimates are independent, so their mean has the standard error of a mean;
what is often printed instead, the standard deviation over subsets that overlap, is no error of the mean.

The cost is quadratic in m only.  Source: Binkowski, Sutherland, Arbel and Gretton, Demystifying MMD GANs, 2018, section
4, https://arxiv.org/abs/1801.01401; Gretton et al., A Kernel Two-Sample Test, 2012, lemma 6,
https://jmlr.org/papers/v13/gretton12a.html.
"""

from typing import NamedTuple

import numpy as np

from genjax.errors import BadInput
from genjax.metrics.features import checked
from genjax.types import Array


class Estimate(NamedTuple):
    """A mean of independent estimates."""

    value: float
    standard_error: float


def kernel_distance(real: Array, fake: Array, rng: np.random.Generator, size: int = 1_000) -> Estimate:
    """The mean of `squared_mmd` over disjoint pairs of subsets, known as KID where the features are Inception's.

    Args:
      real, fake: [N, F], [M, F].
      rng: puts the rows into a random order.
      size: m, rows of a subset, at least 2; there are floor(min(N, M) / m) pairs, which must be at least 2.

    Returns:
      Estimate.  Kind: estimate, unbiased.

    Raises:
      BadInput: sets that cannot be compared, or too few rows for two pairs of subsets.

    Source: Binkowski et al., 2018, section 4.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(2, 100, 3))
    >>> near, far = (kernel_distance(x, y + shift, rng, size=10) for shift in (0.0, 2.0))
    >>> abs(near.value) < 3 * near.standard_error, far.value > 3 * far.standard_error
    (True, True)
    """
    real, fake = checked(real, fake)
    pairs = min(len(real), len(fake)) // max(size, 1)
    if size < 2 or pairs < 2:
        raise BadInput(
            f"subsets of {size} from {len(real)} and {len(fake)} rows",
            f"allowed: 2 to {min(len(real), len(fake)) // 2}, so that there are two of each",
            "draw more samples, or take smaller subsets",
        )
    ours, theirs = (rng.permutation(len(part))[: pairs * size].reshape(pairs, size) for part in (real, fake))
    found = [squared_mmd(real[a], fake[b]) for a, b in zip(ours, theirs, strict=True)]
    return Estimate(float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(pairs)))


def squared_mmd(x: Array, y: Array) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy under the cubic polynomial kernel.

    Args:
      x, y: [m, F], [n, F]; both at least two rows.

    Returns:
      A number, below zero too.  Kind: estimate, unbiased.

    Raises:
      BadInput: sets that cannot be compared, fewer than two rows.

    Source: Gretton et al., 2012, lemma 6; the kernel: Binkowski et al., 2018, section 4.

    >>> squared_mmd([[0.0], [1.0]], [[0.0], [1.0]])  # 1 + 1 - 2 (1 + 1 + 1 + 8) / 4
    -3.5
    """
    x, y = checked(x, y, least=2)
    kernel = lambda a, b: (a @ b.T / a.shape[1] + 1.0) ** 3
    within = sum((np.sum(k) - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(x, x), kernel(y, y)))
    return float(within - 2.0 * kernel(x, y).mean())
