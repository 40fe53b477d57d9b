r"""Sampling with a consistency function: from noise to data in one call, better in a few.

f(z_t, t) (`losses/consistency.py`) is the point where the path through z_t begins, y at s_0 = sigma / alpha at the
process's first time.  One call makes data of noise.  Noise may then be put back, and taken away again: with the grid's
next time t' and s' = sigma / alpha there,

    y_t' = f(z_t, t) + sqrt(s'^2 - s_0^2) n,    n ~ N(0, I),    z_t' = alpha_t' y_t'

which has the law of z_t' again if f is exact, since f's value has the noise s_0 left.  Each call forgets errors of
those before it.  A student of few times knows these alone: the grid is best taken from that of its distillation.

Source: Song, Dhariwal, Chen and Sutskever, Consistency Models, 2023, https://arxiv.org/abs/2303.01469, algorithm 1.
"""

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.gaussian import Process
from genjax.samplers.diffusion import Solver
from genjax.samplers.grids import Plan, path


def multistep() -> Solver:
    """To data by f and back to noise, at each time of a grid; for `sample` of `samplers/diffusion.py`.

    Where the other solvers take E[x | z_t], this one takes a consistency function.  A grid of one time is the sampling
    in one step.

    Returns:
      Solver, stochastic, one call of f a step; for processes with signal left at the grid's times.

    Source: Song et al., 2023, algorithm 1.

    Example: data that are always 2.
      >>> from genjax.corruption.schedules import edm
      >>> from genjax.samplers.diffusion import sample
      >>> two = lambda z, t: jnp.full_like(z, 2.0)
      >>> sample(edm(), two, multistep(), np.array([80.0, 1.0]), jax.random.key(0), (1, 2)).tolist()
      [[2.0, 2.0]]
    """

    def plan(process: Process, grid: np.ndarray) -> Plan:
        at, first = path(process, grid), np.array(process.first)
        floor = process.sigma(first) / process.alpha(first)
        added = np.sqrt(np.maximum((at["next_sigma"] / at["next_alpha"]) ** 2 - floor**2, 0.0))
        return {"t": at["t"], "next_alpha": at["next_alpha"], "added": added}

    def step(consistent, at, z, memory, key):
        x = consistent(z, jnp.full(len(z), at["t"]))
        return at["next_alpha"] * (x + at["added"] * jax.random.normal(key, z.shape, z.dtype)), memory, x

    return Solver(plan, lambda z: (), step)
