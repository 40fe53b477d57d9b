r"""The energy distance of two sets of points: zero only if their laws are one.

    D = 2 E|x - y| - E|x - x'| - E|y - y'|,    x, x' ~ p,  y, y' ~ q,  |.| the Euclidean length

Estimated without bias, the expectations over pairs of different points; near zero it may be negative.  It needs no
features and no kernel width, and suits points of few dimensions.

Source: Szekely and Rizzo, Energy Statistics: A Class of Statistics Based on Distances, 2013,
https://doi.org/10.1016/j.jspi.2013.03.018, eq. 5.
"""

import numpy as np

from genjax.errors import BadInput
from genjax.types import Array


def energy_distance(real: Array, drawn: Array, size: int = 1_000) -> tuple[float, float]:
    """D of two sets, as the mean over pairs of disjoint subsets.

    Args:
      real: points [N, D].
      drawn: points [M, D].
      size: of the subsets, at least 2 and at most N / 2 and M / 2.

    Returns:
      D, in the unit of the points, and its standard error.

    Raises:
      BadInput: points of other widths; subsets that are too small or too few.

    Source: Szekely and Rizzo, 2013, eq. 5.

    >>> x = np.random.default_rng(0).normal(size=(2_000, 1))
    >>> value, error = energy_distance(x, x + 3.0, 500)
    >>> bool(abs(value - 3.7777) < 4 * error)  # E|y - x| of N(3, 2) is 3.0172, E|x - x'| is 2 / sqrt(pi)
    True
    """
    real, drawn = np.asarray(real, np.float64), np.asarray(drawn, np.float64)
    if real.ndim != 2 or drawn.ndim != 2 or real.shape[1] != drawn.shape[1]:
        raise BadInput(f"points {list(real.shape)} and {list(drawn.shape)}", "allowed: [N, D] and [M, D]")
    parts = min(len(real), len(drawn)) // max(size, 1)
    if size < 2 or parts < 2:
        raise BadInput(f"subsets of {size} of {len(real)} and {len(drawn)} points", "allowed: 2 or more of 2 or more")
    cut = lambda points: points[: parts * size].reshape(parts, size, -1)
    found = np.array([_distance(x, y) for x, y in zip(cut(real), cut(drawn), strict=True)])
    return float(found.mean()), float(found.std(ddof=1) / np.sqrt(parts))


def _distance(x: np.ndarray, y: np.ndarray) -> float:
    n = len(x)
    within = sum(_lengths(points, points).sum() / (n * (n - 1)) for points in (x, y))
    return float(2.0 * _lengths(x, y).mean() - within)


def _lengths(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(((x[:, None] - y[None, :]) ** 2).sum(2))
