r"""How well a few measured examples, and a density beside them, order all others: ridge regression on n of them.

With features X [n, D], targets y [n], their means taken away, and penalties S = diag(s) of which some are zero

    (1)  w = (X'X + S)^{-1} X'y                                         predictions (x - mean x) w + mean y
    (2)  y_i - yhat_{-i} = (y_i - yhat_i) / (1 - h_ii),   H = 1/n + X (X'X + S)^{-1} X'

(2) are the errors of every example by the fit to the n - 1 others, without fitting them; the strength of the ridge is
that of `STRENGTHS` whose sum of their squares is least.  An augmented regression (Hsu et al. 2022) has log p(x) of a
generator as one more feature, which nothing penalises: with few examples it is what the order rests on, with many the
features correct it.

Sources: Hoerl and Kennard, Ridge Regression: Biased Estimation for Nonorthogonal Problems, 1970,
https://doi.org/10.1080/00401706.1970.10488634; Allen, The Relationship between Variable Selection and Data
Augmentation and a Method for Prediction, 1974, https://doi.org/10.1080/00401706.1974.10489157 (eq. 2); Hsu, Nisonoff,
Fannjiang and Listgarten, Learning protein fitness models from evolutionary and assay-labeled data, 2022,
https://doi.org/10.1038/s41587-021-01146-5.
"""

from typing import NamedTuple

import numpy as np

from genjax.errors import BadInput
from genjax.metrics.rank_correlation import rank_correlation
from genjax.types import Array

STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
FREE = 1e-8  # of what is not penalised, relative to its variance: columns may be constant in a small sample


class Ridge(NamedTuple):
    """A fit: x @ weights + intercept."""

    weights: np.ndarray  # [D]
    intercept: float
    left_out: np.ndarray  # [n] y_i less its prediction by the others, eq. 2


def ridge(x: Array, y: Array, strength: float, free: int = 0) -> Ridge:
    """Linear regression with a penalty on the squares of its weights, not on the intercept.

    Args:
      x: features [n, D].
      y: targets [n].
      strength: of the penalty, positive.
      free: the last so many features are not penalised.

    Returns:
      Ridge.

    Raises:
      BadInput: other shapes, fewer than two examples, a strength that is not positive.

    Source: Hoerl and Kennard, 1970; Allen, 1974.

    >>> ridge([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0], 2.0).weights.tolist()  # 4 / (2 + 2)
    [1.0]
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.ndim != 2 or b.shape != a.shape[:1] or len(b) < 2 or not 0 <= free <= a.shape[1]:
        raise BadInput(f"features {list(a.shape)}, targets {list(b.shape)}", "allowed: [n, D] and [n], n at least 2")
    if not (np.isfinite(strength) and strength > 0):
        raise BadInput(f"strength = {strength}", "allowed: positive numbers")
    centre, mean = a.mean(axis=0), b.mean()
    apart = a - centre
    penalties = np.full(a.shape[1], strength)
    if free:
        penalties[-free:] = FREE * np.maximum((apart[:, -free:] ** 2).sum(axis=0), FREE)
    to_weights = np.linalg.solve(apart.T @ apart + np.diag(penalties), apart.T)  # [D, n]
    weights = to_weights @ (b - mean)
    leverage = 1.0 / len(b) + np.einsum("nd,dn->n", apart, to_weights)
    left_out = (b - mean - apart @ weights) / np.maximum(1.0 - leverage, 1e-9)
    return Ridge(weights, float(mean - centre @ weights), left_out)


def best_ridge(x: Array, y: Array, free: int = 0) -> Ridge:
    """The strength of `STRENGTHS` whose predictions of left-out examples are nearest.

    Args:
      x, y, free: as in `ridge`.

    Returns:
      Ridge.

    Raises:
      BadInput: as `ridge`.

    Source: Allen, 1974.

    >>> line = np.arange(10.0)
    >>> bool(best_ridge(line[:, None], 3 * line).weights[0] > 2.99)  # nothing but signal: the weakest
    True
    """
    return min((ridge(x, y, one, free) for one in STRENGTHS), key=lambda fit: float((fit.left_out**2).sum()))


class FewShot(NamedTuple):
    """Spearman's correlation with the targets of all that was not known."""

    value: float  # the mean over draws of what is known
    standard_error: float  # of that mean


def few_shot(x: Array, y: Array, count: int, draws: int, score: Array | None = None, seed: int = 0) -> FewShot:
    """Order examples by a regression on `count` of them, drawn at random, several times.

    Args:
      x: features [N, D].
      y: targets [N].
      count: n, known examples, from 2 to N - 4.
      draws: how often they are drawn, at least 2.
      score: [N], a generator's log p(x), for the augmented regression; None: features alone.
      seed: of the draws; with the same seed the same examples are known with and without a score.

    Returns:
      FewShot.

    Raises:
      BadInput: counts outside their range.

    Source: Hsu et al., 2022.

    >>> x = np.eye(3)[np.arange(60) % 3]
    >>> few_shot(x, x @ np.array([1.0, 2.0, 3.0]), 12, 3).value
    1.0
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if not 2 <= count <= len(b) - 4 or draws < 2:
        raise BadInput(f"{count} known of {len(b)}, {draws} draws", "allowed: 2 to N - 4 known, 2 draws at least")
    if score is not None:
        a = np.concatenate([a, np.asarray(score, np.float64)[:, None]], axis=1)
    random, found = np.random.default_rng(seed), []
    for _ in range(draws):
        known = np.zeros(len(b), bool)
        known[random.permutation(len(b))[:count]] = True
        fit = best_ridge(a[known], b[known], 0 if score is None else 1)
        found.append(rank_correlation((a @ fit.weights)[~known], b[~known]).value)
    return FewShot(float(np.mean(found)), float(np.std(found, ddof=1) / draws**0.5))
