"""A diffusion model as a chain of latents: its bound in T steps as the length of a file.

The layers are z at the T + 1 times of a grid, from t_0 = last to t_T, which need not be the process's first time:

    p(z_0) = N(0, sigma_0^2),         q(z_0 | x) = N(alpha_0 x, sigma_0^2)
    p(z_s | z_t) = q(z_s | z_t, x'(z_t, t)),     q(z_s | z_t, x)       (Gaussian with one variance: Kingma et al., eq. 4
                                                                        of `genjax.corruption.gaussian`)
    p(x_d = v_l | z_T) = softmax_l(-(v_l - x'_d(z_T))^2 / (2 sigma_T^2 / alpha_T^2))

The last line is what the network says at the end of the grid with the spread of the noise there, of grey levels alone:
the discrete decoder of DDPM.  It looks at all pixels, where Bayes' rule for each pixel by itself (`of_levels`) looks at
one; so a grid of few steps may end where neighbouring levels still overlap, and spends no steps on noise that is finer
than the levels are.

The length is nearly `stepwise_bound` of the process from t_T on, with `of_denoised`, on this grid.  A surprise costs no
more than k bits a latent, which shortens it, and z of few places is told to the network as it never was, which adds: of
4,000 rows of the tests' four pixels it was 2 to 4 % shorter with 6, 7, 8 and 10 bits, 4 % longer with 5, where one draw
of the noise deviates by 0.9 %.

Sources: Kingma, Salimans, Poole and Ho, Variational Diffusion Models, 2021, https://arxiv.org/abs/2107.00630, section
5.3; Ho, Jain and Abbeel, 2020, https://arxiv.org/abs/2006.11239, eq. 13.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.gaussian import Process, between
from genjax.corruption.predictions import Denoise
from genjax.errors import BadInput
from genjax.likelihood.bits_back_chain import Chain, Layer, Normal, State
from genjax.likelihood.diffusion import Reconstruction, least_distance, of_logits
from genjax.samplers.grids import path
from genjax.types import Array, Params


def of_denoised(process: Process, denoise: Denoise, values: Array) -> Reconstruction:
    """-log p(x | z_first) of grey levels, by what the network says there.

    Args:
      process: with noise at its first time.
      denoise: (z, t [B]) -> E[x | z_t = z].
      values: [L] what the levels are in the data's scale, such as linspace(-1, 1, 256).

    Returns:
      Reconstruction; infinite where a pixel of x is none of the levels.

    Raises:
      BadInput: fewer than two levels, or two that are alike.

    Source: Ho, Jain and Abbeel, 2020, eq. 13.

    >>> from genjax.corruption.schedules import rectified_flow
    >>> unsure = of_denoised(rectified_flow(first=0.5), lambda z, t: z, jnp.array([-1.0, 1.0]))
    >>> [round(float(unsure(x, jnp.ones((1, 1)))[0]), 4) for x in (jnp.ones((1, 1)), -jnp.ones((1, 1)))]
    [0.1269, 2.1269]
    """

    def logits(z: jax.Array) -> jax.Array:
        x = denoise(z, jnp.full(len(z), process.first, z.dtype))
        return _level_logits(process, process.first, x, jnp.asarray(values, jnp.float32))

    return of_logits(values, logits)


def diffusion_chain(
    process: Process,
    denoise: Callable[[Params], Denoise],
    values: Array,
    grid: np.ndarray,
    shape: Sequence[int],
    precision: int = 5,
) -> Chain:
    """What `genjax.likelihood.bits_back_chain` codes by.

    Args:
      process: of the corruption.
      denoise: parameters -> (z, t [B]) -> E[x | z_t = z].
      values: [V] what the symbols 0 .. V-1 are in the data's scale.
      grid: T + 1 times that fall from the process's last, with noise left at the end.
      shape: of an example, of T = prod(shape) symbols.
      precision: bits of a latent.

    Returns:
      Chain of T + 1 layers; a row costs T + 1 calls of the network on either side.

    Raises:
      BadInput: fewer than two levels, or two that are alike; a grid that does not fall from the last time.

    Source: Kingma et al., 2021, section 5.3.

    >>> from genjax.corruption.schedules import cosine
    >>> grid = np.array([cosine().last, 0.5, 0.1])
    >>> found = diffusion_chain(cosine(), lambda params: lambda z, t: z, jnp.linspace(-1.0, 1.0, 3), grid, (2, 2, 1))
    >>> found.symbols, [layer.latents for layer in found.layers]
    (3, [4, 4, 4])
    """
    least_distance(values)
    values, grid = jnp.asarray(values, jnp.float32), path(process, grid)["t"]
    if not np.isclose(grid[0], process.last, rtol=1e-9):
        raise BadInput(f"a chain from t = {grid[0]}", f"allowed: times that fall from {process.last}")
    keep, model_pull, data_pull, log_var = (jnp.asarray(part, jnp.float32) for part in _plan(process, grid))
    times, size = jnp.asarray(grid, jnp.float32), math.prod(shape)
    here, flat = (1, *shape), lambda mean: mean.reshape(1, size)

    def start(params: Params) -> State:  # z_t, and what the network takes x to be
        return jnp.zeros(here), jnp.zeros(here)

    def prior(params: Params, state: State, i: jax.Array) -> Normal:
        return flat(keep[i] * state[0] + model_pull[i] * state[1]), jnp.full((1, size), log_var[i])

    def posterior(params: Params, x: jax.Array, state: State, i: jax.Array) -> Normal:
        return flat(keep[i] * state[0] + data_pull[i] * x), jnp.full((1, size), log_var[i])

    def follow(params: Params, state: State, z: jax.Array, i: jax.Array) -> State:
        return z.reshape(here), denoise(params)(z.reshape(here), times[i][None])

    observe = lambda params, x: values[x].reshape(here)
    logits = lambda params, state: _level_logits(process, grid[-1], state[1], values).reshape(1, size, -1)
    layer = Layer(size, prior, posterior, follow)
    return Chain(len(values), [layer] * len(grid), start, observe, logits, precision)


def _plan(process: Process, grid: np.ndarray) -> tuple[np.ndarray, ...]:
    """By layer: the shares of z_t, of x' in the prior and of x in the posterior, and the log variance of both."""
    last, step = grid[:1], between(process, grid[1:], grid[:-1])
    data_pull = np.append(process.alpha(last), step.pull)
    variance = np.append(process.sigma(last) ** 2, step.variance)
    return np.append(0.0, step.keep), np.append(0.0, step.pull), data_pull, np.log(variance)


def _level_logits(process: Process, t: float, x: jax.Array, values: jax.Array) -> jax.Array:
    spread = process.sigma(np.array(t)) / process.alpha(np.array(t))
    return -0.5 * ((x[..., None] - values.reshape((1,) * x.ndim + (-1,))) / jnp.asarray(spread, x.dtype)) ** 2
