r"""Nearest neighbours of samples in a training set, and whether a model copies it.

With d(x) the distance of x to its nearest training example, for samples s and held-out examples h

    score = P(d(s) < d(h)) + 1/2 P(d(s) = d(h))

is 1/2 where samples keep the distance to the training set that new data keep, near 1 where they are copies, changed a
little or not at all, and below 1/2 where they are further away than data are: that is no memory, and no good samples
either.  U = N M score is the statistic of Mann and Whitney: if samples and held-out examples had the same law, it would
have the mean N M / 2 and, with t_i examples at each value that occurs, the variance

    N M / 12 (N + M + 1 - sum_i (t_i^3 - t_i) / ((N + M) (N + M - 1)))

Distances are Euclidean, in float64.  |a - b|^2 = |a|^2 + |b|^2 - 2 a b cannot tell vectors that differ by less than a
millionth of their length: those count as the same, and the features of a network in float32 cannot do better.

Sources: Meehan, Chaudhuri and Dasgupta, A Non-Parametric Test to Detect Data-Copying in Generative Models, 2020,
https://arxiv.org/abs/2004.05675; Mann and Whitney, On a test of whether one of two random variables is stochastically
larger than the other, 1947, https://doi.org/10.1214/aoms/1177730491.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.stats import mannwhitneyu

from genjax.errors import BadInput
from genjax.metrics.features import checked
from genjax.types import Array

BLOCK = 2**23  # distances that are held at a time
SAME = 1e-12  # of |a|^2 + |b|^2: squared distances below it are zero


class Neighbours(NamedTuple):
    """The k nearest rows of a reference set, the nearest first."""

    distance: np.ndarray  # [N, k]
    index: np.ndarray  # type: ignore[assignment]  # [N, k] rows of the reference set


class Memorisation(NamedTuple):
    """Whether samples are nearer to the training set than held-out examples are."""

    score: float  # P(nearer), 1/2: no memory
    p_value: float  # of a score as large, if samples and held-out examples had one law; by the normal approximation
    copies: float  # share of the samples that are training examples


def squared_distances(points: Array, reference: Array) -> Iterator[tuple[slice, np.ndarray]]:
    """|a_i - b_j|^2 of all pairs, some rows at a time.

    Args:
      points: a, [N, F].
      reference: b, [M, F].

    Returns:
      An iterator over (rows of `points`, their squared distances [rows, M], to be changed at will).

    Raises:
      BadInput: sets that cannot be compared, see `genjax.metrics.features.checked`.

    >>> [(rows.stop, block.tolist()) for rows, block in squared_distances([[0.0], [3.0]], [[1.0], [3.0]])]
    [(2, [[1.0, 9.0], [4.0, 0.0]])]
    """
    points, reference = checked(points, reference)
    ours, theirs = (np.einsum("ij,ij->i", part, part) for part in (points, reference))
    step = max(1, BLOCK // len(reference))
    for first in range(0, len(points), step):
        rows = slice(first, min(first + step, len(points)))
        size = ours[rows, None] + theirs
        block = size - 2.0 * (points[rows] @ reference.T)
        block[block < SAME * size] = 0.0
        yield rows, block


def nearest(points: Array, reference: Array, k: int = 1) -> Neighbours:
    """The k nearest rows of a reference set.

    Args:
      points: [N, F].
      reference: [M, F].
      k: from 1 to M.

    Returns:
      Neighbours; of rows at one distance the first.

    Raises:
      BadInput: sets that cannot be compared, k out of range.

    >>> nearest([[0.9], [5.0]], [[0.0], [1.0], [5.0]], k=2).index.tolist()
    [[1, 0], [2, 1]]
    """
    return _nearest(points, reference, k, itself=False)


def nearest_others(points: Array, k: int = 1) -> Neighbours:
    """The k nearest other rows of the same set.

    Args:
      points: [N, F].
      k: from 1 to N - 1.

    Returns:
      Neighbours, among which no row is its own.

    Raises:
      BadInput: features that are not [N, F] or not finite, k out of range.

    >>> nearest_others([[0.0], [1.0], [3.0]]).distance.tolist()
    [[1.0], [1.0], [2.0]]
    """
    return _nearest(points, points, k, itself=True)


def squared_radii(points: Array, k: int) -> np.ndarray:
    """The squared distance of every row to its k-th nearest other row: balls that cover what a set comes from.

    Args:
      points: [N, F].
      k: from 1 to N - 1.

    Returns:
      [N], to be compared with `squared_distances` exactly.

    Raises:
      BadInput: as `nearest_others`.

    Source: Kynkaanniemi et al., Improved Precision and Recall Metric for Assessing Generative Models, 2019, eq. 1,
    https://arxiv.org/abs/1904.06991.

    >>> squared_radii([[0.0], [1.0], [3.0]], 2).tolist()
    [9.0, 4.0, 9.0]
    """
    (points,) = checked(points)
    check_neighbours(k, len(points) - 1)
    found = np.empty(len(points))
    for rows, block in squared_distances(points, points):
        block[np.arange(len(block)), np.arange(rows.start, rows.stop)] = np.inf
        found[rows] = np.partition(block, k - 1, axis=1)[:, k - 1]
    return found


def memorisation(samples: Array, held_out: Array) -> Memorisation:
    """How often samples are nearer to the training set than held-out examples: see the head of this file.

    Args:
      samples: [N] distances of samples to their nearest training examples.
      held_out: [M] distances of held-out examples to theirs.

    Returns:
      Memorisation.

    Raises:
      BadInput: anything but two vectors of distances, finite and not negative.

    Source: Meehan, Chaudhuri and Dasgupta, 2020, section 3; Mann and Whitney, 1947, for the test.

    >>> found = memorisation([0.0, 0.1, 0.2, 0.1], [1.0, 2.0, 3.0, 2.5])
    >>> found.score, found.copies, round(found.p_value, 3)
    (1.0, 0.25, 0.01)
    """
    near, far = (np.asarray(part, np.float64) for part in (samples, held_out))
    for part in (near, far):
        if part.ndim != 1 or not part.size or not np.isfinite(part).all() or part.min() < 0:
            raise BadInput(f"distances of shape {list(part.shape)}", "allowed: [N], finite and not negative")
    order = np.sort(far)
    below, up_to = (np.searchsorted(order, near, side=side) for side in ("left", "right"))
    score = 1.0 - float(np.mean(below + up_to)) / (2.0 * len(far))
    at_one_distance = np.ptp(np.concatenate([near, far])) == 0
    test = lambda: mannwhitneyu(near, far, alternative="less", method="asymptotic", use_continuity=False).pvalue
    return Memorisation(score, 1.0 if at_one_distance else float(test()), float(np.mean(near == 0.0)))


def check_neighbours(k: int, most: int) -> None:
    """Refuse a number of neighbours that a set does not have.

    Args:
      k: neighbours.
      most: that there are.

    Returns:
      Nothing.

    Raises:
      BadInput: k below 1 or above `most`.

    >>> check_neighbours(3, 2)
    Traceback (most recent call last):
    genjax.errors.BadInput: k = 3 neighbours
    allowed: 1 to 2
    ...
    """
    if not 1 <= k <= most:
        raise BadInput(f"k = {k} neighbours", f"allowed: 1 to {most}", "draw more samples, or take fewer neighbours")


def _nearest(points: Array, reference: Array, k: int, itself: bool) -> Neighbours:
    points, reference = checked(points, reference)
    check_neighbours(k, len(reference) - itself)
    parts = []
    for rows, block in squared_distances(points, reference):
        if itself:
            block[np.arange(len(block)), np.arange(rows.start, rows.stop)] = np.inf
        parts.append(_least(block, k))
    distance, index = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Neighbours(np.sqrt(distance), index)


def _least(block: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    if k == 1:
        index = np.argmin(block, axis=1)[:, None]
    else:
        limit = np.partition(block, k - 1, axis=1)[:, k - 1, None]
        # those below the k-th value, then the first of those at it: a stable order whatever the partition did
        rank = np.where(block < limit, 0, np.where(block == limit, 1, 2)).astype(np.uint8)
        index = np.argsort(rank, axis=1, kind="stable")[:, :k]
        inner = np.argsort(np.take_along_axis(block, index, axis=1), axis=1, kind="stable")
        index = np.take_along_axis(index, inner, axis=1)
    return np.take_along_axis(block, index, axis=1), index
