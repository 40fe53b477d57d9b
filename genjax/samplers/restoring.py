r"""Pictures that a diffusion model finishes: inpainting, going on from a sketch, encoding and interpolation.

Inpainting (Lugmayr et al., 2022, algorithm 1).  After each step to the time s the known pixels are replaced by those of
the picture, as noisy as s says; then some of the step's noise is put back, and it is done again: `repeats` times, so
that what was drawn comes to fit what is known.  Its law is that of x given what is known only in the limit.

From a sketch (Meng et al., 2022, SDEdit).  A picture is made noisy up to a time t, and sampled from there: the later t,
the freer the result.

A noisy picture y = x + d n, n ~ N(0, I), is itself a z_t / alpha_t: at the time when sigma / alpha = d.  Sampled from
there by steps with noise it gives draws of x given y; by steps without, one x, whose law is that of data over all y.

Encoding (Song, Meng and Ermon, 2021, section 5.4).  The probability-flow equation run upwards takes data to a z that
gives them back; between two z one interpolates along the arc, of which each end is nearly N(0, sigma^2 I).

Sources: Lugmayr et al., RePaint, 2022, https://arxiv.org/abs/2201.09865; Meng et al., SDEdit, 2022,
https://arxiv.org/abs/2108.01073; Song, Meng and Ermon, Denoising Diffusion Implicit Models, 2021,
https://arxiv.org/abs/2010.02502.
"""

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.gaussian import Process, corrupt, draw_last, times_of
from genjax.corruption.predictions import Denoise, checked
from genjax.distributions import upcast
from genjax.errors import BadInput
from genjax.samplers.ddim import ancestral
from genjax.samplers.diffusion import Solver, sample_from
from genjax.samplers.grids import path
from genjax.samplers.latents import interpolate_spherical
from genjax.types import Array, Key


def inpaint(
    process: Process, denoise: Denoise, grid: np.ndarray, key: Key, known: Array, mask: Array, repeats: int = 10
) -> jax.Array:
    """Pixels outside a mask, drawn to go with those under it, by DDPM's steps.

    Args:
      process: that `denoise` knows.
      denoise: (z, t [B]) -> E[x | z_t = z].
      grid: times [N], falling.
      key: of all noise.
      known: x [B, ...]; only what is under the mask is looked at.
      mask: of known's shape, booleans: True where a pixel is known.
      repeats: times that every step is taken, at least 1; N times as many calls of the network.

    Returns:
      x of known's shape, exactly `known` under the mask.

    Raises:
      BadInput: a mask of another size, no repeats, a denoiser's output of another shape.

    Source: Lugmayr et al., 2022, algorithm 1, with steps back of length one.

    >>> from genjax.corruption.schedules import cosine
    >>> from genjax.samplers.grids import uniform
    >>> x, mask = jnp.array([[3.0, 0.0]]), jnp.array([[True, False]])
    >>> one = lambda z, t: jnp.ones_like(z)
    >>> inpaint(cosine(), one, uniform(cosine(), 5), jax.random.key(0), x, mask, 2).tolist()
    [[3.0, 1.0]]
    """
    _check_mask(known, mask)
    if repeats < 1:
        raise BadInput(f"repeats = {repeats} of inpainting", "allowed: whole numbers from 1")
    solver, known, denoise = ancestral(), upcast(known), checked(denoise)
    plan, at = solver.plan(process, grid), path(process, grid)
    plan |= {"next_alpha": at["next_alpha"], "next_sigma": at["next_sigma"], "back": at["alpha"] / at["next_alpha"]}
    plan["spread"] = np.sqrt(np.maximum(at["sigma"] ** 2 - (plan["back"] * at["next_sigma"]) ** 2, 0.0))
    rows = {name: jnp.asarray(row, known.dtype) for name, row in plan.items()}

    def once(at, z, key):
        step_key, known_key, back_key = jax.random.split(key, 3)
        drawn, _, _ = solver.step(denoise, at, z, (), step_key)
        given = at["next_alpha"] * known + at["next_sigma"] * jax.random.normal(known_key, known.shape, known.dtype)
        lower = jnp.where(mask, given, drawn)
        return lower, at["back"] * lower + at["spread"] * jax.random.normal(back_key, known.shape, known.dtype)

    def step(z, row):
        i, at = row
        keys = jax.random.split(jax.random.fold_in(key, i + 1), repeats)
        z = jax.lax.fori_loop(0, repeats - 1, lambda j, z: once(at, z, keys[j])[1], z)
        return once(at, z, keys[-1])[0], None

    begin = draw_last(process, jax.random.fold_in(key, 0), known.shape).astype(known.dtype)
    z, _ = jax.lax.scan(step, begin, (jnp.arange(len(grid)), rows))
    return jnp.where(mask, known, z)


