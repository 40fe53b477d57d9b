r"""Predictor and corrector: between the steps of any solver, some steps of a Langevin chain at one level of noise.

The score of z_t is grad log q(z_t) = (alpha_t x' - z) / sigma_t^2 with x' = E[x | z_t = z].  Two kinds of step use it:

    (1)  reverse diffusion    z_s = (2 - alpha_{t|s}) z + sigma_{t|s}^2 score + sigma_{t|s} n,     n ~ N(0, I)
    (2)  Langevin             z <- z + e score + sqrt(2 e) n,                                      e = 2 (r sigma_t)^2

Eq. 1 turns around the step forward z_t = alpha_{t|s} z_s + sigma_{t|s} n; it moves from a law to an earlier one, the
predictor.  Eq. 2 leaves the law at t as it is (but for the length of its steps), so that errors of the predictor are
corrected.  In x' eq. 2 is

    (3)  z <- z + 2 r^2 (alpha_t x' - z) + 2 r sigma_t n

The paper sets e = 2 a (r |n| / |score|)^2 by the norms that it measures, over a batch in practice, with a = 1 for
exploding variance and a little below for preserved. Here |score| is taken to be |n| / sigma_t, as it is where the
noise hides the data, or where there are many pixels to a dimension of the data: no row then depends on another one,
and eq. 3 is linear in x'. r is the paper's: a signal-to-noise ratio of the chain. Pure noise N(0, sigma_t^2 I) comes
out of many steps with the variance sigma_t^2 / (1 - r^2): r = 0.16 makes it 2.6 % too large.

Here correction comes before each prediction, at the time where the step begins; the paper has it after.  That is the
same chain but for its ends: corrected is also z at the first time, and never the data, which have no score.

Source: Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, 2021,
https://arxiv.org/abs/2011.13456, section 4.2, appendices E and G.
"""

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.gaussian import Process
from genjax.errors import BadInput
from genjax.samplers.diffusion import Solver
from genjax.samplers.grids import Plan, path


def reverse_diffusion() -> Solver:
    """Eq. 1: the predictor of the paper; its last step goes to x'.

    Returns:
      Solver, stochastic, one call of the network a step; for processes with signal left at the first time of the grid,
      many steps: for few of them `ancestral` is the better one.

    Raises:
      BadInput: when planned: a grid that begins at zero signal.

    Source: Song et al., 2021, appendix E.

    >>> reverse_diffusion().init(jnp.zeros(1))
    ()
    """

    def plan(process: Process, grid: np.ndarray) -> Plan:
        at = path(process, grid)
        if (at["alpha"] == 0).any():
            raise BadInput(
                "reverse_diffusion begins at zero signal",
                "allowed: a process whose `last` stops before it; ancestral, ddim, euler and heun fit this one",
            )
        forward = at["alpha"] / at["next_alpha"]
        variance = at["sigma"] ** 2 - (forward * at["next_sigma"]) ** 2
        final = np.append(np.zeros(len(grid) - 1), 1.0)
        return {
            "t": at["t"],
            "keep": np.where(final, 0.0, 2.0 - forward - variance / at["sigma"] ** 2),
            "pull": np.where(final, 1.0, variance * at["alpha"] / at["sigma"] ** 2),
            "drawn": np.where(final, 0.0, np.sqrt(variance)),
        }

    def step(denoise, at, z, memory, key):
        x = denoise(z, jnp.full(len(z), at["t"]))
        moved = at["keep"] * z + at["pull"] * x
        return moved + at["drawn"] * jax.random.normal(key, z.shape, z.dtype), memory, x

    return Solver(plan, lambda z: (), step)


def corrected(predictor: Solver, ratio: float = 0.16, repeats: int = 1) -> Solver:
    """Langevin steps before each step of a solver, eq. 3.

    Args:
      predictor: any solver; `reverse_diffusion()` in the paper.
      ratio: r, in (0, 1); in the paper 0.16 for exploding variance of small pictures, less for larger ones.
      repeats: M, Langevin steps before each of the predictor's, at least 1.

    Returns:
      Solver, stochastic, M calls of the network a step more than the predictor; for the predictor's processes.

    Raises:
      BadInput: a ratio outside (0, 1), no repeats.

    Source: Song et al., 2021, algorithm 1.

    >>> from genjax.samplers.ddim import ancestral
    >>> corrected(ancestral(1.0), ratio=1.5)
    Traceback (most recent call last):
    genjax.errors.BadInput: ratio = 1.5, repeats = 1 of a corrector
    allowed: above 0, below 1 (0.16 is usual); whole numbers from 1
    """
    if not 0 < ratio < 1 or not repeats >= 1 or repeats != int(repeats):
        raise BadInput(
            f"ratio = {ratio}, repeats = {repeats} of a corrector",
            "allowed: above 0, below 1 (0.16 is usual); whole numbers from 1",
        )

    def plan(process: Process, grid: np.ndarray) -> Plan:
        at = path(process, grid)
        return predictor.plan(process, grid) | {f"corrector_{name}": at[name] for name in ("t", "alpha", "sigma")}

    def step(denoise, at, z, memory, key):
        t, alpha, sigma = (at[f"corrector_{name}"] for name in ("t", "alpha", "sigma"))
        predictor_key, *keys = jax.random.split(key, int(repeats) + 1)

        def correct(z, key):
            x = denoise(z, jnp.full(len(z), t))
            noise = jax.random.normal(key, z.shape, z.dtype)
            return z + 2.0 * ratio**2 * (alpha * x - z) + 2.0 * ratio * sigma * noise, None

        z, _ = jax.lax.scan(correct, z, jnp.stack(keys))
        return predictor.step(denoise, at, z, memory, predictor_key)

    return Solver(plan, predictor.init, step)
