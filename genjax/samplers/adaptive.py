r"""Samples of a diffusion model with steps as long as an error allows: the probability-flow equation by diffrax.

In w = z / (alpha c), c^2 = 1 + s^2, s = sigma / alpha, which keeps its size where z / alpha grows with s, it is

    (1)  dw / dt = r' (w - c x') / c^2,    r' = d log s / dt = sigma' / sigma - alpha' / alpha,    x' = E[x | z_t = z]

in the process's own time (Song et al., 2021, eq. 13), followed from its last to its first by Tsitouras' method of
order 5, whose embedded method of order 4 tells the error of a step.  The step to the data is that of all solvers, x'.
Fixed steps (`samplers/ode.py`) are quicker where their number is known to be enough; this finds out.

Sources: Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, 2021,
https://arxiv.org/abs/2011.13456, section 4.3 and appendix D.4; Tsitouras, Runge-Kutta Pairs of Order 5(4), 2011,
https://doi.org/10.1016/j.camwa.2011.06.002; Kidger, On Neural Differential Equations, 2021,
https://arxiv.org/abs/2202.02435 (diffrax).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.gaussian import Process, check_process, draw_last, point
from genjax.corruption.predictions import Denoise, checked
from genjax.distributions import upcast
from genjax.errors import BadInput
from genjax.types import Array, Key


def adaptive_sample(
    process: Process, denoise: Denoise, key: Key, shape: tuple[int, ...], tolerance: float = 1e-4, most: int = 4_096
) -> jax.Array:
    """Data from noise, by eq. 1; all rows take the same steps.

    Args:
      process: that `denoise` knows, with signal at its last time and noise at its first.
      denoise: (z, t [B]) -> E[x | z_t = z].
      key: of the noise that it begins with; nothing else is drawn.
      shape: of the data, [B, ...].
      tolerance: relative and absolute, of a step; in float32 not below 1e-6.
      most: steps, after which it gives up by an error at run time.

    Returns:
      x of that shape; six calls of the network a step.

    Raises:
      BadInput: as `adaptive_sample_from`.

    Source: Song et al., 2021, appendix D.4.

    >>> adaptive_sample(None, None, None, (), tolerance=0.0)
    Traceback (most recent call last):
    genjax.errors.BadInput: tolerance = 0.0
    allowed: a number above 0; 1e-5 is usual
    """
    check_tolerance(tolerance)
    return adaptive_sample_from(process, denoise, draw_last(process, key, shape), tolerance, most)


def adaptive_sample_from(
    process: Process, denoise: Denoise, z: Array, tolerance: float = 1e-4, most: int = 4_096
) -> jax.Array:
    """Data from a z at the last time of a process.

    Args:
      process, denoise, tolerance, most: as of `adaptive_sample`.
      z: z_t [B, ...] at t = last.

    Returns:
      x of z's shape, float32 at least.

    Raises:
      BadInput: diffrax is not installed; a tolerance that is not positive; a process that reaches zero signal or noise,
        or whose signal does not fall; a denoiser's output of another shape than z.

    Source: Song et al., 2021, eq. 13 and appendix D.4.

    >>> adaptive_sample_from(None, None, jnp.ones((1, 1)), float("inf"))
    Traceback (most recent call last):
    genjax.errors.BadInput: tolerance = inf
    allowed: a number above 0; 1e-5 is usual
    """
    check_tolerance(tolerance)
    alpha, sigma = between_ends(process)
    z, denoise, scale = upcast(z), checked(denoise), np.hypot(alpha, sigma)  # alpha c

    def rate(t: jax.Array, w: jax.Array, _: None) -> jax.Array:
        at = point(process, t)
        c, speed = jnp.hypot(1.0, at.sigma / at.alpha), at.sigma_rate / at.sigma - at.alpha_rate / at.alpha
        return speed * (w - c * denoise(at.alpha * c * w, jnp.full(len(w), t, w.dtype))) / c**2

    w = followed(rate, (process.last, process.first), z / float(scale[1]), tolerance, most)
    return denoise(float(scale[0]) * w, jnp.full(len(z), process.first, z.dtype))


def between_ends(process: Process) -> tuple[np.ndarray, np.ndarray]:
    """alpha and sigma at both ends of a process, between which the equation can be followed.

    Args:
      process: whose.

    Returns:
      Two arrays, each of what is at the first and at the last time, float64.

    Raises:
      BadInput: a process that reaches zero signal or noise, or whose signal does not fall.

    Source: Song et al., 2021, appendix C, on ending before zero noise.

    >>> from genjax.corruption.schedules import rectified_flow
    >>> [ends.tolist() for ends in between_ends(rectified_flow(0.25, 0.75))]
    [[0.75, 0.25], [0.25, 0.75]]
    """
    check_process(process)
    ends = np.array([process.first, process.last])
    alpha, sigma = process.alpha(ends), process.sigma(ends)
    if alpha[1] == 0 or sigma[0] == 0:
        raise BadInput(
            "adaptive steps of a process that reaches zero signal or zero noise",
            "allowed: one whose `first` and `last` stop before, such as rectified_flow(0.001, 0.999)",
        )
    return alpha, sigma


def check_tolerance(tolerance: float) -> float:
    """The same error, if one is allowed.

    Args:
      tolerance: of a step.

    Returns:
      `tolerance`.

    Raises:
      BadInput: one that is no positive number.

    >>> check_tolerance(1e-5)
    1e-05
    """
    if not 0 < tolerance < np.inf:
        raise BadInput(f"tolerance = {tolerance}", "allowed: a number above 0; 1e-5 is usual")
    return tolerance


def followed(rate: Callable, ends: tuple[float, float], begin: Any, tolerance: float, most: int) -> Any:
    """Where an equation leads.

    Args:
      rate: (t, state, None) -> its slope.
      ends: from which time to which.
      begin: the state there, a pytree of arrays.
      tolerance: relative and absolute, of a step.
      most: steps.

    Returns:
      The state at the end, of the structure of `begin`.

    Raises:
      BadInput: diffrax is not installed.

    Source: Kidger, 2021, section 5.3.

    >>> round(float(followed(lambda t, y, _: y, (0.0, 1.0), jnp.ones(()), 1e-6, 100)), 3)  # e
    2.718
    """
    try:
        import diffrax
    except ImportError as error:
        raise BadInput(
            "adaptive steps need diffrax, which is not installed",
            "pip install 'genjax-research[ode]', or use fixed steps: samplers/ode.py, likelihood/probability_flow.py",
        ) from error
    found = diffrax.diffeqsolve(
        diffrax.ODETerm(rate),
        diffrax.Tsit5(),
        *(float(end) for end in ends),
        dt0=None,
        y0=begin,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        max_steps=most,
    )
    return jax.tree.map(lambda states: states[-1], found.ys)
