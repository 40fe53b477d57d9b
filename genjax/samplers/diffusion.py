r"""From noise to data along a grid of times: the frame in which every solver of a diffusion stands.

A grid (`samplers/grids.py`) is N times t_0 = last > t_1 > ... > t_{N-1}, at each of which the network is asked for
x' = E[x | z_t]; the i-th step goes from t_i to t_{i+1}, and the last one to the data: alpha = 1, sigma = 0.  A `Solver`
is three pure functions:

    plan(process, grid)                          the coefficients of all steps, in float64 on the host
    init(z)                                      what it remembers between steps
    step(denoise, coefficients, z, memory, key)  one step: (z, memory, x')

and `sample` is one scan of `step`, to be called under `jax.jit` where it is called again: outside of it each call
compiles.  A solver's order p is that of its error N^-p; its cost is N calls of the network, or twice as many where it
says so.

Source: Karras, Aittala, Aila and Laine, Elucidating the Design Space of Diffusion-Based Generative Models, 2022,
https://arxiv.org/abs/2206.00364, section 3.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.gaussian import Process, draw_last
from genjax.corruption.predictions import Denoise, checked
from genjax.distributions import upcast
from genjax.errors import BadInput
from genjax.samplers.grids import Plan
from genjax.types import Array, Key

Memory = Any


class Solver(NamedTuple):
    """How z goes from one time of a grid to the next."""

    plan: Callable[[Process, np.ndarray], Plan]
    init: Callable[[jax.Array], Memory]
    step: Callable[[Denoise, dict[str, jax.Array], jax.Array, Memory, Key], tuple[jax.Array, Memory, jax.Array]]


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
      BadInput: a grid that does not fall or lies outside the process, a solver that does not fit it, a denoiser's
        output of another shape than x.

    Example: data that are always 2.
      >>> from genjax.corruption.schedules import cosine
      >>> from genjax.samplers.ddim import ddim
      >>> two = lambda z, t: jnp.full_like(z, 2.0)
      >>> from genjax.samplers.grids import uniform
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
      x, of z's shape, float32 at least.

    Raises:
      BadInput: as `sample`.

    >>> from genjax.corruption.schedules import cosine
    >>> from genjax.samplers.ddim import ddim
    >>> still = lambda z, t: jnp.ones_like(z)
    >>> sample_from(cosine(), still, ddim(), np.array([0.5]), jax.random.key(0), jnp.zeros((1, 1))).tolist()
    [[1.0]]
    """
    return _scan(process, denoise, solver, grid, key, z)[0]


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
    >>> from genjax.samplers.grids import uniform
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
    z: Array,
    slots: np.ndarray | None = None,
    frames: int = 0,
) -> tuple[jax.Array, jax.Array]:
    z, denoise = upcast(z), checked(denoise)
    plan = {name: jnp.asarray(rows, z.dtype) for name, rows in solver.plan(process, grid).items()}
    slots = np.zeros(len(grid), int) if slots is None else slots

    def step(carried, row):
        (z, memory, kept), (i, slot, at) = carried, row
        z, memory, x = solver.step(denoise, at, z, memory, jax.random.fold_in(key, i))
        return (z, memory, kept.at[slot].set(x, mode="drop") if frames else kept), None

    begin = (z, solver.init(z), jnp.zeros((frames, *z.shape), z.dtype))
    (z, _, kept), _ = jax.lax.scan(step, begin, (jnp.arange(len(grid)), slots, plan))
    return z, kept
