"""The area under the ROC curve of a score that should be larger for anomalies than for normal examples.

    AUROC = P(s(anomaly) > s(normal)) + 1/2 P(s(anomaly) = s(normal))

of one of each at random: 1 where a limit separates them, 1/2 for a score that knows nothing, and no limit has to be
chosen.  It is the mean over anomalies of their placements: the share of the normal examples that have a smaller score,
equal ones counted by half (DeLong, DeLong and Clarke-Pearson, 1988).  A placement is one number per anomaly, so that an
evaluation is a mean of them; the standard error of that mean holds for the normal examples at hand.

Source: Hanley and McNeil, The meaning and use of the area under a receiver operating characteristic (ROC) curve, 1982,
https://doi.org/10.1148/radiology.143.1.7063747; DeLong, DeLong and Clarke-Pearson, Comparing the areas under two or
more correlated receiver operating characteristic curves, 1988, https://doi.org/10.2307/2531595.
"""

import jax
import jax.numpy as jnp

from genjax.distributions import upcast
from genjax.errors import BadInput
from genjax.types import Array


def placements(normal: Array, anomalous: Array) -> jax.Array:
    """For each anomaly the share of the normal scores below its own, equal ones counted by half.

    Args:
      normal: [N] scores of normal examples, N at least 1.
      anomalous: [M] scores of anomalies, larger where more anomalous.

    Returns:
      [M] in [0, 1]; NaN for a score that is NaN, and for all where a normal score is.

    Raises:
      BadInput: scores that are not vectors, or none of normal examples.

    >>> placements(jnp.array([1.0, 2.0, 2.0, 3.0]), jnp.array([2.0, 9.0])).tolist()
    [0.5, 1.0]
    """
    normal, anomalous = upcast(normal), upcast(anomalous)
    if normal.ndim != 1 or anomalous.ndim != 1 or not len(normal):
        raise BadInput(f"scores {list(normal.shape)} and {list(anomalous.shape)}", "allowed: [N] and [M], N at least 1")
    ordered = jnp.sort(normal)
    below, up_to = (jnp.searchsorted(ordered, anomalous, side=side) for side in ("left", "right"))
    share = (below + up_to).astype(ordered.dtype) / (2.0 * len(normal))
    return jnp.where(jnp.isnan(ordered[-1]) | jnp.isnan(anomalous), jnp.nan, share)  # NaN is sorted last


def auroc(normal: Array, anomalous: Array) -> jax.Array:
    """The area under the ROC curve: the mean placement.

    Args:
      normal: [N] scores of normal examples, N at least 1.
      anomalous: [M] scores of anomalies, M at least 1.

    Returns:
      Scalar in [0, 1].

    Raises:
      BadInput: as `placements`; no anomalies.

    >>> float(auroc(jnp.array([1.0, 2.0]), jnp.array([2.0, 3.0])))
    0.875
    """
    if not jnp.size(anomalous):
        raise BadInput("no scores of anomalies", "allowed: at least one")
    return jnp.mean(placements(normal, anomalous))
