r"""Denoisers made of denoisers: guidance by a label or by a worse network, and bounds on what they may say.

    classifier-free   x' = x'_none + w (x'_label - x'_none)             (Ho and Salimans 2022, eq. 6, their w + 1)
    autoguidance      x' = x'_worse + w (x'_good - x'_worse)            (Karras 2024, eq. 3)
    rescaled          x' (phi deviation(x'_label) / deviation(x') + 1 - phi)   (Lin 2024, eqs. 14 to 16)

w = 0 is the unconditional (or the worse) network, w = 1 the conditional (or the good) one, w > 1 goes beyond it:
samples that are more typical and less varied.  The mixture of scores, of noises, of v and of x' is the same mixture,
because all are affine in x' with the same z.  With guidance the samples follow no known law.

Sources: Ho and Salimans, Classifier-Free Diffusion Guidance, 2022, https://arxiv.org/abs/2207.12598; Kynkaanniemi et
al., Applying Guidance in a Limited Interval, 2024, https://arxiv.org/abs/2404.07724; Karras et al., Guiding a Diffusion
Model with a Bad Version of Itself, 2024, https://arxiv.org/abs/2406.02507; Saharia et al., Imagen, 2022,
https://arxiv.org/abs/2205.11487, section 2.3; Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed,
2024, https://arxiv.org/abs/2305.08891, section 3.4.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax.corruption.gaussian import Process, log_snr
from genjax.corruption.predictions import Denoise, checked
from genjax.errors import BadInput
from genjax.types import Array


def guided(better: Denoise, worse: Denoise, weight: float) -> Denoise:
    """worse + w (better - worse): conditional and unconditional, or a good and a worse network.

    Args:
      better: conditional, or good.
      worse: unconditional, or worse; asked at the same z and t.
      weight: w, at least 0.

    Returns:
      Denoise.

    Raises:
      BadInput: a negative w, or none; when used: outputs of another shape than z.

    >>> one, two = lambda z, t: jnp.ones_like(z), lambda z, t: jnp.full_like(z, 2.0)
    >>> guided(two, one, 3.0)(jnp.zeros(1), jnp.zeros(1)).tolist()
    [4.0]
    """
    _check_weight(weight)
    better, worse = checked(better), checked(worse)

    def denoise(z: jax.Array, t: jax.Array) -> jax.Array:
        start = worse(z, t)
        return start + weight * (better(z, t) - start)

    return denoise


def labelled(
    network: Callable[[jax.Array, jax.Array, jax.Array], jax.Array], label: Array, nothing: Array, weight: float
) -> Denoise:
    """x'_none + w (x'_label - x'_none) of one network that knows labels and their absence, in one call of 2 B rows.

    Args:
      network: (z [B, ...], t [B], label [B, ...]) -> E[x | z, label], each row by itself.
      label: what each row is to be, [B, ...].
      nothing: the label that says nothing, of one row's shape: the one that was put in place of labels left out.
      weight: w, at least 0.

    Returns:
      Denoise of B rows.

    Raises:
      BadInput: a negative w, or none; a `nothing` that is no row of labels.

    Source: Ho and Salimans, 2022, eq. 6.

    >>> by_label = lambda z, t, label: z + label[:, None]
    >>> labelled(by_label, jnp.array([1, 2]), jnp.array(0), 3.0)(jnp.zeros((2, 1)), jnp.zeros(2)).tolist()
    [[3.0], [6.0]]
    """
    _check_weight(weight)
    label, nothing = jnp.asarray(label), jnp.asarray(nothing)
    if label.shape[1:] != nothing.shape or label.ndim == 0:
        raise BadInput(
            f"labels {list(label.shape)}, the label of none {list(nothing.shape)}",
            "allowed: [B, ...] and one row of it; a network without labels cannot be guided by them",
        )
    both = jnp.concatenate([label, jnp.broadcast_to(nothing[None], label.shape).astype(label.dtype)])

    def denoise(z: jax.Array, t: jax.Array) -> jax.Array:
        given, none = jnp.split(network(jnp.concatenate([z, z]), jnp.concatenate([t, t]), both), 2)
        return none + weight * (given - none)

    return denoise


def rescaled(better: Denoise, worse: Denoise, weight: float, share: float = 0.7) -> Denoise:
    """Guidance whose x' has no more contrast than without: deviations of an example's numbers are partly set back.

    Args:
      better: conditional, or good.
      worse: unconditional, or worse; asked at the same z and t.
      weight: w, at least 0.
      share: phi in [0, 1]: 0 is `guided`; at 1 every example's deviation is that of the conditional x'; 0.7 usual.

    Returns:
      Denoise.

    Raises:
      BadInput: a negative w, or none; a share outside [0, 1].

    Source: Lin et al., 2024, eqs. 14 to 16, there of the network's output, here of x'.

    >>> one, two = lambda z, t: z, lambda z, t: 3.0 * z
    >>> rescaled(two, one, 2.0, 1.0)(jnp.array([[1.0, -1.0]]), jnp.zeros(1)).round(4).tolist()  # of 5, -5 by guidance
    [[3.0, -3.0]]
    """
    _check_weight(weight)
    if not 0 <= share <= 1:
        raise BadInput(f"share = {share} of rescaled guidance", "allowed: from 0 (none) to 1; 0.7 is usual")
    deviation = lambda x: jnp.std(x, axis=tuple(range(1, x.ndim)), keepdims=True)

    def denoise(z: jax.Array, t: jax.Array) -> jax.Array:
        given, none = better(z, t), worse(z, t)
        x = none + weight * (given - none)
        spread = deviation(x)
        ratio = jnp.where(spread > 0, deviation(given) / jnp.where(spread > 0, spread, 1.0), 1.0)
        return x * (share * ratio + 1.0 - share)

    return denoise


def in_interval(process: Process, within: Denoise, outside: Denoise, lowest: float, highest: float) -> Denoise:
    """One denoiser between two levels of noise, another one elsewhere: guidance where it does no harm.

    Args:
      process: of the times.
      within: used where lowest < s <= highest, s = sigma / alpha.
      outside: used elsewhere.
      lowest: of s, at least 0.
      highest: of s, above it.

    Returns:
      Denoise; both are asked at every step, rows at different times may differ.

    Raises:
      BadInput: an empty interval.

    Source: Kynkaanniemi et al., 2024, eq. 5.

    >>> from genjax.corruption.schedules import edm
    >>> one, two = lambda z, t: jnp.ones_like(z), lambda z, t: jnp.full_like(z, 2.0)
    >>> in_interval(edm(), two, one, 0.2, 5.0)(jnp.zeros(3), jnp.array([0.1, 1.0, 6.0])).tolist()
    [1.0, 2.0, 1.0]
    """
    if not 0 <= lowest < highest:
        raise BadInput(f"guidance between the levels of noise {lowest} and {highest}", "allowed: 0 <= lowest < highest")

    def denoise(z: jax.Array, t: jax.Array) -> jax.Array:
        s = jnp.exp(-0.5 * log_snr(process, jnp.asarray(t)))
        inside = ((s > lowest) & (s <= highest)).reshape(s.shape + (1,) * (z.ndim - 1))
        return jnp.where(inside, within(z, t), outside(z, t))

    return denoise


def clipped(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """x' kept where data can be.

    Args:
      denoise: to be clipped.
      low: smallest value of data.
      high: largest.

    Returns:
      Denoise.

    Raises:
      BadInput: low >= high.

    >>> clipped(lambda z, t: 3.0 * z)(jnp.array([0.2, 0.9]), jnp.zeros(2)).tolist()
    [0.6000000238418579, 1.0]
    """
    if not low < high:
        raise BadInput(f"clipping between {low} and {high}", "allowed: low < high")
    return lambda z, t: jnp.clip(denoise(z, t), low, high)


def dynamic_threshold(denoise: Denoise, share: float = 0.995) -> Denoise:
    """x' of data in [-1, 1], scaled by its own quantile where that is beyond 1: strong guidance saturates less.

    Args:
      denoise: to be bounded.
      share: of the numbers of an example that stay as they are, in (0, 1].

    Returns:
      Denoise: clip(x', -q, q) / q, q the quantile of |x'|, at least 1, of each example.

    Raises:
      BadInput: a share outside (0, 1].

    Source: Saharia et al., 2022, section 2.3.

    >>> dynamic_threshold(lambda z, t: z, 1.0)(jnp.array([[2.0, -4.0], [0.5, 0.5]]), jnp.zeros(2)).tolist()
    [[0.5, -1.0], [0.5, 0.5]]
    """
    if not 0 < share <= 1:
        raise BadInput(f"share = {share} of a dynamic threshold", "allowed: above 0, at most 1")

    def bounded(z: jax.Array, t: jax.Array) -> jax.Array:
        x = denoise(z, t)
        q = jnp.quantile(jnp.abs(x).reshape(len(x), -1), share, axis=1)
        q = jnp.maximum(q, 1.0).reshape((len(x),) + (1,) * (x.ndim - 1))
        return jnp.clip(x, -q, q) / q

    return bounded


def _check_weight(weight: float) -> None:
    if not 0 <= weight < math.inf:
        raise BadInput(f"guidance = {weight}", "allowed: from 0 (no label) by 1 (the label alone) on; 2 to 5 are usual")
