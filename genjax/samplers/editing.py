r"""Editing by latents: the latent of a given image, directions along which images change, and walks along them.

    inversion            z* = argmin_z  |G(z) - x|^2 + lambda |z|^2 / 2, by any optax optimizer from several starts
    principal directions of activations h = f(z) of many latents: the right singular vectors V of the centred h; as z
                         moves by U_k, the least-squares answer to "which z goes with the k-th score", h moves by V_k
    label direction      the difference of the mean latents of two labels, of length 1

A principal direction tells how images vary most, a label direction how they vary with what somebody has named.

Sources: Zhu et al., Generative Visual Manipulation on the Natural Image Manifold, 2016,
https://arxiv.org/abs/1609.03552, section 4.1 (inversion); Harkonen et al., GANSpace, 2020,
https://arxiv.org/abs/2004.02546, section 2.2; White, Sampling Generative Networks, 2016,
https://arxiv.org/abs/1609.04468, section 3.2 (attribute vectors).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax.distributions import event_sum, upcast
from genjax.errors import BadInput
from genjax.types import Array, Key


class Inverted(NamedTuple):
    """Latents of given images."""

    z: jax.Array  # [B, Z], of the best start
    error: jax.Array  # [B], |G(z) - x|^2 without the penalty


class Directions(NamedTuple):
    """Principal directions, the largest first."""

    z: jax.Array  # [K, Z] of length 1
    share: jax.Array  # [K] of the variance of h


def inverted(
    make: Callable[[jax.Array], jax.Array],
    images: Array,
    latents: int,
    key: Key,
    tx: optax.GradientTransformation,
    steps: int = 500,
    starts: int = 4,
    weight: float = 0.0,
) -> Inverted:
    """The latents whose images are nearest to given ones.

    Args:
      make: z [B, Z] -> images of the shape of `images`, row by row.
      images: x [B, ...].
      latents: Z.
      key: of the starts, from N(0, 1).
      tx: an optax transformation, such as `optax.adam(0.05)`.
      steps: updates from each start, at least 1.
      starts: R, at least 1; the smallest sum of error and penalty counts, image by image.
      weight: lambda, >= 0: keeps z where the generator was trained.

    Returns:
      Inverted.  Kind: a local minimum.

    Raises:
      BadInput: numbers that are not allowed, images of another shape.

    Source: Zhu et al., 2016, section 4.1.

    >>> found = inverted(lambda z: 2.0 * z, jnp.array([[4.0, -2.0]]), 2, jax.random.key(0), optax.sgd(0.1), steps=200)
    >>> [round(v, 3) for v in found.z[0].tolist()], round(float(found.error[0]), 6)
    ([2.0, -1.0], 0.0)
    """
    x = upcast(jnp.asarray(images))
    if min(latents, steps, starts) < 1 or not weight >= 0:
        told = f"latents = {latents}, steps = {steps}, starts = {starts}, weight = {weight}"
        raise BadInput(told, "allowed: whole numbers from 1, a weight from 0")
    shape = jax.eval_shape(make, jax.ShapeDtypeStruct((len(x), latents), jnp.float32)).shape
    if shape != x.shape:
        raise BadInput(
            f"images {list(x.shape)}, drawn ones {list(shape)}", "allowed: images as the generator makes them"
        )

    def error(z: jax.Array) -> jax.Array:
        return event_sum(jnp.square(upcast(make(z)) - x))

    def objective(z: jax.Array) -> jax.Array:
        return error(z) + 0.5 * weight * event_sum(jnp.square(z))

    def descend(z: jax.Array) -> tuple[jax.Array, ...]:
        def update(carry: tuple[jax.Array, optax.OptState], _: None) -> tuple[tuple[jax.Array, optax.OptState], None]:
            z, state = carry
            moves, state = tx.update(jax.grad(lambda z: jnp.sum(objective(z)))(z), state, z)
            return (jnp.asarray(optax.apply_updates(z, moves)), state), None

        z = jax.lax.scan(update, (z, tx.init(z)), None, steps)[0][0]
        return z, error(z), objective(z)

    z, errors, ends = jax.lax.map(descend, jax.random.normal(key, (starts, len(x), latents)))
    best = jnp.argmin(jnp.where(jnp.isnan(ends), jnp.inf, ends), axis=0)
    rows = jnp.arange(len(x))
    return Inverted(z[best, rows], errors[best, rows])


def principal_directions(z: Array, activations: Array, count: int) -> Directions:
    """Latent directions along which activations vary most.

    Args:
      z: [N, Z] latents, more than Z of them.
      activations: h [N, F] of them: of a layer of the generator, or of a feature network on its images.
      count: K, at most the smaller of F and N.

    Returns:
      Directions.

    Raises:
      BadInput: shapes that do not fit, a count out of range.

    Source: Harkonen et al., 2020, eqs. 2 and 3.

    >>> z = jax.random.normal(jax.random.key(0), (100, 2))
    >>> found = principal_directions(z, z * jnp.array([[1.0, 5.0]]), 2)
    >>> bool(abs(found.z[0, 1]) > 0.99)
    True
    """
    z, h = upcast(jnp.asarray(z)), upcast(jnp.asarray(activations))
    if z.ndim != 2 or h.ndim != 2 or len(z) != len(h) or len(z) <= z.shape[1] or not 1 <= count <= min(h.shape):
        told = f"latents {list(z.shape)}, activations {list(h.shape)}, count = {count}"
        raise BadInput(told, "allowed: [N, Z] and [N, F], N above Z, a count from 1 to the smaller of F and N")
    centred = h - jnp.mean(h, axis=0, keepdims=True)
    u, s, _ = jnp.linalg.svd(centred, full_matrices=False)
    scores = u[:, :count] * s[None, :count]
    design = z - jnp.mean(z, axis=0, keepdims=True)
    u_k = jnp.linalg.lstsq(scores, design)[0]
    return Directions(_unit(u_k), jnp.square(s[:count]) / jnp.sum(jnp.square(s)))


def label_direction(z: Array, label: Array) -> jax.Array:
    """The direction from the latents without a label to those with it.

    Args:
      z: [N, Z].
      label: [N], 0 or 1, both among them.

    Returns:
      [Z] of length 1; of zeros where the means are the same.

    Raises:
      BadInput: shapes that do not fit; labels other than 0 and 1, or all alike, where their values are known.

    Source: White, 2016, section 3.2.

    >>> label_direction(jnp.array([[0.0, 1.0], [3.0, 5.0]]), jnp.array([0, 1])).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    z, y = upcast(jnp.asarray(z)), upcast(jnp.asarray(label))
    if z.ndim != 2 or y.shape != z.shape[:1]:
        raise BadInput(f"latents {list(z.shape)}, labels {list(y.shape)}", "allowed: [N, Z] and [N]")
    if not isinstance(y, jax.core.Tracer) and set(np.unique(y)) != {0.0, 1.0}:
        raise BadInput(f"labels {np.unique(y)[:5].tolist()}", "allowed: 0 and 1, both among them")
    mean = lambda weight: jnp.sum(weight[:, None] * z, axis=0) / jnp.maximum(jnp.sum(weight), 1.0)
    return _unit((mean(y) - mean(1.0 - y))[None])[0]


def _unit(rows: jax.Array) -> jax.Array:
    norm = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return rows / jnp.where(norm > 0, norm, 1.0)
