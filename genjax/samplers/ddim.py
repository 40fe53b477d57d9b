r"""Steps that take what the network says of the data as true until the next time: DDPM, DDIM, DPM-Solver++(2M).

With x' the expectation of the data at t and eps' = (z - alpha_t x') / sigma_t, a step to s < t is

    DDIM         z_s = alpha_s x' + sqrt(sigma_s^2 - c^2) eps' + c n,    n ~ N(0, I),
                 c^2 = eta^2 (sigma_s sigma_{t|s} / sigma_t)^2           (Song, Meng and Ermon 2021, eqs. 12 and 16)
    DDPM         z_s = E[z_s | z_t, x'] + c n, its variance from c^2 = (sigma_s sigma_{t|s} / sigma_t)^2, that of
                 q(z_s | z_t, x), to sigma_{t|s}^2, geometrically between them      (Ho 2020, section 3.2; Nichol 2021)
    2M           z_s = (sigma_s / sigma_t) z + (alpha_s - alpha_t sigma_s / sigma_t) D,
                 D = (1 + w) x' - w x'_before,  w = h / (2 h_before),  h = log (alpha_s sigma_t / (alpha_t sigma_s))
                                                                         (Lu et al. 2022, algorithm 2)

DDIM with eta = 1 is DDPM with the smaller variance, term by term; with eta = 0 it draws nothing, is the 2M step with
w = 0, and an order 1 solver of the probability-flow equation; 2M is of order 2 for the same cost.  2M's first and last
steps have w = 0: one has no x'_before, the other an infinite h.  All work from zero signal on, for every process; 2M
nears its order only slowly where t is uniform down to the data themselves, as of a rectified flow.

Sources: Ho, Jain and Abbeel, 2020, https://arxiv.org/abs/2006.11239; Nichol and Dhariwal, 2021,
https://arxiv.org/abs/2102.09672, eq. 15; Song, Meng and Ermon, Denoising Diffusion Implicit Models, 2021,
https://arxiv.org/abs/2010.02502; Lu et al., DPM-Solver++, 2022, https://arxiv.org/abs/2211.01095.
"""

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.gaussian import Process
from genjax.errors import BadInput
from genjax.samplers.diffusion import Solver
from genjax.samplers.grids import Plan, path


def ddim(eta: float = 0.0) -> Solver:
    """DDIM: deterministic, or with noise put back.

    Args:
      eta: 0: none; 1: as much as DDPM's; at most 1.

    Returns:
      Solver of order 1, one call of the network a step; for every process.

    Raises:
      BadInput: eta outside [0, 1].

    Source: Song, Meng and Ermon, 2021, eq. 12.

    >>> ddim(2.0)
    Traceback (most recent call last):
    genjax.errors.BadInput: eta = 2.0
    allowed: from 0 (DDIM) to 1 (DDPM)
    """
    if not 0 <= eta <= 1:
        raise BadInput(f"eta = {eta}", "allowed: from 0 (DDIM) to 1 (DDPM)")

    def plan(process: Process, grid: np.ndarray) -> Plan:
        at = path(process, grid)
        drawn = eta * np.sqrt(_posterior_variance(at))
        return {
            "t": at["t"],
            "keep": np.sqrt(np.maximum(at["next_sigma"] ** 2 - drawn**2, 0.0)) / at["sigma"],
            "alpha": at["alpha"],
            "next_alpha": at["next_alpha"],
            "drawn": drawn,
        }

    def step(denoise, at, z, memory, key):
        x = denoise(z, jnp.full(len(z), at["t"]))
        moved = at["next_alpha"] * x + at["keep"] * (z - at["alpha"] * x)
        return moved + at["drawn"] * jax.random.normal(key, z.shape, z.dtype), memory, x

    return Solver(plan, lambda z: (), step)


def ancestral(variance: float = 0.0) -> Solver:
    """DDPM: a draw from q(z_s | z_t, x') with x' for the data.

    Args:
      variance: 0: that of q(z_s | z_t, x), right for data that are one point; 1: that of q(z_t | z_s), right for data
        that are N(0, I); geometrically between.

    Returns:
      Solver, stochastic, one call of the network a step; for every process.

    Raises:
      BadInput: a variance outside [0, 1].

    Source: Ho, Jain and Abbeel, 2020, algorithm 2; Nichol and Dhariwal, 2021, eq. 15.

    >>> ancestral().init(jnp.zeros(1))
    ()
    """
    if not 0 <= variance <= 1:
        raise BadInput(f"variance = {variance}", "allowed: from 0 (of q(z_s | z_t, x)) to 1 (of q(z_t | z_s))")

    def plan(process: Process, grid: np.ndarray) -> Plan:
        at = path(process, grid)
        small, large = _posterior_variance(at), _forward_variance(at)
        pull = at["next_alpha"] * _gained(at)
        return {
            "t": at["t"],
            "keep": at["alpha"] / at["next_alpha"] * (at["next_sigma"] / at["sigma"]) ** 2,
            "pull": pull,
            "drawn": np.sqrt(np.where(small > 0, small ** (1 - variance) * large**variance, 0.0)),
        }

    def step(denoise, at, z, memory, key):
        x = denoise(z, jnp.full(len(z), at["t"]))
        moved = at["keep"] * z + at["pull"] * x
        return moved + at["drawn"] * jax.random.normal(key, z.shape, z.dtype), memory, x

    return Solver(plan, lambda z: (), step)


def dpm_solver_2m() -> Solver:
    """DPM-Solver++(2M): a line through the last two x' instead of the last alone.

    Returns:
      Solver of order 2, one call of the network a step; for every process.

    Source: Lu et al., 2022, algorithm 2.

    >>> dpm_solver_2m().init(jnp.ones(2)).tolist()  # x' of the step before, which the first step does not look at
    [0.0, 0.0]
    """

    def plan(process: Process, grid: np.ndarray) -> Plan:
        at = path(process, grid)
        with np.errstate(divide="ignore", invalid="ignore"):
            h = np.log(at["next_alpha"] * at["sigma"]) - np.log(at["alpha"] * at["next_sigma"])
            line = np.append(0.0, h[1:] / (2.0 * h[:-1]))
        ratio = at["next_sigma"] / at["sigma"]
        return {
            "t": at["t"],
            "ratio": ratio,
            "pull": at["next_alpha"] - at["alpha"] * ratio,
            "line": np.where(np.isfinite(line), line, 0.0),
        }

    def step(denoise, at, z, before, key):
        x = denoise(z, jnp.full(len(z), at["t"]))
        straight = x + at["line"] * (x - before)
        return at["ratio"] * z + at["pull"] * straight, x, x

    return Solver(plan, jnp.zeros_like, step)


def _gained(at: Plan) -> np.ndarray:
    """(sigma_{t|s} / sigma_t)^2."""
    return 1.0 - (at["alpha"] * at["next_sigma"] / (at["next_alpha"] * at["sigma"])) ** 2


def _posterior_variance(at: Plan) -> np.ndarray:
    return _gained(at) * at["next_sigma"] ** 2


def _forward_variance(at: Plan) -> np.ndarray:
    return _gained(at) * at["sigma"] ** 2