def redraw(
    process: Process, denoise: Denoise, solver: Solver, grid: np.ndarray, key: Key, picture: Array, strength: float
) -> jax.Array:
    """A picture, a sketch say, made noisy up to a share of the way and sampled from there.

    Args:
      process: that `denoise` knows.
      denoise: (z, t [B]) -> E[x | z_t = z].
      solver: of the steps.
      grid: times [N] of a whole sampling, falling; the last ones of it are taken.
      key: of the noise.
      picture: x [B, ...].
      strength: the share of the N steps that is taken, in (0, 1]; at least one is.

    Returns:
      x of the picture's shape.

    Raises:
      BadInput: a strength outside (0, 1]; as `sample`.

    Source: Meng et al., 2022, algorithm 1.

    >>> from genjax.corruption.schedules import cosine
    >>> from genjax.samplers.ddim import ddim
    >>> from genjax.samplers.grids import uniform
    >>> one = lambda z, t: jnp.ones_like(z)
    >>> redraw(cosine(), one, ddim(), uniform(cosine(), 5), jax.random.key(0), jnp.zeros((1, 2)), 0.5).tolist()
    [[1.0, 1.0]]
    """
    if not 0 < strength <= 1:
        raise BadInput(f"strength = {strength}", "allowed: above 0 (the picture stays), at most 1 (nothing of it does)")
    kept = grid[-max(1, round(strength * len(grid))) :]
    noise_key, key = jax.random.split(key)
    picture = upcast(picture)
    noise = jax.random.normal(noise_key, picture.shape, picture.dtype)
    z = corrupt(process, picture, noise, jnp.full(len(picture), kept[0], picture.dtype))
    return sample_from(process, denoise, solver, kept, key, z)


def cleaned(
    process: Process, denoise: Denoise, solver: Solver, grid: np.ndarray, key: Key, noisy: Array, deviation: float
) -> jax.Array:
    """A picture without the noise that it has, of a known deviation.

    Args:
      process: that `denoise` knows.
      denoise: (z, t [B]) -> E[x | z_t = z].
      solver: of the steps; a stochastic one, such as `ancestral`, for draws of x given y.
      grid: times [N] of a whole sampling, falling; the last ones of it are taken, after that of the noise.
      key: of the noise of the steps.
      noisy: y = x + d n, [B, ...].
      deviation: d, of the noise of each number; within the sigma / alpha of the grid.

    Returns:
      x of y's shape.

    Raises:
      BadInput: a deviation that the process does not go through; as `sample`.

    Source: Kawar et al., Denoising Diffusion Restoration Models, 2022, https://arxiv.org/abs/2201.11793, section 3,
    where nothing but noise is in the way.

    >>> from genjax.corruption.schedules import edm
    >>> from genjax.samplers.ddim import ddim
    >>> from genjax.samplers.grids import karras
    >>> one = lambda z, t: jnp.ones_like(z)
    >>> cleaned(edm(), one, ddim(), karras(edm(), 9), jax.random.key(0), jnp.full((1, 2), 1.3), 0.3).tolist()
    [[1.0, 1.0]]
    """
    at = path(process, grid)
    with np.errstate(divide="ignore"):
        noise = at["sigma"] / at["alpha"]
    if not noise[-1] <= deviation <= noise[0]:
        raise BadInput(
            f"noise of deviation {deviation:.4g} in a picture",
            f"allowed: from {noise[-1]:.4g} to {noise[0]:.4g} in the data's units, which the model knows",
        )
    start = times_of(process, np.array([-2.0 * np.log(deviation)]))
    kept, y = np.append(start, grid[noise < 0.999 * deviation]), upcast(noisy)  # 2M extrapolates from the first step
    return sample_from(process, denoise, solver, kept, key, jnp.asarray(process.alpha(start[0]), y.dtype) * y)


