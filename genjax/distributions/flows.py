"""Flows: invertible maps with a known volume, and the distributions that they carry.

For y = f(z) with f invertible, p(y) = p(z) / |det df/dz|.  The inverse autoregressive flow moves each dimension by
numbers that depend on the dimensions before it only,

    y_d = g_d z_d + (1 - g_d) m_d,    g_d = s(s_d),    (m_d, s_d) a function of z at the positions before d's,

s the logistic function.  The Jacobian is triangular, so that log |det| = sum_d log g_d, and all dimensions are moved at
once: sampling from a posterior, and the density of what was sampled, cost one pass.  Inverting, for the density of any
other point, takes a pass a dimension.

Source: Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, Improving Variational Inference with Inverse
Autoregressive Flow, 2016, eq. 10-14, https://arxiv.org/abs/1606.04934.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax.distributions.arrays import upcast
from genjax.distributions.latent import Distribution
from genjax.types import Array, Key

Moved = tuple[jax.Array, jax.Array]


class Flow(NamedTuple):
    """An invertible map of vectors of D numbers."""

    forward: Callable[[Array], Moved]  # z [..., D] -> (y [..., D], log |det dy/dz| [...])
    inverse: Callable[[Array], Moved]  # y [..., D] -> (z [..., D], log |det dy/dz| [...]): the same number, at that z


def inverse_autoregressive(net: Callable[[Array], tuple[jax.Array, jax.Array]], order: Array) -> Flow:
    """One step of the flow above.

    Args:
      net: z [..., D] -> (m, s) [..., D] each, whose d-th numbers depend on the dimensions before d's only, such as a
        `genjax.models.iaf.AutoregressiveNet`.  Nothing here checks it: a net that sees d itself gives wrong densities.
      order: [D] the position of each dimension, from 0.

    Returns:
      The flow; its inverse calls `net` D times, one dimension a time.

    >>> shift = lambda z: (jnp.zeros_like(z), jnp.full_like(z, 100.0))  # a gate of 1: nothing moves
    >>> [part.tolist() for part in inverse_autoregressive(shift, jnp.arange(2)).forward(jnp.array([3.0, 4.0]))]
    [[3.0, 4.0], 0.0]
    """
    positions = jnp.asarray(order)

    def log_det(s: jax.Array) -> jax.Array:
        return jnp.sum(jax.nn.log_sigmoid(upcast(s)), axis=-1)

    def forward(z: Array) -> Moved:
        m, s = net(z)
        gate = jax.nn.sigmoid(s)
        return gate * z + (1.0 - gate) * m, log_det(s)

    def inverse(y: Array) -> Moved:
        y = jnp.asarray(y)

        def place(i: jax.Array, z: jax.Array) -> jax.Array:
            m, s = net(z)
            gate = jax.nn.sigmoid(s)
            # only dimension i: what is computed of later ones from wrong values could grow beyond all bounds
            now = jnp.broadcast_to(positions == i, y.shape)
            return jnp.where(now, (y - (1.0 - gate) * m) / gate, z)

        z = jax.lax.fori_loop(0, y.shape[-1], place, jnp.zeros_like(y))
        return z, log_det(net(z)[1])

    return Flow(forward, inverse)


def composed(flows: Sequence[Flow]) -> Flow:
    """One flow after the other: their log-determinants add up.

    Args:
      flows: in the order of `forward`; none: the identity.

    Returns:
      The flow.

    >>> twice = Flow(lambda z: (2 * z, jnp.log(2.0)), lambda y: (y / 2, jnp.log(2.0)))
    >>> [round(float(part), 4) for part in composed([twice, twice]).forward(jnp.array(3.0))]
    [12.0, 1.3863]
    """

    def along(ways: Sequence[Callable[[Array], Moved]]) -> Callable[[Array], Moved]:
        def walk(z: Array) -> Moved:
            z, total = jnp.asarray(z), jnp.zeros(jnp.shape(z)[:-1])
            for way in ways:
                z, log_det = way(z)
                total = total + log_det
            return z, total

        return walk

    return Flow(along([flow.forward for flow in flows]), along([flow.inverse for flow in reversed(flows)]))


def flowed(base: Distribution, flow: Flow) -> Distribution:
    """The law of f(z), z from `base`.

    Args:
      base: the law of z.
      flow: f.

    Returns:
      `draw` costs one pass forward; `log_prob` of other points one inversion.

    >>> from genjax.distributions.latent import standard_normal
    >>> doubled = Flow(lambda z: (2 * z, jnp.log(2.0)), lambda y: (y / 2, jnp.log(2.0)))
    >>> round(float(flowed(standard_normal(1), doubled).log_prob(jnp.zeros(1))), 4)  # N(0, 4) at 0
    -1.6121
    """

    def draw(key: Key, *leading: int) -> Moved:
        z, log_prob = base.draw(key, *leading)
        y, log_det = flow.forward(z)
        return y, log_prob - log_det

    def log_prob(y: Array) -> jax.Array:
        z, log_det = flow.inverse(y)
        return base.log_prob(z) - log_det

    return Distribution(lambda key, *leading: draw(key, *leading)[0], log_prob, draw)
