r"""Which modes of a distribution a model has, and how evenly: for data whose modes are known, or named by a classifier.

A sample belongs to the mode whose centre is nearest, or to the class that a classifier gives it.  With q the shares of
the modes among samples and p among data,

    reverse KL  =  sum_k q_k log(q_k / p_k)     nats, 0 where the shares are those of the data

is at most log K where p is uniform over K modes, and is that where all samples are of one mode.  It does not see
whether samples are good; for a mixture of normals, `high_quality` is the share of samples that lie within 3 standard
deviations of their centre, and a mode counts as found if one such sample is there.  With a classifier every sample has
a class, so that noise finds modes too.  Both count more modes in more samples: PacGAN takes 2,500 of a mixture, and
26,000 of stacked MNIST, whose three channels are digits and whose modes are their 1,000 triples.

Sources: Lin, Khetan, Fanti and Oh, PacGAN: The power of two samples in generative adversarial networks, 2018, section
4, https://arxiv.org/abs/1712.04086; Srivastava et al., VEEGAN: Reducing Mode Collapse in GANs using Implicit
Variational Learning, 2017, section 4, https://arxiv.org/abs/1705.07761.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from genjax.errors import BadInput
from genjax.metrics.neighbours import nearest
from genjax.types import Array


class Modes(NamedTuple):
    """The modes of a set of samples."""

    count: int  # type: ignore[assignment]  # modes that were found
    high_quality: float  # share of the samples near a centre; 1 where a classifier names the modes
    reverse_kl: float  # nats


def gaussian_modes(samples: Array, centres: Array, deviation: float, within: float = 3.0) -> Modes:
    """Modes of an even mixture of normals.

    Args:
      samples: [N, D].
      centres: [K, D] means of its parts, each of variance deviation^2 in every dimension.
      deviation: > 0.
      within: deviations from its nearest centre below which a sample is of high quality.

    Returns:
      Modes; every sample counts in the reverse KL.  Kind: estimate.

    Raises:
      BadInput: shapes that do not fit, a deviation that is not positive.

    Source: Lin et al., 2018, section 4.1.

    >>> gaussian_modes([[0.0, 0.01], [0.01, 0.0], [2.0, 0.0], [3.4, 0.0]], [[0.0, 0.0], [2.0, 0.0]], 0.05)
    Modes(count=2, high_quality=0.75, reverse_kl=0.0)
    """
    if not 0 < deviation < math.inf:
        raise BadInput(f"deviation = {deviation}", "allowed: a positive number")
    found, modes = nearest(samples, centres), len(np.asarray(centres))
    good = found.distance[:, 0] < within * deviation
    count = len(np.unique(found.index[good, 0]))
    return Modes(count, float(good.mean()), reverse_kl(np.bincount(found.index[:, 0], minlength=modes), np.ones(modes)))


def class_modes(labels: Array, classes: int, real: Array | None = None) -> Modes:
    """Modes that a classifier names.

    Args:
      labels: [N] classes of samples, 0 to K - 1.
      classes: K.
      real: [M] classes of data; None: all classes are as frequent.

    Returns:
      Modes.  Kind: estimate, with the errors of the classifier.

    Raises:
      BadInput: labels that are no integers or out of range, none.

    Source: Lin et al., 2018, section 4.2.

    >>> class_modes([0, 0, 2, 2], 4)._replace(reverse_kl=round(class_modes([0, 0, 2, 2], 4).reverse_kl, 4))  # log 2
    Modes(count=2, high_quality=1.0, reverse_kl=0.6931)
    """
    counts = _counts(labels, classes)
    known = np.ones(classes) if real is None else _counts(real, classes)
    return Modes(int(np.count_nonzero(counts)), 1.0, reverse_kl(counts, known))


def stacked_labels(digits: Array) -> np.ndarray:
    """The mode of an image of stacked digits: 100 times the digit of its first channel, 10 times the second, the third.

    Args:
      digits: [N, 3], 0 to 9, one a channel.

    Returns:
      [N], 0 to 999.

    Raises:
      BadInput: other shapes, digits out of range.

    Source: Srivastava et al., 2017, section 4.2.

    >>> stacked_labels([[0, 1, 2], [9, 9, 9]]).tolist()
    [12, 999]
    """
    digits = np.asarray(digits)
    if digits.ndim != 2 or digits.shape[1] != 3:
        raise BadInput(f"digits of shape {list(digits.shape)}", "allowed: [N, 3], one a channel")
    _counts(digits.reshape(-1), 10)
    return digits @ np.array([100, 10, 1])


def stacked_modes(images: Array, digit_of: Callable[[np.ndarray], Array]) -> Modes:
    """Modes of images of stacked digits, each channel called by a classifier of grey ones.

    Args:
      images: [N, H, W, 3], bytes.
      digit_of: grey images [N, H, W, 1], float32 in [0, 1], -> [N] or [N, 1] digits.

    Returns:
      Modes of 1,000, against even shares.  Kind: estimate, with the errors of the classifier.

    Raises:
      BadInput: images that are no bytes in three channels, digits out of range.

    Source: Lin et al., 2018, section 4.2.

    >>> stacked_modes(np.zeros((2, 1, 1, 3), np.uint8), lambda grey: grey[:, 0, 0, 0].astype(int)).count
    1
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise BadInput(f"images {images.dtype}{list(images.shape)}", "allowed: uint8 [N, H, W, 3], a digit a channel")
    grey = [images[..., c : c + 1] / np.float32(255) for c in range(3)]
    digits = [np.asarray(digit_of(image)).reshape(-1).astype(int) for image in grey]
    return class_modes(stacked_labels(np.stack(digits, axis=1)), 1_000)


def reverse_kl(generated: Array, real: Array) -> float:
    """sum_k q_k log(q_k / p_k) of the shares q of `generated` and p of `real`.

    Args:
      generated, real: [K] counts or weights, not negative, not all zero.

    Returns:
      Nats >= 0; infinite where samples have a mode that the data have not.

    Raises:
      BadInput: shapes that differ, negative weights, all zero.

    Source: Lin et al., 2018, section 4.1.

    >>> round(reverse_kl([3, 1, 0], [1, 1, 2]), 4)  # 3/4 log 3
    0.824
    """
    q, p = (np.asarray(part, np.float64) for part in (generated, real))
    if q.ndim != 1 or q.shape != p.shape or min(q.min(initial=0), p.min(initial=0)) < 0 or not (q.sum() and p.sum()):
        told = f"weights of shape {list(q.shape)} and {list(p.shape)}"
        raise BadInput(told, "allowed: [K] for both, not negative, not all zero")
    q, p = q / q.sum(), p / p.sum()
    seen = q > 0
    if (p[seen] == 0).any():
        return math.inf
    return float(max(0.0, np.sum(q[seen] * np.log(q[seen] / p[seen]))))


def _counts(labels: Array, classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or not labels.size or labels.dtype.kind not in "iu":
        raise BadInput(f"labels {labels.dtype}{list(labels.shape)}", "allowed: [N] integers, N at least 1")
    if labels.min() < 0 or labels.max() >= classes:
        raise BadInput(f"labels from {labels.min()} to {labels.max()}", f"allowed: 0 to {classes - 1}")
    return np.bincount(labels, minlength=classes)
