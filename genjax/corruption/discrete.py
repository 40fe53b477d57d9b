r"""Discrete forward processes: tokens x in 0 .. K-1, of which more and more are lost.

A token survives until time t with probability alpha_t, which falls from 1 at t = 0 to 0 at t = 1 (`survival.py`).  One
that is lost is replaced by a draw from a fixed law pi over the S states.  Every position for itself, with a bold x the
one-hot vector:

    (1)  q(z_t | x) = alpha_t \mathbf x + (1 - alpha_t) pi
    (2)  q(z_t | z_s) = a \mathbf z_s + (1 - a) pi,    a = alpha_t / alpha_s,    s < t
    (3)  q(z_s | z_t, x) = q(z_t | z_s) q(z_s | x) / q(z_t | x)                       (Austin et al., 2021, eq. 3)

    absorbing    S = K + 1, pi = the mask, which is state K:  a token is itself, or masked and never comes back
    uniform      S = K, pi = 1 / K

Of the absorbing process (3) is (Sahoo et al., 2024, section 3.2; Shi et al., 2024, section 2)

    (4)  z_t = x:     z_s = x
         z_t = mask:  z_s = x with probability (alpha_s - alpha_t) / (1 - alpha_t), else the mask

A model says p(x | z_t) and takes its backward step by (3) with these probabilities in the place of the one-hot x, which
is Austin's eq. 4, p(z_s | z_t) proportional to sum_x q(z_s, z_t | x) p(x | z_t).

Sources: Austin et al., Structured Denoising Diffusion Models in Discrete State-Spaces, 2021,
https://arxiv.org/abs/2107.03006; Shi et al., Simplified and Generalized Masked Diffusion for Discrete Data, 2024,
https://arxiv.org/abs/2406.04329; Sahoo et al., Simple and Effective Masked Diffusion Language Models, 2024,
https://arxiv.org/abs/2406.07524.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.corruption.survival import Schedule, check_schedule
from genjax.errors import BadInput
from genjax.types import Array, Key


class Discrete(NamedTuple):
    """A process by eq. 1."""

    schedule: Schedule
    categories: int  # K
    law: np.ndarray  # pi [S]


def absorbing(schedule: Schedule, categories: int) -> Discrete:
    """Lost tokens become the mask, state K.

    Args:
      schedule: alpha.
      categories: K >= 1.

    Returns:
      Discrete of K + 1 states.

    Raises:
      BadInput: a schedule that is none, no categories.

    Source: Austin et al., 2021, section 3.1.

    >>> from genjax.corruption.survival import linear
    >>> absorbing(linear(), 2).law.tolist()
    [0.0, 0.0, 1.0]
    """
    return Discrete(check_schedule(schedule), _check_categories(categories, 1), np.append(np.zeros(categories), 1.0))


def uniform(schedule: Schedule, categories: int) -> Discrete:
    """Lost tokens become any of the K, each equally often; itself too.

    Args:
      schedule: alpha.
      categories: K >= 2.

    Returns:
      Discrete of K states.

    Raises:
      BadInput: a schedule that is none, fewer than two categories.

    Source: Austin et al., 2021, section 3.1.

    >>> from genjax.corruption.survival import linear
    >>> uniform(linear(), 4).law.tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    return Discrete(check_schedule(schedule), _check_categories(categories, 2), np.full(categories, 1.0 / categories))


def marginal(process: Discrete, probabilities: Array, t: Array) -> jax.Array:
    """q(z_t | x), eq. 1; of a law of x its mixture.

    Args:
      process: whose.
      probabilities: of x [B, ..., K]: one-hot, or a network's.
      t: [B] or a scalar.

    Returns:
      Probabilities of z_t [B, ..., S].

    Raises:
      BadInput: another number of categories.

    >>> from genjax.corruption.survival import linear
    >>> marginal(uniform(linear(), 2), jnp.array([[[1.0, 0.0]]]), 0.5).tolist()
    [[[0.75, 0.25]]]
    """
    x, law = _widened(process, probabilities)
    t = _like(t, x)
    return process.schedule.kept(t) * x + process.schedule.lost(t) * law


