r"""What a classifier gets wrong, and whether it is as often right as it says.

With p_i the largest probability that it gives for row i, rows are put into bins of equal width by p_i, and

    expected calibration error = sum over bins of  n_b / N  |share right in b - mean of p_i in b|

is 0 where of the rows that it gives 80 % four in five are right.  From few rows it is too large: in each bin the share
right differs from the truth by chance.

Source: Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017, section 2,
https://arxiv.org/abs/1706.04599.
"""

from typing import NamedTuple

import numpy as np

from genjax.errors import BadInput
from genjax.types import Array

BINS = 15  # as in the paper
CLASSIFICATION = {
    "error": ("exact, share of wrong answers", "%"),
    "nll": ("exact -log p(label | x)", "nats"),
    "calibration": (f"expected calibration error, {BINS} bins", "%"),
}


class Reliability(NamedTuple):
    """A classifier's answers on N rows."""

    confusion: np.ndarray  # [K, K] rows of class i that it calls j
    accuracy: float
    calibration_error: float


def reliability(logits: Array, label: Array, bins: int = BINS) -> Reliability:
    """Confusion, accuracy and expected calibration error.

    Args:
      logits: [N, K] scores whose softmax are its probabilities.
      label: [N] classes, 0 to K - 1.
      bins: of equal width in (0, 1].

    Returns:
      Reliability.  Kind: exact, of these rows.

    Raises:
      BadInput: shapes that do not fit, scores that are not finite, labels that are no classes.

    Source: Guo et al., 2017, eq. 3.

    >>> found = reliability(np.log([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]]), [0, 1, 1])
    >>> found.confusion.tolist(), round(found.calibration_error, 4)  # 2/3 |1/2 - 0.9| + 1/3 |1 - 0.8|
    ([[1, 0], [1, 1]], 0.3333)
    """
    logits, label = _checked(logits, label)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    sure, called = 1.0 / shifted.sum(axis=1), logits.argmax(axis=1)
    right, classes = called == label, logits.shape[1]
    confusion = np.bincount(label * classes + called, minlength=classes**2).reshape(classes, classes)
    number = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(number, right - sure, minlength=bins)  # of a bin: its rows times its gap
    return Reliability(confusion, float(right.mean()), float(np.abs(gaps).sum() / len(label)))


def classification(logits: Array, label: Array) -> dict[str, float | tuple[float, float]]:
    """What is told of every classifier: errors, surprise, calibration.

    Args:
      logits: [N, K].
      label: [N] classes, 0 to K - 1.

    Returns:
      A number for each of `CLASSIFICATION`, those that are means with their standard errors.

    Raises:
      BadInput: as `reliability`.

    >>> found = classification(np.log([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]]), [0, 1, 1, 1])
    >>> found["error"], round(found["calibration"], 2)  # of those it gives 0.9, half are right
    ((25.0, 25.0), 30.0)
    """
    logits, label = _checked(logits, label)
    shifted = logits - logits.max(axis=1, keepdims=True)
    nll = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(label)), label]
    told = lambda x: (float(x.mean()), float(x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else 0.0)
    wrong = 100.0 * (logits.argmax(axis=1) != label)
    return {"error": told(wrong), "nll": told(nll), "calibration": 100.0 * reliability(logits, label).calibration_error}


def reliability_text(found: Reliability) -> str:
    """The same as a table of text, for a file of a run.

    Args:
      found: from `reliability`.

    Returns:
      Lines of text.

    >>> print(reliability_text(Reliability(np.array([[3, 1], [0, 4]]), 0.875, 0.05)), end="")
    accuracy 0.8750, expected calibration error 0.0500 (15 bins), 8 rows
    rows: the class; columns: what it is called
    <BLANKLINE>
             0    1
        0    3    1
        1    0    4
    """
    confusion, count = found.confusion, int(found.confusion.sum())
    first = f"accuracy {found.accuracy:.4f}, expected calibration error {found.calibration_error:.4f} ({BINS} bins)"
    width = max(5, len(str(count)) + 1)
    lines = [" " * 5 + "".join(f"{j:{width}}" for j in range(len(confusion)))]
    lines += [f"{i:5}" + "".join(f"{n:{width}}" for n in row) for i, row in enumerate(confusion)]
    return "\n".join([f"{first}, {count:,} rows", "rows: the class; columns: what it is called", "", *lines]) + "\n"


def _checked(logits: Array, label: Array) -> tuple[np.ndarray, np.ndarray]:
    logits, label = np.asarray(logits, np.float64), np.asarray(label)
    if logits.ndim != 2 or label.shape != logits.shape[:1] or not logits.size or label.dtype.kind not in "iu":
        told = f"logits {list(logits.shape)}, label {label.dtype}{list(label.shape)}"
        raise BadInput(told, "allowed: [N, K], and N integers")
    if not np.isfinite(logits).all() or label.min() < 0 or label.max() >= logits.shape[1]:
        raise BadInput("logits that are not finite, or labels out of range", f"allowed: 0 to {logits.shape[1] - 1}")
    return logits, label.astype(np.int64)
