r"""From noise to data along a grid of times: the frame in which every solver of a diffusion stands.

A grid is N times t_0 = last > t_1 > ... > t_{N-1}, at each of which the network is asked for x' = E[x | z_t]; the i-th
step goes from t_i to t_{i+1}, and the last one to the data: alpha = 1, sigma = 0.  A `Solver` is three pure functions:

    plan(process, grid)                          the coefficients of all steps, in float64 on the host
    init(z)                                      what it remembers between steps
    step(denoise, coefficients, z, memory, key)  one step: (z, memory, x')

and `sample` is one scan of `step`, to be called under `jax.jit` where it is called again: outside
of it each call compiles.  A solver's order p is that of its error N^-p; its cost is N calls of the
network, or twice as many where it says so.

Grids, with s = sigma / alpha and lambda = -2 log s:

    uniform            in t
    uniform_log_snr    in lambda
    karras             in s^(1 / rho): more steps at little noise (Karras et al., 2022, eq. 5)

Source: Karras, Aittala, Aila and Laine, Elucidating the Design Space of Diffusion-Based Generative Models, 2022,
https://arxiv.org/abs/2206.00364, section 3.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.gaussian import Process, draw_last, log_snr, times_of
from genjax.corruption.predictions import Denoise
from genjax.errors import BadInput
from genjax.types import Array, Key

Memory = Any
Plan = dict[str, np.ndarray]  # each [N, ...] float64: a row a step


class Solver(NamedTuple):
    """How z goes from one time of a grid to the next."""

    plan: Callable[[Process, np.ndarray], Plan]
    init: Callable[[jax.Array], Memory]
    step: Callable[[Denoise, dict[str, jax.Array], jax.Array, Memory, Key], tuple[jax.Array, Memory, jax.Array]]


# --- grids ------------------------------------------------------------------------------------------------------------


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
      BadInput: times that do not fall, that lie outside the process, or at which no noise is left.

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
    return {
        "t": grid,
        "alpha": alpha,
        "sigma": sigma,
        "next_t": np.append(grid[1:], grid[-1]),
        "next_alpha": np.append(alpha[1:], 1.0),
        "next_sigma": np.append(sigma[1:], 0.0),
    }


# --- one scan ---------------------------------------------------------------------------------------------------------


def sample(
    process: Process, denoise: Denoise, solver: Solver, grid: np.ndarray, key: Key, shape: tuple[int, ...]
) -> jax.Array:
    """Data from noise.

    Args:
      process: that `denoise` knows.
      denoise: (z, t [B]) -> E[x | z_t = z].
      solver: of any file of this room.
      grid: times [N], falling.
      key: of the noise that it begins with, and of what a stochastic solver adds.
      shape: of the data, [B, ...].

    Returns:
      x of that shape.

    Raises:
      BadInput: a grid that does not fall or lies outside the process, a solver that does not fit it.

    Example: data that are always 2.
      >>> from genjax.corruption.schedules import cosine
      >>> from genjax.samplers.ddim import ddim
      >>> two = lambda z, t: jnp.full_like(z, 2.0)
      >>> sample(cosine(), two, ddim(), uniform(cosine(), 3), jax.random.key(0), (1, 2)).tolist()
      [[2.0, 2.0]]
    """
    begin_key, key = jax.random.split(key)
    return sample_from(process, denoise, solver, grid, key, draw_last(process, begin_key, shape))


def sample_from(process: Process, denoise: Denoise, solver: Solver, grid: np.ndarray, key: Key, z: Array) -> jax.Array:
    """Data from a z at the first time of a grid, which may begin anywhere in the process.

    Args:
      process, denoise, solver, grid: as of `sample`.
      key: of what a stochastic solver adds; the i-th step has fold_in(key, i).
      z: z_t [B, ...] at t = grid[0].

    Returns:
      x, of z's shape.

    Raises:
      BadInput: as `sample`.

    >>> from genjax.corruption.schedules import cosine
    >>> from genjax.samplers.ddim import ddim
    >>> still = lambda z, t: jnp.ones_like(z)
    >>> sample_from(cosine(), still, ddim(), np.array([0.5]), jax.random.key(0), jnp.zeros((1, 1))).tolist()
    [[1.0]]
    """
    return _scan(process, denoise, solver, grid, key, jnp.asarray(z))[0]


def trajectory(
    process: Process,
    denoise: Denoise,
    solver: Solver,
    grid: np.ndarray,
    key: Key,
    shape: tuple[int, ...],
    frames: int | None = None,
) -> jax.Array:
    """What the network takes the data to be, at some steps: a preview of sampling.

    Args:
      process, denoise, solver, grid, key, shape: as of `sample`, whose sample it ends with.
      frames: F of the N steps, evenly spread, the first and the last among them; 1: the last; no more are held in
        memory.  None: all.

    Returns:
      x' [F, B, ...] of these steps.

    Raises:
      BadInput: as `sample`; frames below 1, or more than steps.

    >>> from genjax.corruption.schedules import cosine
    >>> from genjax.samplers.ddim import ddim
    >>> still = lambda z, t: jnp.ones_like(z)
    >>> trajectory(cosine(), still, ddim(), uniform(cosine(), 3), jax.random.key(0), (1, 2)).shape
    (3, 1, 2)
    """
    n = len(grid)
    frames = n if frames is None else frames
    if not 1 <= frames <= n:
        raise BadInput(f"frames = {frames} of {n} steps", "allowed: whole numbers from 1 to the steps")
    shown = np.linspace(n - 1, 0, frames).round().astype(int)[::-1]
    slots = np.full(n, frames)  # of a step that is not shown: outside
    slots[shown] = np.arange(frames)
    begin_key, key = jax.random.split(key)
    return _scan(process, denoise, solver, grid, key, draw_last(process, begin_key, shape), slots, frames)[1]


def _scan(
    process: Process,
    denoise: Denoise,
    solver: Solver,
    grid: np.ndarray,
    key: Key,
    z: jax.Array,
    slots: np.ndarray | None = None,
    frames: int = 0,
) -> tuple[jax.Array, jax.Array]:
    plan = {name: jnp.asarray(rows, z.dtype) for name, rows in solver.plan(process, grid).items()}
    slots = np.zeros(len(grid), int) if slots is None else slots

    def step(carried, row):
        (z, memory, kept), (i, slot, at) = carried, row
        z, memory, x = solver.step(denoise, at, z, memory, jax.random.fold_in(key, i))
        return (z, memory, kept.at[slot].set(x, mode="drop") if frames else kept), None

    begin = (z, solver.init(z), jnp.zeros((frames, *z.shape), z.dtype))
    (z, _, kept), _ = jax.lax.scan(step, begin, (jnp.arange(len(grid)), slots, plan))
    return z, kept


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
