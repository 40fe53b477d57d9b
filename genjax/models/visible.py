r"""The visible units of a Boltzmann machine, as an exponential family: binary, real, one of K, or joined.

Given the hidden units, visible unit i has the density exp(v_i g_i - e(v_i) - log_partition(g_i)), g_i its natural
parameter.  What tells one kind from another is e and its log-partition function:

    Bernoulli     v in {0, 1}      e = 0           log(1 + exp(g))                   mean s(g), s the logistic function
    Gaussian      v real           e = v^2 / 2     g^2 / 2 + log(2 pi) / 2           mean g, variance 1
    categorical   K numbers, one of them 1         e = 0    log sum_k exp(g_k)       mean softmax(g)

Sources: Welling, Rosen-Zvi and Hinton, Exponential Family Harmoniums, 2004; Hinton, A Practical Guide to Training
Restricted Boltzmann Machines, 2012, section 13, https://doi.org/10.1007/978-3-642-35289-8_32.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.distributions import sample_bernoulli, softplus, upcast
from genjax.errors import BadInput
from genjax.types import Array, Key


class Visible(NamedTuple):
    """One side of units: pure functions of v [B, width] and of natural parameters g [B, width]."""

    width: int  # numbers that hold the units of an example
    energy: Callable[[jax.Array], jax.Array]  # v -> e(v) [B] nats, summed over units
    log_partition: Callable[[jax.Array], jax.Array]  # g -> [B] nats, summed over units
    mean: Callable[[jax.Array], jax.Array]  # g -> E v [B, width]
    sample: Callable[[jax.Array, Key], jax.Array]  # (g, key) -> v [B, width]
    check: Callable[[np.ndarray], None]  # data [N, width] -> refuses what these units cannot hold


def bernoulli_units(count: int) -> Visible:
    """Binary units; probabilities in [0, 1] may stand for them, as what a layer below gives.

    Args:
      count: of units.

    Returns:
      Visible of width `count`.

    >>> round(float(bernoulli_units(2).log_partition(jnp.zeros((1, 2)))[0]), 4)  # 2 log 2
    1.3863
    """

    def check(data: np.ndarray) -> None:
        _refuse(data, count, lambda data: ~((data >= 0) & (data <= 1)), "numbers in [0, 1]", "scale, or gaussian_units")

    return Visible(
        _positive(count),
        lambda v: jnp.zeros(len(v), upcast(v).dtype),
        lambda g: jnp.sum(softplus(g), axis=-1),
        jax.nn.sigmoid,
        sample_bernoulli,
        check,
    )


def gaussian_units(count: int) -> Visible:
    """Real units of variance 1 given the hidden ones: standardise the data, or take `RBM(..., scaled=True)`.

    Args:
      count: of units.

    Returns:
      Visible of width `count`.

    >>> float(gaussian_units(1).mean(jnp.array([[0.5]]))[0, 0])
    0.5
    """
    half_log_2pi = 0.5 * float(np.log(2 * np.pi))
    return Visible(
        _positive(count),
        lambda v: 0.5 * jnp.sum(v * v, axis=-1),
        lambda g: jnp.sum(0.5 * g * g + half_log_2pi, axis=-1),
        lambda g: g,
        lambda g, key: g + jax.random.normal(key, g.shape, g.dtype),
        lambda data: _refuse(
            data, count, lambda data: ~np.isfinite(data), "finite numbers", "remove or mend those rows"
        ),
    )


def categorical_units(count: int, levels: int) -> Visible:
    """Units of K levels each (Potts units), a unit as K numbers of which one is 1: see `one_hot`.

    Args:
      count: of units.
      levels: K, at least 2.

    Returns:
      Visible of width count x K.

    >>> round(float(categorical_units(2, 4).log_partition(jnp.zeros((1, 8)))[0]), 4)  # 2 log 4
    2.7726
    """
    if levels < 2:
        raise BadInput(f"levels = {levels}", "allowed: whole numbers from 2")
    apart = lambda x: x.reshape(*x.shape[:-1], count, levels)
    joined = lambda x: x.reshape(*x.shape[:-2], count * levels)

    def wrong(data: np.ndarray) -> np.ndarray:
        off = ~(np.abs(apart(data).sum(axis=-1, keepdims=True) - 1) <= 1e-5)
        return ~(data >= 0) | joined(np.broadcast_to(off, apart(data).shape))

    def check(data: np.ndarray) -> None:
        told = f"{levels} numbers >= 0 a unit that sum to 1"
        _refuse(data, count * levels, wrong, told, f"one_hot(labels, {levels})")

    def sample(g: jax.Array, key: Key) -> jax.Array:
        return joined(jax.nn.one_hot(jax.random.categorical(key, apart(g), axis=-1), levels, dtype=g.dtype))

    return Visible(
        _positive(count) * levels,
        lambda v: jnp.zeros(len(v), upcast(v).dtype),
        lambda g: jnp.sum(jax.nn.logsumexp(apart(g), axis=-1), axis=-1),
        lambda g: joined(jax.nn.softmax(apart(g), axis=-1)),
        sample,
        check,
    )


def joined_units(*parts: Visible) -> Visible:
    """Units of several kinds side by side: pixels and a label, for example.

    Args:
      parts: one or more kinds; their numbers stand one after the other.

    Returns:
      Visible whose width is the sum of theirs.

    >>> joined_units(bernoulli_units(784), categorical_units(1, 10)).width
    794
    """
    if not parts:
        raise BadInput("joined_units()", "at least one kind of units")
    ends = np.cumsum([part.width for part in parts])[:-1]
    split = lambda x: jnp.split(x, ends, axis=-1)
    total = lambda name: lambda x: sum(getattr(part, name)(own) for part, own in zip(parts, split(x), strict=True))

    def mean(g: jax.Array) -> jax.Array:
        return jnp.concatenate([part.mean(own) for part, own in zip(parts, split(g), strict=True)], axis=-1)

    def sample(g: jax.Array, key: Key) -> jax.Array:
        keys = jax.random.split(key, len(parts))
        drawn = [part.sample(own, k) for part, own, k in zip(parts, split(g), keys, strict=True)]
        return jnp.concatenate(drawn, axis=-1)

    width = sum(part.width for part in parts)

    def check(data: np.ndarray) -> None:
        _refuse(data, width, lambda data: np.zeros(data.shape, bool), "", "")
        for part, own in zip(parts, np.split(data, ends, axis=-1), strict=True):
            part.check(own)

    return Visible(width, total("energy"), total("log_partition"), mean, sample, check)


def one_hot(labels: Array, levels: int) -> jax.Array:
    """Labels [B, n] of 0 .. K-1 as what `categorical_units(n, K)` hold.

    Args:
      labels: whole numbers.
      levels: K.

    Returns:
      [B, n K] zeros and ones, float32.

    Raises:
      BadInput: labels that are none of 0 .. K-1; not while tracing, where such a label gives zeros.

    >>> one_hot(jnp.array([[1, 0]]), 2).tolist()
    [[0.0, 1.0, 1.0, 0.0]]
    """
    if not isinstance(labels, jax.core.Tracer):
        known = np.asarray(labels)
        if known.size and (known.dtype.kind not in "iu" or known.min() < 0 or known.max() >= levels):
            raise BadInput(f"labels from {known.min()} to {known.max()}", f"allowed: whole numbers, 0 to {levels - 1}")
    hot = jax.nn.one_hot(jnp.asarray(labels), levels)
    return hot.reshape(*hot.shape[:-2], -1)


def _positive(count: int) -> int:
    if count < 1:
        raise BadInput(f"visible = {count}", "allowed: whole numbers of units, from 1")
    return count


def _refuse(data: np.ndarray, width: int, wrong: Callable[[np.ndarray], np.ndarray], allowed: str, remedy: str) -> None:
    if np.ndim(data) != 2 or np.shape(data)[1] != width:
        raise BadInput(f"data of shape {list(np.shape(data))}", f"allowed: [N, {width}]")
    found = wrong(data)
    if np.any(found):
        row, unit = (int(i) for i in np.argwhere(found)[0])
        raise BadInput(f"row {row}, number {unit} of the data is {data[row, unit]:g}", f"allowed: {allowed}", remedy)