def corrupt(process: Discrete, x: Array, t: Array, key: Key) -> jax.Array:
    """z_t ~ q(z_t | x): each token stays with probability alpha_t, else it is drawn from pi.

    Args:
      process: whose.
      x: tokens [B, ...] in 0 .. K-1.
      t: [B] or a scalar.
      key: of the draw.

    Returns:
      z_t [B, ...] int32 in 0 .. S-1.

    >>> from genjax.corruption.survival import linear
    >>> corrupt(absorbing(linear(), 2), jnp.array([[0, 1, 1]]), 1.0, jax.random.key(0)).tolist()
    [[2, 2, 2]]
    """
    x = jnp.asarray(x, jnp.int32)
    lost_key, key = jax.random.split(key)
    lost = jax.random.uniform(lost_key, x.shape) < process.schedule.lost(_like(t, x))
    return jnp.where(lost, draw_last(process, key, x.shape), x)


def draw_last(process: Discrete, key: Key, shape: tuple[int, ...]) -> jax.Array:
    """z at t = 1, where nothing is left of the data: independent draws from pi.

    Args:
      process: whose.
      key: of the draw.
      shape: of z.

    Returns:
      int32 of that shape.

    >>> from genjax.corruption.survival import linear
    >>> draw_last(absorbing(linear(), 5), jax.random.key(0), (3,)).tolist()
    [5, 5, 5]
    """
    states = len(process.law)
    if states > process.categories:
        return jnp.full(shape, process.categories, jnp.int32)
    return jax.random.randint(key, shape, 0, states, jnp.int32)


def posterior(process: Discrete, probabilities: Array, z: Array, s: Array, t: Array) -> jax.Array:
    """q(z_s | z_t, x), eq. 3; with a network's p(x | z_t) the model's backward step p(z_s | z_t).

    Args:
      process: whose.
      probabilities: of x [B, ..., K]: one-hot, or a network's.
      z: z_t [B, ...] integers in 0 .. S-1.
      s: [B] or a scalar, 0 <= s < t.
      t: of the shape of s, at most 1.

    Returns:
      Probabilities of z_s [B, ..., S].

    Raises:
      BadInput: another number of categories.

    Source: Austin et al., 2021, eqs. 3 and 4.

    Example: of two tokens one is masked; half of what is masked at t = 1 is revealed by s = 1/2.
      >>> from genjax.corruption.survival import linear
      >>> x, z = jnp.array([[[0.0, 1.0], [0.5, 0.5]]]), jnp.array([[1, 2]])
      >>> posterior(absorbing(linear(), 2), x, z, 0.5, 1.0).tolist()
      [[[0.0, 1.0, 0.0], [0.25, 0.25, 0.5]]]
    """
    x, law = _widened(process, probabilities)
    s, t, schedule = _like(s, x), _like(t, x), process.schedule
    here = jax.nn.one_hot(z, len(process.law), dtype=x.dtype)
    chance = jnp.sum(here * law, axis=-1, keepdims=True)  # pi of z_t
    gone = (schedule.lost(t) - schedule.lost(s)) / schedule.kept(s)  # 1 - a
    back = schedule.kept(t) / schedule.kept(s) * here + gone * chance  # q(z_t | z_s) as a function of z_s
    joint = back * (schedule.kept(s) * x + schedule.lost(s) * law)
    total = jnp.sum(joint, axis=-1, keepdims=True)
    # a state that the model thinks impossible, and that cannot have changed since s, was the same at s
    return jnp.where(total > 0, joint / jnp.where(total > 0, total, 1.0), here)


def _widened(process: Discrete, probabilities: Array) -> tuple[jax.Array, jax.Array]:
    """Probabilities over all states, and pi with as many axes."""
    x, states = jnp.asarray(probabilities), len(process.law)
    if x.shape[-1:] != (process.categories,):
        raise BadInput(f"probabilities {list(x.shape)} of x", f"allowed: [..., K], K = {process.categories} categories")
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, states - process.categories)])
    return x, jnp.asarray(process.law, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def _like(t: Array, x: jax.Array) -> jax.Array:
    """Times [B] or a scalar as [B, 1, ..., 1] or [1, ..., 1]."""
    t = jnp.asarray(t, jnp.result_type(float))
    return t.reshape((len(t) if t.ndim else 1,) + (1,) * (x.ndim - 1))


def _check_categories(categories: int, least: int) -> int:
    if categories < least:
        raise BadInput(f"categories = {categories} of a discrete process", f"allowed: whole numbers from {least}")
    return categories
