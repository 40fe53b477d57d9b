r"""Solvers of the probability-flow equation in a process's own time, and their stochastic relative.

    (1)  dz / dt = u(z, t) = alpha' x' + sigma' eps',    x' = E[x | z_t = z],  eps' = (z - alpha x') / sigma

    Euler    z_s = z + (s - t) u(z, t)                                                    order 1
    Heun     z_s = z + (s - t) (u(z, t) + u(z_euler, s)) / 2                              order 2, two calls a step
    churn    in y = z / alpha and s = sigma / alpha: first noise is added, s -> s (1 + gamma), then a Heun step back
             (Karras et al. 2022, algorithm 2)

The last step goes to the data: z = x', which is Euler's step in s.

Sources: Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, 2021,
https://arxiv.org/abs/2011.13456, eq. 13 and algorithms 2 to 5; Karras et al., 2022, https://arxiv.org/abs/2206.00364,
algorithms 1 and 2.
"""

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.gaussian import Process, log_snr, point, times_of
from genjax.corruption.predictions import Denoise
from genjax.errors import BadInput
from genjax.samplers.diffusion import Solver
from genjax.samplers.grids import Plan, path

ENDS = ("alpha", "sigma", "alpha_rate", "sigma_rate")


def euler() -> Solver:
    """Straight steps along eq. 1 in t.

    Returns:
      Solver of order 1, one call of the network a step; for every process.

    Source: Song et al., 2021, section 4.3.

    >>> euler().init(jnp.zeros(1))
    ()
    """

    def step(denoise, at, z, memory, key):
        x, slope = _slope(denoise, at, "", z)
        return jnp.where(at["final"] > 0, x, z + at["length"] * slope), memory, x

    return Solver(_plan, lambda z: (), step)


def heun() -> Solver:
    """Steps along the mean of the slopes at both ends.

    Returns:
      Solver of order 2, two calls of the network a step; for every process.

    Source: Karras et al., 2022, algorithm 1.

    >>> heun().init(jnp.zeros(1))
    ()
    """

    def step(denoise, at, z, memory, key):
        x, slope = _slope(denoise, at, "", z)
        _, after = _slope(denoise, at, "next_", z + at["length"] * slope)
        return jnp.where(at["final"] > 0, x, z + 0.5 * at["length"] * (slope + after)), memory, x

    return Solver(_plan, lambda z: (), step)


def churn(amount: float = 40.0, lowest: float = 0.05, highest: float = 50.0, inflate: float = 1.003) -> Solver:
    """Heun's steps, before each of which some noise is added: mistakes are forgotten.

    Args:
      amount: S_churn, >= 0; divided by the number of steps it is gamma, at most sqrt(2) - 1.
      lowest: S_tmin: no noise is added where s = sigma / alpha is below.
      highest: S_tmax, nor where it is above.
      inflate: S_noise, deviation of the noise, about 1.

    Returns:
      Solver, stochastic, two calls of the network a step; for processes with signal left at the last time.

    Raises:
      BadInput: a negative amount, an empty range; when planned: a process without signal at its last time.

    Source: Karras et al., 2022, algorithm 2.

    >>> churn(amount=-1.0)
    Traceback (most recent call last):
    genjax.errors.BadInput: S_churn = -1.0, from 0.05 to 50.0
    allowed: at least 0, from a level of noise to a higher one
    """
    if not (amount >= 0 and 0 <= lowest < highest):
        raise BadInput(
            f"S_churn = {amount}, from {lowest} to {highest}",
            "allowed: at least 0, from a level of noise to a higher one",
        )

    def plan(process: Process, grid: np.ndarray) -> Plan:
        at = path(process, grid)
        if (at["alpha"] == 0).any():
            raise BadInput(
                "churn begins at zero signal",
                "allowed: a process whose `last` stops before it; ddim, dpm_solver_2m, euler and heun fit this one",
            )
        s = at["sigma"] / at["alpha"]
        gamma = np.where((s >= lowest) & (s <= highest), min(amount / len(grid), np.sqrt(2.0) - 1.0), 0.0)
        top = np.exp(-0.5 * log_snr(process, np.array(process.last)))
        more = np.maximum(s, np.minimum(s * (1.0 + gamma), top))
        t = np.where(more > s, times_of(process, -2.0 * np.log(more)), grid)
        return {
            "alpha": at["alpha"],
            "s": more,
            "t": t,
            "t_alpha": process.alpha(t),
            "added": inflate * np.sqrt(more**2 - s**2),
            "next_s": at["next_sigma"] / at["next_alpha"],
            "next_t": at["next_t"],
            "next_alpha": at["next_alpha"],
        }

    def step(denoise, at, z, memory, key):
        data = lambda y, name: denoise(y * at[f"{name}_alpha"], jnp.full(len(z), at[name]))
        y = z / at["alpha"] + at["added"] * jax.random.normal(key, z.shape, z.dtype)
        x = data(y, "t")
        slope = (y - x) / at["s"]
        ahead = y + (at["next_s"] - at["s"]) * slope
        final = at["next_s"] == 0
        next_s = jnp.where(final, 1.0, at["next_s"])
        after = denoise(ahead * at["next_alpha"], jnp.full(len(z), at["next_t"]))
        mean = 0.5 * (slope + (ahead - after) / next_s)
        return at["next_alpha"] * jnp.where(final, x, y + (at["next_s"] - at["s"]) * mean), memory, x

    return Solver(plan, lambda z: (), step)


def _plan(process: Process, grid: np.ndarray) -> Plan:
    at = path(process, grid)
    with jax.ensure_compile_time_eval():  # the plan is made of numbers, also where sampling is being compiled
        here, there = (point(process, at[name])._asdict() for name in ("t", "next_t"))
    plan = {name: np.asarray(here[name]) for name in ENDS} | {f"next_{name}": np.asarray(there[name]) for name in ENDS}
    final = np.append(np.zeros(len(grid) - 1), 1.0)
    return plan | {"t": at["t"], "next_t": at["next_t"], "length": at["next_t"] - at["t"], "final": final}


def _slope(denoise: Denoise, at: dict[str, jax.Array], end: str, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    alpha, sigma, alpha_rate, sigma_rate = (at[end + name] for name in ENDS)
    x = denoise(z, jnp.full(len(z), at[f"{end}t"]))
    return x, alpha_rate * x + sigma_rate * (z - alpha * x) / sigma
