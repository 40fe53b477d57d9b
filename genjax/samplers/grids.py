r"""Grids of times for sampling, and what a process is at them.

A grid is N times that fall, from `last` to `first` of a process.  With s = sigma / alpha and lambda = -2 log s they may
lie at equal distances

    uniform            of t
    uniform_log_snr    of lambda
    karras             of s^(1 / rho): more steps at little noise (Karras et al., 2022, eq. 5)

All is computed in NumPy's float64.

Source: Karras, Aittala, Aila and Laine, Elucidating the Design Space of Diffusion-Based Generative Models, 2022,
https://arxiv.org/abs/2206.00364, section 3.
"""

import numpy as np

from genjax.corruption.gaussian import Process, log_snr, times_of
from genjax.errors import BadInput

Plan = dict[str, np.ndarray]  # each [N, ...] float64: a row a step


def uniform(process: Process, steps: int) -> np.ndarray:
    """Times at equal distances.

    Args:
      process: from whose last to whose first time.
      steps: N, at least 1.

    Returns:
      [N] float64, falling from `last`; down to `first`, or to the one before it where `first` is the data themselves.

    Raises:
      BadInput: no steps.

    >>> from genjax.corruption.schedules import rectified_flow
    >>> uniform(rectified_flow(), 4).tolist()
    [1.0, 0.75, 0.5, 0.25]
    """
    n = _check_steps(steps)
    if process.sigma(np.array(process.first)) == 0:
        return np.linspace(process.last, process.first, n + 1)[:-1]
    return np.linspace(process.last, process.first, n)


def uniform_log_snr(process: Process, steps: int) -> np.ndarray:
    """Times at equal distances of the log-SNR.

    Args:
      process: with signal left at its last time, and noise at its first.
      steps: N, at least 1.

    Returns:
      [N] float64, falling from `last` to `first`.

    Raises:
      BadInput: no steps; a log-SNR that is infinite at an end.

    >>> from genjax.corruption.schedules import variance_exploding
    >>> uniform_log_snr(variance_exploding(), 3).round(6).tolist()  # geometric in t already
    [1.0, 0.5, 0.0]
    """
    n, ends = _check_steps(steps), _finite_ends(process, "uniform_log_snr")
    return times_of(process, np.linspace(ends[1], ends[0], n))


def karras(process: Process, steps: int, rho: float = 7.0) -> np.ndarray:
    """Times at equal distances of s^(1 / rho), s = sigma / alpha.

    Args:
      process: with signal left at its last time, and noise at its first.
      steps: N, at least 1.
      rho: > 0; 7 in the paper; 1: uniform in s.

    Returns:
      [N] float64, falling from `last` to `first`.

    Raises:
      BadInput: no steps; rho not positive; a log-SNR that is infinite at an end.

    Source: Karras et al., 2022, eq. 5.

    >>> from genjax.corruption.schedules import edm
    >>> karras(edm(), 5).round(3).tolist()
    [80.0, 17.528, 2.515, 0.17, 0.002]
    """
    if not rho > 0:
        raise BadInput(f"rho = {rho}", "allowed: a number above 0; 7 is usual")
    n, ends = _check_steps(steps), _finite_ends(process, "karras")
    noise = np.exp(-0.5 * ends)
    s = np.linspace(noise[1] ** (1 / rho), noise[0] ** (1 / rho), n) ** rho
    return times_of(process, -2.0 * np.log(s))


def path(process: Process, grid: np.ndarray) -> Plan:
    """alpha and sigma where each step begins and ends; the last ends at the data.

    Args:
      process: whose.
      grid: times [N], falling.

    Returns:
      {"t", "alpha", "sigma", "next_t", "next_alpha", "next_sigma"}, each [N]; the last next_t repeats t.

    Raises:
      BadInput: times that do not fall, that lie outside the process, or at which no noise is left; a process whose
        signal does not fall.

    >>> from genjax.corruption.schedules import rectified_flow
    >>> path(rectified_flow(), np.array([1.0, 0.5]))["next_alpha"].tolist()
    [0.5, 1.0]
    """
    grid = np.asarray(grid, np.float64)
    slack = 1e-9 * (process.last - process.first)
    inside = grid.ndim == 1 and len(grid) and grid[0] <= process.last + slack and grid[-1] >= process.first - slack
    if not inside or not (np.diff(grid) < 0).all():
        raise BadInput(
            f"a grid of {grid.size} times from {grid.flat[0] if grid.size else 'nothing'}",
            f"allowed: [N] times that fall, between {process.last} and {process.first}",
        )
    alpha, sigma = process.alpha(grid), process.sigma(grid)
    if not (sigma > 0).all():
        raise BadInput(
            f"a grid down to t = {grid[-1]}, where no noise is left",
            "allowed: times of the steps' beginnings; the last step goes to the data by itself",
        )
    with np.errstate(divide="ignore"):
        ratio = np.diff(np.log(alpha) - np.log(sigma))
    if not (ratio > 0).all():
        raise BadInput(
            f"the signal-to-noise ratio of a process rises towards t = {grid[np.flatnonzero(~(ratio > 0))[0]]:.6g}",
            "allowed: a schedule that falls from first to last; look at the signs of its formula",
        )
    return {
        "t": grid,
        "alpha": alpha,
        "sigma": sigma,
        "next_t": np.append(grid[1:], grid[-1]),
        "next_alpha": np.append(alpha[1:], 1.0),
        "next_sigma": np.append(sigma[1:], 0.0),
    }


def _check_steps(steps: int) -> int:
    if not steps >= 1 or steps != int(steps):
        raise BadInput(f"steps = {steps} of a sampler", "allowed: whole numbers from 1; 20 to 100 are usual")
    return int(steps)


def _finite_ends(process: Process, grid: str) -> np.ndarray:
    ends = log_snr(process, np.array([process.first, process.last]))
    if not np.isfinite(ends).all():
        raise BadInput(
            f"the grid {grid} of a process that reaches the data themselves, or zero signal",
            "allowed: `uniform`, or a process whose `first` and `last` stop before these",
        )
    return ends