def walked(
    process: Process, denoise: Denoise, solver: Solver, grid: np.ndarray, key: Key, first: Array, last: Array, n: int
) -> jax.Array:
    """Pictures between two pictures, along the arc between their noise.

    Args:
      process: that `denoise` knows.
      denoise: (z, t [n]) -> E[x | z_t = z].
      solver: of the steps back; one that draws nothing, for ends that are the pictures.
      grid: times [N], falling, N at least 2, without zero signal at grid[0].
      key: of what a stochastic solver adds.
      first: x, of one example.
      last: another, of the same shape.
      n: how many, both ends among them; at least 2.

    Returns:
      [n, ...].

    Raises:
      BadInput: shapes that differ, fewer than 2; as `encode` and `sample`.

    Source: Song, Meng and Ermon, 2021, section 5.3.

    >>> from genjax.corruption.schedules import edm
    >>> from genjax.samplers.ddim import ddim
    >>> from genjax.samplers.grids import karras
    >>> same, key = lambda z, t: z, jax.random.key(0)  # data without any law
    >>> walked(edm(), same, ddim(), karras(edm(), 9), key, jnp.zeros(2), jnp.ones(2), 3).round(4).tolist()
    [[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]]
    """
    if jnp.shape(first) != jnp.shape(last):
        raise BadInput(
            f"from {list(jnp.shape(first))} to {list(jnp.shape(last))}", "allowed: two pictures of one shape"
        )
    rows = jnp.stack([upcast(first)] * max(n - 1, 1) + [upcast(last)])  # as many as the labels that a model may hold
    z = encode(process, denoise, grid, rows)
    arc = interpolate_spherical(z[0].ravel(), z[-1].ravel(), n)
    return sample_from(process, denoise, solver, grid, key, arc.reshape(rows.shape))


def encode(process: Process, denoise: Denoise, grid: np.ndarray, x: Array) -> jax.Array:
    """The z at the first time of a grid from which its deterministic steps lead to some data.

    The grid is walked upwards by Heun's steps of dy / ds = (y - x') / s, in y = z / alpha and s = sigma / alpha, from
    z = alpha x at its last time: of this little noise the data have none.

    Args:
      process: that `denoise` knows.
      denoise: (z, t [B]) -> E[x | z_t = z].
      grid: times [N], falling, N at least 2, without zero signal at grid[0].
      x: data [B, ...].

    Returns:
      z of x's shape, at t = grid[0].

    Raises:
      BadInput: a grid of fewer than two times, one that begins at zero signal, a denoiser's output of another shape.

    >>> from genjax.corruption.schedules import edm
    >>> from genjax.samplers.grids import karras
    >>> encode(edm(), lambda z, t: 0 * z, karras(edm(), 50), jnp.ones((1, 1))).shape
    (1, 1)
    """
    at = path(process, grid)
    if len(grid) < 2 or at["alpha"][0] == 0:
        raise BadInput(
            "encoding on a grid of one time, or from zero signal on", "allowed: two times or more, none at zero signal"
        )
    x, denoise = upcast(x), checked(denoise)
    up = {name: jnp.asarray(at[name][::-1], x.dtype) for name in ("t", "alpha", "sigma")}
    low, high = ({name: rows[part] for name, rows in up.items()} for part in (slice(None, -1), slice(1, None)))

    def slope(y, at):
        s = at["sigma"] / at["alpha"]
        return (y - denoise(at["alpha"] * y, jnp.full(len(y), at["t"], y.dtype))) / s

    def step(y, ends):
        low, high = ends
        length = high["sigma"] / high["alpha"] - low["sigma"] / low["alpha"]
        first = slope(y, low)
        return y + 0.5 * length * (first + slope(y + length * first, high)), None

    y, _ = jax.lax.scan(step, x, (low, high))
    return jnp.asarray(at["alpha"][0], x.dtype) * y


def _check_mask(known: Array, mask: Array) -> None:
    if jnp.shape(known) != jnp.shape(mask) or not jnp.issubdtype(jnp.result_type(mask), jnp.bool_):
        raise BadInput(
            f"a mask {list(jnp.shape(mask))} of {jnp.result_type(mask)} for pictures {list(jnp.shape(known))}",
            "allowed: booleans of the pictures' shape, True where a pixel is known",
        )
