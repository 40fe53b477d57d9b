r"""The Frechet distance of two sets of features: the 2-Wasserstein distance, squared, of the normals that fit them.

    d^2 = |m_1 - m_2|^2 + Tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))

With the symmetric roots R of C, C_1 C_2 has the eigenvalues of R_1 C_2 R_1 = A A^T, A = R_1 R_2, so that the trace of
its root is the sum of the singular values of A: no root of a matrix that is not symmetric, and no eigenvalue near zero
that rounding makes negative.

The estimate from N samples is biased upwards, the more the smaller N and the larger F are (Binkowski et al. 2018), so
numbers compare only at one N, with one feature network and one resize.  With C from N - 1 as in the authors' program.

Sources: Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, 2017, eq. 6,
https://arxiv.org/abs/1706.08500; Dowson and Landau, The Frechet distance between multivariate normal distributions,
1982, https://doi.org/10.1016/0047-259X(82)90077-X; Binkowski et al., Demystifying MMD GANs, 2018, section 4,
https://arxiv.org/abs/1801.01401.
"""

from typing import NamedTuple

import numpy as np

from genjax.errors import BadInput
from genjax.metrics.features import checked
from genjax.types import Array


class Moments(NamedTuple):
    """What the distance needs of a set: to be kept in place of the features."""

    mean: np.ndarray  # [F]
    covariance: np.ndarray  # [F, F]


def moments(features: Array) -> Moments:
    """Mean and covariance, the latter with N - 1.

    Args:
      features: [N, F], N at least 2.

    Returns:
      Moments in float64.

    Raises:
      BadInput: features that are not [N, F] or not finite, fewer than two rows.

    >>> moments([[0.0, 1.0], [2.0, 1.0]]).covariance.tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    (features,) = checked(features, least=2)
    mean = features.mean(axis=0)
    centred = features - mean
    return Moments(mean, centred.T @ centred / (len(features) - 1))


def frechet_distance(first: Moments, second: Moments) -> float:
    """The squared Frechet distance of two normals, in the units of the features squared.

    Args:
      first, second: means [F] and covariances [F, F], symmetric and without negative eigenvalues.

    Returns:
      d^2 >= 0 but for rounding.  Kind: exact for the normals; of moments of samples an estimate, biased upwards.

    Raises:
      BadInput: shapes that do not fit, numbers that are not finite.

    Source: Heusel et al., 2017, eq. 6; Dowson and Landau, 1982.

    >>> unit = np.eye(2)
    >>> round(frechet_distance(Moments(np.zeros(2), unit), Moments(np.array([3.0, 0.0]), 4 * unit)), 9)  # 9 + 2 (2-1)^2
    11.0
    """
    (m_1, c_1), (m_2, c_2) = _checked(first), _checked(second)
    if m_1.shape != m_2.shape:
        raise BadInput(f"moments of {len(m_1)} and of {len(m_2)} features", "allowed: the same features for both")
    shift = m_1 - m_2
    shared = np.linalg.svd(_root(c_1) @ _root(c_2), compute_uv=False).sum()
    return float(shift @ shift + np.trace(c_1) + np.trace(c_2) - 2.0 * shared)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _checked(given: Moments) -> tuple[np.ndarray, np.ndarray]:
    mean, covariance = (np.asarray(part, np.float64) for part in given)
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape or not mean.size:
        told = f"a mean of shape {list(mean.shape)}, a covariance of {list(covariance.shape)}"
        raise BadInput(told, "allowed: [F] and [F, F]")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise BadInput("moments that are not finite", "allowed: finite numbers", "look at the samples")
    return mean, covariance
