r"""Walks through the latents of a decoder: along one dimension, and from one point to another.

A traversal holds all of z but one dimension.  An interpolation from a to b is

    linear       z(t) = (1 - t) a + t b
    spherical    z(t) = r(t) [sin((1 - t) w) a/|a| + sin(t w) b/|b|] / sin w,     w the angle between a and b

with r(t) = (1 - t) |a| + t |b|.  A draw of D independent normal numbers has a norm near sqrt(D); half-way between two
of them the straight line has sqrt(D / 2), where hardly any draw lies, and the arc has the norm of its ends.

Source of spherical interpolation: Shoemake, Animating rotation with quaternion curves, 1985,
https://doi.org/10.1145/325334.325242; of latents: White, Sampling Generative Networks, 2016,
https://arxiv.org/abs/1609.04468.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from genjax.distributions import upcast
from genjax.errors import BadInput
from genjax.types import Array

SMALL = 1e-6  # a sine below this: the angle is 0 or pi, and no arc is the shortest


def interpolate(first: Array, last: Array, steps: int) -> jax.Array:
    """(1 - t) a + t b for t = 0 .. 1 in equal steps.

    Args:
      first: a, [..., D].
      last: b, of the same shape.
      steps: points, the two ends included, at least 2.

    Returns:
      [steps, ..., D].

    Raises:
      BadInput: shapes that differ, fewer than 2 steps.

    Source: White, 2016.

    >>> interpolate(jnp.array([0.0, 4.0]), jnp.array([2.0, 0.0]), 3).tolist()
    [[0.0, 4.0], [1.0, 2.0], [2.0, 0.0]]
    """
    first, last, share = _ends(first, last, steps)
    return (1.0 - share) * first + share * last


def interpolate_spherical(first: Array, last: Array, steps: int) -> jax.Array:
    """The arc from a to b: see the head of this file.

    Opposite ends have no shortest arc, equal ones none at all: there, and where one end is 0, the walk is the straight
    line.

    Args:
      first: a, [..., D].
      last: b, of the same shape.
      steps: points, the two ends included, at least 2.

    Returns:
      [steps, ..., D]; the norm goes from |a| to |b| in equal steps.

    Raises:
      BadInput: shapes that differ, fewer than 2 steps.

    Source: Shoemake, 1985; White, 2016.

    >>> walk = interpolate_spherical(jnp.array([1.0, 0.0]), jnp.array([0.0, 3.0]), 3)
    >>> [[round(v, 4) for v in z] for z in walk.tolist()]  # a norm of 2 half-way
    [[1.0, 0.0], [1.4142, 1.4142], [0.0, 3.0]]
    """
    a, b, share = _ends(first, last, steps)
    norm_a, norm_b = (jnp.linalg.norm(end, axis=-1, keepdims=True) for end in (a, b))
    u, v = (end / jnp.where(norm > 0, norm, 1.0) for end, norm in ((a, norm_a), (b, norm_b)))
    apart = (jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (u - v, u + v))
    angle = 2.0 * jnp.arctan2(*apart)  # exact near 0 and pi, where the arccosine of u . v is not
    sine = jnp.sin(angle)
    arc = (sine > SMALL) & (norm_a > 0) & (norm_b > 0)
    radius = (1.0 - share) * norm_a + share * norm_b
    turned = jnp.sin((1.0 - share) * angle) * u + jnp.sin(share * angle) * v
    return jnp.where(arc, radius * turned / jnp.where(arc, sine, 1.0), (1.0 - share) * a + share * b)


def traverse(
    decode: Callable[[jax.Array], jax.Array], z: Array, dims: Sequence[int], extent: float = 3.0, steps: int = 9
) -> jax.Array:
    """What the decoder makes of z while one dimension goes from -extent to extent and the others stay.

    Args:
      decode: z [n, D] -> [n, ...], such as images.
      z: [D], where the walks stand.
      dims: the dimensions to move, one walk each, from 0 to D - 1.
      extent: how far, in standard deviations of the prior; above 0.
      steps: points of a walk, at least 2.

    Returns:
      [len(dims) * steps, ...], walk after walk.

    Raises:
      BadInput: z of another shape, a dimension that z does not have, an extent or steps that are not allowed.

    Source: Higgins et al., beta-VAE, 2017, section 4.1, https://openreview.net/forum?id=Sy2fzU9gl.

    >>> traverse(lambda z: z, jnp.array([5.0, 6.0]), dims=[1], extent=2.0, steps=3).tolist()
    [[5.0, -2.0], [5.0, 0.0], [5.0, 2.0]]
    """
    z, dims = upcast(z), tuple(dims)
    if z.ndim != 1 or not dims or not all(0 <= j < len(z) for j in dims):
        raise BadInput(f"z {list(z.shape)}, dims = {dims}", "allowed: z [D], and dimensions from 0 to D - 1")
    if not extent > 0 or steps < 2:
        raise BadInput(f"extent = {extent}, steps = {steps}", "allowed: an extent above 0, at least 2 steps")
    moved = jnp.arange(len(z))[None] == jnp.array(dims)[:, None]  # [dims, D]
    values = jnp.linspace(-extent, extent, steps, dtype=z.dtype)
    walks = jnp.where(moved[:, None], values[None, :, None], z[None, None])
    return decode(walks.reshape(-1, len(z)))


def tiles(images: Array, columns: int, scale: int = 1) -> jax.Array:
    """Images side by side as one image, so that each walk is a row of it.

    Args:
      images: [rows * columns, H, W, C].
      columns: in a row.
      scale: whole factor of enlargement, at least 1: what is one image is not enlarged as small ones are.

    Returns:
      [1, rows * H * scale, columns * W * scale, C].

    Raises:
      BadInput: no images, or not whole rows of them.

    Source: as pictures of traversals in Higgins et al., 2017.

    >>> tiles(jnp.arange(4.0).reshape(4, 1, 1, 1), 2)[0, :, :, 0].tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    images = jnp.asarray(images)
    if images.ndim != 4 or min(columns, scale) < 1 or not len(images) or len(images) % columns:
        told = f"images {list(images.shape)}, columns = {columns}, scale = {scale}"
        raise BadInput(told, "allowed: [n, H, W, C], n whole rows; a scale of at least 1")
    n, height, width, channels = images.shape
    table = images.reshape(n // columns, columns, height, width, channels).swapaxes(1, 2)
    whole = table.reshape(1, n // columns * height, columns * width, channels)
    return whole.repeat(scale, axis=1).repeat(scale, axis=2)


def _ends(first: Array, last: Array, steps: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    first, last = upcast(first), upcast(last)
    if first.shape != last.shape or not first.ndim or steps < 2:
        raise BadInput(
            f"from {list(first.shape)} to {list(last.shape)} in steps = {steps}",
            "allowed: [..., D] both, and at least 2 points, the ends included",
        )
    share = jnp.linspace(0.0, 1.0, steps, dtype=first.dtype).reshape(-1, *(1,) * first.ndim)
    return first[None], last[None], share
