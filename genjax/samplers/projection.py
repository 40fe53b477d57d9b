r"""Pictures that are known through a linear map, enlarged or filled in by an unconditional model and any solver.

Known is y = A x, of a map with a pseudo-inverse: A A^+ A = A, P = A^+ A symmetric.  What P keeps of x is determined by
y, what I - P keeps is not; so a solver is given, in the place of x' = E[x | z_t],

    (1)  x'_y = A^+ y + (I - P) x'

and since the last step of every solver goes to x' itself, what it draws has A x = y, to rounding.

The law of the rest.  Where P x and (I - P) x are independent, (I - P) z_t moves as it would without y, and what is
drawn has the law of x given y, up to the solver's error.  Where they are not it is an approximation: the network sees
y only through z_t, as noisy as t says, and hears of it late.  `repeated` mends this: after each step some of the
noise is put back and the step is taken again, so that what was drawn comes to fit what is known.  Of two normals with a
correlation of 0.8, one of them known, the mean of the other is missed by 0.31 without repeats, by 0.09, 0.02 and 0.006
with 4, 16 and 64; their spread needs small steps too, for coarse ones repeated make it narrow.  With DDPM's steps and a
mask this is RePaint (`restoring.py`), but that RePaint draws the noise of the known pixels anew.

Sources: Wang, Yu and Zhang, Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model, 2022,
https://arxiv.org/abs/2212.00490, sections 3.1 to 3.3; Lugmayr et al., RePaint, 2022, https://arxiv.org/abs/2201.09865.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.gaussian import Process
from genjax.corruption.predictions import Denoise
from genjax.errors import BadInput
from genjax.samplers.diffusion import Memory, Solver
from genjax.samplers.grids import Plan, path
from genjax.types import Array, Key


class Observation(NamedTuple):
    """A linear map of data and its pseudo-inverse, both of arrays [B, ...]."""

    measure: Callable[[jax.Array], jax.Array]  # A: x -> y
    back: Callable[[jax.Array], jax.Array]  # A^+: y -> x


def shrunk(factor: int) -> Observation:
    """Means of squares of pixels; A^+ repeats each mean over its square.

    Args:
      factor: f, pixels of a square's side, at least 1; it divides height and width.

    Returns:
      Observation of [B, H, W, C] by [B, H / f, W / f, C].

    Raises:
      BadInput: a factor below 1; when used: pictures that it does not divide.

    Source: Wang et al., 2022, section 3.2.

    >>> x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    >>> float(shrunk(2).measure(x)[0, 0, 0, 0]), shrunk(2).back(jnp.ones((1, 1, 1, 1)))[0, :, :, 0].tolist()
    (1.5, [[1.0, 1.0], [1.0, 1.0]])
    """
    if factor < 1:
        raise BadInput(f"factor = {factor} of an enlargement", "allowed: whole numbers from 1")

    def measure(x: jax.Array) -> jax.Array:
        if x.ndim != 4 or x.shape[1] % factor or x.shape[2] % factor:
            raise BadInput(
                f"pictures {list(x.shape)} made {factor} times smaller",
                f"allowed: [B, H, W, C], height and width divisible by {factor}",
            )
        rows, height, width, channels = x.shape
        return x.reshape(rows, height // factor, factor, width // factor, factor, channels).mean(axis=(2, 4))

    return Observation(measure, lambda y: jnp.repeat(jnp.repeat(y, factor, axis=1), factor, axis=2))


def masked(mask: Array) -> Observation:
    """Some of the pixels, the others as zeros: a map that is its own pseudo-inverse.

    Args:
      mask: booleans, of the data's shape or one that stretches to it: True where a pixel is known.

    Returns:
      Observation of x by x under the mask.

    Raises:
      BadInput: a mask of other numbers.

    Source: Wang et al., 2022, section 3.2.

    >>> masked(jnp.array([True, False])).measure(jnp.array([[3.0, 4.0]])).tolist()
    [[3.0, 0.0]]
    """
    if not jnp.issubdtype(jnp.result_type(mask), jnp.bool_):
        raise BadInput(f"a mask of {jnp.result_type(mask)}", "allowed: booleans, True where a pixel is known")
    keep = lambda x: jnp.where(mask, x, 0.0)
    return Observation(keep, keep)


def projected(denoise: Denoise, observation: Observation, y: Array) -> Denoise:
    """x'_y of eq. 1: the model's x', but for what y determines.

    Args:
      denoise: (z, t [B]) -> E[x | z_t = z], of a model that knows nothing of y.
      observation: A and A^+.
      y: A x of what is to be drawn, [B, ...].

    Returns:
      Denoise, for every solver.

    Raises:
      BadInput: when used: a y that is no A x of such data.

    Source: Wang et al., 2022, section 3.1.

    Example: of two pixels the mean is known to be 2; the model, which says 5 and 7, is asked for their difference.
      >>> slope = lambda z, t: jnp.array([5.0, 7.0]).reshape(1, 1, 2, 1) * jnp.ones_like(z)
      >>> mean = Observation(lambda x: x.mean(axis=2, keepdims=True), lambda y: jnp.repeat(y, 2, axis=2))
      >>> fixed = projected(slope, mean, jnp.full((1, 1, 1, 1), 2.0))
      >>> fixed(jnp.zeros((1, 1, 2, 1)), jnp.zeros(1)).ravel().tolist()
      [1.0, 3.0]
    """
    y = jnp.asarray(y)

    def fixed(z: jax.Array, t: jax.Array) -> jax.Array:
        x = denoise(z, t)
        seen = observation.measure(x)
        if seen.shape != y.shape:
            raise BadInput(
                f"what is known has the shape {list(y.shape)}",
                f"allowed: that of the observation of such data, {list(seen.shape)}",
            )
        return observation.back(y) + (x - observation.back(seen))  # in this order pixels under a mask are exact

    return fixed


def repeated(solver: Solver, repeats: int) -> Solver:
    """Every step of a solver several times: after each but the last, noise takes z back to where the step began.

    Args:
      solver: of the steps, one that remembers nothing: the step before belongs to another noise.
      repeats: times that each step is taken, at least 1; as many times the cost.

    Returns:
      Solver, stochastic where repeats > 1.

    Raises:
      BadInput: no repeats; when used: a solver of several steps, such as 2M.

    Source: Wang et al., 2022, section 3.3, with travels of length 1; Lugmayr et al., 2022, algorithm 1.

    >>> from genjax.samplers.ddim import ddim
    >>> repeated(ddim(), 0)
    Traceback (most recent call last):
    genjax.errors.BadInput: repeats = 0 of every step
    allowed: whole numbers from 1
    """
    if repeats < 1:
        raise BadInput(f"repeats = {repeats} of every step", "allowed: whole numbers from 1")

    def plan(process: Process, grid: np.ndarray) -> Plan:
        at = path(process, grid)
        back = at["alpha"] / at["next_alpha"]
        spread = np.sqrt(np.maximum(at["sigma"] ** 2 - (back * at["next_sigma"]) ** 2, 0.0))
        return solver.plan(process, grid) | {"again_keep": back, "again_spread": spread}

    def init(z: jax.Array) -> Memory:
        memory = solver.init(z)
        if repeats > 1 and jax.tree.leaves(memory):
            raise BadInput(
                f"steps of a solver that looks back at the one before, {repeats} times",
                "allowed: ddim, ancestral, euler, heun, churn; or dpm_solver_2m without repeats",
            )
        return memory

    def step(
        denoise: Denoise, at: dict[str, jax.Array], z: jax.Array, memory: Memory, key: Key
    ) -> tuple[jax.Array, Memory, jax.Array]:
        def once(j: jax.Array, z: jax.Array) -> jax.Array:
            step_key, noise_key = jax.random.split(jax.random.fold_in(key, j))
            lower, _, _ = solver.step(denoise, at, z, memory, step_key)
            return at["again_keep"] * lower + at["again_spread"] * jax.random.normal(noise_key, z.shape, z.dtype)

        z = jax.lax.fori_loop(0, repeats - 1, once, z)
        return solver.step(denoise, at, z, memory, jax.random.fold_in(key, repeats - 1))

    return Solver(plan, init, step)
