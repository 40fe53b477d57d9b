r"""The density of a diffusion model with steps as long as an error allows: `probability_flow.py` by diffrax.

The equation is that file's, in w = z / (alpha c), c^2 = 1 + s^2, s = sigma / alpha, now in the process's own time,

    (1)  dw / dt = r' (w - c x') / c^2,    r' = d log s / dt = sigma' / sigma - alpha' / alpha
    (2)  log p(y_first) = log N(y_last; 0, s_last^2 I) + D log(c_last / c_first)
                          + integral from t_first to t_last of r' (D / c^2 - div_w x' / c) dt

by Tsitouras' method of order 5, whose embedded method of order 4 tells the error of a step.  Fixed steps are quicker
where their number is known to be enough; this finds out, and is what they are tested against.

Kind: an ESTIMATE of log p, as there; the error is about the tolerance.

Sources: Song et al., 2021, https://arxiv.org/abs/2011.13456, appendix D.2; Tsitouras, Runge-Kutta Pairs of Order 5(4),
2011, https://doi.org/10.1016/j.camwa.2011.06.002; Kidger, On Neural Differential Equations, 2021,
https://arxiv.org/abs/2202.02435 (diffrax).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.gaussian import Process, point
from genjax.corruption.predictions import Denoise, checked
from genjax.distributions import event_sum, normal_log_prob, upcast
from genjax.likelihood.probability_flow import Divergence
from genjax.samplers.adaptive import between_ends, check_tolerance, followed
from genjax.types import Array


def adaptive_log_density(
    process: Process, denoise: Denoise, divergence: Divergence, x: Array, tolerance: float = 1e-5, most: int = 4_096
) -> jax.Array:
    """log p(x), eq. 2; all rows take the same steps.

    Args:
      process: that `denoise` knows, with signal at its last time and noise at its first.
      denoise: (z, t [B]) -> E[x | z_t = z], each row by itself.
      divergence: `exact_divergence` or `hutchinson(key, ...)`.
      x: data [B, ...].
      tolerance: relative and absolute, of a step; in float32 not below 1e-6.
      most: steps, after which it gives up by an error at run time.

    Returns:
      [B] nats; six calls of the network and of its derivative a step.

    Raises:
      BadInput: diffrax is not installed; a tolerance that is not positive; a process that reaches zero signal or noise,
        or whose signal does not fall; a denoiser's output of another shape than x.

    Source: Song et al., 2021, eq. 39 and appendix D.2.

    >>> adaptive_log_density(None, None, None, None, tolerance=0.0)
    Traceback (most recent call last):
    genjax.errors.BadInput: tolerance = 0.0
    allowed: a number above 0; 1e-5 is usual
    """
    check_tolerance(tolerance)
    alpha, sigma = between_ends(process)
    c, (x, dims) = np.hypot(1.0, sigma / alpha), (upcast(x), math.prod(np.shape(x)[1:]))
    denoise = checked(denoise)

    def rate(t: jax.Array, state: tuple[jax.Array, jax.Array], _: None) -> tuple[jax.Array, jax.Array]:
        at, w = point(process, t), state[0]
        c, speed = jnp.hypot(1.0, at.sigma / at.alpha), at.sigma_rate / at.sigma - at.alpha_rate / at.alpha
        data, spread = divergence(lambda w: denoise(at.alpha * c * w, jnp.full(len(w), t, w.dtype)), w)
        return speed * (w - c * data) / c**2, speed * (dims / c**2 - spread / c)

    w, gained = followed(
        rate, (process.first, process.last), (x / float(c[0]), jnp.zeros(len(x), x.dtype)), tolerance, most
    )
    log_variance = 2.0 * math.log(sigma[1] / alpha[1])
    prior = normal_log_prob(float(c[1]) * w, jnp.zeros_like(w), jnp.full_like(w, log_variance))
    return event_sum(prior) + dims * math.log(c[1] / c[0]) + gained
