r"""The area under the ROC curve of a score that should be larger for anomalies than for normal examples.

    AUROC = P(s(anomaly) > s(normal)) + 1/2 P(s(anomaly) = s(normal))

of one of each at random: 1 where a limit separates them, 1/2 for a score that knows nothing, and no limit has to be
chosen.  It is the mean over anomalies of their placements: the share of the normal examples that have a smaller score,
equal ones counted by half (DeLong, DeLong and Clarke-Pearson, 1988).  A placement is one number per anomaly, so that an
evaluation is a mean of them; the standard error of that mean holds for the normal examples at hand.

Beside -log p(x) itself its slope is a score: where a model is sure, near the data, log p is flat along them and the
gradient small, and no log Z has to be known.  Of a diffusion model, at a level of noise, the slope is

    |grad log q_t(z)| = |alpha x' - z| / sigma^2,  z = alpha x,  x' = E[x | z_t = z]:   alpha / sigma^2 |x' - x|

how far x is from what the model takes it to be.  The norm of a slope is scaled by the units of x, and does not follow
log p under a change of variables; that it ranks anomalies is found by trial, for each model anew.

Source: Hanley and McNeil, The meaning and use of the area under a receiver operating characteristic (ROC) curve, 1982,
https://doi.org/10.1148/radiology.143.1.7063747; DeLong, DeLong and Clarke-Pearson, Comparing the areas under two or
more correlated receiver operating characteristic curves, 1988, https://doi.org/10.2307/2531595; Grathwohl et al., Your
Classifier is Secretly an Energy Based Model and You Should Treat it Like One, 2020, https://arxiv.org/abs/1912.03263,
section 5.3 (the slope of an energy); Mahmood, Oliva and Styner, Multiscale Score Matching for Out-of-Distribution
Detection, 2021, https://arxiv.org/abs/2010.13132 (of a score network, at several levels).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.gaussian import Process
from genjax.corruption.predictions import Denoise
from genjax.distributions import event_sum, upcast
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


def nearest_square(known: Array, x: Array) -> jax.Array:
    """min_i |x - k_i|^2: a score that asks no model, which those of a model have to beat.

    Args:
      known: k, [M, F], M at least 1.
      x: [B, F].

    Returns:
      [B] in units of x squared, >= 0 but for rounding.

    Raises:
      BadInput: other shapes.

    >>> nearest_square(jnp.array([[0.0, 0.0], [3.0, 0.0]]), jnp.array([[3.0, 4.0], [0.0, 1.0]])).tolist()
    [16.0, 1.0]
    """
    known, x = upcast(known), upcast(x)
    if known.ndim != 2 or x.ndim != 2 or known.shape[1] != x.shape[1] or not len(known):
        raise BadInput(f"{list(known.shape)} and {list(x.shape)}", "allowed: [M, F] and [B, F], M at least 1")
    far = jnp.sum(x**2, axis=1)[:, None] - 2.0 * x @ known.T + jnp.sum(known**2, axis=1)[None]
    return jnp.min(far, axis=1)


def score_norm(log_prob: Callable[[jax.Array], jax.Array], x: Array) -> jax.Array:
    """|grad_x log p(x)|, the Euclidean norm over all that makes an example; an energy serves as well, as Z is flat.

    Args:
      log_prob: x [B, ...] -> [B] nats, but for a constant or a sign; each row's of this row alone.
      x: examples [B, ...].

    Returns:
      [B] nats per unit of x, >= 0.

    >>> score_norm(lambda x: -0.5 * jnp.sum(x**2, axis=1), jnp.array([[3.0, -4.0]])).tolist()
    [5.0]
    """
    slope = jax.grad(lambda x: jnp.sum(log_prob(x)))(upcast(x))
    return jnp.sqrt(event_sum(slope**2))


def diffusion_score_norm(process: Process, denoise: Denoise, t: float, x: Array) -> jax.Array:
    """|grad log q_t(alpha x)| = alpha / sigma^2 |x' - x|: the same by a diffusion model at one time.

    Args:
      process: with noise and signal at t.
      denoise: (z, t [B]) -> E[x | z_t = z].
      t: within the process.
      x: data [B, ...]; no noise is added, so that it is a number of x alone.

    Returns:
      [B] nats per unit of z, >= 0.

    Raises:
      BadInput: no noise at t.

    >>> from genjax.corruption.schedules import rectified_flow
    >>> still = lambda z, t: jnp.zeros_like(z)
    >>> diffusion_score_norm(rectified_flow(), still, 0.5, jnp.array([[3.0, -4.0]])).tolist()  # 0.5 / 0.25 x 5
    [10.0]
    """
    x = upcast(x)
    alpha, sigma = (float(part(np.array(t))) for part in (process.alpha, process.sigma))
    if not sigma > 0:
        raise BadInput(f"no noise at t = {t}", "allowed: times of the process with sigma above 0")
    away = denoise(alpha * x, jnp.full(len(x), t, x.dtype)) - x
    return alpha / sigma**2 * jnp.sqrt(event_sum(away**2))
